"""Gives up what is too old, tells senders of what is late, and keeps the map of the spool out of our memory.

Promise: this costs nothing per message until its time has come. Batch keys begin with the arrival time, so the oldest
mail is at the front of the table: no timer, no index by age. How far the "late" check has come is kept in the spool,
in the same transaction as the notices it made.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from postroika.config import Retry
from postroika.mail.ids import first_id_at, id_time_s
from postroika.outcome.settle import Settler
from postroika.queue import retry as schedule
from postroika.queue.scheduler import Scheduler
from postroika.spool.reader import Loaded
from postroika.spool.schema import Table, batch_key, split_batch_key, u64_key
from postroika.spool.store import Store

_PERIOD_S = 5.0
_PAGE = 200
_MAPPED_BYTES = 64 * 1024 * 1024
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
        self._settler = settler
        self._retry = retry
        self._clock = clock

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        late_checked = self._store.meta_number(_LATE_CURSOR)
        while True:
            self._store.trim(_MAPPED_BYTES)
            await self._expire()
            late_checked = await self._note_late(late_checked)
            # A short schedule (tests, impatient operators) wants a closer look.
            await trio.sleep(min(_PERIOD_S, self._retry.expire_after_s / 4))

    async def _expire(self) -> None:
        """Settle what is older than the configured age, page by page from the oldest."""
        start = b""
        while True:
            now = self._clock()
            page = self._store.batches_from(start, _PAGE)
            for loaded in page:
                if id_time_s(loaded.batch.envelope.message) > now - self._retry.expire_after_s:
                    return
                if now >= schedule.expires_at(loaded.batch.envelope, self._retry):
                    self._expire_one(loaded)
            if len(page) < _PAGE:
                return
            start = page[-1].key + b"\0"
            await trio.sleep(0.05)  # a large backlog that expires at once must not take the loop for itself

    def _expire_one(self, loaded: Loaded) -> None:
        state = self._scheduler.hold(loaded)
        if state is not None:
            self._scheduler.settle_held(state, loaded, self._settler.expire(loaded))

    async def _note_late(self, checked: int) -> int:
        """Tell the senders of what has become late since batch `checked` (a message id). Returns how far it came."""
        if not self._retry.delay_dsn_after_s:
            return checked
        while True:
            until = first_id_at(self._clock() - self._retry.delay_dsn_after_s)
            page = self._store.batches_from(batch_key(checked + 1, 0), _PAGE)
            late = [loaded for loaded in page if split_batch_key(loaded.key)[0] < until]
            if not late:
                return checked
            # A message is never cut between two pages: what was not looked at of the last one comes again.
            if len(late) == _PAGE and len({split_batch_key(loaded.key)[0] for loaded in late}) > 1:
                last = split_batch_key(late[-1].key)[0]
                late = [loaded for loaded in late if split_batch_key(loaded.key)[0] != last]
            elif len(late) == _PAGE:
                late = self._store.batches_of(split_batch_key(late[0].key)[0])
            checked = split_batch_key(late[-1].key)[0]
            for loaded in late:
                self._note_one(loaded, checked)
            await trio.sleep(0.05)

    def _note_one(self, loaded: Loaded, checked: int) -> None:
        if loaded.batch.delay_noted or not loaded.batch.envelope.reverse_path:
            return
        state = self._scheduler.hold(loaded)
        if state is None:
            return  # being tried: the scheduler tells, if that fails
        settled = self._settler.note_delay(loaded)
        settled.changes.put(Table.META, _LATE_CURSOR.encode(), u64_key(checked))
        self._scheduler.settle_held(state, loaded, settled)
