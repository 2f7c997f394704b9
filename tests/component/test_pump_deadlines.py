"""pump: deadlines of strands, and waits that give up by themselves."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from postroika.pump import Late, Pump, Wake, current, now
from tests.component.strands import SWEEP_S, bring, moved, settled, wait_for


async def test_deadline_ends_a_wait_and_is_lifted_with_it(pump: Pump, mock_clock: trio.testing.MockClock) -> None:
    wakes, seen = [Wake(), Wake()], list[object]()

    async def wait() -> None:
        current().deadline = now() + 10
        for wake in wakes:
            await wait_for(wake, seen)
            seen.append(current().deadline)

    pump.spawn(wait())
    await settled()
    await moved(mock_clock, 9.9)
    assert seen == []
    await moved(mock_clock, 0.1 + SWEEP_S)
    assert seen == [Late, math.inf]
    await moved(mock_clock, 1000)
    wakes[1].set("in the end")
    await settled()
    assert seen == [Late, math.inf, "in the end", math.inf]


async def test_deadline_is_moved_at_will_and_looked_at_only_while_waiting(
    pump: Pump, mock_clock: trio.testing.MockClock
) -> None:
    first, second, seen = Wake(), Wake(), list[object]()

    async def wait() -> None:
        await first.wait()
        seen.append("began")
        await wait_for(second, seen)

    strand = pump.spawn(wait())
    strand.deadline = 10
    await settled()
    await moved(mock_clock, 9)
    strand.deadline = 20
    await moved(mock_clock, 10)
    first.set()
    strand.deadline = 15  # has passed, but nothing is waited for
    assert seen == []
    await settled()
    assert seen == ["began"]
    await moved(mock_clock, SWEEP_S)
    assert seen == ["began", Late]


async def test_deadlines_of_one_look_are_each_strand_s_own(pump: Pump, mock_clock: trio.testing.MockClock) -> None:
    """The first to be late wakes the second, which moves its deadline and waits again."""
    wakes, seen = [Wake(), Wake(), Wake()], list[object]()

    async def first() -> None:
        await wait_for(wakes[0], seen)
        wakes[1].set("woken")

    async def second() -> None:
        await wait_for(wakes[1], seen)
        current().deadline = now() + 10
        await wait_for(wakes[2], seen)

    pump.spawn(first()).deadline = 1
    pump.spawn(second()).deadline = 2
    await settled()
    await moved(mock_clock, 1.5)
    assert seen == [Late, "woken"]
    await moved(mock_clock, 10 - 2 * SWEEP_S)
    assert seen == [Late, "woken"]
    await moved(mock_clock, 3 * SWEEP_S)
    assert seen == [Late, "woken", Late]


async def test_time_is_trio_s(pump: Pump, mock_clock: trio.testing.MockClock) -> None:
    seen: list[float] = []

    async def look(wake: Wake) -> None:
        seen.append(now())
        await wake.wait()
        seen.append(now())

    wake = Wake()
    pump.spawn(look(wake))
    await settled()
    mock_clock.jump(5)
    assert now() == 5
    wake.set()
    await settled()
    assert seen == [0, 5]


@pytest.mark.parametrize("shield", [False, True])
async def test_wait_within_gives_up_in_time_and_leaves_the_strand_s_deadline(
    pump: Pump, mock_clock: trio.testing.MockClock, shield: bool
) -> None:
    wakes, seen = [Wake(), Wake()], list[object]()

    async def wait() -> None:
        current().deadline = 100
        for wake in wakes:
            seen.append(await wake.wait_within(10, shield=shield))
            seen.append(current().deadline)

    pump.spawn(wait())
    await settled()
    await moved(mock_clock, 9)
    assert seen == []
    await moved(mock_clock, 1 + SWEEP_S)
    assert seen == [False, 100]
    wakes[1].set()
    await settled()
    assert seen == [False, 100, True, 100]


async def test_deadline_of_the_strand_rests_while_it_waits_within(
    pump: Pump, mock_clock: trio.testing.MockClock
) -> None:
    wakes, seen = [Wake(), Wake()], list[object]()

    async def wait() -> None:
        current().deadline = 5
        seen.append(await wakes[0].wait_within(10))
        await wait_for(wakes[1], seen)

    pump.spawn(wait())
    await settled()
    await moved(mock_clock, 9)
    assert seen == []
    await moved(mock_clock, 1 + SWEEP_S)
    await moved(mock_clock, SWEEP_S)
    assert seen == [False, Late]


@pytest.mark.parametrize("shield", [False, True])
async def test_task_waits_within_too(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, shield: bool
) -> None:
    late, timely = Wake(), Wake()
    nursery.start_soon(bring, timely)
    assert [await timely.wait_within(10, shield=shield), trio.current_time()] == [True, 0]
    assert [await late.wait_within(10, shield=shield), trio.current_time()] == [False, 10]
    assert [await late.wait_within(-1, shield=shield), trio.current_time()] == [False, 10]
    with trio.move_on_after(1) as scope:
        assert await late.wait_within(10, shield=True) is False
    assert (scope.cancelled_caught, trio.current_time()) == (False, 20)
