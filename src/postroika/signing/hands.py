"""The threads that sign, and how their work comes and goes.

Promise: many jobs go over at once in both directions: to wake the loop, or a thread, costs as much as a tenth of an RSA
signature, so what has been done since goes back together, at the latest after some milliseconds. A thread is kept from
one job to the next. What a job raises is its result.

A job may take long (a message of 50 MB has to be read and hashed): such ones have a thread of their own, so that nobody
waits behind them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import trio

_MOST_AT_ONCE = 32
_BACK_AFTER_S = 0.003

J = TypeVar("J")
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
        self._jobs: SimpleQueue[J | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._token: trio.lowlevel.TrioToken | None = None

    def give(self, job: J) -> None:
        """To be done soon. In trio's thread."""
        if not self._threads:
            self._token = trio.lowlevel.current_trio_token()
            for number in range(self._count):
                # Daemons: a disk that hangs must not keep the process from ending.
                thread = threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def close(self, wait_s: float) -> None:
        """Let the threads end, and wait for that: they read what is about to be closed. What is left is not done."""
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(wait_s)
        self._threads.clear()

    def _run(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            results: list[tuple[J, R]] = []
            back_at = time.monotonic() + _BACK_AFTER_S
            while True:
                results.append((job, self._work(job)))
                if len(results) == _MOST_AT_ONCE or time.monotonic() >= back_at:
                    break
                try:
                    following = jobs.get_nowait()
                except Empty:
                    break
                if following is None:
                    jobs.put(None)
                    break
                job = following
            assert self._token is not None
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._done, results)
            del job, results  # with the bodies in them: they would stay until the next one
