"""pump: how strands are told to end, and what is never lost by it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from postroika.pump import Channel, Interrupted, Late, Pump, Wake, current, in_task, open_pump
from tests.component.strands import SWEEP_S, moved, settled, wait_for

# ---- interruption


def places(sock: socket.socket) -> dict[str, Callable[[], Awaitable[object]]]:
    """All that a strand can wait with."""

    async def channel() -> None:
        channel = Channel(sock)
        channel.receive()
        await channel.readable()

    async def full() -> None:
        with suppress(BlockingIOError):
            while True:
                sock.send(bytes(4096))
        await Channel(sock).writable()

    return {
        "readable": channel,
        "writable": full,
        "wake": Wake().wait,
        "within": lambda: Wake().wait_within(1000),
        "task": lambda: in_task(trio.sleep_forever),
    }


@pytest.mark.parametrize("place", ["readable", "writable", "wake", "within", "task"])
@pytest.mark.parametrize("how", ["interrupt", "deadline", "cancel"])
async def test_each_wait_can_be_ended(mock_clock: trio.testing.MockClock, place: str, how: str) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seen: list[object] = []

    async def wait() -> None:
        try:
            seen.append(await places(ours)[place]())
        except Late:
            seen.append(Late)
        except Interrupted:
            seen.append(Interrupted)
            raise
        finally:
            seen.append("finally")

    async with open_pump() as pump, trio.open_nursery() as nursery:
        strand = pump.spawn(wait())
        await settled()
        if how == "interrupt":
            strand.interrupt()
        elif how == "cancel":
            nursery.cancel_scope.cancel()
            pump.nursery.cancel_scope.cancel()
        elif place == "within":
            mock_clock.jump(1000 + SWEEP_S)
        else:
            strand.deadline = 10
            mock_clock.jump(10 + SWEEP_S)
    told = Interrupted if how != "deadline" else False if place == "within" else Late
    assert seen == [told, "finally"]
    ours.close()
    theirs.close()


async def test_running_strand_is_interrupted_at_its_next_wait_that_waits(pump: Pump) -> None:
    brought, never, seen = Wake(), Wake(), list[object]()
    brought.set("brought")

    async def run() -> None:
        current().interrupt()
        await wait_for(brought, seen)
        with suppress(Interrupted):
            await wait_for(never, seen)
        seen.append(await never.wait())

    pump.spawn(run())
    await settled()
    assert seen == ["brought", Interrupted]
    never.set("once told, once raised")
    await settled()
    assert seen[2:] == ["once told, once raised"]


async def test_strand_that_has_not_begun_is_interrupted_at_its_first_wait(pump: Pump) -> None:
    seen: list[object] = []

    async def run() -> None:
        seen.append("began")
        await wait_for(Wake(), seen)

    pump.spawn(run()).interrupt()
    await settled()
    assert seen == ["began", Interrupted]


async def test_strand_that_has_ended_is_not_interrupted(pump: Pump) -> None:
    seen: list[object] = []
    wake = Wake()
    wake.set()
    strand = pump.spawn(wait_for(wake, seen))
    await settled()
    strand.interrupt()
    await settled()
    assert (seen, len(pump)) == ([None], 0)


async def test_shielded_wait_comes_to_its_end_first(pump: Pump) -> None:
    wake, seen = Wake(), list[object]()

    async def run() -> None:
        await wait_for(wake, seen, shield=True)
        await wait_for(Wake(), seen)

    strand = pump.spawn(run())
    await settled()
    strand.interrupt()
    await settled()
    assert seen == []
    wake.set("committed")
    await settled()
    assert seen == ["committed", Interrupted]


async def test_shield_is_of_one_wait_only(pump: Pump) -> None:
    shielded, seen = Wake(), list[object]()

    async def run() -> None:
        await wait_for(shielded, seen, shield=True)
        await wait_for(Wake(), seen)

    strand = pump.spawn(run())
    await settled()
    shielded.set(1)
    await settled()
    strand.interrupt()
    await settled()
    assert seen == [1, Interrupted]


@pytest.mark.parametrize("first", ["set", "end"])
@pytest.mark.parametrize("end", [Interrupted, Late])
async def test_what_was_brought_is_not_lost_to_an_end_at_the_same_time(
    pump: Pump, mock_clock: trio.testing.MockClock, end: type[BaseException], first: str
) -> None:
    """As a place in a pool that is granted to a strand which is just being interrupted: it must learn of it."""
    wake, seen = Wake(), list[object]()

    async def run() -> None:
        await wait_for(wake, seen)
        await wait_for(Wake(), seen)

    strand = pump.spawn(run())
    await settled()
    if first == "set":
        wake.set("granted")
    if end is Interrupted:
        strand.interrupt()
    elif first == "set":
        strand.deadline = -1
    else:
        strand.leave(Late())  # as the sweeper does, before the strand is stepped
    wake.set("granted")
    await settled()
    await moved(mock_clock, SWEEP_S)
    assert seen == ["granted", end]
