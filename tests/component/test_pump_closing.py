"""pump.Channel: closing, and the numbers of sockets that others get after that."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
import trio.testing

from postroika.pump import Channel, Late, Pump, current, open_pump
from tests.component.strands import fill, nonblocking, received, settled


async def test_number_of_a_closed_socket_is_not_confused_with_its_successor_s(
    pump: Pump, mock_clock: trio.testing.MockClock
) -> None:
    """Both were told of by one look at the set; the first strand closes both, and the numbers go to new sockets."""
    olds = [nonblocking(*socket.socketpair()) for _ in range(2)]
    numbers = {ours.fileno() for ours, _ in olds}
    channels: list[Channel] = []
    seen: list[object] = []

    async def old(number: int) -> None:
        channel = Channel(olds[number][0])
        channels.append(channel)
        assert channel.receive() is None
        try:
            await channel.readable()
        except OSError as error:
            seen.append(error.errno)
            return
        for channel, pair in zip(channels, olds, strict=True):
            channel.close()
            for sock in pair:
                sock.close()
        news = [nonblocking(*socket.socketpair()) for _ in range(2)]
        for pair in news:
            for sock in pair:
                if sock.fileno() in numbers:
                    pump.spawn(new(sock))
                else:
                    kept.append(sock)

    async def new(sock: socket.socket) -> None:
        channel = Channel(sock)
        assert channel.receive() is None
        fill(sock)
        current().deadline = trio.current_time()
        with pytest.raises(Late):
            await channel.writable()
        seen.append(channel.quiet)
        channel.close()
        sock.close()

    kept: list[socket.socket] = []
    for number in range(2):
        pump.spawn(old(number))
    await settled()
    for _, theirs in olds:
        theirs.send(b"x")
    await settled()
    mock_clock.jump(1)
    await settled()
    assert seen == [errno.EBADF, True, True]
    for sock in kept:
        sock.close()


@pytest.mark.parametrize("waits_for", ["readable", "writable", "readable_or_writable"])
async def test_closing_ends_the_wait_of_another_strand(
    pump: Pump, pair: tuple[socket.socket, ...], waits_for: str
) -> None:
    ours, _ = pair
    channels: list[Channel] = []
    seen: list[int | None] = []

    async def wait() -> None:
        channel = Channel(ours)
        channels.append(channel)
        assert channel.receive() is None
        fill(ours)
        for wait in (getattr(channel, waits_for), lambda: received(channel)):
            with pytest.raises(OSError) as caught:
                await wait()
            seen.append(caught.value.errno)

    pump.spawn(wait())
    await settled()
    channels[0].close()
    ours.close()
    await settled()
    assert seen == [errno.EBADF] * 2


async def test_closing_twice_is_closing_once(pump: Pump, pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = pair
    seen: list[bytes] = []

    async def close() -> None:
        first = Channel(ours)
        first.close()
        second = Channel(ours)
        first.close()
        seen.append(await received(second))

    pump.spawn(close())
    await settled()
    theirs.send(b"x")
    await settled()
    assert seen == [b"x"]


async def test_two_strands_at_one_channel_are_a_bug(pair: tuple[socket.socket, ...]) -> None:
    ours, _ = pair
    channels: list[Channel] = []

    async def first() -> None:
        channels.append(Channel(ours))
        channels[0].receive()
        await channels[0].readable()

    async def second() -> None:
        await channels[0].readable()

    with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="somebody waits there")):
        async with open_pump() as pump:
            pump.spawn(first())
            pump.spawn(second())
