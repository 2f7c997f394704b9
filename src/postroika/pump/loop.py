"""Strands, and the one loop of a process that steps them.

Promise: one strand runs at a time and none is stepped within another. A strand that awaits what is not ours fails where
it does so. Everything else in this package is a place where a strand waits, or the scope that strands live in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import trio

if TYPE_CHECKING:
    from postroika.pump.scope import Pump

_STEPS_A_TURN = 256


class Interrupted(BaseException):
    """The strand was told to end: raised by a wait, once; by each wait if the pump ends."""


class Late(Exception):
    """The deadline of the strand passed while it waited. The deadline is lifted with it."""


class _Suspension:
    """What a coroutine awaits to come back to the pump."""

    __slots__ = ()

    def __await__(self) -> Iterator[None]:
        return iter(_ONCE)


_ONCE = (None,)
SUSPENSION: Awaitable[None] = _Suspension()  # type: ignore[assignment]  # an iterator will do in place of a generator


class Place(Protocol):
    """Where a strand waits."""

    strand: Strand | None  # which one; only one at a time


class Strand:
    """A coroutine under way in a pump.

    Attributes:
        deadline: trio's time at which a wait raises Late; moving it costs nothing.
        place, interrupted, pump, coroutine: of this package.
    """

    __slots__ = ("_shielded", "coroutine", "deadline", "interrupted", "place", "pump")

    def __init__(self, pump: Pump, coroutine: Coroutine[Any, Any, None]) -> None:
        self.pump = pump
        self.coroutine = coroutine
        self.place: Place | None = None  # where it waits
        self._shielded = False
        self.interrupted = pump.ending
        self.deadline = math.inf

    def interrupt(self) -> None:
        """Let its wait raise Interrupted: the present one, or the next one if it is running. A wait that is shielded
        comes to its end first."""
        if self.place is None or self._shielded:
            self.interrupted = True
        else:
            self.leave(Interrupted())

    def begin_wait(self, place: Place, *, shield: bool = False) -> None:
        """For a place, before it suspends us.

        Raises:
            Interrupted.
        """
        if self.interrupted and not shield:
            self.interrupted = self.pump.ending
            raise Interrupted
        assert place.strand is None, "somebody waits there already"
        place.strand = self
        self.place = place
        self._shielded = shield

    def leave(self, error: BaseException) -> None:
        """End our wait with `error`."""
        place, self.place = self.place, None
        assert place is not None
        place.strand = None
        resume(self, error)

    def drop(self) -> None:
        """Close the coroutine, wherever it is."""
        if self.place is not None:
            self.place.strand = None
            self.place = None
        self.coroutine.close()


# There is one loop in a process: the strand that is running, and those of all pumps that are to be stepped.
running: Strand | None = None
runnable: deque[tuple[Strand, BaseException | None]] = deque()
_stepping = False
_now: float | None = None  # while a pump is at work


def now() -> float:
    """trio's time, as it was when the pump began with what it is doing: good enough for deadlines."""
    return trio.current_time() if _now is None else _now


def current() -> Strand:
    """The strand that is running."""
    assert running is not None, "not in a strand"
    return running


def tick() -> None:
    """For a pump that begins with something: look at the time."""
    global _now  # noqa: PLW0603 - as `running`
    _now = trio.current_time()


def rest() -> None:
    """For a pump that lets others work: they look at the time themselves."""
    global _now  # noqa: PLW0603 - as `running`
    _now = None


def resume(strand: Strand, error: BaseException | None) -> None:
    """Step a strand after those that are being stepped, or, if none is, soon: never while its caller is at work."""
    runnable.append((strand, error))
    if not _stepping:
        strand.pump.kick()


def step(strand: Strand, error: BaseException | None) -> None:
    """Run a strand up to its next wait, and then those that it has woken."""
    global running, _stepping  # noqa: PLW0603 - what trio's current task is to tasks
    _stepping = True
    steps = 0
    try:
        while True:
            pump = strand.pump
            if strand in pump.strands:
                running = strand
                try:
                    trap = strand.coroutine.send(None) if error is None else strand.coroutine.throw(error)
                    if trap is not None:
                        raise _refused(strand)
                except (StopIteration, Interrupted):
                    pump.ended(strand, None)
                except BaseException as bug:  # noqa: ASYNC103, BLE001 - raised by `open_pump`
                    pump.ended(strand, bug)
            if not runnable:
                break
            steps += 1
            if steps >= _STEPS_A_TURN:
                runnable[0][0].pump.kick()  # it has a strand, so its drainer is there
                break
            strand, error = runnable.popleft()
    finally:
        running = None
        _stepping = False


def _refused(strand: Strand) -> RuntimeError:
    """What a strand ends with that awaits something foreign: raised where it does so."""
    bug = RuntimeError("a strand waits for what only a task may wait for; see `in_task`")
    with suppress(BaseException):
        strand.coroutine.throw(bug)
    with suppress(BaseException):
        strand.drop()  # if it would go on
    return bug
