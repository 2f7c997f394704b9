"""A next hop that notes of each connection whom it took the client for: certificate, login, session resumed."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.system.threaded_hop import held_in_threads


@dataclass
class Noted:
    """One connection.

    Args:
        secure: there was a handshake.
        resumed: of a session of another connection.
        certificate: the common name in the client's; "" if it showed none.
        login: who has logged in; "" if nobody.
        recipients: of all its messages.
    """

    secure: bool = False
    resumed: bool = False
    certificate: str = ""
    login: str = ""
    recipients: list[str] = field(default_factory=list)


@dataclass
class NotingHop:
    """One that is running, with STARTTLS and AUTH PLAIN; it takes all mail.

    Args:
        context: of its TLS, one for all connections, so that sessions can be resumed.
    """

    port: int
    context: ssl.SSLContext
    connections: list[Noted] = field(default_factory=list)

    def hold(self, sock: socket.socket) -> None:
        """Hold a session, to its end."""
        noted = Noted()
        # Without a buffer: the client's first words of the handshake must not end up in one.
        with sock.makefile("rb", buffering=0) as lines:
            sock.sendall(b"220 hop.test ESMTP\r\n")
            self.connections.append(noted)
            if self._converse(sock, lines, noted):
                sock.sendall(b"220 2.0.0 go ahead\r\n")
                with self.context.wrap_socket(sock, server_side=True) as secure, secure.makefile("rb") as inside:
                    noted.secure, noted.resumed = True, bool(secure.session_reused)
                    shown = secure.getpeercert() or {}
                    names = {key: value for part in shown.get("subject", ()) for key, value in part}
                    noted.certificate = names.get("commonName", "")
                    self._converse(secure, inside, noted)

    def _converse(self, sock: socket.socket, lines: Iterable[bytes], noted: Noted) -> bool:
        """Hear and answer, up to STARTTLS or the end; whether it was STARTTLS."""
        in_message = False
        for line in lines:
            verb = line[:4].upper()
            if in_message:
                in_message = line != b".\r\n"
                if not in_message:
                    sock.sendall(b"250 2.0.0 taken\r\n")
                continue
            match verb:
                case b"STAR":
                    return True
                case b"EHLO":
                    more = b"250-AUTH PLAIN\r\n" if noted.secure else b"250-STARTTLS\r\n"
                    sock.sendall(b"250-hop.test\r\n" + more + b"250 8BITMIME\r\n")
                case b"AUTH":
                    noted.login = base64.b64decode(line.split()[2]).split(b"\0")[1].decode()
                    sock.sendall(b"235 2.7.0 welcome\r\n")
                case b"RCPT":
                    noted.recipients.append(line.partition(b"<")[2].partition(b">")[0].decode())
                    sock.sendall(b"250 2.1.5 ok\r\n")
                case b"DATA":
                    in_message = True
                    sock.sendall(b"354 go on\r\n")
                case b"QUIT":
                    sock.sendall(b"221 2.0.0 bye\r\n")
                    return False
                case _:
                    sock.sendall(b"250 2.0.0 ok\r\n")
        return False


@contextmanager
def noting_hop(context: ssl.SSLContext) -> Iterator[NotingHop]:
    """Run one, on a free port."""

    def hold(sock: socket.socket) -> None:  # nobody knows the port before there is a hop
        hop.hold(sock)

    with held_in_threads(hold, timeout_s=60) as port:
        hop = NotingHop(port, context)
        yield hop
