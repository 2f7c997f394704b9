"""Gives up what is too old, tells senders of what is late, and keeps the map of the spool out of our memory.

Promise: this costs nothing per message until its time has come. Batch keys begin with the arrival time, so the oldest
mail is at the front of the table: no timer, no index by age. How far the "late" check has come is kept in the spool,
in the same transaction as the notices it made.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable

import trio

from postroika.config import Retry
from postroika.outcome.settle import Settled, Settler
from postroika.queue import retry as schedule
from postroika.queue.claims import Claims
from postroika.queue.scheduler import Scheduler
from postroika.spool.reader import Loaded
from postroika.spool.schema import Table, batch_key, u64_key
from postroika.spool.store import Store

_PERIOD_S = 5.0
_PAGE = 25  # a notice takes some tenths of a millisecond to make
_LATE_CURSOR = "late_checked"


class Janitor:
    """Looks after age, for one worker.

    Args:
        store: the shard.
        scheduler: owns the batches that are in memory; those are left to it (it checks their age after each attempt).
        settler: records what is decided here.
        retry: the configured ages.
        clock: epoch seconds.
    """

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        settler: Settler,
        retry: Retry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._claims = Claims(store, scheduler)
        self._settler = settler
        self._retry = retry
        self._clock = clock

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        late_checked = self._store.meta_number(_LATE_CURSOR)
        while True:
            self._store.trim()
            await self._expire()
            late_checked = await self._note_late(late_checked)
            # A short schedule (tests, impatient operators) wants a closer look.
            await trio.sleep(min(_PERIOD_S, self._retry.expire_after_s / 4))

    async def _expire(self) -> None:
        """Settle what is older than its age allows, page by page from the oldest, until a page has nothing old."""
        start = b""
        while not self._scheduler.stuck:
            now = self._clock()
            page = self._store.batches_from(start, _PAGE)
            old = [loaded for loaded in page if now >= schedule.expires_at(loaded.batch.envelope, self._retry)]
            if not old:
                return
            await self._claims.settle_page(old, self._settler.expire)
            start = page[-1].key + b"\0"

    async def _note_late(self, checked: int) -> int:
        """Tell the senders of what has become late since batch `checked` (a message id). Returns how far it came."""
        if not self._retry.delay_dsn_after_s:
            return checked
        while not self._scheduler.stuck:
            page = self._store.batches_from(batch_key(checked + 1, 0), _PAGE)
            late = list(itertools.takewhile(self._is_late, page))
            if not late:
                return checked
            # A message is never cut between two pages: what was not looked at of the last one comes again.
            last = message_of(late[-1])
            if len(late) == _PAGE and message_of(late[0]) != last:
                late = [loaded for loaded in late if message_of(loaded) != last]
            elif len(late) == _PAGE:
                late = self._store.batches_of(last)
            checked = message_of(late[-1])
            note = [loaded for loaded in late if not loaded.batch.delay_noted and loaded.batch.envelope.reverse_path]
            # One that is being tried is left to the scheduler, which tells if the attempt fails.
            await self._claims.settle_page(note, functools.partial(self._note, checked))
        return checked

    def _is_late(self, loaded: Loaded) -> bool:
        return loaded.batch.envelope.received_at <= self._clock() - self._retry.delay_dsn_after_s

    def _note(self, checked: int, loaded: Loaded) -> Settled:
        settled = self._settler.note_delay(loaded)
        if message_of(loaded) == checked:
            settled.changes.put(Table.META, _LATE_CURSOR.encode(), u64_key(checked))
        return settled


def message_of(loaded: Loaded) -> int:
    """Its message id."""
    return loaded.batch.envelope.message
