"""pump: what strands and tasks wait for together, deadlines, breathing, and tasks for strands."""

from __future__ import annotations

import math
import socket

import pytest
import trio
import trio.testing

from postroika.pump import Channel, Interrupted, Late, Pump, Wake, breathe, current, in_task, now, open_pump
from tests.component.strands import SWEEP_S, bring, moved, settled, wait_for

# ---- wakes


async def test_strand_waits_for_what_a_task_brings(pump: Pump) -> None:
    wake, seen = Wake(), list[object]()
    pump.spawn(wait_for(wake, seen))
    await settled()
    assert (seen, wake.is_set, wake.value) == ([], False, None)
    wake.set("first")
    wake.set("second")
    assert seen == []  # never while its caller is at work
    await settled()
    assert (seen, wake.is_set, wake.value) == (["first"], True, "first")


async def test_what_was_brought_before_is_not_waited_for(pump: Pump) -> None:
    wake, seen = Wake(), list[object]()
    wake.set(1)
    pump.spawn(wait_for(wake, seen))
    pump.spawn(wait_for(wake, seen))
    await settled()
    with trio.testing.assert_no_checkpoints():
        seen.append(await wake.wait())
        seen.append(await wake.wait_within(-1))
    assert seen == [1, 1, 1, True]


async def test_strands_wake_each_other_in_order_and_none_in_the_midst_of_another(pump: Pump) -> None:
    wakes = [Wake() for _ in range(1000)]
    seen: list[object] = []

    async def link(number: int) -> None:
        await wakes[number].wait()
        if number + 1 < len(wakes):
            wakes[number + 1].set()
        seen.append(number)

    for number in range(len(wakes)):
        pump.spawn(link(number))
    await settled()
    wakes[0].set()
    await settled()
    assert seen == list(range(1000))


async def test_strand_wakes_a_task(pump: Pump, nursery: trio.Nursery) -> None:
    wake, seen = Wake(), list[object]()

    async def bring() -> None:
        wake.set(1)

    nursery.start_soon(wait_for, wake, seen)
    await settled()
    pump.spawn(bring())
    await settled()
    assert seen == [1]


async def test_strands_of_two_pumps_wake_each_other(pump: Pump) -> None:
    there, back, seen = Wake(), Wake(), list[object]()

    async def answer() -> None:
        back.set(await there.wait())

    async with open_pump() as other:
        other.spawn(answer())
        pump.spawn(wait_for(back, seen))
        await settled()
        there.set(1)
        await settled()
    assert seen == [1]


async def test_cancelled_task_waits_no_longer_and_is_not_woken(nursery: trio.Nursery) -> None:
    wake = Wake()
    with trio.move_on_after(0):
        await wake.wait()
    wake.set(1)
    assert await wake.wait() == 1


async def test_shielded_task_waits_on(nursery: trio.Nursery) -> None:
    wake, seen = Wake(), list[object]()
    with trio.CancelScope() as scope:
        scope.cancel()
        nursery.start_soon(bring, wake)
        seen.append(await wake.wait(shield=True))
    assert seen == [1]


async def test_two_waiting_for_one_wake_are_a_bug() -> None:
    wake, seen = Wake(), list[object]()
    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="somebody waits there")):
        async with open_pump() as pump:
            pump.spawn(wait_for(wake, seen))
            pump.spawn(wait_for(wake, seen))
    assert seen == [Interrupted]


async def test_two_tasks_waiting_for_one_wake_are_a_bug(nursery: trio.Nursery) -> None:
    wake = Wake()
    nursery.start_soon(wait_for, wake, [])
    await settled()
    with pytest.raises(AssertionError, match="somebody waits there"):
        await wake.wait()
    wake.set()


# ---- deadlines


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


# ---- breathing


async def test_others_have_their_turn_while_a_strand_breathes(pump: Pump, nursery: trio.Nursery) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen: set[str] = set()

    async def never_waits() -> None:
        while seen != {"strand", "task"}:
            await breathe()

    async def reads() -> None:
        channel = Channel(ours)
        while channel.receive() is None:
            await channel.readable()
        seen.add("strand")

    async def task() -> None:
        await trio.lowlevel.checkpoint()
        seen.add("task")

    pump.spawn(never_waits())
    pump.spawn(reads())
    await trio.lowlevel.checkpoint()
    theirs.send(b"x")
    nursery.start_soon(task)
    with trio.fail_after(10):
        await settled()
    assert (seen, len(pump)) == ({"strand", "task"}, 0)
    ours.close()
    theirs.close()


async def test_strands_that_breathe_take_turns(pump: Pump) -> None:
    seen: list[str] = []

    async def run(name: str) -> None:
        for _ in range(3):
            seen.append(name)
            await breathe()

    pump.spawn(run("a"))
    pump.spawn(run("b"))
    await settled()
    assert [sorted(seen[turn : turn + 2]) for turn in (0, 2, 4)] == [["a", "b"]] * 3


async def test_strands_that_wake_each_other_without_end_leave_others_their_turn(pump: Pump) -> None:
    """Tasks, that is, and what the kernel tells of."""
    balls = [Wake(), Wake()]
    stopped = False

    async def play(side: int) -> None:
        while not stopped:
            await balls[side].wait()
            balls[side] = Wake()
            balls[1 - side].set()

    pump.spawn(play(0))
    pump.spawn(play(1))
    balls[0].set()
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    stopped = True
    await settled()
    balls[0].set()
    balls[1].set()


async def test_task_breathes_with_a_checkpoint() -> None:
    with trio.testing.assert_checkpoints():
        await breathe()
    with trio.testing.assert_checkpoints():
        await in_task(trio.lowlevel.checkpoint)


# ---- tasks for strands


async def test_task_brings_its_value_or_what_it_raised(pump: Pump, autojump_clock: trio.testing.MockClock) -> None:
    seen: list[object] = []

    async def add(one: int, other: int) -> int:
        await trio.sleep(1)
        if not one:
            raise ZeroDivisionError
        return one + other

    async def ask() -> None:
        seen.append(await in_task(add, 1, 2))
        try:
            await in_task(add, 0, 0)
        except ZeroDivisionError:
            seen.append(ZeroDivisionError)
        seen.append(await in_task(add, 3, 4))

    pump.spawn(ask())
    await trio.sleep(4)
    assert seen == [3, ZeroDivisionError, 7]


@pytest.mark.parametrize("how", ["interrupted", "late"])
async def test_task_of_a_strand_that_waits_no_longer_is_cancelled(
    pump: Pump, mock_clock: trio.testing.MockClock, how: str
) -> None:
    seen: list[object] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            seen.append("cancelled")
            raise

    async def ask() -> None:
        try:
            await in_task(work)
        except (Late, Interrupted) as end:
            seen.append(type(end))

    strand = pump.spawn(ask())
    await settled()
    if how == "late":
        strand.deadline = 1
        await moved(mock_clock, 2)
    else:
        strand.interrupt()
        await settled()
    assert seen == [Late if how == "late" else Interrupted, "cancelled"]


async def test_task_that_ends_when_its_strand_is_interrupted_still_tells(pump: Pump) -> None:
    seen: list[object] = []

    async def work() -> str:
        strand.interrupt()
        return "done"

    async def ask() -> None:
        seen.append(await in_task(work))
        await wait_for(Wake(), seen)

    strand = pump.spawn(ask())
    await settled()
    assert seen == ["done", Interrupted]
