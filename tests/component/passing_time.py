"""Trio's MockClock, moved from deadline to deadline, each time after all tasks and threads have come to rest.

An autojump clock takes a task that waits for a thread for one that rests, and jumps while the thread is at work.
"""

from __future__ import annotations

import trio
import trio.testing


async def rest() -> None:
    """Wait until nothing is under way: no task can go on, no thread works for one."""
    limiter = trio.to_thread.current_default_thread_limiter()
    while True:
        await trio.testing.wait_all_tasks_blocked(0.001)
        if not limiter.borrowed_tokens:
            return


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    """Let so much time pass."""
    end = trio.current_time() + seconds
    while True:
        await rest()
        left = end - trio.current_time()
        if left <= 0:
            return
        clock.jump(min(left, max(trio.lowlevel.current_statistics().seconds_to_next_deadline, 0.0)))
