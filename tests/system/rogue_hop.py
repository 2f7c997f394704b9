"""A next hop with somebody in the middle, who would have mail go in clear, or his words be taken for the hop's."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.system.threaded_hop import held_in_threads

INJECTED = b"250-injected\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n"
# What the one in the middle does.
TRICKS = (
    "strip", "strip-name", "no-ehlo", "421", "454", "500", "502", "554", "garbage", "close", "alert", "inject",
    "inject-apart", "inject-half", "early",
)  # fmt: skip


@dataclass
class RogueHop:
    """One that is running.

    Args:
        trick: of TRICKS; "" for an honest one.
    """

    port: int
    trick: str
    context: ssl.SSLContext
    in_clear: list[bytes] = field(default_factory=list)
    in_tls: list[bytes] = field(default_factory=list)

    def hold(self, sock: socket.socket) -> None:
        """Hold a session, to its end."""
        # Without a buffer: the client's first words of the handshake must not end up in one.
        with sock.makefile("rb", buffering=0) as lines:
            sock.sendall(b"220 hop.test ESMTP\r\n")
            wants_tls = self._converse(sock, lines, self.in_clear)
            if wants_tls and self.trick.isdigit():
                sock.sendall(self.trick.encode() + b" 4.7.0 TLS not available due to temporary reason\r\n")
                self._converse(sock, lines, self.in_clear)
            elif wants_tls and self._begin_tls(sock):
                with self.context.wrap_socket(sock, server_side=True) as secure, secure.makefile("rb") as inside:
                    self._converse(secure, inside, self.in_tls)

    def _converse(self, sock: socket.socket, lines: Iterable[bytes], heard: list[bytes]) -> bool:
        """Hear and answer, up to STARTTLS or the end; whether it was STARTTLS."""
        in_message = False
        for line in lines:
            heard.append(line)
            verb = line[:4].upper()
            if in_message:
                in_message = line != b".\r\n"
                if not in_message:
                    sock.sendall(b"250 taken\r\n")
                continue
            if verb == b"STAR":
                return True
            in_message = verb == b"DATA"
            sock.sendall(self._answer(verb))
        return False

    def _begin_tls(self, sock: socket.socket) -> bool:
        """Say 220, as the trick wants it; whether a handshake is to follow."""
        go = b"220 2.0.0 go ahead\r\n"
        match self.trick:
            case "inject":
                sock.sendall(go + INJECTED)
            case "inject-half":
                sock.sendall(go + b"250-inj")
            case "inject-apart":
                sock.sendall(go)
                sock.sendall(INJECTED)
            case "early":
                pass  # it has been said
            case "garbage":
                sock.sendall(go + b"\x16\x03\x01\xff\xff" + bytes(1000))
            case "alert":
                sock.sendall(go)
                sock.recv(5)
                sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
            case _:
                sock.sendall(go)
        return self.trick not in {"garbage", "alert", "close"}

    def _answer(self, verb: bytes) -> bytes:
        match verb:
            case b"EHLO" if self.trick == "no-ehlo":
                return b"500 5.5.1 what?\r\n"
            case b"EHLO" if self.trick == "strip":
                return b"250-hop.test\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n"
            case b"EHLO" if self.trick == "strip-name":
                return b"250-hop.test\r\n250-XXXXXXXA\r\n250 AUTH PLAIN LOGIN\r\n"
            case b"EHLO" if self.trick == "early":
                return b"250-hop.test\r\n250 STARTTLS\r\n220 2.0.0 go ahead\r\n"
            case b"EHLO":
                return b"250-hop.test\r\n250-8BITMIME\r\n250 STARTTLS\r\n"
            case b"DATA":
                return b"354 go on\r\n"
            case b"QUIT":
                return b"221 bye\r\n"
            case b"AUTH":
                return b"235 welcome\r\n"
            case _:
                return b"250 ok\r\n"


@contextmanager
def rogue_hop(trick: str, context: ssl.SSLContext) -> Iterator[RogueHop]:
    """Run one, on a free port."""

    def hold(sock: socket.socket) -> None:  # nobody knows the port before there is a hop
        hop.hold(sock)

    with held_in_threads(hold, timeout_s=30) as port:
        hop = RogueHop(port, trick, context)
        yield hop
