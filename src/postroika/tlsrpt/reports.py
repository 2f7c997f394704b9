"""All of TLSRPT in one worker, put together.

Promise: every worker counts and saves; that of shard 0 sends, too. What `postroika tlsrpt` asks for comes in here.
"""

from __future__ import annotations

from typing import Any

import trio

from postroika.config import Config
from postroika.errors import PostroikaError
from postroika.outcome.events import EventWriter
from postroika.routing.resolver import Resolver
from postroika.spool.writer import Intake
from postroika.tlsrpt.days import day_text, days_of
from postroika.tlsrpt.mailing import Mailer
from postroika.tlsrpt.recorder import Recorder
from postroika.tlsrpt.report import Submitter
from postroika.tlsrpt.reporter import Reporter

_REPORTING_SHARD = 0


class Reports:
    """What a worker has of it.

    Args:
        config: with `tlsrpt.contact`.
        shard: of the worker.
        resolver: look-ups.

    Attributes:
        recorder: counts.
    """

    def __init__(self, config: Config, shard: int, resolver: Resolver) -> None:
        settings = config.tlsrpt
        self._config = config
        self._days = days_of(config)
        self._resolver = resolver
        self._reporter: Reporter | None = None
        self._shard = shard
        self.recorder = Recorder(self._days, shard, settings.max_domains)

    def send_through(self, intake: Intake, events: EventWriter) -> None:
        """Reports that go by mail are put into this queue. Of no effect in workers that send none."""
        if self._shard != _REPORTING_SHARD:
            return
        from postroika.tlsrpt.post import Poster  # loads an HTTP client, which one worker needs

        config, settings = self._config, self._config.tlsrpt
        self._reporter = Reporter(
            Submitter(settings.organization, settings.contact, config.server.hostname),
            self._days,
            self._resolver,
            Mailer(intake, events, settings.contact),
            Poster(config.dns, self._resolver, ca=config.delivery.tls_ca, timeout_s=settings.post_timeout_s),
            max_delay_s=settings.max_delay_s,
        )

    async def run(self) -> None:
        """Save, and send, until cancelled; `save` what is left then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.recorder.run)
            if self._reporter is not None:
                nursery.start_soon(self._reporter.run)

    async def save(self) -> None:
        """Put all counts on disk.

        Raises:
            PostroikaError: the disk does not take them.
        """
        if not await self.recorder.save():
            raise PostroikaError("the counts for TLS reports could not be saved; the log of the server says why")

    async def send(self, day: int) -> dict[str, Any]:
        """Send the reports about a day now; see `Reporter.send`. Other workers send nothing, and say so.

        Returns:
            What `control.records.TlsReportsSent` has.

        Raises:
            PostroikaError: what was sent could not be noted.
        """
        if self._reporter is None:
            return {}
        try:
            done = await self._reporter.send(day)
        except OSError as error:
            raise PostroikaError(f"what was sent cannot be noted: {error}") from error
        return {
            "day": day_text(day),
            "domains": done.domains,
            "reports": done.reports,
            "failed": done.failed,
            "problems": done.problems,
        }
