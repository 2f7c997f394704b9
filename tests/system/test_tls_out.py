"""Encrypted delivery to software that we did not write: Postfix, with Dovecot for its passwords, and OpenSSL."""

from __future__ import annotations

import shutil
import signal
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import pytest

from tests.system.certificates import Authority
from tests.system.dovecot_peer import run_dovecot
from tests.system.openssl_peer import run_s_server
from tests.system.postfix_peer import Postfix, start_postfix
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.starttls_hop import Hop

_CONFIG = """
[dns]
ipv6 = "never"
[retry]
delays_s = [600]
down_delays_s = [600]
[delivery]
tls_ca = "{ca}"
connection_idle_s = 0
[[route]]
domains = ["*"]
next_hop = "{hop}"
{more}
"""
_TLS = {
    "smtpd_tls_security_level": "may",
    "smtpd_tls_loglevel": "1",
    "smtpd_tls_received_header": "yes",
}
MESSAGE = b"Subject: x\r\n\r\nx\r\n"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter, as daemons need it."""
    directory = Path(mkdtemp(prefix="postroika-tls-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


class SecureServer(NamedTuple):
    """`secure_port`: of the listener with TLS."""

    server: Postroika
    secure_port: int


class World:
    """A place for peers and servers of one test."""

    def __init__(self, directory: Path, path: Path, stack: ExitStack) -> None:
        self.authority = Authority(directory)
        self._path = path
        self._stack = stack

    def postfix(self, certificate: Path | None, **settings: str) -> Postfix:
        """A next hop for shop.test; None: without TLS."""
        tls = {} if certificate is None else {**_TLS, "smtpd_tls_chain_files": str(certificate)}
        hop = start_postfix(self._stack, virtual=["shop.test"], settings={**tls, **settings})
        self._stack.callback(lambda: print(hop.log()))
        return hop

    def secure_server(self, name: str, hop: str) -> SecureServer:
        """One of ours that offers STARTTLS to its clients, too."""
        path = self._path / name
        path.mkdir()
        port, certificate = free_port(), self.authority.issue("localhost")
        config = _CONFIG.format(ca=self.authority.file, hop=hop, more="")
        config += f'[[listener]]\naddress = "127.0.0.1:{port}"\ntls = "starttls"\ncertificate = "{certificate}"\n'
        config += f'key = "{certificate}"\n'
        return SecureServer(self._stack.enter_context(Postroika(path, config, workers=1)), port)

    def server(self, hop: str, more: str = "") -> Postroika:
        config = _CONFIG.format(ca=self.authority.file, hop=hop, more=more)
        return self._stack.enter_context(Postroika(self._path, config, workers=1))


@pytest.fixture
def world(open_directory: Path, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(open_directory, tmp_path, stack)


def sent(server: Postroika, kind: str, recipient: str = "r@shop.test") -> dict[str, Any]:
    """The event that comes of a message."""
    with server.dialogue() as client:
        assert client.message("s@x.test", [recipient], MESSAGE).startswith("250")
    (event,) = server.wait_for_events(1, kind)
    return event


@pytest.mark.parametrize("policy", ["opportunistic", "required", "verify"])
def test_postfix_gets_mail_over_verified_tls(world: World, policy: str) -> None:
    hop = world.postfix(world.authority.issue("localhost"), smtpd_tls_security_level="encrypt")
    event = sent(world.server(f"smtp://localhost:{hop.port}", f'tls = "{policy}"'), "delivered")
    assert event["tls"] == "TLSv1.3 TLS_AES_256_GCM_SHA384 verified"
    wait_until(hop.mailbox, "the message")
    (message,) = hop.mailbox()
    assert b"using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384" in message


@pytest.mark.parametrize(("name", "expired"), [("other.test", False), ("localhost", True)])
def test_certificate_that_is_not_good_is_told_and_stops_verify_only(world: World, name: str, expired: bool) -> None:
    hop = world.postfix(world.authority.issue(name, expired=expired))
    server = world.server(f"smtp://localhost:{hop.port}")
    assert sent(server, "delivered")["tls"] == "TLSv1.3 TLS_AES_256_GCM_SHA384"
    server.stop()
    text = server.config_file.read_text()
    server.config_file.write_text(text + '\ntls = "verify"\n')
    server.start()
    event = sent(server, "deferred", "other@shop.test")
    assert (event["reply"]["stage"], event["reply"]["enhanced"], event["reply"]["local"]) == ("tls", "4.7.5", True)
    assert "certificate verify failed" in event["reply"]["text"]
    assert "other@shop.test" not in hop.log()


def test_stripped_starttls_defers_under_required(world: World) -> None:
    hop = world.postfix(world.authority.issue("localhost"), smtpd_discard_ehlo_keywords="starttls")
    event = sent(world.server(f"smtp://localhost:{hop.port}", 'tls = "required"'), "deferred")
    assert event["reply"] == {
        "code": 451,
        "enhanced": "4.7.4",
        "text": f"localhost [127.0.0.1]:{hop.port}: TLS is required, but was not offered",
        "stage": "tls",
        "local": True,
    }
    assert "tls" not in event
    assert "from=<" not in hop.log()


def test_requiretls_holds_from_hop_to_hop(world: World) -> None:
    """Ours keep it, one after the other; Postfix, behind them, does not know it, and gets nothing."""
    postfix = world.postfix(world.authority.issue("localhost"))
    second = world.secure_server("second", f"smtp://localhost:{postfix.port}")
    first = world.secure_server("first", f"smtp://localhost:{second.secure_port}")
    context = ssl.create_default_context(cafile=str(world.authority.file))
    with smtplib.SMTP("localhost", first.secure_port, timeout=30) as client:
        client.starttls(context=context)
        assert "requiretls" not in client.esmtp_features
        client.ehlo("client.test")
        assert "requiretls" in client.esmtp_features
        client.sendmail("s@x.test", ["r@shop.test"], MESSAGE, mail_options=["REQUIRETLS"])
        client.sendmail("s@x.test", ["other@shop.test"], MESSAGE)
    assert first.server.wait_for_events(2, "delivered")[0]["tls"].endswith(" verified")
    (delivered,) = second.server.wait_for_events(1, "delivered")
    bounced = second.server.wait_for_events(2, "bounced")  # and the notice of it, for which there is no mailbox
    assert delivered["recipient"] == "other@shop.test"
    assert {event["recipient"]: event["reply"]["enhanced"] for event in bounced} == {
        "r@shop.test": "5.7.30",
        "s@x.test": "5.1.1",
    }
    assert "to=<r@shop.test>" not in postfix.log()


def test_postfix_without_tls_gets_its_mail_in_clear_by_default(world: World) -> None:
    hop = world.postfix(None)
    event = sent(world.server(f"smtp://localhost:{hop.port}"), "delivered")
    assert "tls" not in event


def test_many_messages_over_tls_with_postfix_of_each_size(world: World) -> None:
    hop = world.postfix(world.authority.issue("localhost"))
    server = world.server(f"smtp://localhost:{hop.port}", 'tls = "verify"')
    bodies = [
        b"Subject: %d\r\n\r\n" % size + b"0123456789abcd\r\n" * size for size in (0, 1, 500, 1100, 20_000, 200_000)
    ]
    with server.dialogue() as client:
        for body in bodies:
            assert client.message("s@x.test", ["r@shop.test"], body).startswith("250")
    assert {event["tls"].split()[-1] for event in server.wait_for_events(len(bodies), "delivered")} == {"verified"}
    wait_until(lambda: len(hop.mailbox()) == len(bodies), "the messages", 30)
    arrived = sorted(message.split(b"\n\n", 1)[1].replace(b"\n", b"\r\n") for message in hop.mailbox())
    assert arrived == sorted(body.split(b"\r\n\r\n", 1)[1] for body in bodies)


# --- AUTH


def credentials(directory: Path, password: str) -> str:
    file = directory / "smarthost.toml"
    file.write_text(f'user = "alice"\npassword = "{password}"\n')
    file.chmod(0o600)
    return f'auth = "{file}"'


@pytest.fixture
def smarthost(world: World, open_directory: Path) -> Iterator[Callable[..., Postfix]]:
    """A Postfix that relays for those who log in, and for nobody else."""
    with ExitStack() as stack:
        (open_directory / "dovecot").mkdir()
        socket = stack.enter_context(run_dovecot(open_directory / "dovecot", {"alice": "s3cret"}))

        def start(**settings: str) -> Postfix:
            return world.postfix(
                world.authority.issue("localhost"),
                smtpd_sasl_auth_enable="yes",
                smtpd_sasl_type="dovecot",
                smtpd_sasl_path=str(socket),
                smtpd_tls_auth_only="yes",
                mynetworks="192.0.2.0/24",
                smtpd_relay_restrictions="permit_sasl_authenticated, reject",
                smtpd_recipient_restrictions="permit_sasl_authenticated, reject",
                **settings,
            )

        yield start


@pytest.mark.parametrize("mechanism", ["plain", "login"])
def test_it_logs_in_at_postfix(smarthost: Callable[..., Postfix], world: World, tmp_path: Path, mechanism: str) -> None:
    hop = smarthost(smtpd_sasl_mechanism_filter=mechanism)
    more = 'tls = "verify"\n' + credentials(tmp_path, "s3cret")
    event = sent(world.server(f"smtp://localhost:{hop.port}", more), "delivered")
    assert event["tls"].endswith("verified")
    wait_until(lambda: f"sasl_method={mechanism.upper()}, sasl_username=alice" in hop.log(), "the log of Postfix")


def test_wrong_password_defers_and_is_not_written_down(
    smarthost: Callable[..., Postfix], world: World, tmp_path: Path
) -> None:
    hop = smarthost()
    server = world.server(f"smtp://localhost:{hop.port}", credentials(tmp_path, "wr0ng-one"))
    event = sent(server, "deferred")
    assert (event["reply"]["code"], event["reply"]["stage"]) == (535, "auth")
    assert "wr0ng-one" not in server.output() + server.event_log.read_text() + server.run("check")


def test_file_that_others_may_read_refuses_the_start(world: World, tmp_path: Path) -> None:
    more = credentials(tmp_path, "s3cret")
    (tmp_path / "smarthost.toml").chmod(0o644)
    with pytest.raises(pytest.fail.Exception, match="others than its owner may read it; mend it with: chmod 600 "):
        world.server("smtp://localhost:26", more)


# --- OpenSSL


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_openssl_gets_mail_over_tls_from_the_first_octet_on(
    world: World, open_directory: Path, option: str, version: str
) -> None:
    certificate = world.authority.issue("localhost")
    with run_s_server(open_directory, certificate, option) as peer:
        event = sent(world.server(f"smtps://localhost:{peer.port}", 'tls = "verify"'), "delivered")
        assert event["tls"].startswith(f"{version} ")
        assert event["tls"].endswith(" verified")
        (message,) = peer.session.messages
        assert message.body.endswith(MESSAGE)
        assert peer.session.violations == []


def test_openssl_that_insists_on_a_certificate_gets_ours(world: World, open_directory: Path) -> None:
    ours = world.authority.issue("client.test")
    options = ("-Verify", "1", "-verify_return_error", "-CAfile", str(world.authority.file))
    with run_s_server(open_directory, world.authority.issue("localhost"), *options) as peer:
        more = f'tls = "verify"\ncertificate = "{ours}"'
        sent(world.server(f"smtps://localhost:{peer.port}", more), "delivered")
        assert "client.test" in peer.log() or len(peer.session.messages) == 1


def test_openssl_that_speaks_old_tls_only_gets_nothing(world: World, open_directory: Path) -> None:
    with run_s_server(
        open_directory, world.authority.issue("localhost"), "-tls1_1", "-cipher", "ALL@SECLEVEL=0"
    ) as peer:
        event = sent(world.server(f"smtps://localhost:{peer.port}"), "deferred")
        assert event["reply"]["stage"] == "tls"
        assert peer.session.commands == []


# --- an operator who has mended something


@pytest.mark.parametrize("how", ["queue flush", "SIGHUP"])
def test_host_that_was_mended_gets_its_mail_over_tls_at_once(world: World, how: str) -> None:
    port = free_port()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.authority.issue("localhost"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("PSK")
    server = world.server(f"smtp://localhost:{port}")

    def tls_of_another() -> str:
        before = len(server.events_of("delivered"))
        with server.dialogue() as client:
            assert client.message("s@x.test", ["r@shop.test"], MESSAGE).startswith("250")
        return str(server.wait_for_events(before + 1, "delivered")[-1].get("tls", ""))

    hop = Hop("127.0.0.1", port, context)
    try:
        assert tls_of_another() == ""
    finally:
        hop.stop()
    context.set_ciphers("DEFAULT")
    hop = Hop("127.0.0.1", port, context)
    try:
        assert tls_of_another() == ""
        if how == "SIGHUP":
            server.process.signal(signal.SIGHUP)
            wait_until(tls_of_another, "the signal to be heard")
        else:
            server.run("queue", "flush", "--destination", "shop.test")
        assert tls_of_another().endswith(" verified")
    finally:
        hop.stop()
