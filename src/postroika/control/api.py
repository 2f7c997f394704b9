"""The control API: JSON over HTTP on the Unix socket `server.control` (docs/control-api.md).

Promise: whatever is asked, the mail goes on. Questions about the queue are answered from the spool in threads, a
bounded part at a time; changes go to the workers, who own their shards. Every answer that is not 2xx is
`{"error": "…"}`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from postroika import __version__, metrics
from postroika.config import Config
from postroika.control import unix_server, wire
from postroika.control.filters import destination_name
from postroika.control.queries import MAX_PAGE, Queries
from postroika.control.records import (
    CancelRequest,
    Changed,
    ErrorText,
    Filter,
    FlushRequest,
    SendTlsReports,
    Status,
    TlsReportsSent,
    WorkerStatus,
)
from postroika.control.tls_counts import day_named, must_be_on, tls_counts
from postroika.errors import ControlError, NotQueuedError, PostroikaError, RefusedError
from postroika.mail.ids import parse_id
from postroika.spool.shards import Shards
from postroika.tlsrpt.days import day_at

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_REQUEST_BYTES = 1024 * 1024
_IDS_A_PACKET = 2_000  # of 21 octets each, far below wire.MAX_PACKET_BYTES
_NAMES_A_PACKET = 500  # of up to 256 octets each
_READERS = 2  # threads that read the spool for us at once
_WHOLE_BYTES = 1024 * 1024  # a smaller body is read at once, so that it cannot leave the queue meanwhile


class Workers(Protocol):
    """What the supervisor offers."""

    async def ask_all(self, request: wire.Request) -> list[wire.Answer]:
        """Ask every worker at once; one answer each, in order of shards. One that is down gives an error."""

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers, in order of shards."""


class ListQuery(Filter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of the list."""

    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 100


class DetailQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of one message."""

    batch: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0


class DoubtsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of the doubts."""

    after: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = 100


class TlsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of the counts for TLS reports."""

    day: str = ""
    domain: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class StatsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of the figures."""

    top: Annotated[int, msgspec.Meta(ge=0, le=MAX_PAGE)] = 10


async def serve(  # noqa: ASYNC128 - unix_server.serve says when it has started
    config: Config, workers: Workers, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the control API until cancelled; started when it can be connected to.

    Raises:
        ControlError: the socket cannot be made.

    Cancellation: at any time; a read of the spool that is under way is waited for (a second at most).
    """
    queries = Queries(Shards(Path(config.server.spool), config.spool.max_bytes), config)
    try:
        app = Api(queries, workers).app
        await unix_server.serve(app, Path(config.server.control), task_status=task_status)
    finally:
        queries.close()


class Api:
    """The endpoints.

    Args:
        queries: of the server's spool and config.
        workers: carry out changes.

    `app` is the ASGI application.
    """

    def __init__(self, queries: Queries, workers: Workers) -> None:
        self._queries = queries
        self._workers = workers
        self._started_at = time.monotonic()
        self._readers = trio.CapacityLimiter(_READERS)
        self.app = Starlette(
            routes=[
                Route("/v1/status", self._status),
                Route("/v1/queue", self._list),
                Route("/v1/queue/stats", self._stats),
                Route("/v1/queue/doubts", self._doubts),
                Route("/v1/queue/flush", self._flush, methods=["POST"]),
                Route("/v1/queue/cancel", self._cancel, methods=["POST"]),
                Route("/v1/queue/{id}", self._detail),
                Route("/v1/queue/{id}/body", self._body),
                Route("/v1/metrics", self._metrics),
                Route("/v1/tlsrpt", self._tls_counts),
                Route("/v1/tlsrpt/send", self._send_tls_reports, methods=["POST"]),
                Route("/v1/logs/reopen", self._reopen, methods=["POST"]),
            ],
            exception_handlers={
                HTTPException: _http_error,
                PostroikaError: _known_error,
                Exception: _unknown_error,
            },
        )

    # -- questions ----------------------------------------------------------------------------------------------------

    async def _status(self, _: Request) -> Response:
        workers = await self._worker_statuses()
        return _json(
            Status(
                version=__version__,
                hostname=self._queries.config.server.hostname,
                pid=os.getpid(),
                uptime_s=round(time.monotonic() - self._started_at, 3),
                ready=all(not worker.error for worker in workers),
                workers=workers,
            )
        )

    async def _worker_statuses(self) -> list[WorkerStatus]:
        pids = self._workers.worker_pids
        answers = await self._workers.ask_all(wire.Stats())
        return [
            WorkerStatus(worker=index, pid=pid, error=answer.error, gauges=answer.result.get("gauges", {}))
            for index, (answer, pid) in enumerate(zip(answers, pids, strict=True))
        ]

    async def _list(self, request: Request) -> Response:
        query = _parameters(request, ListQuery)
        after = _message_id(query.after) if query.after else 0
        return _json(await self._read(partial(self._queries.page, query, after, query.limit)))

    async def _stats(self, request: Request) -> Response:
        query = _parameters(request, StatsQuery)
        stats = await self._read(partial(self._queries.stats, query.top))
        return _json(msgspec.structs.replace(stats, workers=await self._worker_statuses()))

    async def _doubts(self, request: Request) -> Response:
        query = _parameters(request, DoubtsQuery)
        return _json(await self._read(partial(self._queries.doubts, query.after, query.limit)))

    async def _detail(self, request: Request) -> Response:
        query = _parameters(request, DetailQuery)
        message = _message_id(request.path_params["id"])
        return _json(await self._read(partial(self._queries.detail, message, query.batch)))

    async def _body(self, request: Request) -> Response:
        message = _message_id(request.path_params["id"])
        size, pieces = await self._read(partial(self._queries.body, message))
        headers = {"content-length": str(size)}
        if size <= _WHOLE_BYTES:
            whole = await self._read(partial(b"".join, pieces))
            return Response(whole, headers=headers, media_type="message/rfc822")
        return StreamingResponse(_Pieces(self._read, pieces), headers=headers, media_type="message/rfc822")

    async def _metrics(self, _: Request) -> Response:
        answers = await self._workers.ask_all(wire.Stats())
        figures = metrics.merge(
            {**answer.result.get("gauges", {}), **answer.result.get("counters", {})} for answer in answers
        )
        figures |= await self._read(self._queries.gauges)
        figures["workers"] = sum(not answer.error for answer in answers)
        return Response(metrics.render_prometheus(figures), media_type="text/plain; version=0.0.4")

    async def _tls_counts(self, request: Request) -> Response:
        query = _parameters(request, TlsQuery)
        config = self._queries.config
        must_be_on(config)
        await self._workers.ask_all(wire.SaveTlsCounts())  # one that is down has saved what it will not lose
        return _json(await self._read(partial(tls_counts, config, query.day, query.domain, query.limit)))

    async def _read(self, question: Callable[[], T]) -> T:
        """Ask the spool, in a thread. It is not abandoned when cancelled: the spool must not be closed under it."""
        return await trio.to_thread.run_sync(question, limiter=self._readers)

    # -- changes ------------------------------------------------------------------------------------------------------

    async def _flush(self, request: Request) -> Response:
        wanted = await _body_of(request, FlushRequest)
        messages = [_message_id(text) for text in wanted.messages]
        names = [destination_name(name) for name in wanted.destinations]
        asked: list[wire.Request] = [wire.Flush(messages=part) for part in _parts(messages, _IDS_A_PACKET)]
        asked += [wire.Flush(destinations=part) for part in _parts(names, _NAMES_A_PACKET)]
        return await self._change(asked or [wire.Flush()], "batches")

    async def _cancel(self, request: Request) -> Response:
        wanted = await _body_of(request, CancelRequest)
        filters = {
            name: getattr(wanted, name)
            for name in ("destination", "sender", "recipient", "tenant", "campaign")
            if getattr(wanted, name)
        }
        if bool(filters) == bool(wanted.messages):
            raise RefusedError("name either messages or filters to cancel")
        if filters:
            return await self._change([wire.Cancel(**filters)], "recipients")
        messages = [_message_id(text) for text in wanted.messages]
        return await self._change(
            [wire.Cancel(messages=part) for part in _parts(messages, _IDS_A_PACKET)], "recipients"
        )

    async def _reopen(self, _: Request) -> Response:
        return await self._change([wire.Reopen()], "")

    async def _send_tls_reports(self, request: Request) -> Response:
        wanted = await _body_of(request, SendTlsReports)
        must_be_on(self._queries.config)
        day = day_named(wanted.day, day_at(time.time()) - 1)
        if day > day_at(time.time()):
            raise RefusedError(f"{wanted.day} has not begun")
        await self._workers.ask_all(wire.SaveTlsCounts())
        answers = await self._workers.ask_all(wire.SendTlsReports(day))
        for answer in answers:
            if answer.result:
                return _json(msgspec.convert(answer.result, TlsReportsSent))
        raise ControlError("; ".join(answer.error for answer in answers if answer.error) or "no worker sends reports")

    async def _change(self, asked: Iterable[wire.Request], counted: str) -> Response:
        """Have all workers do all that is asked. Fails only if none could do anything."""
        count, done = 0, False
        errors: dict[str, None] = {}
        for request in asked:
            for answer in await self._workers.ask_all(request):
                if answer.error:
                    errors[answer.error] = None
                else:
                    done = True
                    count += answer.result.get(counted, 0)
        if errors and not done:
            raise ControlError("; ".join(errors))
        return _json(Changed(count=count, errors=list(errors)))


class _Pieces:
    """The rest of a long body, read as it is sent. (No generator: nobody closes one in time when the client leaves.)"""

    def __init__(self, read: Callable[[Callable[[], bytes]], Awaitable[bytes]], pieces: Iterator[bytes]) -> None:
        self._read = read
        self._next = partial(next, pieces, b"")

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self._read(self._next):
            return piece
        raise StopAsyncIteration


# -- requests and answers ---------------------------------------------------------------------------------------------


def _json(record: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(record), status, media_type="application/json")


def _parameters(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        raise RefusedError(f"parameters: {error}") from None


async def _body_of(request: Request, kind: type[T]) -> T:
    """The JSON body of a request; an empty one is {}."""
    body = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > _MAX_REQUEST_BYTES:
                raise HTTPException(413, f"the request has more than {_MAX_REQUEST_BYTES} octets")
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise RefusedError(f"body: {error}") from None


def _message_id(text: str) -> int:
    try:
        return parse_id(text)
    except ValueError as error:
        raise RefusedError(str(error)) from None


def _parts(items: Sequence[T], size: int) -> Iterable[list[T]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _json(ErrorText(error=error.detail), error.status_code)
    response.headers.update(error.headers or {})
    return response


def _known_error(_: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, NotQueuedError) else 400 if isinstance(error, RefusedError) else 503
    if status == 503:
        log.warning("a control request failed: %s", error)
    return _json(ErrorText(error=str(error)), status)


def _unknown_error(_: Request, error: Exception) -> Response:
    """Starlette raises the error again after the answer; Hypercorn logs it with its traceback."""
    return _json(ErrorText(error=f"a bug: {type(error).__name__}; the server's log has more"), 500)
