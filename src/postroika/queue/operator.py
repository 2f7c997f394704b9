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
from postroika.queue.claims import Claims
from postroika.queue.scheduler import Scheduler
from postroika.spool.reader import Loaded
from postroika.spool.store import Store
from postroika.spool.writer import MAX_DESTINATION_OCTETS

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
        self._claims = Claims(store, scheduler)
        self._settler = settler
        self._clock = clock

    async def flush_messages(self, messages: Iterable[int]) -> int:
        """Make these messages due now, and their destinations up. Returns how many batches that were."""
        count = 0
        for message in messages:
            if id_shard(message) != self._store.shard:
                continue
            page = self._store.batches_of(message)
            count += len(page)
            await self._flush_page(page)
            for name in {loaded.batch.destination for loaded in page}:
                self._scheduler.bring_up(name)
        return count

    async def flush_destination(self, name: str) -> int:
        """Make all mail to a destination due now, and the destination up. Returns how many batches were moved up.

        Raises:
            ValueError: no destination can have that name.
        """
        if not 0 < len(name.encode()) <= MAX_DESTINATION_OCTETS:
            raise ValueError(f"{name[:300]!r} is not a destination")
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
        return await self._claims.settle_page(late, lambda loaded: self._settler.make_due(loaded, now))

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
        keys = {loaded.key for loaded in page}
        count = 0
        for state, loaded in self._claims.take_waiting(keys):
            count += len(loaded.batch.recipients)
            self._claims.settle(state, loaded, self._settler.cancel(loaded))

        def cancel(loaded: Loaded) -> Settled:
            nonlocal count
            count += len(loaded.batch.recipients)
            return self._settler.cancel(loaded)

        await self._claims.settle_page(page, cancel, otherwise=self._scheduler.cancel_in_memory)
        return count
