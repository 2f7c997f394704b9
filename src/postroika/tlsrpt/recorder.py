"""Counts the sessions of one worker with hosts of domains, and keeps the counts on disk.

Promise: counting never waits and never fails. A worker that is killed loses the counts of `SAVE_EVERY_S` at most; one
that ends in order, none. What is not saved since the disk refuses it stays in memory, and is told once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import trio

from postroika.metrics import TLS_REPORT_SESSIONS, TLS_REPORT_UNCOUNTED
from postroika.tlsrpt.days import Days, day_at, day_text, line
from postroika.tlsrpt.tally import Failure, Policy, ResultType, Tally, budget

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
_PAST_DAYS = 3  # that wait for the disk at most
_DOMAINS_A_STEP, _BYTES_A_STEP = 200, 256 * 1024  # some milliseconds


class Recorder:
    """The counts of one worker.

    Args:
        days: where they are kept; those of today are read from there, so that a restart goes on with them.
        shard: of the worker.
        max_domains: counted in a day, in the memory that there is for so many (`tally.budget`).
        clock: epoch seconds.

    Attributes:
        policy_failures: says of a domain why its policy is not known, though there is one, or could not be renewed;
            None: nobody knows.
    """

    def __init__(self, days: Days, shard: int, max_domains: int, clock: Callable[[], float] = time.time) -> None:
        self._days = days
        self._shard = shard
        self._max_domains = max_domains
        self.policy_failures: Callable[[str], tuple[ResultType, str] | None] | None = None
        self._clock = clock
        self._day = day_at(clock())
        self._tally = self._fresh()
        self._tally.add(days.records(self._day, shard))
        self._dirty = False
        self._past: list[tuple[int, Tally]] = []  # days that are over, and not saved yet
        self._failing = False
        self._saving = trio.Lock()

    def succeeded(self, domain: str, policy: Policy) -> None:
        """A session was as the policy wants it."""
        TLS_REPORT_SESSIONS["succeeded"].value += 1
        if not self._today().succeeded(domain, policy):
            TLS_REPORT_UNCOUNTED.value += 1

    def failed(self, domain: str, policy: Policy, failure: Failure) -> None:
        """A session was not."""
        TLS_REPORT_SESSIONS["failed"].value += 1
        if not self._today().failed(domain, policy, failure):
            TLS_REPORT_UNCOUNTED.value += 1

    def failed_besides(self, domain: str, policy: Policy, failure: Failure) -> None:
        """A session that is counted already has met with another failure. It is left out where there is no room."""
        self._today().failed(domain, policy, failure)

    def policy_failure(self, domain: str) -> tuple[ResultType, str] | None:
        """Why no policy of the domain is known, though it publishes one, or why the one that holds could not be
        renewed; None if nothing has failed."""
        return None if self.policy_failures is None else self.policy_failures(domain)

    def _today(self) -> Tally:
        """The counts of now, which are about to change."""
        day = day_at(self._clock())
        if day != self._day:
            if self._dirty:
                self._past.append((self._day, self._tally))
                del self._past[:-_PAST_DAYS]
            self._day, self._tally = day, self._fresh()
        self._dirty = True
        return self._tally

    def _fresh(self) -> Tally:
        return Tally(self._max_domains, budget(self._max_domains))

    async def run(self) -> None:
        """Save now and then, until cancelled."""
        while True:
            await trio.sleep(SAVE_EVERY_S)
            await self.save()

    async def save(self) -> bool:
        """Put on disk what has changed. Whether all of it is there.

        Cancellation: what is being written is written.
        """
        async with self._saving:
            saved = True
            while self._past and (saved := await self._write(*self._past[0])):
                del self._past[0]
            if saved and self._dirty:
                day, tally = self._day, self._tally
                self._dirty = False
                saved = await self._write(day, tally)
                if not saved:
                    self._keep(day, tally)
            return saved

    def _keep(self, day: int, tally: Tally) -> None:
        """For a later try."""
        if tally is self._tally:
            self._dirty = True
        elif all(tally is not kept for _, kept in self._past):
            self._past.insert(0, (day, tally))

    async def _write(self, day: int, tally: Tally) -> bool:
        lines: list[bytes] = []
        domains, size_bytes = 0, 0
        for domain in list(tally.domains):
            if domains >= _DOMAINS_A_STEP or size_bytes >= _BYTES_A_STEP:
                await trio.lowlevel.checkpoint()
                domains, size_bytes = 0, 0
            lines.append(line(tally.record(domain)))
            domains += 1
            size_bytes += len(lines[-1])
        try:
            await trio.to_thread.run_sync(partial(self._days.write, day, self._shard, lines))
        except OSError as error:
            if not self._failing:
                log.error("the counts for TLS reports of %s cannot be saved: %s", day_text(day), error)
            self._failing = True
            return False
        self._failing = False
        return True
