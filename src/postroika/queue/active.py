"""Which destinations are in memory: made active when something of them is due, put to rest when nothing is left.

Promise: memory is bounded by `delivery.loaded_batches` and `active_destinations`, never by the backlog; a start costs
the same with ten messages as with ten million.

The wake index of the spool says when to make a destination active; when it rests, the spool is told when to wake it
next (docs/adr/0004).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import trio

from postroika.config import Delivery
from postroika.queue.destination import Destination
from postroika.queue.down import must_not_fail
from postroika.queue.limits import Ramp, window
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.schema import DestinationState, Table
from postroika.spool.store import Store

_POLL_S = 1.0
_WAKES_PER_POLL = 5_000
_WAKES_PAGE = 500


class _Rest:
    """What a destination is let rest as, kept until it is written: what the spool says of it may be older.

    Args:
        down: why it is to be left alone, and until when; None if it is up.
        wake_soon: look at the schedule as soon as it is written.
    """

    __slots__ = ("down", "wake_soon")

    def __init__(self, down: DestinationState | None, *, wake_soon: bool) -> None:
        self.down = down
        self.wake_soon = wake_soon


class Active:
    """The active destinations of one worker.

    Args:
        store, committer: the shard.
        delivery: how many there may be, and how much of their mail.
        clock: epoch seconds.

    `by_name`: all of them. `crowded`: there were as many as may be; until half of them rest, connections without work
    close at once.
    """

    def __init__(self, store: Store, committer: Committer, delivery: Delivery, clock: Callable[[], float]) -> None:
        self._store = store
        self._committer = committer
        self._delivery = delivery
        self._clock = clock
        self._kicked = trio.Event()
        self._resting: dict[str, _Rest] = {}
        self.by_name: dict[str, Destination] = {}
        self.crowded = False

    # -- from the schedule --------------------------------------------------------------------------------------------

    def due(self) -> Iterator[Destination]:
        """Those that have something due now that was not when they were looked at last. Anything may be done with one
        before the next is asked for."""
        yield from self._woken()
        yield from self._due_by_now()

    def _woken(self) -> Iterator[Destination]:
        now_ms = int(self._clock() * 1000)
        position = b""
        for _ in range(_WAKES_PER_POLL // _WAKES_PAGE):
            page = self._store.wakes(position, now_ms, _WAKES_PAGE)
            for key, name in page:
                state = self.by_name.get(name)
                if state is None:
                    if self.is_full():
                        return
                    state = self.add(name)
                elif key not in state.wakes:
                    state.more = True
                state.wakes.add(key)
                yield state
            if len(page) < _WAKES_PAGE:
                return
            position = page[-1][0]

    def _due_by_now(self) -> Iterator[Destination]:
        """Of those that were active already."""
        now_ms = int(self._clock() * 1000)
        for state in list(self.by_name.values()):
            if state.later_ms is not None and state.later_ms <= now_ms:
                state.later_ms = None
                state.more = True
                yield state
            elif state.waiting and (state.idle or not state.lanes):
                yield state  # the lane that was called for it has not come to it; or the disk was full

    async def sleep(self) -> None:
        """Until something may be due, or `kick`."""
        self._kicked = trio.Event()
        with trio.move_on_after(self._sleep_s()):
            await self._kicked.wait()

    def kick(self) -> None:
        """Look at the schedule now."""
        self._kicked.set()

    def _sleep_s(self) -> float:
        now_ms = int(self._clock() * 1000)
        wake_ms = self._store.next_wake_ms(now_ms)
        return _POLL_S if wake_ms is None else min(_POLL_S, max(0.001, (wake_ms - now_ms) / 1000))

    # -- in and out ---------------------------------------------------------------------------------------------------

    def is_full(self) -> bool:
        """Whether no further destination may be active; if so, connections without work close at once, and others are
        looked for when half of the destinations rest."""
        if len(self.by_name) < self._delivery.active_destinations:
            return False
        if not self.crowded:
            self.crowded = True
            self.wake_idle_lanes()
        return True

    def add(self, name: str) -> Destination:
        """Make one active, whether there is room or not."""
        ramp = Ramp(self._delivery.initial_connections_per_site, self._delivery.max_connections_per_site)
        rest = self._resting.get(name)
        state = Destination(name, ramp, self._store.destination_state(name) if rest is None else rest.down)
        self.by_name[name] = state
        return state

    def rest(self, state: Destination) -> None:
        """Nothing more to do now: out of memory, to be woken by the spool."""
        del self.by_name[state.name]
        self._write_rest(Changes(must=True), state.name, _Rest(state.down, wake_soon=False), list(state.wakes))
        if self.crowded and 2 * len(self.by_name) <= self._delivery.active_destinations:
            self.crowded = False
            self.kick()

    def bring_up(self, name: str) -> None:
        """Have one that rests taken for up. It is made active when its turn comes, like others that are due."""
        changes = Changes(must=True)
        changes.delete(Table.DESTINATION, name.encode())
        self._write_rest(changes, name, _Rest(None, wake_soon=True), [])

    def _write_rest(self, changes: Changes, name: str, rest: _Rest, wakes: list[bytes]) -> None:
        changes.rest(name, 0 if rest.down is None else int(rest.down.down_until * 1000), wakes)
        self._resting[name] = rest
        self._committer.commit_nowait(changes, partial(self._rest_written, name, rest))

    def _rest_written(self, name: str, rest: _Rest, error: Exception | None) -> None:
        must_not_fail(error)
        if self._resting.get(name) is rest:
            del self._resting[name]
        if rest.wake_soon:
            self.kick()

    # -- all of them --------------------------------------------------------------------------------------------------

    def window(self, state: Destination) -> int:
        """How many batches of this destination may be in memory."""
        return window(self._delivery.loaded_batches, len(self.by_name), state.ramp.allowed)

    def wake_idle_lanes(self) -> None:
        """Let those that wait for work look whether they are to close."""
        for state in self.by_name.values():
            while state.wake_lane():
                pass

    @property
    def unsettled(self) -> int:
        """Batches in memory, under way or being settled."""
        return sum(len(state.held) for state in self.by_name.values())
