"""Batches that the operator or the janitor changes in the spool.

Promise: whoever claims a batch has it alone, as it is on disk at that moment; what is in memory or under way belongs to
the scheduler, and is not to be had.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from postroika.outcome.settle import Settled
from postroika.queue.destination import Destination
from postroika.queue.scheduler import Scheduler
from postroika.spool.reader import Loaded
from postroika.spool.store import Store


class Claims:
    """Of one worker.

    Args:
        store: the shard.
        scheduler: owns what is in memory.
    """

    def __init__(self, store: Store, scheduler: Scheduler) -> None:
        self._store = store
        self._scheduler = scheduler

    async def settle_page(
        self,
        page: list[Loaded],
        settle: Callable[[Loaded], Settled],
        *,
        otherwise: Callable[[bytes], None] | None = None,
    ) -> int:
        """Claim what can be claimed of `page`, write what `settle` makes of it as it is now, wait for the sync.

        Args:
            otherwise: called with the keys of those that are in memory or under way.

        Returns:
            How many were claimed.

        Cancellation: what was claimed is written all the same.
        """
        committed = trio.Event()
        left = 0

        def one_committed() -> None:
            nonlocal left
            left -= 1
            if not left:
                committed.set()

        claimed = 0
        for seen in page:
            held = self._hold(seen)
            if held is None:
                if otherwise is not None:
                    otherwise(seen.key)
                continue
            claimed += 1
            left += 1
            self.settle(*held, settle(held[1]), one_committed)
        if claimed:
            await committed.wait()
        return claimed

    def _hold(self, seen: Loaded) -> tuple[Destination, Loaded] | None:
        """Claim a batch that is only in the spool, and read it as it is now: what was `seen` of it may be out of date.
        None if it is gone, in memory, or under way."""
        active = self._scheduler.active
        name = seen.batch.destination
        state = active.by_name.get(name)
        if state is not None and seen.key in state.held:
            return None
        loaded = self._store.load(seen.key)
        if loaded is None:
            return None
        if state is None:
            state = active.add(name)
        state.held.add(loaded.key)
        return state, loaded

    def take_waiting(self, keys: set[bytes]) -> list[tuple[Destination, Loaded]]:
        """Claim those of these batches that are in memory and that no lane has. `settle` lets go of them."""
        taken: list[tuple[Destination, Loaded]] = []
        for state in self._scheduler.active.by_name.values():
            if keys & state.held:
                for loaded in state.drop_waiting():
                    if loaded.key in keys:
                        taken.append((state, loaded))
                    else:
                        state.append(loaded)
        return taken

    def settle(
        self, state: Destination, loaded: Loaded, settled: Settled, then: Callable[[], None] | None = None
    ) -> None:
        """Commit a change to a batch that is claimed, and let go of it; then call `then`."""

        def committed() -> None:
            state.more = True
            if then is not None:
                then()

        self._scheduler.settle(state, loaded, settled, committed)
