"""Keys, credentials and accounts that root alone may read, for a server that root starts and that runs as another."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import smtplib
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

import pytest

from postroika.policy.passwords import hash_of
from postroika.signing.record import read_zone
from tests.system.certificates import Authority
from tests.system.command import command
from tests.system.dovecot_peer import run_dovecot
from tests.system.opendkim import OpenDkim
from tests.system.postfix_peer import Postfix, start_postfix
from tests.system.process import free_port, program, run, wait_until
from tests.system.server import Postroika

_USER = "nobody"  # whom every system has
_PASSWORD = "correct horse"
_CONFIG = """
[dns]
ipv6 = "never"
[[listener]]
address = "127.0.0.1:{port}"
role = "submission"
tls = "starttls"
certificate = "{private}/localhost.pem"
key = "{private}/localhost.pem"
[accounts]
file = "{private}/accounts.toml"
[delivery]
tls_ca = "{private}/ca.pem"
[[dkim]]
domain = "shop.test"
selector = "s1"
key = "{private}/dkim.pem"
[[route]]
domains = ["*"]
next_hop = "smtp://localhost:{hop}"
tls = "verify"
auth = "{private}/smarthost.toml"
certificate = "{private}/client.test.pem"
"""
_KEPT = (
    ("listener[1].certificate", "localhost.pem"), ("listener[1].key", "localhost.pem"),
    ("accounts.file", "accounts.toml"), ("route[0].auth", "smarthost.toml"),
    ("route[0].certificate", "client.test.pem"), ("delivery.tls_ca", "ca.pem"), ("dkim[0].key", "dkim.pem"),
)  # fmt: skip


class World:
    """A server that delivers to a Postfix which insists on a login, and notes our certificate."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.private, public, site = (directory / name for name in ("private", "public", "site"))
        self.private.mkdir(mode=0o700)
        public.mkdir(mode=0o755)
        site.mkdir()
        entry = pwd.getpwnam(_USER)
        os.chown(site, entry.pw_uid, entry.pw_gid)
        self.authority = Authority(self.private)
        self.authority.issue("localhost")
        self.authority.issue("client.test")
        public_ca = shutil.copy(self.authority.file, public / "ca.pem")
        (self.private / "smarthost.toml").write_text('user = "alice"\npassword = "s3cret"\n')
        socket = stack.enter_context(run_dovecot(public, {"alice": "s3cret"}))
        self.hop: Postfix = start_postfix(
            stack,
            virtual=["x.test"],
            settings={
                "smtpd_tls_security_level": "encrypt", "smtpd_tls_loglevel": "1", "smtpd_tls_ask_ccert": "yes",
                "smtpd_tls_CAfile": str(public_ca), "smtpd_tls_chain_files": str(self.private / "localhost.pem"),
                "smtpd_sasl_auth_enable": "yes", "smtpd_sasl_type": "dovecot", "smtpd_sasl_path": str(socket),
                "mynetworks": "192.0.2.0/24", "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            },
        )  # fmt: skip
        stack.callback(lambda: print(self.hop.log(), self.server.output(), self.server.events()))
        self.port = free_port()
        self.server = Postroika(
            site, _CONFIG.format(port=self.port, private=self.private, hop=self.hop.port), user=_USER, workers=1
        )
        run([sys.executable, "-m", "postroika", "dkim", "keygen", self.private / "dkim.pem"], within_s=60)
        self.command("account", "add", "ann@shop.test", stdin=_PASSWORD)
        for file in self.private.iterdir():
            os.chown(file, 0, 0)
            file.chmod(0o600)

    def command(self, *arguments: str, stdin: str = "") -> str:
        done = command(self.server, *arguments, stdin=stdin.encode())
        assert done.code == 0, done.err
        return done.out

    def send(self) -> None:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        with smtplib.SMTP("localhost", self.port, timeout=30) as client:
            client.starttls(context=context)
            client.login("ann@shop.test", _PASSWORD)
            client.sendmail("ann@shop.test", ["r@x.test"], "From: ann@shop.test\r\nSubject: x\r\n\r\nx\r\n")

    def shown(self) -> str:
        """The serial number of the certificate that clients are shown."""
        line = [program("openssl", "openssl"), "s_client", "-starttls", "smtp", "-connect", f"localhost:{self.port}"]
        return _serial(run(line, within_s=30).stdout)

    def in_file(self) -> str:
        return _serial((self.private / "localhost.pem").read_text())


def _serial(text: str) -> str:
    done = subprocess.run(
        [program("openssl", "openssl"), "x509", "-noout", "-serial"],
        input=text, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def world() -> Iterator[World]:
    if os.geteuid() != 0:
        text = "missing peer: only root can become another user; run the tests as root"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    # Not below pytest's directory, which other users may not enter.
    directory = Path(mkdtemp(prefix="postroika-private-", dir="/var/tmp"))
    directory.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        yield World(directory, stack)


def delivered(world: World, count: int) -> bytes:
    """The newest message that Postfix has, once it has that many."""
    events = world.server.wait_for_events(count, "delivered")
    assert {event["tls"].rpartition(" ")[2] for event in events} == {"verified"}
    wait_until(lambda: len(world.hop.mailbox()) == count, "the message in Postfix's mailbox", 30)
    return world.hop.mailbox()[-1]


def test_root_reads_what_nobody_else_may_and_the_server_works_with_it(world: World) -> None:
    with world.server as server:
        assert _reads(world.private / "localhost.pem") is False
        world.send()
        message = delivered(world, 1)
        records = read_zone(world.command("dkim", "show-dns"))
        signed = message[message.index(b"DKIM-Signature:") :].replace(b"\n", b"\r\n")
        assert OpenDkim(server.path, records).results(signed) == [("pass", "shop.test")]
        log = world.hop.log()
        assert "sasl_method=PLAIN, sasl_username=alice" in log
        assert "Trusted TLS connection established from localhost" in log

        # New files, SIGHUP: all stays as it was, and the log says why.
        before = world.shown()
        assert before == world.in_file()
        world.authority.issue("localhost")
        (world.private / "smarthost.toml").write_text('user = "alice"\npassword = "another"\n')
        (world.private / "dkim.pem").write_text("broken")
        server.process.signal(signal.SIGHUP)
        for key, name in _KEPT:
            text = f"{key}: {world.private}/{name} stays as it was at the start: root alone may read it"
            wait_until(lambda text=text: text in server.output(), text)  # type: ignore[misc]
        assert (world.shown(), before == world.in_file()) == (before, False)
        world.send()
        delivered(world, 2)

        # Also for a worker that is started again.
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: _serves(server), "a new worker to serve")
        world.send()
        delivered(world, 3)
        assert "loaded anew" not in server.output()
        assert "/proc/self/fd" not in server.output()
        assert "Traceback" not in server.output()


def _serves(server: Postroika) -> bool:
    with server.dialogue("again.test") as client:
        return client.ehlo.startswith("250")


def _reads(file: Path) -> bool:
    """Whether the user may read it."""
    entry = pwd.getpwnam(_USER)
    done = subprocess.run(["cat", file], capture_output=True, check=False, user=entry.pw_uid, group=entry.pw_gid)
    return done.returncode == 0


def test_certificate_that_everybody_may_read_does_not_go_without_its_key(world: World) -> None:
    """It is replaced beside a key that root alone may read: the pair stays, and the log names the files."""
    both = (world.private / "localhost.pem").read_text()
    site = world.server.path
    key, certificate = world.private / "key.pem", site / "certificate.pem"
    key.write_text(both[: both.index("-----BEGIN CERTIFICATE")])
    key.chmod(0o600)
    certificate.write_text(both[both.index("-----BEGIN CERTIFICATE") :])
    text = world.server.config_file.read_text()
    text = text.replace(f'certificate = "{world.private}/localhost.pem"', f'certificate = "{certificate}"')
    world.server.config_file.write_text(text.replace(f'key = "{world.private}/localhost.pem"', f'key = "{key}"'))
    with world.server as server:
        before = world.shown()
        new = world.authority.issue("localhost").read_text()
        certificate.write_text(new[new.index("-----BEGIN CERTIFICATE") :])
        server.process.signal(signal.SIGHUP)
        said = f"the certificate that was loaded from {certificate} before stays: {key} is not the key of {certificate}"
        wait_until(lambda: said in server.output(), said)
        wait_until(lambda: f"listener[1].key: {key} stays as it was at the start" in server.output(), "the reason")
        assert world.shown() == before


def test_file_with_a_key_in_it_that_others_may_read_refuses_the_start(world: World) -> None:
    (world.private / "client.test.pem").chmod(0o644)
    with pytest.raises(pytest.fail.Exception, match=r"route\[0\].certificate: .*client.test.pem may be read by everyb"):
        world.server.start()


def test_account_that_root_adds_is_for_the_server_to_read(world: World) -> None:
    """In a directory that is root's, and while it runs."""
    accounts = world.private.parent / "public" / "accounts.toml"
    text = world.server.config_file.read_text()
    world.server.config_file.write_text(text.replace(f"{world.private}/accounts.toml", str(accounts)))
    with world.server as server:
        world.command("account", "add", "bob@shop.test", stdin=_PASSWORD)
        assert accounts.stat().st_uid == pwd.getpwnam(_USER).pw_uid
        wait_until(lambda: "1 account" in server.output(), "the account")
        world.command("account", "add", "ann@shop.test", stdin=_PASSWORD)
        wait_until(lambda: "2 accounts" in server.output(), "the other one")
        world.send()
        delivered(world, 1)


def test_account_that_root_disables_in_a_file_of_its_own_stays_until_a_restart(world: World) -> None:
    def log_in() -> int:
        with smtplib.SMTP("localhost", world.port, timeout=30) as client:
            client.starttls(context=ssl.create_default_context(cafile=str(world.authority.file)))
            client.ehlo()
            return client.docmd("AUTH PLAIN", b64encode(f"\0ann@shop.test\0{_PASSWORD}".encode()).decode())[0]

    with world.server as server:
        done = command(server, "account", "disable", "ann@shop.test")
        assert done.err.startswith("postroika: account ann@shop.test is disabled\n")
        assert f"{_USER}, whom the server runs as, may not read {world.private}/accounts.toml" in done.err
        assert log_in() == 235
    with world.server:
        assert log_in() == 535


def test_start_warns_of_a_config_with_hashes_that_everybody_may_read(tmp_path: Path) -> None:
    text = f"[[account]]\nname = 'ann@shop.test'\npassword = '{hash_of(_PASSWORD)}'\n"
    server = Postroika(tmp_path, text, workers=1)
    warning = f"{server.config_file} has hashes of passwords ([[account]]), and may be read by everybody (mode 0644)"
    said = []
    for mode in (0o644, 0o600):
        server.config_file.chmod(mode)
        with server:
            said.append(server.output().count(warning))
    assert said == [1, 1]
