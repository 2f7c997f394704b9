"""A scripted SMTP server on a loopback port: the strict oracle of tests/reference behind a socket."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import trio

from postroika.mail.outcome import Peer
from postroika.routing.router import Host
from tests.reference.smtp_server import Decide, Received, SmtpServer

FULL = ("PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
_TCP_ESTABLISHED = 1  # of tcp_states.h
CHUNKED = (*FULL, "CHUNKING", "BINARYMIME")


class ScriptedPeer:
    """Accepts connections and speaks as told.

    Args:
        decide: see `SmtpServer`; called for all connections.
        host: its name in routes.
        read_bytes: how much it reads at once.
        deaf_in_data: it reads nothing after DATA was accepted.

    Attributes:
        sessions, clients: the session and the address of each connection, in order.
        most_open: connections that the client had open at any time.
    """

    def __init__(
        self,
        offers: Sequence[str] = FULL,
        decide: Decide = lambda _verb, _rest: None,
        *,
        host: str = "mx.y.test",
        read_bytes: int = 65536,
        deaf_in_data: bool = False,
    ) -> None:
        self.offers = offers
        self.decide = decide
        self.host = host
        self.sessions: list[SmtpServer] = []
        self.clients: list[str] = []
        self.most_open = 0
        self._streams: list[trio.SocketStream] = []
        self._read_bytes = read_bytes
        self._deaf_in_data = deaf_in_data
        self._listener = socket.create_server(("127.0.0.1", 0))
        if deaf_in_data:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # Else the kernel listens for it.
        self.port: int = self._listener.getsockname()[1]

    @property
    def peer(self) -> Peer:
        return Peer(self.host, "127.0.0.1", self.port)

    @property
    def as_host(self) -> Host:
        return Host(self.host, ("127.0.0.1",), self.port)

    @property
    def messages(self) -> list[Received]:
        return [message for session in self.sessions for message in session.messages]

    @property
    def violations(self) -> list[str]:
        return [violation for session in self.sessions for violation in session.violations]

    async def run(self) -> None:
        """Serve until cancelled."""
        self._listener.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        await trio.serve_listeners(self._serve, [listener])

    async def close_connections(self) -> None:
        """Close all without a word."""
        for stream in list(self._streams):
            await stream.aclose()

    def session(self) -> SmtpServer:
        """For a new connection."""
        return SmtpServer(self.offers, self.decide)

    async def _serve(self, stream: trio.SocketStream) -> None:
        session = self.session()
        self.sessions.append(session)
        self.clients.append(stream.socket.getpeername()[0])
        self._streams.append(stream)
        # Not those whose end is still to be read here: the client may close one and open the next in one breath.
        self.most_open = max(self.most_open, sum(_is_established(stream) for stream in self._streams))
        try:
            await self.converse(stream, session)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._streams.remove(stream)
            await trio.aclose_forcefully(stream)

    async def converse(self, stream: trio.abc.Stream, session: SmtpServer) -> None:
        """From the greeting to the end."""
        await stream.send_all(session.greet())
        while not session.closed:
            if session.hung or (self._deaf_in_data and session.in_data):
                await trio.sleep_forever()
            chunk = await stream.receive_some(self._read_bytes)
            if not chunk:
                break
            await stream.send_all(session.receive(chunk))


def _is_established(stream: trio.SocketStream) -> bool:
    """Neither end has closed it."""
    if stream.socket.fileno() < 0:
        return False
    return stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED


def refused_port() -> Host:
    """A host where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Host("down.y.test", ("127.0.0.1",), listener.getsockname()[1])
