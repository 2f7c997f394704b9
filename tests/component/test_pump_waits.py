"""pump: what strands and tasks wait for together, breathing, and tasks for strands."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from postroika.pump import Channel, Interrupted, Late, Pump, Wake, breathe, current, in_task, open_pump
from tests.component.strands import bring, moved, received, settled, wait_for

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


async def test_strands_that_wake_each_other_without_end_leave_others_their_turn(
    pump: Pump, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Tasks, that is, and what the kernel tells of."""
    balls = [Wake(), Wake()]
    ours, theirs = pair
    strokes, heard = 0, list[bytes]()
    stopped = False

    async def play(side: int) -> None:
        nonlocal strokes
        while not stopped:
            await balls[side].wait()
            strokes += 1
            balls[side] = Wake()
            balls[1 - side].set()

    async def listen() -> None:
        heard.append(await received(channel := Channel(ours)))
        channel.close()

    pump.spawn(listen())
    await settled()
    pump.spawn(play(0))
    pump.spawn(play(1))
    balls[0].set()
    seen = []
    for _ in range(10):
        await trio.lowlevel.checkpoint()
        seen.append(strokes)
    theirs.send(b"x")
    while not heard:
        await trio.lowlevel.checkpoint()
        seen.append(strokes)
    stopped = True
    await settled()
    assert heard == [b"x"]
    assert seen == sorted(seen)
    assert seen[0] < seen[9] <= seen[-1]  # the game went on meanwhile
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


async def test_task_has_its_time_and_the_deadline_of_the_strand_rests(
    pump: Pump, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[object] = []

    async def work(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async def ask() -> None:
        current().deadline = 1
        for seconds in (3.0, 10.0):
            try:
                seen.append(await in_task(work, seconds, within_s=4))
            except Late:
                seen.append(Late)
        seen.append(current().deadline)

    pump.spawn(ask())
    await trio.sleep(8)
    assert seen == [3.0, Late, 1]
    with pytest.raises(Late):  # in a task it is the same
        await in_task(work, 10.0, within_s=4)
    assert (await in_task(work, 3.0, within_s=4), trio.current_time()) == (3.0, 15.0)


async def test_task_that_heeds_no_cancellation_is_left_behind(
    pump: Pump, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[object] = []

    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        seen.append("ended")

    async def ask() -> None:
        try:
            await in_task(work, within_s=4)
        except Late:
            seen.append("late")

    pump.spawn(ask())
    await trio.sleep(5)
    assert seen == ["late"]
    await trio.sleep(6)
    assert seen == ["late", "ended"]


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
