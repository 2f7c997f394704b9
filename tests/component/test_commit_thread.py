"""The thread that commits: one for all calls, and what becomes of it."""

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from postroika.spool.commit_thread import CommitThread


async def test_all_calls_are_made_in_one_thread_which_ends_when_it_is_closed() -> None:
    seen: list[threading.Thread] = []
    thread = CommitThread()
    for _ in range(3):
        await thread.call(lambda _: seen.append(threading.current_thread()))
    thread.close()
    thread.close()
    seen[0].join(10)
    assert (len(seen), set(seen), seen[0].is_alive()) == (3, {seen[0]}, False)
    assert seen[0] is not threading.current_thread()


async def test_what_a_call_raises_is_raised_where_it_was_made_and_harms_no_other() -> None:
    thread = CommitThread()
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda _: 1 // 0)
    called: list[bool] = []
    await thread.call(lambda _: called.append(True))
    thread.close()
    assert called == [True]


async def test_nothing_is_called_for_who_is_cancelled_already() -> None:
    thread = CommitThread()
    called: list[bool] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await thread.call(lambda _: called.append(True))
    thread.close()
    assert (scope.cancelled_caught, called) == (True, [])


async def test_a_call_that_has_begun_comes_to_its_end_whoever_is_cancelled() -> None:
    thread = CommitThread()
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    ends: list[str] = []

    def work(_: object) -> None:
        token.run_sync_soon(begun.set)
        go_on.wait(10)
        ends.append("called")

    async def caller() -> None:
        await thread.call(work)
        ends.append("returned")
        await trio.lowlevel.checkpoint()
        raise AssertionError("the cancellation is not lost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await begun.wait()
        nursery.cancel_scope.cancel()
        go_on.set()
    thread.close()
    assert ends == ["called", "returned"]


async def test_the_loop_waits_while_a_call_works_and_no_longer() -> None:
    thread = CommitThread()
    go_on = threading.Event()
    turns: list[str] = []

    def work(written: Callable[[], None]) -> None:
        turns.append("works")
        written()
        written()
        go_on.wait(10)
        turns.append("has waited for the disk")

    async def other() -> None:
        turns.append("the loop goes on")
        go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, work)
        nursery.start_soon(other)
    thread.close()
    assert sorted(turns) == ["has waited for the disk", "the loop goes on", "works"]
    assert turns[-1] == "has waited for the disk"


async def test_a_call_that_never_says_that_it_has_written_holds_the_loop_up_for_a_moment_only() -> None:
    thread = CommitThread()
    go_on = threading.Event()

    async def other() -> None:
        go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.call, lambda _: go_on.wait(10) or None)
        nursery.start_soon(other)
    thread.close()
    assert go_on.is_set()
