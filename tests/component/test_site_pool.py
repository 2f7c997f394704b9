"""Places of a site: the limit, the queue, and connections that change hands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import trio
import trio.testing

from postroika.outbound.connection import Connection
from postroika.outbound.pool import SitePool
from postroika.pump import Pump, Wake, open_pump
from tests.component.outbound_fakes import in_strand


class FakeConnection:
    """Something to hand over."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FakeHolder:
    """Has a place and nothing to do."""

    def __init__(self) -> None:
        self.hurried = False

    def hurry(self) -> None:
        self.hurried = True


def connection() -> Any:
    return cast(Connection, FakeConnection())


def asking(pool: SitePool) -> tuple[list[object], Callable[[], Awaitable[None]]]:
    """What asks for a place of site "a", and the list in which it notes what it got."""
    got: list[object] = []

    async def ask() -> None:
        got.append(await pool.acquire("a"))

    return got, ask


async def in_order(pump: Pump, pool: SitePool, *sites: str) -> list[object]:
    """Take a place of each of them, without a wait."""

    async def take() -> list[object]:
        return [await pool.acquire(site) for site in sites]

    got = await in_strand(pump, take)
    assert got is not None
    return got


@asynccontextmanager
async def full(limit: int = 1) -> AsyncIterator[tuple[Pump, SitePool]]:
    """A pool of which all places of site "a" are taken."""
    async with open_pump() as pump:
        pool = SitePool(limit)
        assert await in_order(pump, pool, *["a"] * limit) == [None] * limit
        yield pump, pool


async def test_places_up_to_the_limit_are_given_at_once() -> None:
    async with open_pump() as pump:
        pool = SitePool(2)
        assert await in_order(pump, pool, "a", "a", "b") == [None, None, None]
        pool.release("a")
        assert await in_order(pump, pool, "a") == [None]


async def test_who_waits_longest_is_served_first(autojump_clock: trio.testing.MockClock) -> None:
    pool = SitePool(1)
    served: list[int] = []

    async def wait(number: int) -> None:
        await Wake().wait_within(number)
        await pool.acquire("a")
        served.append(number)
        await Wake().wait_within(10)
        pool.release("a")

    async with open_pump() as pump:
        for number in (3, 1, 4, 2):
            pump.spawn(wait(number))
    assert served == [1, 2, 3, 4]


async def test_connection_goes_to_who_waits_with_the_place() -> None:
    warm = connection()
    async with full() as (pump, pool):
        assert pool.hand_over("a", warm) is False
        got, wait = asking(pool)
        pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert pool.hand_over("a", warm) is True
    assert got == [warm]


async def test_idle_holder_is_called_although_there_is_room() -> None:
    async with open_pump() as pump:
        pool, idle, warm = SitePool(9), FakeHolder(), connection()
        await in_order(pump, pool, "a")
        got, wait = asking(pool)
        assert pool.rest("a", idle)
        assert not idle.hurried
        pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert (idle.hurried, got) == (True, [])
        assert pool.rise("a", idle) is True
        assert pool.hand_over("a", warm)
    assert got == [warm]


async def test_the_latest_to_go_idle_is_called_and_nobody_twice() -> None:
    async with full(2) as (pump, pool):
        first, second = FakeHolder(), FakeHolder()
        assert pool.rest("a", first)
        assert pool.rest("a", second)
        got, wait = asking(pool)
        pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert (first.hurried, second.hurried) == (False, True)
        pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert (first.hurried, second.hurried) == (True, True)
        pool.release("a")
        pool.release("a")
    assert got == [None, None]


async def test_holder_whose_work_came_by_itself_is_called_no_more() -> None:
    async with full() as (pump, pool):
        holder = FakeHolder()
        assert pool.rest("a", holder)
        assert pool.rise("a", holder) is False
        got, wait = asking(pool)
        pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert (holder.hurried, got) == (False, [])
        pool.release("a")
    assert got == [None]


async def test_holder_does_not_rest_while_somebody_waits() -> None:
    async with full() as (pump, pool):
        got, wait = asking(pool)
        pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert pool.rest("a", FakeHolder()) is False
        pool.release("a")
    assert got == [None]


async def test_idle_holder_that_got_work_instead_lets_the_caller_have_a_place_of_its_own() -> None:
    async with open_pump() as pump:
        pool, idle = SitePool(2), FakeHolder()
        await in_order(pump, pool, "a")
        got, wait = asking(pool)
        pool.rest("a", idle)
        pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert pool.rise("a", idle) is True
        assert got == []
        pool.admit("a")
    assert got == [None]


async def test_further_callers_take_free_places_while_an_idle_holder_is_on_its_way() -> None:
    async with open_pump() as pump:
        pool, idle, warm = SitePool(3), FakeHolder(), connection()
        await in_order(pump, pool, "a")
        got, wait = asking(pool)
        pool.rest("a", idle)
        for _ in range(3):
            pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert got == [None, None]
        assert pool.rise("a", idle) is True
        assert pool.hand_over("a", warm)
    assert got == [None, None, warm]


# --- who waits is interrupted


async def test_place_granted_before_the_interruption_is_held() -> None:
    warm = connection()
    async with full() as (pump, pool):
        got, wait = asking(pool)
        waiting = pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert pool.hand_over("a", warm)
        waiting.interrupt()
    assert got == [warm]


async def test_place_granted_after_the_interruption_but_before_the_strand_knows_of_it_is_held() -> None:
    warm = connection()
    async with full() as (pump, pool):
        got, wait = asking(pool)
        waiting = pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        waiting.interrupt()
        assert pool.hand_over("a", warm)
    assert got == [warm]
    assert not pool.wanted("a")


async def test_interrupted_waiter_leaves_the_queue() -> None:
    async with full() as (pump, pool):
        lost, wait = asking(pool)
        waiting = pump.spawn(wait())
        await trio.testing.wait_all_tasks_blocked()
        assert pool.wanted("a")
        waiting.interrupt()
        await trio.testing.wait_all_tasks_blocked()
        assert lost == []
        assert not pool.wanted("a")
        pool.release("a")
        assert await in_order(pump, pool, "a") == [None]


async def test_waiters_leave_the_queue_at_the_end_of_the_pump_whatever_else_happens_then() -> None:
    """The first to be interrupted may be the one whose place the second waits for."""
    pool = SitePool(1)
    ended: list[int] = []

    async def use(number: int) -> None:
        await pool.acquire("a")
        try:
            await Wake().wait()
        finally:
            pool.release("a")
            ended.append(number)

    with trio.CancelScope() as scope:
        async with open_pump() as pump:
            for number in range(3):
                pump.spawn(use(number))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert ended[0] == 0
    async with open_pump() as pump:
        assert await in_order(pump, pool, "a") == [None]
