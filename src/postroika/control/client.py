"""Talks to a running server through its control socket. Blocking, standard library only: for the command line.

Promise: an answer of the type asked for, or an error that says in one line whether there is no server, whether we may
not ask it, or what it had against the request.

A change may take long (each message that is cancelled is settled with an event): it is waited for as long as the server
answers others meanwhile.
"""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from postroika.control.records import (
    CancelRequest,
    Changed,
    Doubts,
    ErrorText,
    Filter,
    FlushRequest,
    MessageDetail,
    Page,
    QueueStats,
    SendTlsReports,
    Status,
    TlsCounts,
    TlsReportsSent,
)
from postroika.errors import ControlError, NoServerError, NotQueuedError, RefusedError
from postroika.mail.ids import id_text

T = TypeVar("T")

ANSWER_TIMEOUT_S = 30.0  # above what the supervisor gives its workers (`supervisor.child`)
_PIECE_BYTES = 64 * 1024


class Client:
    """A connection to the server whose control socket is at `path`; a context manager.

    Args:
        path: `server.control` of the config.
        timeout_s: for an answer; how often, while a change is awaited, the server is asked whether it is still there.

    Every method raises:
        NoServerError: nothing answers there.
        ControlError: it may not be asked, or does not answer as it should.
        RefusedError: it answered that it will not (NotQueuedError: that there is no such message).
    """

    def __init__(self, path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._connection = _UnixConnection(path, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Open the connection, if it is not: to know whether there is a server before it is asked anything."""
        if self._connection.sock is None:
            self._call(self._connection.connect)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    # -- questions, as those of `Queries` -----------------------------------------------------------------------------

    def status(self) -> Status:
        """The server and its workers."""
        return self._get("/v1/status", Status)

    def page(self, wanted: Filter, after: int = 0, limit: int = 100) -> Page:
        """See `Queries.page`."""
        parameters = {name: value for name, value in msgspec.to_builtins(wanted).items() if value}
        if after:
            parameters["after"] = id_text(after)
        return self._get("/v1/queue", Page, {**parameters, "limit": limit})

    def doubts(self, after: str = "", limit: int = 100) -> Doubts:
        """See `Queries.doubts`."""
        return self._get("/v1/queue/doubts", Doubts, {"after": after, "limit": limit})

    def detail(self, message: int, first_batch: int = 0) -> MessageDetail:
        """See `Queries.detail`."""
        return self._get(f"/v1/queue/{id_text(message)}", MessageDetail, {"batch": first_batch})

    def body(self, message: int) -> tuple[int, Iterator[bytes]]:
        """See `Queries.body`."""
        response = self._send("GET", f"/v1/queue/{id_text(message)}/body")
        return int(response.headers["content-length"]), self._pieces(message, response)

    def stats(self, top: int = 10) -> QueueStats:
        """See `Queries.stats`; with the figures of the workers."""
        return self._get("/v1/queue/stats", QueueStats, {"top": top})

    def tls_counts(self, day: str = "", domain: str = "", limit: int = 100) -> TlsCounts:
        """See `tls_counts.tls_counts`."""
        return self._get("/v1/tlsrpt", TlsCounts, {"day": day, "domain": domain, "limit": limit})

    def metrics(self) -> str:
        """The figures of all workers, in the text format of Prometheus."""
        return self._call(self._send("GET", "/v1/metrics").read).decode()

    # -- changes ------------------------------------------------------------------------------------------------------

    def flush(self, request: FlushRequest) -> Changed:
        """Try mail now."""
        return self._post("/v1/queue/flush", request)

    def cancel(self, request: CancelRequest) -> Changed:
        """Take mail back."""
        return self._post("/v1/queue/cancel", request)

    def send_tls_reports(self, day: str = "") -> TlsReportsSent:
        """Send the reports about a day now."""
        return self._posted("/v1/tlsrpt/send", SendTlsReports(day=day), TlsReportsSent)

    def reopen_logs(self) -> Changed:
        """Open the log files anew."""
        return self._post("/v1/logs/reopen", None)

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    def _get(self, path: str, kind: type[T], parameters: Mapping[str, Any] | None = None) -> T:
        text = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in (parameters or {}).items()
        }
        query = f"?{urlencode(text)}" if text else ""
        return self._decoded(self._send("GET", quote(path) + query), kind)

    def _post(self, path: str, request: msgspec.Struct | None) -> Changed:
        return self._posted(path, request, Changed)

    def _posted(self, path: str, request: msgspec.Struct | None, kind: type[T]) -> T:
        body = b"{}" if request is None else msgspec.json.encode(request)
        return self._decoded(self._send("POST", path, body), kind)

    def _send(self, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        connection = self._connection

        def send() -> http.client.HTTPResponse:
            if connection.speaks_within(0):
                connection.close()  # nothing was asked: it has closed what was idle for long, as before a confirmation
            connection.request(method, path, body)
            while body is not None and not connection.speaks_within(self._timeout_s):
                self._must_live()
            return connection.getresponse()

        response = self._call(send)
        if response.status >= 300:
            raise self._refusal(response)
        return response

    def _must_live(self) -> None:
        """Raise ControlError unless the server answers somebody else."""
        try:
            with Client(self._path, self._timeout_s) as other:
                other.status()
        except ControlError:
            self.close()
            raise

    def _decoded(self, response: http.client.HTTPResponse, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(self._call(response.read), type=kind)
        except msgspec.DecodeError as error:
            raise ControlError(f"the server at {self._path} is of another version: {error}") from error

    def _refusal(self, response: http.client.HTTPResponse) -> Exception:
        text = self._call(response.read)
        try:
            reason = msgspec.json.decode(text, type=ErrorText).error
        except msgspec.DecodeError:
            reason = f"HTTP {response.status} {response.reason}"
        if response.status == 404:
            return NotQueuedError(reason)
        return ControlError(reason) if response.status >= 500 else RefusedError(reason)

    def _pieces(self, message: int, response: http.client.HTTPResponse) -> Iterator[bytes]:
        left = int(response.headers["content-length"])
        while left:
            piece = self._call(partial(response.read, min(left, _PIECE_BYTES)))
            if not piece:
                raise NotQueuedError(f"{id_text(message)} left the queue while it was read")
            left -= len(piece)
            yield piece

    def _call(self, do: Callable[[], T]) -> T:
        """Do something with the connection, and tell its errors in our words."""
        try:
            return do()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self.close()
            raise NoServerError(f"no server answers at {self._path}") from error
        except PermissionError as error:
            self.close()
            raise ControlError(f"{self._path}: permission denied; only the server's own user may use it") from error
        except TimeoutError as error:
            self.close()
            raise ControlError(f"the server at {self._path} does not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ControlError(f"the server at {self._path} broke off: {error}") from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except BaseException:
            self.close()
            raise

    def speaks_within(self, seconds: float) -> bool:
        """Whether the server says something, or closes, within that time; False if there is no connection."""
        return self.sock is not None and bool(select.select([self.sock], [], [], seconds)[0])
