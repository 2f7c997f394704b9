"""Makes the reports of each day, and sends them.

Promise: a domain that has asked for it gets one report about each UTC day, of all workers, within some hours of its
end; what cannot be sent is tried again for a day. A restart goes on where it was: at most the reports that were under
way are sent twice, with the same id. Where the disk does not take what was sent, nothing more is sent until it does.
Of a domain that has not asked, the counts are dropped.

One worker of all does this (shard 0). It begins at a random time, so that not everybody's reports arrive at midnight
(RFC 8460 §4.1).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import trio

from postroika.errors import SpoolError
from postroika.metrics import TLS_REPORT_FAILURES, TLS_REPORTS
from postroika.process.open_files import POSTS
from postroika.routing.resolver import Answer, Status
from postroika.tlsrpt import message, report
from postroika.tlsrpt.days import DAY_S, Days, Ledger, day_at, day_text
from postroika.tlsrpt.post import PostError
from postroika.tlsrpt.record import PREFIX, Destination, destinations
from postroika.tlsrpt.report import Period, Report, Submitter
from postroika.tlsrpt.tally import Policies, Tally

log = logging.getLogger(__name__)

LEAST_DELAY_S = 300.0  # Above `recorder.SAVE_EVERY_S`: by then all workers have saved what they have counted.
GIVE_UP_S = 86_400.0  # RFC 8460 §5.5
RETRY_DELAYS_S = (900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0)
_LOOK_EVERY_S = 600.0
_PROBLEMS_TOLD = 50


class Records(Protocol):
    """Looks them up; see `routing.resolver.Resolver`."""

    async def txt(self, name: str) -> Answer[bytes]:
        """The TXT records of `name`."""


class Mail(Protocol):
    """The way into the queue; see `mailing.Mailer`."""

    async def put(self, address: str, message: bytes) -> None:
        """Queue a message. Raises SpoolError."""


class Posts(Protocol):
    """The way to HTTPS; see `post.Poster`."""

    async def post(self, url: str, content: bytes) -> None:
        """Hand over a compressed report. Raises PostError."""


class Pass:
    """What came of going through the domains of a day.

    Attributes:
        domains: how many there were counts of.
        reports: that were sent now.
        failed: domains that are to be tried again.
        problems: what was in the way, in words; the first of them.
        stopped: why domains were not gone through, in words; "": all were.
    """

    def __init__(self, domains: int) -> None:
        self.domains = domains
        self.reports = 0
        self.failed = 0
        self.problems: list[str] = []
        self.stopped = ""

    def problem(self, text: str) -> None:
        """Something was in the way."""
        if len(self.problems) < _PROBLEMS_TOLD:
            self.problems.append(text)


class Reporter:
    """Sends the reports of all workers.

    Args:
        submitter: who we are.
        days: the counts.
        records, mail, posts: the world.
        max_delay_s: reports about a day begin to be sent at most that long after it.
        rng: chance.
        clock: epoch seconds.
    """

    def __init__(
        self,
        submitter: Submitter,
        days: Days,
        records: Records,
        mail: Mail,
        posts: Posts,
        *,
        max_delay_s: float,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._submitter = submitter
        self._days = days
        self._records = records
        self._mail = mail
        self._posts = posts
        self._max_delay_s = max_delay_s
        self._rng = rng or random.Random()
        self._clock = clock
        self._due_at: dict[int, float] = {}
        self._tries: dict[int, int] = {}
        self._ledgers: dict[int, Ledger] = {}  # Of days that are not done: they know what the disk has not taken, too.
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            next_at = await self._send_due()
            await trio.sleep(min(max(next_at - self._clock(), 1.0), _LOOK_EVERY_S))

    async def _send_due(self) -> float:
        """Send the reports that are due now. When the next are."""
        today = day_at(self._clock())
        days = [day for day in await trio.to_thread.run_sync(self._days.counted) if day < today]
        next_at = (today + 1) * DAY_S + LEAST_DELAY_S
        for day in days:
            due_at = self._due_at.get(day)
            if due_at is None:
                delay_s = self._rng.uniform(min(LEAST_DELAY_S, self._max_delay_s), self._max_delay_s)
                due_at = self._due_at[day] = (day + 1) * DAY_S + delay_s
            if due_at <= self._clock():
                try:
                    await self.send(day)
                except OSError as error:
                    log.error("TLS reports about %s cannot be sent: %s", day_text(day), error)
                    self._due_at[day] = self._clock() + RETRY_DELAYS_S[0]
                due_at = self._due_at.get(day, next_at)
            next_at = min(next_at, due_at)
        return next_at

    async def send(self, day: int) -> Pass:
        """Send the reports about a day now. If it is not over, they tell of it so far, and are sent once more when it
        is: the counts go on.

        Raises:
            OSError: what was sent cannot be noted; so nothing was, or all is done but for its files. If the disk fails
                in between, it is a problem of the pass.

        Cancellation: between two reports, or in the middle of one over HTTPS.
        """
        async with self._sending:
            now = self._clock()
            tally = await trio.to_thread.run_sync(self._days.tally, day)
            over = day < day_at(now)
            ledger = await self._begun(day, now) if over and tally.domains else None
            done = Pass(len(tally.domains))
            await self._go_through(tally, Period.of_day(day, now), ledger, done)
            if done.stopped:
                log.error("TLS reports about %s cannot be sent for now: %s", day_text(day), done.stopped)
            if over:
                await self._close(day, ledger, done)
            return done

    async def _begun(self, day: int, now: float) -> Ledger:
        """What was sent of a day, all of it noted.

        Raises:
            OSError: the disk does not take it.
        """
        ledger = self._ledgers.get(day)
        if ledger is None:
            ledger = self._ledgers[day] = await trio.to_thread.run_sync(self._days.ledger, day)
        if ledger.begun_at:
            ledger.flush()
        else:
            ledger.begin(now)
        return ledger

    async def _go_through(self, tally: Tally, period: Period, ledger: Ledger | None, done: Pass) -> None:
        domains = iter(sorted(tally.domains.items()))

        async def work(domains: Iterator[tuple[str, Policies]]) -> None:
            for domain, policies in domains:
                if ledger is not None and domain in ledger.settled:
                    continue
                if done.stopped:
                    done.failed += 1
                    continue
                try:
                    await self._tell(domain, policies, period, ledger, done)
                except OSError as error:
                    done.failed += 1
                    done.stopped = f"what was sent cannot be noted: {error}"
                    done.problem(f"{domain}: {done.stopped}")

        async with trio.open_nursery() as nursery:
            for _ in range(POSTS):
                nursery.start_soon(work, domains)

    async def _tell(self, domain: str, policies: Policies, period: Period, ledger: Ledger | None, done: Pass) -> None:
        """Send the report about one domain to all who want it and have not got it yet.

        Raises:
            OSError: it was sent, and the disk does not take that it was.
        """
        answer = await self._records.txt(PREFIX + domain)
        if answer.status is Status.FAILED:
            done.failed += 1
            done.problem(f"{domain}: DNS look-up of {PREFIX}{domain} failed: {answer.detail}")
            return
        wanted = destinations(answer.records)
        failed = False
        if wanted:
            made = report.make(domain, policies, period, self._submitter)
            for destination in wanted:
                if ledger is not None and ledger.was_sent(domain, destination.uri):
                    continue
                try:
                    await self._send(made, destination)
                except (SpoolError, PostError) as error:
                    failed = True
                    TLS_REPORT_FAILURES.value += 1
                    done.problem(f"{domain}: {error}")
                    continue
                done.reports += 1
                TLS_REPORTS[destination.scheme].value += 1
                if ledger is not None:
                    ledger.sent(domain, destination.uri)  # without a wait, so that nothing can come between
        if failed:
            done.failed += 1
        elif ledger is not None:
            ledger.settle(domain)

    async def _send(self, made: Report, destination: Destination) -> None:
        if destination.scheme == "mailto":
            text = message.build(made, destination.target, self._submitter, self._clock())
            await self._mail.put(destination.target, text)
        else:
            await self._posts.post(destination.target, made.compressed())

    async def _close(self, day: int, ledger: Ledger | None, done: Pass) -> None:
        """A pass over a day that is over: was it the last one?"""
        now = self._clock()
        given_up = ledger is not None and now >= ledger.begun_at + GIVE_UP_S
        if done.failed and not given_up:
            tries = self._tries[day] = self._tries.get(day, 0) + 1
            delay_s = RETRY_DELAYS_S[min(tries, len(RETRY_DELAYS_S)) - 1]
            assert ledger is not None
            self._due_at[day] = min(now + delay_s, ledger.begun_at + GIVE_UP_S)
            return
        if done.failed:
            log.warning(
                "TLS reports about %s could not be sent to %d domains, and are dropped: %s",
                day_text(day),
                done.failed,
                "; ".join(done.problems[:3]),
            )
        elif done.domains:
            log.info("TLS reports about %s: %d sent, of %d domains", day_text(day), done.reports, done.domains)
        await trio.to_thread.run_sync(self._days.forget, day)
        self._ledgers.pop(day, None)
        self._due_at.pop(day, None)
        self._tries.pop(day, None)
