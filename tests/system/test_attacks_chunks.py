"""BDAT: octets that are counted as content here and run as commands there, and messages that end with the connection.

docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

import base64
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from tests.system.command import command
from tests.system.naive_server import Fault, naive_server
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink

HIDDEN = b"RSET\r\nMAIL FROM:<hidden@evil.test>\r\nRCPT TO:<you@shop.test>\r\nDATA\r\nSubject: hidden\r\n\r\nx\r\n.\r\n"
CONTENT = b"Subject: half\r\n\r\n" + b"0123456789abcd\r\n" * 60
AUTH = "AUTH PLAIN " + base64.b64encode(b"\0ann@shop.test\0correct horse").decode()


class World:
    """A server with STARTTLS and accounts, and a next hop that takes all."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        certificate = trustme.CA().issue_cert("localhost")
        (path / "mx.pem").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        (path / "mx.pem").chmod(0o600)
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        self.port = free_port()
        self.server = Postroika(
            path,
            f'[[listener]]\naddress = "127.0.0.1:{self.port}"\ntls = "starttls"\ncertificate = "mx.pem"\n'
            'key = "mx.pem"\nauth_without_tls = true\n[accounts]\nfile = "accounts.toml"\n'
            f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{self.sink.address}"\n',
            workers=1,
        )
        assert command(self.server, "account", "add", "ann@shop.test", stdin=b"correct horse").code == 0
        stack.enter_context(self.server)

    def received(self, sender: str) -> int:
        """How many messages of a sender were taken, after a later one has been told of."""
        with self.server.dialogue() as client:
            assert client.message("later@x.test", ["you@shop.test"], b"Subject: x\r\n\r\nx\r\n").startswith("250")
            last = client.say("NOOP")
        assert last.startswith("250")
        self.server.wait_until_drained(30)
        return sum(event["sender"] == sender for event in self.server.events_of("received", "delivered"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


# --- what is counted is not run


def hide_in_chunk(port: int, before: list[str], argument: str, hidden: bytes = HIDDEN) -> list[str]:
    """Send `hidden` as a chunk, whatever is said to the commands before; returns the codes from BDAT on."""
    with Dialogue(port, "attacker.test") as client:
        for line in before:
            client.say(line)
        client.send(f"BDAT {argument}\r\n".encode() + hidden + b"NOOP\r\nQUIT\r\n")
        codes = []
        with suppress(ConnectionResetError):  # by who has not read all that we sent
            while (reply := client.reply()) and not reply.startswith("221"):
                codes.append(reply[:3])
    return codes


TRANSACTION = ["MAIL FROM:<outer@evil.test>", "RCPT TO:<you@shop.test>"]
REFUSED = {
    "before MAIL": [],
    "before RCPT": TRANSACTION[:1],
    "after RSET": [*TRANSACTION, "RSET"],
    "after a chunk": [*TRANSACTION, "BDAT 0", "RSET"],
}


@pytest.mark.parametrize("before", REFUSED, ids=str)
@pytest.mark.parametrize("last", ["", " LAST"])
def test_refused_chunk_is_not_run(world: World, before: str, last: str) -> None:
    argument = f"{len(HIDDEN)}{last}"
    with naive_server(Fault.REFUSED_CHUNKS) as naive:
        assert len(hide_in_chunk(naive.port, REFUSED[before], argument)) > 2
        assert [message.reverse_path for message in naive.messages] == ["hidden@evil.test"]
    codes = hide_in_chunk(world.port, REFUSED[before], argument)
    assert len(codes) == 2
    assert codes[0][0] == "5"
    assert codes[1] == "250"


@pytest.mark.parametrize(
    "argument",
    [
        "", "LAST", "-1", "+5", "0x10", "1e2", "5.0", "1_0", "\u0665", "5 LAST LAST", "5 FIRST", "5LAST", "5,LAST",
        "5 5", "LAST 5", "5\0", "5 LAST\0", "5\r", "5\n", "5 LAST\n", "5\nLAST", f"{'0' * 5000}5",
    ],
    ids=lambda argument: repr(argument[:20]),
)  # fmt: skip
def test_chunk_of_unknown_size_ends_the_session(world: World, argument: str) -> None:
    """Where it ends nobody can tell, so nothing behind it is looked at."""
    codes = hide_in_chunk(world.port, TRANSACTION, argument)
    assert codes in (["501"], ["500", "421"]), codes
    assert world.received("hidden@evil.test") == 0


@pytest.mark.parametrize(
    "size", [52_428_801, 10_000_000_000, 2**31, 2**32 + len(HIDDEN), 2**64, 2**64 + len(HIDDEN), 10**20 - 1]
)
def test_chunk_that_is_too_large_is_counted_and_not_run(world: World, size: int) -> None:
    with Dialogue(world.port, "attacker.test") as client:
        for line in TRANSACTION:
            client.say(line)
        client.send(f"BDAT {size} LAST\r\n".encode() + HIDDEN)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.reply() == ""
    assert world.received("hidden@evil.test") == 0


def test_commands_are_refused_between_chunks(world: World) -> None:
    with Dialogue(world.port, "client.test") as client:
        for line in ("MAIL FROM:<mixed@x.test>", "RCPT TO:<you@shop.test>"):
            assert client.say(line).startswith("250")
        client.send(b"BDAT 10\r\nSTARTTLS\r\n")  # which is content
        assert client.reply().startswith("250 2.0.0")
        for line in ("STARTTLS", "DATA", "MAIL FROM:<a@x.test>", "RCPT TO:<a@x.test>", AUTH):
            assert client.say(line).startswith("503 5.5.1"), line
        client.send(b"BDAT 14\r\nAUTH PLAIN AA\n")  # a bare LF
        assert client.reply().startswith("550 5.6.0")
        assert client.say("BDAT 0 LAST").startswith("503")
        # The transaction is gone, and so is what had come of it.
        assert client.say("BDAT 0 LAST").startswith("503")
        assert client.say("DATA").startswith("503")
        assert client.say(AUTH).startswith("235")
        assert client.say("STARTTLS").startswith("220")
    assert world.received("mixed@x.test") == 0


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        ((b"BDAT 0 LAST\r\n",), b""),
        ((b"BDAT 0\r\n", b"BDAT 0\r\n", b"BDAT 0 LAST\r\n"), b""),
        ((b"BDAT 3\r\nx\r\n", b"BDAT 0\r\n", b"BDAT 0 LAST\r\n"), b"x\r\n"),
        ((b"BDAT 1\r\nx", b"BDAT 1\r\n\r", b"BDAT 1 LAST\r\n\n"), b"x\r\n"),
        ((b"BDAT 5\r\n\r\n.\r\n", b"BDAT 000000000000000003 last\r\nx\r\n"), b"\r\n.\r\nx\r\n"),
    ],
    ids=str,
)
def test_empty_chunks_are_chunks(world: World, chunks: tuple[bytes, ...], body: bytes) -> None:
    sender = f"empty-{hash(chunks) & 0xFFFF}@x.test"
    with Dialogue(world.port, "client.test") as client:
        client.send(f"MAIL FROM:<{sender}>\r\nRCPT TO:<you@shop.test>\r\n".encode() + b"".join(chunks) + b"NOOP\r\n")
        assert [client.reply()[:3] for _ in range(len(chunks) + 3)] == ["250"] * (len(chunks) + 3)
    wait_until(lambda: [m for m in world.sink.messages() if m.reverse_path == sender], "the message", 30)
    (message,) = [m for m in world.sink.messages() if m.reverse_path == sender]
    head, found, rest = message.content.partition(b"+0000\r\n")
    assert head.startswith(b"Received: ")
    assert (found, rest) == (b"+0000\r\n", body)


# --- what is cut off is no message


HALVES = {
    "half of the last chunk": f"BDAT {2 * len(CONTENT)} LAST\r\n".encode() + CONTENT,
    "all but an octet": f"BDAT {len(CONTENT) + 1} LAST\r\n".encode() + CONTENT,
    "a chunk and no last one": f"BDAT {len(CONTENT)}\r\n".encode() + CONTENT,
    "half of a second chunk": b"BDAT %d\r\n%bBDAT 10000 LAST\r\n%b" % (len(CONTENT), CONTENT, CONTENT),
    "the command of the last one": b"BDAT %d\r\n%bBDAT 0 LAS" % (len(CONTENT), CONTENT),
    "half of DATA": b"DATA\r\n" + CONTENT,
    "DATA without its last LF": b"DATA\r\n" + CONTENT + b".\r",
}
ENDS = ("close_notify", "no close_notify", "reset", "clear text")


def cut_off(port: int, half: bytes, end: str, sender: str) -> None:
    """Begin a message in TLS, and end the connection before the message has ended."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Dialogue(port, "client.test") as client:
        assert client.say("STARTTLS").startswith("220")
        wire = client.sock.dup()
        with context.wrap_socket(client.sock) as secure, secure.makefile("rb") as lines, wire:
            secure.sendall(f"EHLO x\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<you@shop.test>\r\n".encode())
            while not lines.readline().startswith(b"250 "):
                pass
            lines.readline()
            lines.readline()
            secure.sendall(half)
            match end:
                case "close_notify":
                    with suppress(OSError):
                        secure.unwrap()
                case "reset":
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                case "clear text":
                    wire.sendall(b"\r\n.\r\nQUIT\r\n")
                    wire.shutdown(socket.SHUT_WR)
                    with suppress(OSError):
                        while wire.recv(4096):
                            pass
                case _:
                    wire.shutdown(socket.SHUT_WR)
                    with suppress(OSError):
                        while wire.recv(4096):
                            pass


def test_naive_server_takes_half_a_message() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with naive_server(Fault.SHORT_CHUNKS, context=context) as naive:
        cut_off(naive.port, HALVES["half of the last chunk"], "no close_notify", "half@evil.test")
        wait_until(lambda: naive.messages, "half a message")
        assert naive.messages[0].content == CONTENT


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("half", HALVES)
def test_message_that_ends_with_its_connection_is_none(world: World, half: str, end: str) -> None:
    sender = f"{half.replace(' ', '-')}.{end.replace(' ', '-')}@evil.test"
    cut_off(world.port, HALVES[half], end, sender)
    assert world.received(sender) == 0
