"""How many connections a destination may have. Pure arithmetic, no clock.

Slow start: a destination begins with a few, gains one with each message that it takes, and may always have twice as
many as there are sessions with it, up to the limit; one that has just been down is probed with one. A host that wants
no more connections says so when one is opened, so sessions that stand are sign enough, and a next hop that is far away
need not wait for its first messages to come through. The total is shared equally: when it is used up, those who wait
for a connection get theirs from those who have had a turn.
"""

from __future__ import annotations

TURN_MESSAGES = 20  # what a connection may deliver before it makes room for a destination that has none
_IN_A_ROW = 8
_ROW_S = 0.1


class Ramp:
    """The number of connections that one destination may have now.

    Args:
        initial: to begin with.
        limit: never more.

    `allowed`: connections allowed now.
    """

    __slots__ = ("_initial", "_limit", "allowed")

    def __init__(self, initial: int, limit: int) -> None:
        self._limit = limit
        self._initial = min(initial, limit)
        self.allowed = self._initial

    def succeeded(self) -> None:
        """A message went through."""
        if self.allowed < self._limit:
            self.allowed += 1

    def refused(self, connected: int) -> None:
        """The destination has `connected` sessions and wants no more: remembered as long as it is active."""
        self._limit = self.allowed = max(1, connected)
        self._initial = min(self._initial, self._limit)

    def probe(self) -> None:
        """The destination is, or was, down: one connection, until it answers."""
        self.allowed = 1

    def answered(self) -> None:
        """It answers, or is to be tried again: at least the initial number may."""
        self.allowed = max(self.allowed, self._initial)

    def granted(self, connected: int) -> None:
        """The destination has `connected` sessions now, a new one among them."""
        self.answered()
        self.allowed = max(self.allowed, min(2 * connected, self._limit))


def in_a_row(pace_s: float) -> int:
    """How many messages an idle connection is called for where one takes `pace_s` seconds: as many as it delivers in
    `_ROW_S`, but not more than `_IN_A_ROW`.

    A message that follows another begins in the packet in which that one ends: it costs half of the packets and of the
    wake-ups that it would cost on a connection of its own.
    """
    return max(1, min(_IN_A_ROW, int(_ROW_S / pace_s))) if pace_s > 0.0 else _IN_A_ROW


def window(loaded_batches: int, active: int, allowed: int) -> int:
    """How many batches of one destination may be in memory, when `active` destinations share `loaded_batches`."""
    return max(2 * allowed, min(500, loaded_batches // max(1, active)))
