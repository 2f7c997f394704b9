"""The scope of strands: what polls, drains, looks at deadlines, and how all of it ends.

Promise: the strands are stepped until the last has ended, however the scope comes to its end: a cancelled pump
interrupts them, and waits for those that have a shield.
"""

from __future__ import annotations

import math
import select
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import trio

from postroika.pump.channel import Channel
from postroika.pump.loop import Late, Strand, rest, resume, runnable, step, tick
from postroika.pump.wake import Wake

_SWEEP_S = 0.25
_EVENTS_A_TURN = 64


class Pump:
    """The scope of strands. Made by `open_pump`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self._engine = trio.CancelScope(shield=True)
        self.epoll = select.epoll()
        self.channels: dict[int, Channel] = {}
        self.strands: set[Strand] = set()
        self.turns: list[Wake] = []  # of those that breathe
        self._drainer: trio.lowlevel.Task | None = None
        self.ending = False
        self._all_ended = trio.Event()

    def __len__(self) -> int:
        """Strands under way."""
        return len(self.strands)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Strand:
        """Begin a strand. It takes its first step soon, not before this returns."""
        if self.epoll.closed:
            coroutine.close()
            raise RuntimeError("the pump has ended")
        strand = Strand(self, coroutine)
        self.strands.add(strand)
        resume(strand, None)
        return strand

    # ---- for the rest of this package

    def ended(self, strand: Strand, failure: BaseException | None) -> None:
        """A strand has ended; a failure goes to the nursery, and so ends the body and the other strands."""
        if failure is not None:
            self.nursery.start_soon(_fail, failure)
        self.strands.discard(strand)
        if not self.strands:
            self._all_ended.set()

    def kick(self) -> None:
        """There is something to step."""
        if self._drainer is not None:
            drainer, self._drainer = self._drainer, None
            trio.lowlevel.reschedule(drainer)

    # ---- its life

    async def _wait_for_strands(self) -> None:
        while self.strands:
            self._all_ended = trio.Event()
            await self._all_ended.wait()

    def _interrupt_all(self) -> None:
        self.ending = True
        for strand in self.strands:
            strand.interrupt()
            strand.interrupted = True

    async def _run(self) -> None:
        """Step strands until `_engine` is cancelled: after the last has ended, however the pump comes to its end."""
        try:
            with self._engine:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._poll)
                    nursery.start_soon(self._drain)
                    nursery.start_soon(self._sweep)
        finally:
            left, self.strands = self.strands, set()  # a bug in here: nobody steps them any more
            self._all_ended.set()
            for strand in left:
                strand.drop()
            self.epoll.close()

    async def _drain(self) -> None:
        """Step what others have woken, and, a checkpoint later, those that breathe: all others had their turn."""

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._drainer = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            turns, self.turns = self.turns, []
            for turn in turns:
                turn.set()
            if runnable:
                tick()
                step(*runnable.popleft())
                rest()
                await trio.lowlevel.checkpoint()
            else:
                self._drainer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)

    async def _poll(self) -> None:
        poll, channels = self.epoll.poll, self.channels
        fd = self.epoll.fileno()
        while True:
            events = poll(0, _EVENTS_A_TURN)
            if not events:
                await trio.lowlevel.wait_readable(fd)
                continue
            tick()
            # All are looked up first: a step may close a channel, and the next one get its number.
            for channel, mask in [(channels.get(number), mask) for number, mask in events]:
                if channel is not None:
                    channel.ready(mask)
            rest()
            await trio.lowlevel.checkpoint()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_S)
            at = trio.current_time()
            for strand in self.strands:
                if strand.deadline <= at and strand.place is not None:
                    strand.deadline = math.inf
                    strand.leave(Late())


@asynccontextmanager
async def open_pump() -> AsyncIterator[Pump]:
    """A pump for the body of `async with`, which ends when the body and all strands have ended.

    Raises:
        ExceptionGroup: what strands failed with, as of a nursery. The body is cancelled then.

    Cancellation: all strands are interrupted; those that are shielded, or wait in a `finally` with a shield, are waited
    for.
    """
    async with trio.open_nursery() as nursery:
        pump = Pump(nursery)
        nursery.start_soon(pump._run)
        try:
            yield pump
            await pump._wait_for_strands()
        finally:
            pump._interrupt_all()
            with trio.CancelScope(shield=True):
                await pump._wait_for_strands()
            pump._engine.cancel()


async def _fail(failure: BaseException) -> None:
    raise failure
