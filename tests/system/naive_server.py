"""A small SMTP server with the faults that attacks look for, one at a time: it shows that an attack of the tests works.

A test that only shows that we withstand an attack may have an attack with no teeth. So each attack is a function that
is first let loose on this server, with the fault switched on, where it has to succeed. Without faults the server is an
honest one.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_STRICT_END = re.compile(rb"\r\n\.\r\n")
# Whatever somebody somewhere has taken for the end of a line.
_LENIENT_END = re.compile(rb"(?:[\r\n\0]|\xc2\x85|\x0b|\x0c)+\.[ \t]*(?:[\r\n\0]|\xc2\x85|\x0b|\x0c)+")
_EHLO = b"250-naive.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n"


class Fault(enum.Flag):
    """What it does wrong."""

    NONE = 0
    LENIENT_END = enum.auto()  # takes other octets than CR LF . CR LF for the end of a message
    LENIENT_LINES = enum.auto()  # takes a lone LF or CR for the end of a command
    KEEPS_INPUT = enum.auto()  # runs in TLS what came before the handshake
    SHORT_CHUNKS = enum.auto()  # takes what has come of a chunk for all of it, when the connection ends
    REFUSED_CHUNKS = enum.auto()  # runs the octets of a chunk that it has refused as commands
    ROUTES = enum.auto()  # finds its way by whatever looks like a domain in the local part
    COPIES = enum.auto()  # puts what the client says into headers as it is, or decoded
    HASTY = enum.auto()  # knows at once that there is no such account
    PATIENT = enum.auto()  # lets everybody guess for ever
    ENDLESS = enum.auto()  # keeps all of a line until it has ended
    FEW_HANDS = enum.auto()  # holds no more than so many sessions, however slow they are
    PROXIES = enum.auto()  # believes whoever says for whom he speaks


MOST_HANDS = 20


@dataclass
class Message:
    """One that was taken."""

    reverse_path: str
    recipients: list[str]
    content: bytes


@dataclass
class NaiveServer:
    """One that is running.

    Args:
        context: for STARTTLS; None: it is not offered.
        ours: the domains that it takes mail for; everybody's if there are none. Who is at 127.0.0.2 or in 10.0.0.0/8
            may send to all.
        passwords: of accounts.
    """

    port: int
    faults: Fault
    context: ssl.SSLContext | None = None
    ours: frozenset[str] = frozenset()
    passwords: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    most_held: int = 0

    def hold(self, sock: socket.socket) -> None:
        """Hold a session, to its end."""
        session = _Session(self, sock)
        with suppress(OSError, _GoneError):
            session.run()
        session.close()


class _GoneError(Exception):
    """The client."""


class _Session:
    def __init__(self, server: NaiveServer, sock: socket.socket) -> None:
        self._server = server
        self._faults = server.faults
        self._sock = sock
        self._buffer = b""
        self._address = sock.getpeername()[0]
        self._said: dict[bytes, bytes] = {}
        self._reset()

    def _reset(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._parts: list[bytes] = []

    def run(self) -> None:
        self._say(b"220 naive.test")
        while True:
            line = self._line()
            self._server.commands.append(line)
            verb, _, argument = line.partition(b" ")
            self._said[verb.upper()] = argument
            match verb.upper():
                case b"PROXY" if Fault.PROXIES in self._faults:
                    self._address = argument.split()[1].decode()
                case b"XCLIENT" if Fault.PROXIES in self._faults:
                    self._address = argument.partition(b"ADDR=")[2].split()[0].decode()
                    self._say(b"220 naive.test")
                case b"QUIT":
                    self._say(b"221 bye")
                    return
                case b"EHLO" | b"HELO":
                    starttls = b"250-STARTTLS\r\n" if self._server.context is not None else b""
                    self._sock.sendall(_EHLO + starttls + b"250 AUTH PLAIN\r\n")
                case b"STARTTLS":
                    self._start_tls()
                case b"AUTH":
                    self._auth(argument)
                case b"MAIL":
                    self._sender = _path(argument)
                    self._say(b"250 ok")
                case b"RCPT":
                    self._recipient(_path(argument))
                case b"DATA":
                    self._data()
                case b"BDAT":
                    self._bdat(argument.upper().split())
                case b"RSET":
                    self._reset()
                    self._say(b"250 ok")
                case b"NOOP":
                    self._say(b"250 ok")
                case _:
                    self._say(b"500 what?")

    def close(self) -> None:
        self._sock.close()

    # ---- octets

    def _say(self, line: bytes) -> None:
        self._sock.sendall(line + b"\r\n")

    def _more(self) -> None:
        piece = self._sock.recv(65536)
        if not piece:
            raise _GoneError
        self._buffer += piece
        self._server.most_held = max(self._server.most_held, len(self._buffer))

    def _line(self) -> bytes:
        end = re.compile(rb"\r\n|\r|\n" if Fault.LENIENT_LINES in self._faults else rb"\r\n")
        while (found := end.search(self._buffer)) is None:
            if len(self._buffer) > 65536 and Fault.ENDLESS not in self._faults:
                self._say(b"500 line too long")
                raise _GoneError
            self._more()
        line, self._buffer = self._buffer[: found.start()], self._buffer[found.end() :]
        return line

    # ---- commands

    def _start_tls(self) -> None:
        assert self._server.context is not None
        if Fault.KEEPS_INPUT not in self._faults:
            self._buffer = b""
        self._say(b"220 go ahead")
        self._sock = self._server.context.wrap_socket(self._sock, server_side=True)

    def _auth(self, argument: bytes) -> None:
        _, name, password = base64.b64decode(argument.split()[1]).decode().split("\0")
        known = self._server.passwords.get(name)
        if known is None and Fault.HASTY in self._faults:
            self._say(b"535 no")
            return
        given, wanted = (hashlib.pbkdf2_hmac("sha256", text.encode(), b"", 500) for text in (password, known or ""))
        self._say(b"235 welcome" if given == wanted else b"535 no")

    def _recipient(self, path: str) -> None:
        ours = self._server.ours
        domain = path.rpartition("@")[2].lower()
        if ours and not domain.endswith(tuple(ours)) and not self._address.startswith(("127.0.0.2", "10.")):
            self._say(b"550 no relaying")
            return
        if Fault.ROUTES in self._faults:
            local = path.rpartition("@")[0].strip('"')
            for sign, of in (("%", "{0}@{1}"), ("@", "{0}@{1}"), ("!", "{1}@{0}")):
                first, found, second = local.rpartition(sign) if sign != "!" else local.partition(sign)
                if found:
                    path = of.format(first, second)
                    break
        self._recipients.append(path)
        self._say(b"250 ok")

    def _data(self) -> None:
        self._say(b"354 go ahead")
        end = _LENIENT_END if Fault.LENIENT_END in self._faults else _STRICT_END
        self._buffer = b"\r\n" + self._buffer
        while (found := end.search(self._buffer)) is None:
            self._more()
        content, self._buffer = self._buffer[2 : found.start()] + b"\r\n", self._buffer[found.end() :]
        self._take(content.replace(b"\r\n..", b"\r\n."))

    def _bdat(self, words: list[bytes]) -> None:
        size, last = int(words[0]), words[1:] == [b"LAST"]
        if self._sender is None or not self._recipients:
            if Fault.REFUSED_CHUNKS not in self._faults:
                self._chunk(size)
            self._say(b"503 no")
            return
        self._parts.append(self._chunk(size))
        if last:
            self._take(b"".join(self._parts))
        else:
            self._say(b"250 ok")

    def _chunk(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                self._more()
            except (_GoneError, OSError):
                if Fault.SHORT_CHUNKS not in self._faults:
                    raise
                break
        chunk, self._buffer = self._buffer[:size], self._buffer[size:]
        return chunk

    def _take(self, content: bytes) -> None:
        stamp = b""
        if Fault.COPIES in self._faults:
            said = b"; ".join(self._said.get(verb, b"") for verb in (b"HELO", b"EHLO", b"MAIL", b"RCPT"))
            stamp = (
                b"Received: "
                + re.sub(rb"\+([0-9A-F]{2})", lambda code: bytes.fromhex(code[1].decode()), said)
                + b"\r\n"
            )
        assert self._sender is not None
        self._server.messages.append(Message(self._sender, self._recipients, stamp + content))
        self._reset()
        self._say(b"250 taken")


def _path(argument: bytes) -> str:
    found = re.search(rb"<(.*)>", argument, re.DOTALL)
    return (found[1] if found else argument.partition(b":")[2]).decode("latin-1")


@contextmanager
def naive_server(
    faults: Fault = Fault.NONE,
    *,
    context: ssl.SSLContext | None = None,
    ours: tuple[str, ...] = (),
    passwords: dict[str, str] | None = None,
) -> Iterator[NaiveServer]:
    """Run one, on a free port."""
    hands = threading.Semaphore(MOST_HANDS if Fault.FEW_HANDS in faults else 10_000)
    threads: list[threading.Thread] = []
    socks: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        server = NaiveServer(listener.getsockname()[1], faults, context, frozenset(ours), passwords or {})

        def hold(sock: socket.socket) -> None:
            server.hold(sock)
            hands.release()

        def accept() -> None:
            while True:
                hands.acquire()
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                socks.append(sock)
                threads.append(threading.Thread(target=hold, args=(sock,)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for sock in socks:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            hands.release()
            accepting.join()
            for thread in threads:
                thread.join()
