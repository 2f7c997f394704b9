"""An ASGI app behind a Unix socket that only its owner may use.

Promise: nobody else can connect (mode 0600 from the first moment); a live server is never pushed aside, a socket file
that a killed one has left is; the file is gone when the server is. Whatever a client does, hang included, neither
harms the process nor holds up its end.

How: Hypercorn speaks HTTP on each connection (its TCPServer). The accept loop is Trio's instead of Hypercorn's own
for two reasons: Hypercorn sends under a shield, so that a client that does not read would keep a stopping server
waiting for ever, and lets an error of one connection end all. Here a send has a deadline, stopping closes the
connections, and an error is logged and ends its own connection.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import cast

import trio
from hypercorn.config import Config as HttpConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from postroika.errors import ControlError

log = logging.getLogger(__name__)

_BACKLOG = 64
_SEND_TIMEOUT_S = 60.0
_KEEP_ALIVE_S = 30.0  # also for a request that does not come to its end


def bind(path: Path) -> tuple[socket.socket, os.stat_result]:
    """A listening socket at `path`, for us alone, and what its file is.

    Raises:
        ControlError: a server answers there, something else is there, or it may not be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket() and not _answers(path):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            listener.listen(_BACKLOG)
            return listener, path.stat()
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = "a server answers there" if path.is_socket() else "there is a file of that name"
            raise ControlError(f"cannot make the control socket {path}: {what}") from error
        raise ControlError(f"cannot make the control socket {path}: {error.strerror}") from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # its backlog is full
    return True


async def serve(app: ASGIApp, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve `app` at the socket `path` until cancelled; started when it can be connected to.

    Raises:
        ControlError: the socket cannot be made.

    Cancellation: at any time; connections are closed, the socket file is removed.
    """
    listener, made = bind(path)
    try:
        server = _Connections(app)
        async with trio.open_nursery() as nursery:
            await nursery.start(
                trio.serve_listeners, server.handle, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
            )
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                server.close()
    finally:
        listener.close()
        _remove(path, made)


def _remove(path: Path, made: os.stat_result) -> None:
    """Remove our socket file; not that of another server which has taken the place."""
    try:
        now = path.lstat()
        if stat.S_ISSOCK(now.st_mode) and os.path.samestat(now, made):
            path.unlink()
    except FileNotFoundError:
        log.debug("%s was removed by someone else", path)


class _Connections:
    """Those that are open."""

    def __init__(self, app: ASGIApp) -> None:
        config = HttpConfig()
        config.accesslog = None
        config.errorlog = log
        config.include_server_header = False
        config.include_date_header = False
        config.keep_alive_timeout = _KEEP_ALIVE_S
        self._config = config
        self._app = wrap_app(cast(ASGIFramework, app), config.wsgi_max_body_size, "asgi")
        self._context = WorkerContext(None)
        self._open: set[_Stream] = set()

    async def handle(self, connection: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        stream = _Stream(connection)
        self._open.add(stream)
        try:
            server = TCPServer(
                self._app,
                self._config,
                self._context,
                ConnectionState(LifespanState()),
                stream,  # type: ignore[arg-type]  # it says SSLStream and takes any
            )
            await server.run()
        except Exception:  # a bug here must not stop the mail
            log.exception("a control connection failed")
        finally:
            self._open.discard(stream)
            await trio.aclose_forcefully(connection)

    def close(self) -> None:
        """Close all at once, so that a send under Hypercorn's shield fails instead of waiting for its peer."""
        for stream in self._open:
            stream.socket.close()


class _Stream:
    """A connection whose sends have a deadline."""

    def __init__(self, inner: trio.SocketStream) -> None:
        self._inner = inner
        self.socket = inner.socket

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(_SEND_TIMEOUT_S):
            await self._inner.send_all(data)
            return
        raise trio.BrokenResourceError("the client does not read")

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        await self._inner.aclose()
