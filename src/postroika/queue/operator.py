"""What an operator may do to the queue of one worker: try now, take back.

Batches that are in memory belong to the scheduler; all others are claimed, changed in the spool, and let go of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import trio

from postroika.mail.envelope import Batch
from postroika.mail.ids import id_shard
from postroika.outcome.settle import Settled, Settler
from postroika.queue.scheduler import Scheduler
from postroika.spool.reader import Loaded
from postroika.spool.store import Store

_PAGE = 500


class Operator:
    """Changes to the queue on demand.

    Args:
        store: the shard.
        scheduler: owns what is in memory.
        settler: writes.
        clock: epoch seconds.
    """

    def __init__(
        self, store: Store, scheduler: Scheduler, settler: Settler, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._settler = settler
        self._clock = clock

    async def flush_messages(self, messages: Iterable[int]) -> int:
        """Make these messages due now, and their destinations up. Returns how many batches that were."""
        count = 0
        for message in messages:
            if id_shard(message) != self._store.shard:
                continue
            for loaded in self._store.batches_of(message):
                count += 1
                await self._flush_page([loaded])
                self._scheduler.bring_up(loaded.batch.destination)
        return count

    async def flush_destination(self, name: str) -> int:
        """Make all mail to a destination due now, and the destination up. Returns how many batches were moved up."""
        count = 0
        now_ms = int(self._clock() * 1000)
        for class_id, _ in self._store.ready_classes(name):
            while page := self._store.ready_after(name, class_id, now_ms, _PAGE):
                moved = await self._flush_page(page)
                count += moved
                if not moved:
                    break  # all of them are under way
        self._scheduler.bring_up(name)
        return count

    async def flush_all(self) -> int:
        """`flush_destination` for every destination."""
        count = 0
        start = ""
        while names := self._store.destinations(start, _PAGE):
            for name in names:
                count += await self.flush_destination(name)
                await trio.lowlevel.checkpoint()
            start = names[-1]
        return count

    async def _flush_page(self, page: list[Loaded]) -> int:
        now = self._clock()
        late = [loaded for loaded in page if loaded.batch.due_ms > now * 1000]
        return await self._settle_page(late, lambda loaded: self._settler.make_due(loaded, now))

    async def cancel_messages(self, messages: Iterable[int]) -> int:
        """Take messages back. Returns how many recipients will get nothing; those that are being delivered right now
        are cancelled only if the attempt fails, and are not counted."""
        count = 0
        for message in messages:
            if id_shard(message) == self._store.shard:
                count += await self._cancel_page(self._store.batches_of(message))
        return count

    async def cancel_where(self, matches: Callable[[Batch], bool]) -> int:
        """Take back all that `matches`, oldest first. Returns as `cancel_messages`."""
        count = 0
        start = b""
        while page := self._store.batches_from(start, _PAGE):
            count += await self._cancel_page([loaded for loaded in page if matches(loaded.batch)])
            start = page[-1].key + b"\0"
            await trio.lowlevel.checkpoint()
        return count

    async def _cancel_page(self, page: list[Loaded]) -> int:
        for loaded in page:
            self._scheduler.cancel_in_memory(loaded.key)
        in_memory = self._scheduler.take_waiting({loaded.key for loaded in page})
        for state, loaded in in_memory:
            self._scheduler.settle_held(state, loaded, self._settler.cancel(loaded))
        count = sum(len(loaded.batch.recipients) for _, loaded in in_memory)
        taken = {loaded.key for _, loaded in in_memory}
        rest = [loaded for loaded in page if loaded.key not in taken]
        before = {loaded.key: len(loaded.batch.recipients) for loaded in rest}
        done: list[bytes] = []

        def cancel(loaded: Loaded) -> Settled:
            done.append(loaded.key)
            return self._settler.cancel(loaded)

        await self._settle_page(rest, cancel)
        return count + sum(before[key] for key in done)

    async def _settle_page(self, page: list[Loaded], settle: Callable[[Loaded], Settled]) -> int:
        """Claim what can be claimed of `page`, write what `settle` makes of it, wait for the sync."""
        claimed = [(state, loaded) for loaded in page if (state := self._scheduler.hold(loaded)) is not None]
        if not claimed:
            return 0
        committed = trio.Event()
        for state, loaded in claimed[:-1]:
            self._scheduler.settle_held(state, loaded, settle(loaded))
        state, loaded = claimed[-1]
        self._scheduler.settle_held(state, loaded, settle(loaded), committed.set)
        await committed.wait()
        return len(claimed)
