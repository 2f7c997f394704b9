"""Steps many coroutines in one task: for connections, which mostly wait for bytes and must not cost a task switch each.

Promise: a `Strand` is a coroutine that runs between two waits without interruption, like a task, but is resumed by a
plain call from the pump. It waits only with what is in this file (`Channel`, `Wake`, `breathe`, `in_task`); any other
`await` is a bug and ends the process loudly. The pump is a scope: it ends when its strands have ended, and when it is
cancelled, or a strand fails, all of them are interrupted first.

How: each connection is in one persistent, edge-triggered epoll set; nothing is registered again for a wait. What became
ready is stepped at once, in the order in which the kernel tells. What others wake (a commit that is synced, work for an
idle connection) is stepped by a task of the pump; if a step is under way, right after it. Deadlines are plain numbers,
and one task looks at all of them a few times a second: at 30 seconds and more, nobody misses a fraction.

`Wake`, `breathe`, `in_task` work in an ordinary task, too, so that both may call the same code.
"""

from __future__ import annotations

import errno
import math
import select
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, TypeVarTuple

import trio

READ_BYTES = 65_536
_SWEEP_S = 0.25
_EVENTS_A_TURN = 64
_STEPS_A_TURN = 256
_IN = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_END = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_READ = select.EPOLLIN | _END
_WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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
_SUSPENSION: Awaitable[None] = _Suspension()  # type: ignore[assignment]  # an iterator will do in place of a generator


class Strand:
    """A coroutine under way in a pump.

    Attributes:
        deadline: trio's time at which a wait raises Late; moving it costs nothing.
    """

    __slots__ = ("_coroutine", "_interrupted", "_place", "_pump", "_shielded", "deadline")

    def __init__(self, pump: Pump, coroutine: Coroutine[Any, Any, None]) -> None:
        self._pump = pump
        self._coroutine = coroutine
        self._place: Channel | Wake | None = None  # where it waits
        self._shielded = False
        self._interrupted = pump._ending
        self.deadline = math.inf

    def interrupt(self) -> None:
        """Let its wait raise Interrupted: the present one, or the next one if it is running. A wait that is shielded
        comes to its end first."""
        if self._place is None or self._shielded:
            self._interrupted = True
        else:
            self._leave(Interrupted())

    def _begin_wait(self, place: Channel | Wake, *, shield: bool = False) -> None:
        if self._interrupted and not shield:
            self._interrupted = self._pump._ending
            raise Interrupted
        assert place._strand is None, "somebody waits there already"
        place._strand = self
        self._place = place
        self._shielded = shield

    def _leave(self, error: BaseException) -> None:
        place, self._place = self._place, None
        assert place is not None
        place._strand = None
        _resume(self, error)


# There is one loop in a process: the strand that is running, and those of all pumps that are to be stepped.
_current: Strand | None = None
_runnable: deque[tuple[Strand, BaseException | None]] = deque()
_stepping = False
_now = 0.0


def now() -> float:
    """trio's time, as it was when the pump began with what it is doing: good enough for deadlines."""
    return _now if _stepping else trio.current_time()


def current() -> Strand:
    """The strand that is running."""
    assert _current is not None, "not in a strand"
    return _current


class Channel:
    """A non-blocking stream socket in the epoll set of the pump whose strand made it.

    One strand waits at a time. As long as the kernel has not told of anything new, `receive` does not ask it.
    """

    __slots__ = ("_ended", "_fd", "_pump", "_readable", "_recv", "_strand", "_wants")

    def __init__(self, sock: socket.socket) -> None:
        self._pump = current()._pump
        self._fd = sock.fileno()
        self._recv = sock.recv
        self._strand: Strand | None = None
        self._wants = 0
        self._readable = True
        self._ended = False
        self._pump._epoll.register(self._fd, _IN)
        self._pump._channels[self._fd] = self

    @property
    def quiet(self) -> bool:
        """Nothing has come since `receive` returned None."""
        return not self._readable

    def receive(self) -> bytes | None:
        """What has come, at most READ_BYTES; b"" at the end of it; None if there is nothing: wait with `readable`.

        Raises:
            OSError.
        """
        if not self._readable:
            return None
        try:
            piece = self._recv(READ_BYTES)
        except BlockingIOError:
            self._readable = False
            return None
        # A short read has emptied the buffer; what comes later is told of, and the end was told of if it had come.
        if len(piece) < READ_BYTES and not self._ended:
            self._readable = False
        return piece

    async def readable(self) -> None:
        """Wait until there may be something to receive.

        Raises:
            Late, Interrupted.
            OSError: closed meanwhile, by another strand.
        """
        if self._readable:
            return
        strand = _current
        assert strand is not None
        strand._begin_wait(self)
        self._wants = _READ
        await _SUSPENSION

    async def writable(self) -> None:
        """Wait for room in the send buffer.

        Raises:
            Late, Interrupted, OSError, as `readable`.
        """
        await self._wait_with_room(_WRITE)

    async def readable_or_writable(self) -> None:
        """Wait for either.

        Raises:
            Late, Interrupted, OSError, as `readable`.
        """
        if self._readable:
            return
        await self._wait_with_room(_READ | _WRITE)

    async def _wait_with_room(self, wants: int) -> None:
        # Asking for EPOLLOUT anew gives an edge if there is room already.
        self._pump._epoll.modify(self._fd, _IN | select.EPOLLOUT)
        try:
            current()._begin_wait(self)
            self._wants = wants
            await _SUSPENSION
        finally:
            if self._fd != -1:
                self._pump._epoll.modify(self._fd, _IN)

    def close(self) -> None:
        """Out of the set; to be called before the socket is closed. May be called twice."""
        if self._fd != -1:
            del self._pump._channels[self._fd]
            self._pump._epoll.unregister(self._fd)
            self._fd = -1
            self._readable = self._ended = True  # what the socket says to who comes now
            if self._strand is not None:
                self._strand._leave(OSError(errno.EBADF, "closed while a strand waited for it"))

    def _ready(self, mask: int) -> None:
        if mask & _READ:
            self._readable = True
            if mask & _END:
                self._ended = True
        strand = self._strand
        if strand is not None and mask & self._wants:
            self._strand = strand._place = None
            _step(strand, None)


class Wake:
    """Something that one strand or task waits for, and another brings, once.

    Attributes:
        value: what was brought; None before.
    """

    __slots__ = ("_set", "_strand", "_task", "value")

    def __init__(self) -> None:
        self._set = False
        self.value: Any = None
        self._strand: Strand | None = None
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
        strand, task = self._strand, self._task
        if strand is not None:
            self._strand = strand._place = None
            _resume(strand, None)
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
        strand = _current
        if self._set:
            return self.value
        if strand is None:
            with trio.CancelScope(shield=shield):
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            return self.value
        strand._begin_wait(self, shield=shield)
        try:
            await _SUSPENSION
        except Interrupted:
            if not self.is_set:  # between the interruption and this step
                raise
            strand._interrupted = True
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
        strand = _current
        if self._set:
            return True
        if strand is None:
            with trio.CancelScope(shield=shield, deadline=trio.current_time() + seconds):
                await self.wait()
            return self._set
        kept, strand.deadline = strand.deadline, now() + seconds
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
    strand = _current
    if strand is None:
        await trio.lowlevel.checkpoint()
        return
    turn = Wake()
    strand._pump._nursery.start_soon(_bring, turn)
    await turn.wait()


async def _bring(turn: Wake) -> None:
    turn.set()


async def in_task(function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Call what may wait for anything, in a task of its own.

    Raises:
        Interrupted: the task was cancelled.
        Late: so was it.
    """
    strand = _current
    if strand is None:
        return await function(*args)
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

    strand._pump._nursery.start_soon(call)
    try:
        await done.wait()
    except BaseException:
        scope.cancel()
        raise
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


class Pump:
    """The scope of strands. Made by `open_pump`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._engine = trio.CancelScope(shield=True)
        self._epoll = select.epoll()
        self._channels: dict[int, Channel] = {}
        self._strands: set[Strand] = set()
        self._drainer: trio.lowlevel.Task | None = None
        self._ending = False
        self._all_ended = trio.Event()

    def __len__(self) -> int:
        """Strands under way."""
        return len(self._strands)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Strand:
        """Begin a strand. It takes its first step soon, not before this returns."""
        if self._epoll.closed:
            coroutine.close()
            raise RuntimeError("the pump has ended")
        strand = Strand(self, coroutine)
        self._strands.add(strand)
        _resume(strand, None)
        return strand

    def _ended(self, strand: Strand, failure: BaseException | None) -> None:
        if failure is not None:
            self._nursery.start_soon(_fail, failure)
        self._strands.discard(strand)
        if not self._strands:
            self._all_ended.set()

    async def _wait_for_strands(self) -> None:
        while self._strands:
            self._all_ended = trio.Event()
            await self._all_ended.wait()

    def _interrupt_all(self) -> None:
        self._ending = True
        for strand in self._strands:
            strand.interrupt()
            strand._interrupted = True

    async def _run(self) -> None:
        """Step strands until `_engine` is cancelled: after the last has ended, however the pump comes to its end."""
        try:
            with self._engine:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._poll)
                    nursery.start_soon(self._drain)
                    nursery.start_soon(self._sweep)
        finally:
            self._epoll.close()
            for strand in self._strands:  # a bug in here: nobody steps them any more
                strand._coroutine.close()
            self._strands.clear()
            self._all_ended.set()
            for strand, _ in _runnable:  # of other pumps, which relied on our drainer
                strand._pump._kick()

    def _kick(self) -> None:
        if self._drainer is not None:
            drainer, self._drainer = self._drainer, None
            trio.lowlevel.reschedule(drainer)

    async def _drain(self) -> None:
        """Step what others have woken."""
        global _now  # noqa: PLW0603 - as `_current`

        def abort(_: Any) -> trio.lowlevel.Abort:
            self._drainer = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if _runnable:
                _now = trio.current_time()
                _step(*_runnable.popleft())
                await trio.lowlevel.checkpoint()
            else:
                self._drainer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)

    async def _poll(self) -> None:
        global _now  # noqa: PLW0603 - as `_current`
        poll, channels = self._epoll.poll, self._channels
        fd = self._epoll.fileno()
        while True:
            events = poll(0, _EVENTS_A_TURN)
            if not events:
                await trio.lowlevel.wait_readable(fd)
                continue
            _now = trio.current_time()
            # All are looked up first: a step may close a channel, and the next one get its number.
            for channel, mask in [(channels.get(number), mask) for number, mask in events]:
                if channel is not None:
                    channel._ready(mask)
            await trio.lowlevel.checkpoint()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_S)
            at = trio.current_time()
            for strand in self._strands:
                if strand.deadline <= at and strand._place is not None:
                    strand.deadline = math.inf
                    strand._leave(Late())


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


def _resume(strand: Strand, error: BaseException | None) -> None:
    """Step a strand after those that are being stepped, or, if none is, soon: never while its caller is at work."""
    _runnable.append((strand, error))
    if not _stepping:
        strand._pump._kick()


def _step(strand: Strand, error: BaseException | None) -> None:
    """Run a strand up to its next wait, and then those that it has woken."""
    global _current, _stepping  # noqa: PLW0603 - what trio's current task is to tasks
    _stepping = True
    steps = 0
    try:
        while True:
            pump = strand._pump
            if strand in pump._strands:
                _current = strand
                try:
                    trap = strand._coroutine.send(None) if error is None else strand._coroutine.throw(error)
                    if trap is not None:
                        raise _refused(strand)
                except (StopIteration, Interrupted):
                    pump._ended(strand, None)
                except BaseException as bug:  # noqa: ASYNC103, BLE001 - raised by `open_pump`
                    pump._ended(strand, bug)
            if not _runnable:
                break
            steps += 1
            if steps >= _STEPS_A_TURN:
                _runnable[0][0]._pump._kick()
                break
            strand, error = _runnable.popleft()
    finally:
        _current = None
        _stepping = False


def _refused(strand: Strand) -> RuntimeError:
    """What a strand ends with that awaits something foreign: raised where it does so."""
    bug = RuntimeError("a strand waits for what only a task may wait for; see `in_task`")
    with suppress(BaseException):
        strand._coroutine.throw(bug)
    with suppress(BaseException):
        strand._coroutine.close()  # if it would go on
    place, strand._place = strand._place, None
    if place is not None:
        place._strand = None
    return bug
