"""The thread that commits.

Promise: one call at a time, each begin to end in the same thread: LMDB binds a write transaction to the thread that
began it. The thread is kept from one call to the next: to get one from trio's cache, let it be named, given a context
and a place under a limit costs as much as a small commit.

A call has a head start: while it works in memory, the loop waits. LMDB's binding lets go of the interpreter's lock
for each key that it writes, and takes it back; against a loop that is busy it would queue for it each time, and the two
would wake each other up several times for each message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

import trio

_HEAD_START_S = 0.002  # The most that the loop waits: pages that are not in memory may take longer.

Work = Callable[[Callable[[], None]], None]
"""What is called in the thread, with a function to call once it will only wait for the disk."""


class _Call:
    """What is to be called, who waits for it, and how it failed."""

    __slots__ = ("error", "function", "task", "token", "working")

    def __init__(self, function: Work) -> None:
        self.function = function
        self.working = threading.Lock()
        self.working.acquire()
        self.task = trio.lowlevel.current_task()
        self.token = trio.lowlevel.current_trio_token()
        self.error: BaseException | None = None

    def let_go(self) -> None:
        """The head start is over. In the thread; more than once does no harm."""
        if self.working.locked():
            self.working.release()


class CommitThread:
    """Begins with the first call, ends with `close`."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, function: Work) -> None:
        """Call `function` in the thread and wait for its end; the loop stands still while it works, but not for long.

        Raises:
            whatever it raises.

        Cancellation: before it begins; then not until it has ended, and not by this call.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._thread is None:
            # A daemon, as trio's are: a disk that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=_work, args=(self._calls,), name="commit", daemon=True)
            self._thread.start()
        call = _Call(function)
        self._calls.put(call)
        call.working.acquire(timeout=_HEAD_START_S)
        await trio.lowlevel.wait_task_rescheduled(_not_now)
        if call.error is not None:
            raise call.error

    def close(self) -> None:
        """Let the thread end. Nobody may be waiting for it."""
        if self._thread is not None:
            self._thread = None
            self._calls.put(None)


def _work(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        try:
            call.function(call.let_go)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - raised by `call`
            call.error = error
        call.let_go()
        with suppress(trio.RunFinishedError):
            call.token.run_sync_soon(trio.lowlevel.reschedule, call.task)
        del call  # and what it has written: it would stay until the next one


def _not_now(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
