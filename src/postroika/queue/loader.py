"""From the ready index of the spool into the memory of a destination, a page at a time."""

from __future__ import annotations

from collections.abc import Callable

from postroika.queue.destination import Destination
from postroika.spool.store import Store

SWEEP_PAGE = 200


class Loader:
    """Reads what is due.

    Args:
        store: the shard.
        clock: epoch seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def refill(self, state: Destination, window: int) -> None:
        """Load what is due until `window` batches wait, an equal part for each class that has something. Does nothing
        while more than half of the window is there: a read for each batch would cost too much."""
        room = window - state.waiting
        if not state.more or room <= 0 or (state.waiting and room * 2 < window):
            return
        now_ms = int(self._clock() * 1000)
        due = []
        for class_id, first_ms in self._store.ready_classes(state.name):
            if first_ms <= now_ms:
                due.append(class_id)
            else:
                state.due_later(first_ms)
        state.more = False
        for class_id in due:
            after = state.positions.pop(class_id, b"")
            found, position, next_ms = self._store.load_ready(
                state.name, class_id, after, now_ms, -(-room // len(due)), state.held
            )
            for loaded in found:
                state.append(loaded)
            if next_ms is not None and next_ms <= now_ms:
                state.positions[class_id] = position
                state.more = True
                continue
            if next_ms is not None:
                state.due_later(next_ms)
            if after:
                # From the beginning next time: a commit may have put something before the point we had reached.
                state.more = True

    def sweep(self, state: Destination) -> None:
        """Load the next page of what is due at a destination that is down, so that it can be told; `state.sweeping`
        ends with the last page."""
        now_ms = int(self._clock() * 1000)
        for class_id, first_ms in self._store.ready_classes(state.name):
            if first_ms > now_ms:
                continue
            after = state.positions.get(class_id, b"")
            found, position, next_ms = self._store.load_ready(
                state.name, class_id, after, now_ms, SWEEP_PAGE, state.held
            )
            state.positions[class_id] = position
            for loaded in found:
                state.append(loaded)
            if next_ms is not None and next_ms <= now_ms:
                return
        state.sweeping = False
        state.positions.clear()
