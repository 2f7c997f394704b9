"""Names that are meant to lead elsewhere: ids of messages, paths of the control API, names of hosts and of accounts.

docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.outputs import Output
from tests.system.command import command
from tests.system.naive_server import Fault, naive_server
from tests.system.process import free_port, program
from tests.system.server import Dialogue, Postroika

SECRET = "nobody-is-to-read-this"
# Some with {secret}, the path of a file, and {id}, that of a message in the queue.
TRICKS = (
    "../secret", "../../../../../../../../etc/passwd", "/etc/passwd", "{secret}", "..", ".", "/", "", "~", "-", "*",
    "%2e%2e%2fsecret", "..%2fsecret", "..\\secret", "....//secret", "{id}/../../secret", "{id}/../{id}", "{id};ls",
    "$(cat {secret})", "`cat {secret}`", "{id}x", "0", "-1", "9" * 40, "\u0661" * 13, "x" * 10_000, "file://{secret}",
    "data.mdb", "shard-00/data.mdb", "../spool/shard-00/data.mdb", "0000000000000", "zzzzzzzzzzzzz", "__class__",
)  # fmt: skip


class World:
    """A server with a certificate for each of two names, accounts, a message in its queue, and a secret beside it."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.secret = path / "secret"
        self.secret.write_text(SECRET)
        self.authority = trustme.CA()
        for name in ("mx", "other", "hidden"):
            issued = self.authority.issue_cert(f"{name}.test", common_name=f"{name}.test")
            file = path / f"{name}.test.pem"
            file.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
            file.chmod(0o600)
        self.port = free_port()
        self.server = Postroika(
            path,
            f'[[listener]]\naddress = "127.0.0.1:{self.port}"\ntls = "implicit"\ncertificate = "mx.test.pem"\n'
            'key = "mx.test.pem"\n[[certificate]]\nnames = ["other.test", "*.other.test"]\n'
            'certificate = "other.test.pem"\nkey = "other.test.pem"\n[accounts]\nfile = "accounts.toml"\n'
            '[retry]\ndelays_s = [600]\n[[route]]\ndomains = ["*"]\nnext_hop = "smtp://127.0.0.1:1"\n',
            workers=1,
        )
        stack.enter_context(self.server)
        with self.server.dialogue() as client:
            reply = client.message("me@x.test", ["you@shop.test"], b"Subject: x\r\n\r\nx\r\n")
        self.id = reply.split()[-1]
        self.server.wait_for_events(1, "deferred")

    def tricks(self) -> list[str]:
        """TRICKS, filled in."""
        return [trick.format(secret=self.secret, id=self.id) if "{" in trick else trick for trick in TRICKS]

    def files(self) -> set[str]:
        return {str(file.relative_to(self.path)) for file in self.path.rglob("*")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def tell(world: World, words: str, name: str, stdin: bytes = b"") -> Output:
    """A command for a name that may look like an option."""
    line = [sys.executable, "-m", "postroika", *words.split(), "--config", str(world.server.config_file), "--", name]
    done = subprocess.run(line, input=stdin, capture_output=True, timeout=60, check=False)
    return Output(done.returncode, done.stdout.decode(), done.stderr.decode())


# --- ids of messages


def naive_show(spool: Path, name: str) -> str:
    """How a spool of files shows a message."""
    return (spool / name).read_text()


def test_naive_spool_shows_the_secret(world: World) -> None:
    assert naive_show(world.server.spool, "../secret") == SECRET


@pytest.mark.parametrize("verb", ["show", "cancel", "flush"])
def test_id_that_is_none_is_refused_by_the_command(world: World, verb: str) -> None:
    before = world.files()
    tricks = [trick for trick in world.tricks() if "\0" not in trick]
    # The others are tried on the control API, in far less time.
    for trick in tricks[:12] if verb == "show" else tricks[:3]:
        done = tell(world, f"queue {verb}", trick)
        assert done.code != 0, trick
        assert SECRET not in done.out + done.err
        assert "Traceback" not in done.err
    assert world.files() == before
    assert tell(world, "queue show", world.id).code == 0


def ask(world: World, method: str, target: bytes) -> tuple[int, bytes]:
    """Say it to the control socket as it is; status and body."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(world.path / "control.sock"))
        sock.sendall(method.encode() + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body


def test_path_that_leads_elsewhere_is_refused_by_the_control_api(world: World) -> None:
    assert ask(world, "GET", b"/v1/queue/" + world.id.encode())[0] == 200
    for trick in world.tricks():
        raw = trick.encode().replace(b" ", b"%20").replace(b"\n", b"%0a")
        for target in (b"/v1/queue/" + raw, b"/v1/queue/" + raw + b"/body", b"/" + raw, b"/v1/" + raw, raw):
            status, body = ask(world, "GET", target or b"/")
            assert status == 0 or 400 <= status < 500 or (status in {200, 307} and trick in {".", "", "/"}), target
            assert SECRET.encode() not in body
            assert b"Traceback" not in body
    assert (world.path / "control.sock").stat().st_mode & 0o777 == 0o600
    assert ask(world, "GET", b"/v1/queue/" + world.id.encode())[0] == 200


# --- names of hosts in TLS


NAMES = (
    "hidden.test", "../hidden", "./other.test", "..", "/etc/passwd", "other.test/../hidden.test", "hidden.test\n", "*",
    "*.other.test", "other.test.", "OTHER.test", "a.b.other.test", ".other.test", "other..test",
    "other.test\\0.mx.test", "%2e%2e%2fhidden", "x" * 250, "m\u00fcx.test", "\x1b[2J\r\nforged", "[::1]", "127.0.0.1",
)  # fmt: skip


def certificate_for(port: int, name: str) -> str:
    """The common name in the certificate that is shown to who asks for `name`; "" if none is."""
    shown = subprocess.run(
        [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name],
        input=b"QUIT\r\n", capture_output=True, timeout=30, check=False,
    ).stdout.decode(errors="replace")  # fmt: skip
    subjects = [line for line in shown.splitlines() if line.startswith("subject=")]
    return subjects[0].rpartition("CN = ")[2] if subjects else ""


def test_naive_server_opens_the_file_of_that_name(world: World) -> None:
    def choose(engine: ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name and (file := world.path / "public" / f"{name}.pem").exists():
            chosen = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            chosen.load_cert_chain(file)
            engine.context = chosen

    (world.path / "public").mkdir(exist_ok=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.path / "mx.test.pem")
    context.sni_callback = choose
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        openssl = [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}"]
        with subprocess.Popen(
            [*openssl, "-servername", "../hidden.test"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client:
            sock, _ = listener.accept()
            with context.wrap_socket(sock, server_side=True):
                pass
            shown, _ = client.communicate(timeout=30)
    assert b"CN = hidden.test" in shown


def test_certificates_are_chosen_from_those_of_the_config_only(world: World) -> None:
    before = world.server.output()
    shown = {name: certificate_for(world.port, name) for name in NAMES}
    expected = {"*.other.test", "other.test.", "OTHER.test"}
    assert {name for name, subject in shown.items() if subject == "other.test"} <= expected | {".other.test"}
    assert set(shown.values()) <= {"mx.test", "other.test", ""}
    assert certificate_for(world.port, "mx.test") == "mx.test"
    said = world.server.output().removeprefix(before)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert all(line.isprintable() for line in said.splitlines())


# --- names of accounts

ACCOUNTS = (
    "../../escaped", "/tmp/escaped", "a\\b", 'a"b', "a]\n[[account]]", 'a"\ndisabled = true', "a\tb", "a\u2028b",
    '"""', "#a", "[account]", "\u202ea", "a\x7f", "a\x1b[2J",
)  # fmt: skip


def test_naive_file_of_accounts_takes_lines_from_a_name() -> None:
    """As it is made by who writes names between quotes and no more."""
    name = 'a"\nadmin = "yes'
    assert "admin" in dict(line.split(" = ") for line in f'name = "{name}"'.splitlines())


def test_account_names_are_names_and_nothing_else(world: World) -> None:
    before = world.files()
    made = set()
    for name in ACCOUNTS:
        done = tell(world, "account add --sender @x.test", name, b"correct horse")
        assert "Traceback" not in done.err
        if done.code == 0:
            made.add(name)
        assert (done.out + done.err).replace("\n", "").isprintable(), name
    listed = json.loads(command(world.server, "account", "list", "--json").out)
    assert {account["name"] for account in listed} == made
    assert {account["disabled"] for account in listed} == {False}
    assert world.files() - before <= {"accounts.toml", "accounts.toml.lock"}
    assert {"../../escaped", 'a"b', "[account]"} <= made  # they are names as good as any
    assert {name for name in made if not name.isprintable()} == set()


def test_naive_server_is_one_that_serves() -> None:
    """The honest one of all naive servers, so that what the others do is by their faults."""
    with naive_server(Fault.NONE) as honest, Dialogue(honest.port, "client.test") as client:
        assert client.message("a@x.test", ["b@x.test"], b"Subject: x\r\n\r\n.x\r\n..\r\n").startswith("250")
        assert client.say("QUIT").startswith("221")
        assert [message.content for message in honest.messages] == [b"Subject: x\r\n\r\n.x\r\n..\r\n"]
