"""One epoll loop for thousands of sockets in one thread, without tasks: the engine of the load and of the sink.

Promise: a socket's handler is called while it is ready for what was asked (level-triggered), and never after it was
removed, not even with an event that the kernel had reported before; timers run in the order of their times, and never
early. A handler that raises ends `run` with that exception: a bug is loud.

How: `run` waits in epoll for the next timer at most, calls the handlers of what is ready, then the timers that are
due. Everything is called from `run`, so nothing here needs a lock; only a signal may come between, and that is turned
into an event like the others by the interpreter's wake-up socket.
"""

from __future__ import annotations

import heapq
import select
import signal
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

__all__ = ["HANG_UP", "READ", "WRITE", "Pump", "Timer"]

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANG_UP = select.EPOLLHUP | select.EPOLLERR
"""Reported whether it was asked for or not."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_COMPACT_AT = 256  # cancelled timers; below it is not worth the trouble


class HasFileno(Protocol):
    """Whatever epoll can watch."""

    def fileno(self) -> int: ...


class Timer:
    """One call at one time; made by `Pump.call_at`."""

    __slots__ = ("_pump", "fn", "when")

    def __init__(self, pump: Pump, when: float, fn: Callable[[], None]) -> None:
        self._pump = pump
        self.when = when
        self.fn: Callable[[], None] | None = fn

    def cancel(self) -> None:
        """Let it not happen. After it has happened this does nothing."""
        if self.fn is not None:
            self.fn = None
            self._pump._note_cancelled()


class Pump:
    """The loop.

    Args:
        on_signal: called from `run` with the number of each SIGINT or SIGTERM that comes while it runs, which needs
            the main thread; None leaves signals as they are.
    """

    def __init__(self, on_signal: Callable[[int], None] | None = None) -> None:
        self._on_signal = on_signal
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        # Removed while events were being handed out: what is still in hand for these numbers is not theirs any more,
        # and may not go to a new socket that got the number of a closed one.
        self._removed: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_made = 0
        self._cancelled = 0
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the epoll set back. The sockets stay open; they are their owners'."""
        self._handlers.clear()
        self._timers.clear()
        self._epoll.close()

    def add(self, sock: HasFileno, on_ready: Callable[[int], None], events: int) -> None:
        """Call `on_ready(what it is ready for)` while `sock` is ready for one of `events` (READ, WRITE), or hung up.

        Raises:
            FileExistsError: it is watched already.
        """
        fd = sock.fileno()
        self._epoll.register(fd, events)
        self._handlers[fd] = on_ready

    def modify(self, sock: HasFileno, events: int) -> None:
        """Watch it for `events` from now on; 0 waits for hang-ups alone."""
        self._epoll.modify(sock.fileno(), events)

    def remove(self, sock: HasFileno) -> None:
        """Call its handler no more. To be done before it is closed."""
        fd = sock.fileno()
        del self._handlers[fd]
        self._removed.add(fd)
        self._epoll.unregister(fd)

    def call_at(self, when_monotonic: float, fn: Callable[[], None]) -> Timer:
        """Call `fn` once, when `time.monotonic()` has reached that; a time that is past means: after what is ready."""
        timer = Timer(self, when_monotonic, fn)
        self._timers_made += 1
        heapq.heappush(self._timers, (when_monotonic, self._timers_made, timer))
        return timer

    def stop(self) -> None:
        """`run` returns when the handler that is running has. Before `run`: it returns at once."""
        self._stopped = True

    def _is_stopped(self) -> bool:
        return self._stopped

    def run(self) -> None:
        """Until `stop`. Can be run again; what is watched and planned stays."""
        if self._on_signal is None:
            self._run()
            return
        receiver, sender = socket.socketpair()
        with receiver, sender:
            receiver.setblocking(False)
            sender.setblocking(False)
            old_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            old_handlers = [(number, signal.signal(number, _ignore)) for number in _SIGNALS]
            self.add(receiver, lambda events: self._take_signals(receiver), READ)
            try:
                self._run()
            finally:
                self.remove(receiver)
                for number, handler in old_handlers:
                    signal.signal(number, handler)
                signal.set_wakeup_fd(old_fd)

    def _run(self) -> None:
        poll, handlers, removed, timers = self._epoll.poll, self._handlers, self._removed, self._timers
        try:
            while not self._is_stopped():
                ready = poll(max(0.0, timers[0][0] - time.monotonic()) if timers else None)
                removed.clear()
                for fd, events in ready:
                    if fd in removed:
                        continue
                    handlers[fd](events)
                    if self._stopped:
                        return
                if timers and timers[0][0] <= time.monotonic():
                    self._run_timers()
        finally:
            self._stopped = False

    def _run_timers(self) -> None:
        """Those that are due by now. Those that they make wait for the next turn, so that sockets have theirs."""
        timers, now, last = self._timers, time.monotonic(), self._timers_made
        later = []
        try:
            while timers and timers[0][0] <= now and not self._is_stopped():
                entry = heapq.heappop(timers)
                _, number, timer = entry
                if number > last:
                    later.append(entry)
                elif timer.fn is None:
                    self._cancelled -= 1
                else:
                    fn, timer.fn = timer.fn, None
                    fn()
        finally:
            for entry in later:
                heapq.heappush(timers, entry)

    def _note_cancelled(self) -> None:
        """Drop the cancelled ones when most of the heap is such."""
        self._cancelled += 1
        if self._cancelled >= _COMPACT_AT and self._cancelled * 2 > len(self._timers):
            # In place: `_run` and `_run_timers` hold this list.
            self._timers[:] = [entry for entry in self._timers if entry[2].fn is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _take_signals(self, receiver: socket.socket) -> None:
        if self._on_signal is not None:
            for number in receiver.recv(4096):
                if number in _SIGNALS:
                    self._on_signal(number)


def _ignore(number: int, frame: object) -> None:
    """The wake-up socket has told already."""
