"""What one outbound connection sees of the queue: batches to deliver, and where to report.

The lanes of a worker are opened in `queue.lanes`; `outbound.delivery` runs each. A lane that is told None closes its
connection.
"""

from __future__ import annotations

from typing import Protocol

from postroika.mail.outcome import Attempt
from postroika.mail.reply import Reply
from postroika.pump import Wake, now
from postroika.queue.connections import Connections
from postroika.queue.destination import Destination
from postroika.queue.limits import TURN_MESSAGES
from postroika.spool.reader import Loaded


class Queue(Protocol):
    """What lanes see of the scheduler; all of it about the destination `state`."""

    stopping: bool

    def next_batch(self, state: Destination) -> Loaded | None:
        """The next one, if there is any now."""

    def must_close(self, state: Destination) -> bool:
        """Whether it would be for nothing to wait for the next one with an open connection."""

    def report(self, state: Destination, loaded: Loaded, attempt: Attempt) -> None:
        """The outcome of an attempt."""

    def give_back(self, state: Destination, loaded: Loaded) -> None:
        """It was not tried."""

    def connected(self, state: Destination) -> None:
        """A session stands."""

    def unreachable(self, state: Destination, reply: Reply, host: str) -> None:
        """No host answered."""

    def tend(self, state: Destination) -> None:
        """A lane has ended: do whatever is to be done now."""


class Lane:
    """One connection's place at a destination.

    Args:
        queue: whom to ask for batches, and to tell what became of them.
        connections: of the worker; one of them has been taken.
        state: the destination.
    """

    __slots__ = (
        "_called",
        "_connected",
        "_connections",
        "_hurried",
        "_paused",
        "_queue",
        "_starting",
        "_state",
        "_taken_at",
        "destination",
        "served",
        "under_way",
    )

    def __init__(self, queue: Queue, connections: Connections, state: Destination) -> None:
        self.destination = state.name
        self.served = 0
        self.under_way: dict[bytes, Loaded] = {}
        self._queue = queue
        self._connections = connections
        self._state = state
        self._called = Wake()
        self._hurried = False
        self._starting = 1  # batches that we were opened or called for, and have not looked for
        self._connected = False
        self._paused = False
        self._taken_at = 0.0
        state.lanes += 1
        state.starting += 1

    def take_nowait(self) -> Loaded | None:
        """The next batch if there is one now, else None."""
        state = self._state
        if self._starting:
            state.starting -= self._starting
            self._starting = 0
        elif self.served >= TURN_MESSAGES and self._connections.others_wait(self.destination):
            return None
        loaded = self._queue.next_batch(state)
        if loaded is not None:
            self.served += 1
            self.under_way[loaded.key] = loaded
            self._taken_at = now()  # what is taken behind another begins to hold the connection no earlier
        return loaded

    def coming(self, loaded: Loaded) -> Loaded | None:
        """The batch that will be taken some time after `loaded`, which was taken now, if it is in memory: so that
        what it needs can be made ready while those before it are under way."""
        return self._state.coming(loaded.batch.class_id)

    async def take(self, idle_s: float) -> Loaded | None:
        """The next batch; waits up to `idle_s` seconds for one. None: close the connection.

        Interruption: nothing is taken.
        """
        self._hurried = False
        loaded = self.take_nowait()
        if loaded is not None or not idle_s:
            return loaded
        state = self._state
        give_up_at = now() + idle_s
        # Called in vain happens: a lane that was busy may have been quicker.
        while loaded is None and not self._hurried and not self._must_close():
            self._called = Wake()
            state.idle.append(self)
            try:
                called = await self._called.wait_within(give_up_at - now())
            finally:
                if self in state.idle:
                    state.idle.remove(self)
            if not called:
                break
            loaded = self.take_nowait()
        return loaded

    def hurry(self) -> None:
        """For the pool: somebody else wants the connection, so `take` is to wait no longer."""
        self._hurried = True
        self._called.set()

    def _must_close(self) -> bool:
        """Waiting would be for nothing, or at the expense of another destination."""
        return self._queue.must_close(self._state) or self._connections.others_wait(self.destination)

    def call(self) -> None:
        """For the destination: end the wait of `take`. Until it has looked, what it is called for counts as starting,
        so that one batch does not call several."""
        self._starting = self._state.in_a_row
        self._state.starting += self._starting
        self._called.set()

    def pause(self) -> None:
        """There is no place at the site: until `resume`, this lane counts as no connection, and its destination opens
        no other."""
        if not self._paused:
            self._paused = True
            self._state.paused += 1
            self._connections.give_back()

    async def resume(self) -> None:
        """There is a place now. Waits until the total of connections allows one more.

        Interruption: it stays paused.
        """
        if self._paused:
            await self._connections.take_again()
            self._paused = False
            self._state.paused -= 1

    def report(self, loaded: Loaded, attempt: Attempt) -> None:
        """What became of a batch that was taken. Never blocks; the scheduler settles it."""
        self.under_way.pop(loaded.key, None)
        self._state.took(now() - self._taken_at)
        self._queue.report(self._state, loaded, attempt)

    def give_back(self, loaded: Loaded) -> None:
        """Nothing was tried: the batch is due at once."""
        self.under_way.pop(loaded.key, None)
        self._queue.give_back(self._state, loaded)

    def connected(self) -> None:
        """A healthy session with a host of this destination stands."""
        if not self._connected:
            self._connected = True
            self._state.connected += 1
        self._queue.connected(self._state)

    @property
    def has_session(self) -> bool:
        """Between `connected` and `disconnected`."""
        return self._connected

    def disconnected(self) -> None:
        """The session that `connected` told of is over."""
        if self._connected:
            self._connected = False
            self._state.connected -= 1

    def unreachable(self, reply: Reply, host: str) -> None:
        """No host of the destination could be reached. It is left alone for a while, unless another lane has a
        session with it right now."""
        self.disconnected()
        self._queue.unreachable(self._state, reply, host)

    def close(self) -> list[Loaded]:
        """The strand has ended. Returns what it took and never reported: in doubt, or cancelled at shutdown."""
        self.disconnected()
        self._state.starting -= self._starting
        self._starting = 0
        self._state.lanes -= 1
        if self._paused:
            self._state.paused -= 1
        else:
            self._connections.give_back()
        left = list(self.under_way.values())
        self.under_way.clear()
        return left
