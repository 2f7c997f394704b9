"""What the tests of the pump share: ways to wait, to read and write, and to let everybody come to a rest."""

from __future__ import annotations

import socket

import trio
import trio.testing

from postroika.pump import Channel, Interrupted, Late, Wake

SWEEP_S = 0.25  # how late a deadline may be


async def settled() -> None:
    """All strands and tasks wait."""
    await trio.testing.wait_all_tasks_blocked()


async def moved(clock: trio.testing.MockClock, seconds: float) -> None:
    """`seconds` later, once everybody has done what there is to do then."""
    clock.jump(seconds)
    await settled()


async def wait_for(wake: Wake, seen: list[object], *, shield: bool = False) -> None:
    """A strand or task that notes what its wait came to."""
    try:
        seen.append(await wake.wait(shield=shield))
    except (Late, Interrupted) as end:
        seen.append(type(end))
        if isinstance(end, Interrupted):
            raise


async def bring(wake: Wake) -> None:
    """A task, or a strand."""
    wake.set(1)


def nonblocking(one: socket.socket, other: socket.socket) -> tuple[socket.socket, socket.socket]:
    one.setblocking(False)
    other.setblocking(False)
    return one, other


async def received(channel: Channel) -> bytes:
    while (piece := channel.receive()) is None:
        await channel.readable()
    return piece


async def send_all(sock: socket.socket, channel: Channel, content: bytes) -> None:
    view = memoryview(content)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await channel.writable()


def fill(sock: socket.socket) -> int:
    """Send until the buffer is full; how much it took."""
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(4096))
    except BlockingIOError:
        return sent
