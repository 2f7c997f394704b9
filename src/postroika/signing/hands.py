"""The threads that sign, and how their work comes and goes.

Promise: what somebody waits for is done before what was given ahead of its time. Many jobs go over at once in both
directions: to wake the loop, or a thread, costs as much as a tenth of an RSA signature, and a loop that is woken for
each message has nothing that it could do together; so what has been done goes back when nothing is left to do, at the
latest after some hundredths of a second. A thread is kept from one job to the next. What a job raises is its result.

A job may take long (a message of 50 MB has to be read and hashed): such ones have a thread of their own, so that nobody
waits behind them.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import trio

_MOST_AT_ONCE = 64
_BACK_AFTER_S = 0.03

J = TypeVar("J", bound=Hashable)
R = TypeVar("R")


class Hands(Generic[J, R]):
    """Threads that do one kind of work.

    Args:
        count: how many.
        work: what to do with a job, in a thread.
        done: takes jobs with their results, in trio's thread.
        name: of the threads.
    """

    def __init__(
        self, count: int, work: Callable[[J], R], done: Callable[[list[tuple[J, R]]], None], name: str
    ) -> None:
        self._count = count
        self._work = work
        self._done = done
        self._name = name
        self._calls: SimpleQueue[bool] = SimpleQueue()  # one for each job; False: come to an end
        self._lock = threading.Lock()  # of the two that follow
        self._jobs: deque[J] = deque()
        self._ahead: OrderedDict[J, None] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def ahead(self) -> int:
        """Jobs that were given ahead, and that nobody has begun or asked for."""
        return len(self._ahead)

    def give(self, job: J, *, ahead: bool = False) -> None:
        """To be done soon; ahead: when there is nothing else to do. In trio's thread."""
        if not self._threads:
            self._token = trio.lowlevel.current_trio_token()
            for number in range(self._count):
                # Daemons: a disk that hangs must not keep the process from ending.
                thread = threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()
        with self._lock:
            if ahead:
                self._ahead[job] = None
            else:
                self._jobs.append(job)
        self._calls.put(True)

    def hurry(self, job: J) -> None:
        """Somebody waits for it: it is no longer ahead of its time, if it was. In trio's thread."""
        with self._lock:
            if job in self._ahead:
                del self._ahead[job]
                self._jobs.append(job)

    def close(self, wait_s: float) -> None:
        """Let the threads end, and wait for that: they read what is about to be closed. What is left is not done."""
        with suppress(Empty):
            while True:
                self._calls.get_nowait()
        for _ in self._threads:
            self._calls.put(False)
        for thread in self._threads:
            thread.join(wait_s)
        self._threads.clear()

    def _run(self) -> None:
        calls = self._calls
        going_on = True
        while going_on and calls.get():
            results: list[tuple[J, R]] = []
            back_at = time.monotonic() + _BACK_AFTER_S
            while True:
                job = self._next()
                results.append((job, self._work(job)))
                if len(results) == _MOST_AT_ONCE or time.monotonic() >= back_at:
                    break
                try:
                    going_on = calls.get_nowait()
                except Empty:
                    break
                if not going_on:
                    break
            assert self._token is not None
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._done, results)
            del job, results  # with the bodies in them: they would stay until the next one

    def _next(self) -> J:
        """For who was called."""
        with self._lock:
            return self._jobs.popleft() if self._jobs else self._ahead.popitem(last=False)[0]
