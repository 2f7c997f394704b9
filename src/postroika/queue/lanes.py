"""The lanes of a worker: a strand each, as many as there are connections, and at the end none.

Promise: a lane is opened only for a destination that has work for it; a destination that has none of the connections
gets one from those that are idle, or the next that is given back. What a lane never reported stays held: this process
does not try it again by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import trio

from postroika.pump import Pump, Strand
from postroika.queue.connections import Connections
from postroika.queue.destination import Destination
from postroika.queue.lane import Lane, Queue

log = logging.getLogger(__name__)

Deliver = Callable[[Lane], Awaitable[None]]


class Lanes:
    """Opens lanes and sees them end.

    Args:
        queue: what the lanes ask and tell.
        active: the destinations by name.
        deliver: runs one lane; returns when the lane gives it nothing more.
        limit: connections at once.
        clock: epoch seconds.

    `pump`: steps them; until it is set, none may be opened.
    """

    def __init__(
        self,
        queue: Queue,
        active: Mapping[str, Destination],
        deliver: Deliver,
        *,
        limit: int,
        clock: Callable[[], float],
    ) -> None:
        self.pump: Pump | None = None
        self.connections = Connections(limit, self._feed_hungry)
        self.strands: dict[Lane, Strand] = {}
        self._queue = queue
        self._active = active
        self._deliver = deliver
        self._clock = clock
        self._all_ended = trio.Event()

    def open(self, state: Destination) -> bool:
        """Open one more. False: all connections are taken; the destination is in line for the next."""
        if self.connections.all_taken:
            if self.connections.want(state.name):
                self._evict_idle(state)
            return False
        self._start(state)
        return True

    async def end(self) -> None:
        """Wait until all have ended, each with the batch that it has; the queue gives them nothing more. Those without
        a session have sent nothing yet: they end at once.

        Cancellation: they go on, until the pump is cancelled.
        """
        for lane, strand in list(self.strands.items()):
            if not lane.has_session:
                strand.interrupt()
        if self.strands:
            await self._all_ended.wait()

    def _start(self, state: Destination) -> None:
        assert self.pump is not None
        self.connections.want_no_more(state.name)
        lane = Lane(self._queue, self.connections, state)
        self.connections.take()
        self.strands[lane] = self.pump.spawn(self._run(lane, state))

    async def _run(self, lane: Lane, state: Destination) -> None:
        try:
            await self._deliver(lane)
        finally:
            del self.strands[lane]
            for loaded in lane.close():
                # Its dot may have been sent: it stays queued in the spool, and held.
                log.warning("%r was left unreported", loaded)
            if self._queue.stopping and not self.strands:
                self._all_ended.set()
        self._feed_hungry()
        self._queue.tend(state)

    def _evict_idle(self, hungry: Destination) -> None:
        for state in self._active.values():
            if state is not hungry and state.wake_lane():
                return

    def _feed_hungry(self) -> None:
        while not self._queue.stopping and (name := self.connections.next_in_line()) is not None:
            state = self._active.get(name)
            if state is not None and state.wants_lane() and not state.is_down(self._clock()):
                self._start(state)
                if state.wants_lane():
                    self.connections.want(name)  # one a turn
