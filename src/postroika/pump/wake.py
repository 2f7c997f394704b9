"""What strands and tasks wait for alike: something that another brings, one's next turn, the end of a task.

Promise: what was brought is never lost, whoever is interrupted or late at that moment.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

import trio

from postroika.pump import loop
from postroika.pump.loop import SUSPENSION, Interrupted, Late, Strand

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Wake:
    """Something that one strand or task waits for, and another brings, once.

    Attributes:
        value: what was brought; None before.
    """

    __slots__ = ("_set", "_task", "strand", "value")

    def __init__(self) -> None:
        self._set = False
        self.value: Any = None
        self.strand: Strand | None = None
        self._task: trio.lowlevel.Task | None = None

    @property
    def is_set(self) -> bool:
        """It has been brought."""
        return self._set

    def set(self, value: Any = None) -> None:
        """Bring it; what comes later is ignored."""
        if self._set:
            return
        self._set = True
        self.value = value
        strand, task = self.strand, self._task
        if strand is not None:
            self.strand = strand.place = None
            loop.resume(strand, None)
        elif task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    async def wait(self, *, shield: bool = False) -> Any:
        """Wait for it, and return it. What was brought is never lost: then the next wait raises.

        Args:
            shield: against interruption and cancellation, not against the deadline.

        Raises:
            Late, Interrupted.
        """
        strand = loop.running
        if self._set:
            return self.value
        if strand is None:
            assert self._task is None, "somebody waits there already"
            with trio.CancelScope(shield=shield):
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            return self.value
        strand.begin_wait(self, shield=shield)
        try:
            await SUSPENSION
        except Interrupted:
            if not self.is_set:  # between the interruption and this step
                raise
            strand.interrupted = True
        except Late:
            if not self.is_set:
                raise
            strand.deadline = -math.inf
        return self.value

    async def wait_within(self, seconds: float, *, shield: bool = False) -> bool:
        """Wait for it, but not longer than this; whether it came. The deadline of the strand rests meanwhile.

        Raises:
            Interrupted.
        """
        strand = loop.running
        if self._set:
            return True
        if strand is None:
            with trio.CancelScope(shield=shield, deadline=trio.current_time() + seconds):
                await self.wait()
            return self._set
        kept, strand.deadline = strand.deadline, loop.now() + seconds
        try:
            await self.wait(shield=shield)
        except Late:
            return False
        finally:
            strand.deadline = kept
        return True

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


async def breathe() -> None:
    """Let all others have their turn.

    Raises:
        Late, Interrupted.
    """
    strand = loop.running
    if strand is None:
        await trio.lowlevel.checkpoint()
        return
    turn = Wake()
    strand.pump.turns.append(turn)
    strand.pump.kick()
    await turn.wait()


async def in_task(function: Callable[[*Ts], Awaitable[T]], *args: *Ts, within_s: float = math.inf) -> T:
    """Call what may wait for anything, in a task of its own.

    Args:
        within_s: if it is given, the deadline of the strand rests meanwhile.

    Raises:
        Interrupted: the task was cancelled.
        Late: so was it. Nobody waits for its end: what does not heed a cancellation (a thread) holds up no strand.
    """
    strand = loop.running
    if strand is None:
        if within_s == math.inf:
            return await function(*args)
        with trio.move_on_after(within_s):
            return await function(*args)
        raise Late
    done = Wake()
    scope = trio.CancelScope()
    outcome: list[T | BaseException] = []

    async def call() -> None:
        with scope:
            try:
                outcome.append(await function(*args))
            except Exception as error:  # noqa: BLE001 - it is raised where it was called
                outcome.append(error)
        done.set()

    strand.pump.nursery.start_soon(call)
    try:
        if within_s == math.inf:
            await done.wait()
        elif not await done.wait_within(within_s):
            raise Late
    except BaseException:
        scope.cancel()
        raise
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result
