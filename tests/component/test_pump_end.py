"""pump: what the failure of a strand does, and how the pump ends with its strands."""

from __future__ import annotations

import socket
import types
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing

from postroika.pump import Channel, Interrupted, Late, Pump, Wake, breathe, in_task, open_pump
from tests.component.strands import SWEEP_S, moved, nonblocking, settled, wait_for

# ---- failures


async def test_failing_strand_ends_the_pump_and_all_in_it() -> None:
    seen: list[object] = []

    async def fail(wake: Wake) -> None:
        await wake.wait()
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_pump() as pump:
            wake = Wake()
            pump.spawn(wait_for(Wake(), seen))
            pump.spawn(fail(wake))
            wake.set()
            try:
                await trio.sleep_forever()
            finally:
                seen.append("body")
    assert sorted(seen, key=str) == [Interrupted, "body"]


@pytest.mark.parametrize("failure", [ZeroDivisionError, Late, KeyboardInterrupt, SystemExit])
async def test_all_failures_come_out(failure: type[BaseException]) -> None:
    async def fail() -> None:
        raise failure

    with pytest.RaisesGroup(failure, failure):
        async with open_pump() as pump:
            pump.spawn(fail())
            pump.spawn(fail())


async def test_failure_while_others_are_interrupted_comes_out_too() -> None:
    async def fail_at_the_end() -> None:
        try:
            await Wake().wait()
        finally:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, ZeroDivisionError, ValueError):
        async with open_pump() as pump:
            pump.spawn(fail_at_the_end())
            pump.spawn(fail_at_the_end())
            await settled()
            raise ValueError


async def test_body_that_fails_interrupts_the_strands() -> None:
    seen: list[object] = []
    with pytest.RaisesGroup(ValueError):
        async with open_pump() as pump:
            pump.spawn(wait_for(Wake(), seen))
            await settled()
            raise ValueError
    assert seen == [Interrupted]


@types.coroutine
def bare_trap() -> Generator[object, None, None]:
    yield "not ours"


FOREIGN: dict[str, Callable[[], Awaitable[object]]] = {
    "checkpoint": trio.lowlevel.checkpoint,
    "event": lambda: trio.Event().wait(),
    "sleep": partial(trio.sleep, 1),
    "lock": trio.Lock().acquire,
    "thread": lambda: trio.to_thread.run_sync(int),
    "bare": bare_trap,
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_awaiting_what_only_a_task_may_is_a_loud_failure(name: str) -> None:
    seen: list[object] = []

    async def astray() -> None:
        try:
            await FOREIGN[name]()
        finally:
            seen.append("finally")

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="see `in_task`")) as caught:
        async with open_pump() as pump:
            pump.spawn(astray())
            await trio.sleep_forever()
    assert seen == ["finally"]
    frames = [entry.name for entry in pytest.ExceptionInfo.from_exception(caught.value.exceptions[0]).traceback]
    assert "astray" in frames  # it is told where


@pytest.mark.parametrize("goes_on", ["ends", "waits", "astray again"])
async def test_strand_that_hides_this_failure_is_ended(goes_on: str) -> None:
    wake, seen = Wake(), list[object]()

    async def astray() -> None:
        with suppress(RuntimeError):
            await trio.sleep(1)
        try:
            if goes_on == "waits":
                seen.append(await wake.wait())
            elif goes_on == "astray again":
                seen.append(await trio.sleep(1))  # type: ignore[func-returns-value]
        finally:
            seen.append("finally")

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="see `in_task`")):
        async with open_pump() as pump:
            strands = [pump.spawn(astray())]
            try:
                await trio.sleep_forever()
            finally:
                wake.set()
    assert (seen, len(strands)) == (["finally"], 1)


async def test_bug_of_the_pump_itself_leaves_no_strand_behind() -> None:
    seen: list[object] = []

    async def wait(sock: socket.socket) -> None:
        channel = Channel(sock)
        channel.receive()
        try:
            await channel.readable()
        finally:
            channel.close()
            sock.close()
            seen.append("finally")

    ours, theirs = nonblocking(*socket.socketpair())
    with pytest.RaisesGroup(TypeError, flatten_subgroups=True):
        async with open_pump() as pump:
            strand = pump.spawn(wait(ours))
            strand.deadline = None  # type: ignore[assignment]
            await trio.sleep_forever()
    assert (seen, ours.fileno(), len(pump)) == (["finally"], -1, 0)
    theirs.close()


def test_next_run_begins_afresh_after_one_that_failed() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def run(*, failing: bool) -> list[object]:
        seen: list[object] = []
        async with open_pump() as pump:
            wakes = [Wake() for _ in range(600)]
            for wake in wakes:
                pump.spawn(wait_for(wake, seen))
            await settled()
            if failing:
                pump.spawn(fail())
            for wake in wakes:
                wake.set(1)
        return seen

    with pytest.RaisesGroup(ZeroDivisionError):
        trio.run(lambda: run(failing=True))
    assert trio.run(lambda: run(failing=False)) == [1] * 600


# ---- the end


async def test_pump_ends_with_its_last_strand() -> None:
    wakes, seen, pumps = [Wake(), Wake()], list[object](), list[Pump]()

    async def parent() -> None:
        seen.append(await wakes[0].wait())
        pumps[0].spawn(wait_for(wakes[1], seen))

    async def whole() -> None:
        async with open_pump() as pump:
            pumps.append(pump)
            pump.spawn(parent())
        seen.append("ended")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole)
        await settled()
        wakes[0].set("parent")
        await settled()
        assert (seen, len(pumps[0])) == (["parent"], 1)
        wakes[1].set("child")
        await settled()
        assert (seen, len(pumps[0])) == (["parent", "child", "ended"], 0)
    with pytest.raises(RuntimeError, match="the pump has ended"):
        pumps[0].spawn(parent())


async def test_pump_without_strands_ends_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pump():
        pass
    assert trio.current_time() == 0


async def test_cancellation_interrupts_all_and_runs_their_finally_blocks() -> None:
    """A strand that is woken by the last words of another, or has not begun, comes to its next wait first."""
    last_words, seen = Wake(), list[object]()

    async def first() -> None:
        try:
            await Wake().wait()
        finally:
            last_words.set("farewell")
            pump.spawn(wait_for(Wake(), seen))

    async def second() -> None:
        await wait_for(last_words, seen, shield=True)
        await wait_for(Wake(), seen)

    async def waits_on() -> None:
        try:
            await Wake().wait()
        finally:
            for again in (Wake().wait, breathe, lambda: in_task(trio.sleep_forever)):
                with pytest.raises(Interrupted):
                    await again()  # noqa: ASYNC102 - that is the question
            seen.append("waited no more")

    with trio.CancelScope() as scope:
        async with open_pump() as pump:
            for begin in (first, second, waits_on):
                pump.spawn(begin())
            await settled()
            pump.spawn(wait_for(Wake(), seen))
            scope.cancel()
            await trio.sleep_forever()
    assert seen.count(Interrupted) == 3
    assert {told for told in seen if told is not Interrupted} == {"farewell", "waited no more"}


@pytest.mark.parametrize("where", ["wait", "finally"])
async def test_cancelled_pump_lets_shielded_waits_come_to_their_end(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, where: str
) -> None:
    commits, seen = [Wake(), Wake()], list[object]()

    async def commit(wake: Wake) -> None:
        try:
            if where == "finally":
                await Wake().wait()
        finally:
            seen.append(await wake.wait_within(10, shield=True))  # noqa: ASYNC102 - a shield with a deadline
            await wait_for(Wake(), seen)  # noqa: ASYNC102 - interrupted at once

    async def whole() -> None:
        with scope:
            async with open_pump() as pump:
                for wake in commits:
                    pump.spawn(commit(wake))
        seen.append("ended")

    scope = trio.CancelScope()
    nursery.start_soon(whole)
    await settled()
    scope.cancel()
    await settled()
    assert seen == []
    commits[0].set()
    await settled()
    assert seen == [True, Interrupted]
    await moved(mock_clock, 10 + SWEEP_S)
    assert seen == [True, Interrupted, False, Interrupted, "ended"]


async def test_strands_that_another_pump_s_end_leaves_behind_are_stepped(pump: Pump) -> None:
    """More are woken at once than are stepped in one turn, and the pump that had to step them ends in it."""
    for of_this in (1, 200, 300):
        wakes, seen = [Wake() for _ in range(1000)], list[object]()
        async with open_pump() as other:
            for number, wake in enumerate(wakes):
                (other if number < of_this else pump).spawn(wait_for(wake, seen))
            await settled()

            async def wake_all(wakes: list[Wake] = wakes) -> None:
                for wake in wakes:
                    wake.set(1)

            other.spawn(wake_all())
        await settled()
        assert seen == [1] * 1000
