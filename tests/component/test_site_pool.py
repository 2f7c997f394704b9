"""Places of a site: the limit, the queue, and connections that change hands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
import trio.testing

from postroika.outbound.connection import Connection
from postroika.outbound.pool import SitePool


class FakeConnection:
    """Something to hand over."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def connection() -> Any:
    return cast(Connection, FakeConnection())


def asking(pool: SitePool) -> tuple[list[object], Callable[[], Awaitable[None]]]:
    """A task that asks for a place of site "a", and the list in which it notes what it got."""
    got: list[object] = []

    async def ask() -> None:
        got.append(await pool.acquire("a"))

    return got, ask


async def test_places_up_to_the_limit_are_given_at_once() -> None:
    pool = SitePool(2)
    assert [await pool.acquire("a"), await pool.acquire("a"), await pool.acquire("b")] == [None, None, None]
    pool.release("a")
    assert await pool.acquire("a") is None


async def test_who_waits_longest_is_served_first(autojump_clock: trio.testing.MockClock) -> None:
    pool = SitePool(1)
    served: list[int] = []

    async def wait(number: int) -> None:
        await trio.sleep(number)
        await pool.acquire("a")
        served.append(number)
        await trio.sleep(100)
        pool.release("a")

    async with trio.open_nursery() as nursery:
        for number in (3, 1, 4, 2):
            nursery.start_soon(wait, number)
    assert served == [1, 2, 3, 4]


async def test_connection_goes_to_who_waits_with_the_place() -> None:
    pool = SitePool(1)
    await pool.acquire("a")
    warm = connection()
    assert pool.hand_over("a", warm) is False
    got, wait = asking(pool)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.hand_over("a", warm) is True
    assert got == [warm]


async def test_idle_holder_is_called_although_there_is_room() -> None:
    pool = SitePool(9)
    await pool.acquire("a")
    warm = connection()
    got, wait = asking(pool)
    async with trio.open_nursery() as nursery:
        with pool.idle("a") as scope:
            nursery.start_soon(wait)
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert pool.hand_over("a", warm)
    assert got == [warm]


async def test_idle_holder_that_got_work_instead_lets_the_caller_have_a_place_of_its_own() -> None:
    pool = SitePool(2)
    await pool.acquire("a")
    got, wait = asking(pool)
    async with trio.open_nursery() as nursery:
        with pool.idle("a"):
            nursery.start_soon(wait)
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
    assert got == [None]


async def test_further_callers_take_free_places_while_an_idle_holder_is_on_its_way() -> None:
    pool = SitePool(3)
    await pool.acquire("a")
    got, wait = asking(pool)
    warm = connection()
    async with trio.open_nursery() as nursery:
        with pool.idle("a"):
            for _ in range(3):
                nursery.start_soon(wait)
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
            assert got == [None, None]
            await trio.sleep_forever()
        assert pool.hand_over("a", warm)
    assert got == [None, None, warm]


async def test_place_granted_in_the_moment_of_cancellation_is_held() -> None:
    pool = SitePool(1)
    await pool.acquire("a")
    warm = connection()
    got, wait = asking(pool)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.hand_over("a", warm)
        nursery.cancel_scope.cancel()
    assert got == [warm]


async def test_cancelled_waiter_leaves_the_queue() -> None:
    pool = SitePool(1)
    await pool.acquire("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.acquire, "a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not pool.wanted("a")
    pool.release("a")
    assert await pool.acquire("a") is None
