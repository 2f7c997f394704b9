"""What the supervisor asks of a worker, and the answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from postroika import metrics
from postroika.control import wire
from postroika.control.filters import matcher
from postroika.errors import PostroikaError
from postroika.queue.operator import Operator
from postroika.tls.certificates import Certificates

if TYPE_CHECKING:
    from postroika.tlsrpt.reports import Reports

log = logging.getLogger(__name__)


class Requests:
    """Does what the supervisor asks, one request beside the other.

    Args:
        channel: they come from there, and answers go there.
        operator: flushes and cancels.
        gauges: the state of the queue as numbers.
        reports: about TLS, to other domains; None if there are none.
        forget: what is remembered of failures is forgotten by these at a flush.
        certificates: ours, looked for anew at a Reopen.
        reopen: whatever else has to do with files that may have changed.

    Attributes:
        stop: set when the worker is to end.
    """

    def __init__(
        self,
        channel: wire.Channel,
        operator: Operator,
        gauges: Callable[[], dict[str, Any]],
        reports: Reports | None,
        *,
        forget: Sequence[Callable[[], None]],
        certificates: Certificates,
        reopen: Sequence[Callable[[], Awaitable[None]]],
    ) -> None:
        self._channel = channel
        self._operator = operator
        self._gauges = gauges
        self._reports = reports
        self._forget = forget
        self._certificates = certificates
        self._reopened = reopen
        self.stop = trio.Event()

    async def obey(self) -> None:
        """Answer until the supervisor is gone; then end the process.

        Cancellation: at once.
        """
        async with trio.open_nursery() as nursery:
            while (ask := await self._channel.receive_ask()) is not None:
                nursery.start_soon(self._answer, ask)
        # The supervisor is gone: whoever starts next must not meet us. What is under way is in the spool.
        os._exit(os.EX_UNAVAILABLE)

    async def _answer(self, ask: wire.Ask) -> None:
        try:
            answer = wire.Answer(ask.number, await self._do(ask.request))
        except (PostroikaError, ValueError) as error:
            answer = wire.Answer(ask.number, error=str(error))
        try:
            await self._channel.send(answer)
        except OSError:
            log.debug("the supervisor went away before it had its answer")

    async def _do(self, request: wire.Request) -> dict[str, Any]:
        if isinstance(request, wire.Flush):
            for forget in self._forget:
                forget()
            count = await self._operator.flush_messages(request.messages)
            for name in request.destinations:
                count += await self._operator.flush_destination(name)
            if not request.messages and not request.destinations:
                count = await self._operator.flush_all()
            return {"batches": count}
        if isinstance(request, wire.Cancel):
            if request.messages:
                return {"recipients": await self._operator.cancel_messages(request.messages)}
            return {"recipients": await self._operator.cancel_where(matcher(request))}
        if isinstance(request, wire.Stats):
            return {"counters": metrics.snapshot(), "gauges": self._gauges()}
        if isinstance(request, wire.Reopen):
            await self._reopen()
            return {}
        if isinstance(request, wire.SaveTlsCounts):
            if self._reports is not None:
                await self._reports.save()
            return {}
        if isinstance(request, wire.SendTlsReports):
            return {} if self._reports is None else await self._reports.send(request.day)
        self.stop.set()
        return {}

    async def _reopen(self) -> None:
        """Open anew what is in files. One that fails does not keep the others from it."""
        errors = []
        self._certificates.reload()
        for reopen in self._reopened:
            try:
                await reopen()
            except PostroikaError as error:
                errors.append(str(error))
        if errors:
            raise PostroikaError("; ".join(errors))
