"""A small HTTPS server on loopback, for what we post: Trio's TLS, and h11, which the client is made with as well, but
not by us."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import h11
import trio


class Request(NamedTuple):
    """One that came in whole."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class HttpsServer:
    """Answers all requests alike.

    Args:
        context: of its TLS.
        status: of its answers; 0: it never answers.
        headers: of its answers.

    Attributes:
        requests: those that came.
        names: that were asked for in handshakes (SNI).
        port: on 127.0.0.1.
    """

    def __init__(self, context: ssl.SSLContext, status: int = 201, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}
        self.requests: list[Request] = []
        self.names: list[str | None] = []
        self.port = 0
        self._context = context
        context.sni_callback = lambda _object, name, _context: self.names.append(name)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[HttpsServer]:
        """Answer while the block runs."""
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            await nursery.start(trio.serve_listeners, self._converse, [listener])
            yield self
            nursery.cancel_scope.cancel()

    async def _converse(self, raw: trio.SocketStream) -> None:
        stream = trio.SSLStream(raw, self._context, server_side=True, https_compatible=True)
        connection = h11.Connection(h11.SERVER)
        body = b""
        head: h11.Request | None = None
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                else:
                    break
            if head is None:
                return
            headers = {name.decode(): value.decode() for name, value in head.headers}
            self.requests.append(Request(head.method.decode(), head.target.decode(), headers, body))
            if not self.status:
                await trio.sleep_forever()
            answer = h11.Response(status_code=self.status, headers=[*self.headers.items(), ("content-length", "0")])
            await stream.send_all((connection.send(answer) or b"") + (connection.send(h11.EndOfMessage()) or b""))
            await stream.aclose()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(raw)
