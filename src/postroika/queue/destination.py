"""One routing domain that has something due: the bounded part of its queue that is in memory.

The queue itself is in the spool. What is here can be dropped at any time and is found again through the ready index.
Classes (stream, tenant, campaign) take turns, so that a receipt does not wait behind a newsletter.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from postroika.queue.limits import Ramp, in_a_row
from postroika.spool.reader import Loaded
from postroika.spool.schema import DestinationState

_PACE_MESSAGES = 8  # how fast the pace follows
_AHEAD = 64  # batches: some more than lanes have in hand; what is made ready long before its turn may be of no use then
_UNKNOWN_PACE_S = 1.0  # slow, until some thirty quick messages have shown that it is not


class Idle(Protocol):
    """A lane that waits for work."""

    def call(self) -> None:
        """There is some."""


class Destination:
    """The state of one active destination.

    Args:
        name: the routing domain.
        ramp: how many connections it may have.
        down: why it was left alone the last time we looked; None if it was up.

    `held` are the keys of all batches that are in memory, under way, or being settled: the spool must not be asked
    for them again. `more`: the spool may have something due that is not here.
    """

    __slots__ = (
        "_pace_s",
        "_turn",
        "_waiting",
        "connected",
        "down",
        "held",
        "idle",
        "in_a_row",
        "lanes",
        "later_ms",
        "more",
        "name",
        "paused",
        "positions",
        "ramp",
        "starting",
        "sweeping",
        "waiting",
        "wakes",
    )

    def __init__(self, name: str, ramp: Ramp, down: DestinationState | None) -> None:
        self.name = name
        self.ramp = ramp
        self.down = down
        if down is not None:
            ramp.probe()
        self.held: set[bytes] = set()
        self.more = True
        self.positions: dict[int, bytes] = {}
        self.wakes: set[bytes] = set()
        self.lanes = 0
        self.starting = 0
        self.connected = 0
        self.paused = 0
        self.sweeping = False
        self.waiting = 0
        self.later_ms: int | None = None
        self.idle: list[Idle] = []
        self.in_a_row = 1
        self._pace_s = _UNKNOWN_PACE_S
        self._waiting: dict[int, deque[Loaded]] = {}
        self._turn: deque[int] = deque()

    def is_down(self, now: float) -> bool:
        """Whether it is to be left alone at `now` (epoch seconds)."""
        return self.down is not None and now < self.down.down_until

    def append(self, loaded: Loaded) -> None:
        """Queue a batch in memory."""
        class_id = loaded.batch.class_id
        queue = self._waiting.get(class_id)
        if queue is None:
            queue = self._waiting[class_id] = deque()
        if not queue:
            self._turn.append(class_id)
        queue.append(loaded)
        self.held.add(loaded.key)
        self.waiting += 1

    def has_waiting(self, class_id: int) -> bool:
        """Whether a batch of this class waits in memory."""
        return class_id in self._waiting

    def pop(self) -> Loaded | None:
        """The next batch; the classes that have any take turns. It stays held."""
        if not self._turn:
            return None
        class_id = self._turn.popleft()
        queue = self._waiting[class_id]
        loaded = queue.popleft()
        if queue:
            self._turn.append(class_id)
        else:
            del self._waiting[class_id]
        self.waiting -= 1
        return loaded

    def coming(self, class_id: int) -> Loaded | None:
        """The batch of this class that comes after _AHEAD others, if there is one in memory."""
        queue = self._waiting.get(class_id)
        return queue[_AHEAD] if queue is not None and len(queue) > _AHEAD else None

    def push_back(self, loaded: Loaded) -> None:
        """Return a batch that was popped and not tried, to be the next of its class."""
        class_id = loaded.batch.class_id
        queue = self._waiting.get(class_id)
        if queue is None:
            queue = self._waiting[class_id] = deque()
        if not queue:
            self._turn.appendleft(class_id)
        queue.appendleft(loaded)
        self.waiting += 1

    def drop_waiting(self) -> list[Loaded]:
        """Take out all that waits, in order. It stays held."""
        dropped = [loaded for queue in self._waiting.values() for loaded in queue]
        self._waiting.clear()
        self._turn.clear()
        self.waiting = 0
        return dropped

    def took(self, seconds: float) -> None:
        """A message has held a connection for so long, delivered or not."""
        self._pace_s += (seconds - self._pace_s) / _PACE_MESSAGES
        self.in_a_row = in_a_row(self._pace_s)

    def wake_lane(self) -> bool:
        """Give an idle connection work. False if there is none; the latest to go idle goes first, so that the
        others can close."""
        if self.idle:
            self.idle.pop().call()
            return True
        return False

    def wants_lane(self) -> bool:
        """Whether another connection would have something to do, and is allowed."""
        return self.waiting > self.starting and self.lanes < self.ramp.allowed and not self.paused

    def due_later(self, due_ms: int) -> None:
        """The spool has something of this destination that is due only then (epoch milliseconds)."""
        if self.later_ms is None or due_ms < self.later_ms:
            self.later_ms = due_ms

    def at_rest(self) -> bool:
        """Nothing in memory, nothing under way, nothing left to load."""
        return not (self.held or self.more or self.lanes or self.sweeping)
