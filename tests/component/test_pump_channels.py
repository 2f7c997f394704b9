"""pump.Channel on socket pairs: whatever the order of bytes and waits, nothing that the kernel tells of is lost."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from postroika.pump import READ_BYTES, Channel, Pump, Wake, breathe, open_pump
from tests.component.strands import fill, received, settled

RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER with no time: closing resets


def drain(sock: socket.socket) -> int:
    taken = 0
    try:
        while piece := sock.recv(1 << 20):
            taken += len(piece)
    except BlockingIOError:
        pass
    return taken


def reading(sock: socket.socket) -> tuple[list[bytes], Coroutine[Any, Any, None]]:
    """A strand that reads to the end, and what it got piece by piece."""
    pieces: list[bytes] = []

    async def read() -> None:
        channel = Channel(sock)
        while not pieces or pieces[-1]:
            pieces.append(await received(channel))
        channel.close()

    return pieces, read()


# ---- reading


async def test_what_is_looked_at_stays_for_the_next_channel(pump: Pump, tcp_pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = tcp_pair
    seen: list[bytes | None] = []

    async def look() -> None:
        channel = Channel(ours)
        while not channel.ended:
            seen.append(channel.peek(4))
            await channel.readable()
        seen.append(channel.peek(4))
        channel.close()

    pump.spawn(look())
    await settled()
    for piece in (b"a", b"bc", b"def"):
        theirs.send(piece)
        await settled()
    theirs.close()
    await settled()
    looks = [look for number, look in enumerate(seen) if look != seen[number - 1]]
    assert looks == [None, b"a", b"abc", b"abcd"]
    pieces, read = reading(ours)
    pump.spawn(read)
    await settled()
    assert pieces == [b"abcdef", b""]


async def test_what_was_there_before_the_channel_is_received(pump: Pump, pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = pair
    theirs.send(b"early")
    pieces, read = reading(ours)
    pump.spawn(read)
    await settled()
    assert pieces == [b"early"]
    theirs.close()
    await settled()
    assert pieces == [b"early", b""]


async def test_each_piece_that_comes_while_a_strand_waits_wakes_it(pump: Pump, pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = pair
    pieces, read = reading(ours)
    pump.spawn(read)
    for octet in b"abc":
        await settled()
        theirs.send(bytes([octet]))
    await settled()
    theirs.close()
    await settled()
    assert pieces == [b"a", b"b", b"c", b""]


async def test_what_comes_between_looking_and_waiting_is_not_lost(pump: Pump, pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = pair
    pieces: list[bytes | None] = []

    async def read() -> None:
        channel = Channel(ours)
        pieces.append(channel.receive())
        theirs.send(b"x")
        await channel.readable()
        pieces.append(channel.receive())

    pump.spawn(read())
    await settled()
    assert pieces == [None, b"x"]


async def test_what_comes_while_the_strand_waits_elsewhere_is_remembered(
    pump: Pump, pair: tuple[socket.socket, ...]
) -> None:
    ours, theirs = pair
    elsewhere = Wake()
    seen: list[object] = []

    async def read() -> None:
        channel = Channel(ours)
        seen.extend((channel.receive(), channel.quiet))
        await elsewhere.wait()
        seen.append(channel.quiet)
        await channel.readable()
        seen.append(channel.receive())

    pump.spawn(read())
    await settled()
    theirs.send(b"x")
    await settled()  # the kernel has told of it, once and for all
    assert seen == [None, True]
    elsewhere.set()
    await settled()
    assert seen == [None, True, False, b"x"]


async def test_without_news_the_kernel_is_not_asked_again(pump: Pump, pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = pair
    pieces: list[bytes | None] = []

    async def read() -> None:
        channel = Channel(ours)
        await received(channel)
        theirs.send(b"later")
        pieces.append(channel.receive())  # nobody has told of it yet
        pieces.append(await received(channel))

    pump.spawn(read())
    theirs.send(b"x")
    await settled()
    assert pieces == [None, b"later"]


@pytest.mark.parametrize("size", [READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 2 * READ_BYTES, 2 * READ_BYTES + 1])
@pytest.mark.parametrize("close", [False, True])
async def test_pieces_as_long_as_what_is_read_at_once_are_read_to_their_end(
    pump: Pump, pair: tuple[socket.socket, ...], size: int, close: bool
) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * READ_BYTES)
    pieces, read = reading(ours)
    pump.spawn(read)
    await settled()
    content = random.Random(size).randbytes(size)
    assert theirs.send(content) == size
    if close:
        theirs.close()
    await settled()
    assert b"".join(pieces) == content
    assert (pieces[-1] == b"") == close
    theirs.close()
    await settled()
    assert pieces[-1] == b""


@pytest.mark.parametrize("ending", ["close", "half", "told apart"])
@pytest.mark.parametrize("before", [b"", b"last words"])
async def test_end_is_received_after_what_came_before_it(
    pump: Pump, tcp_pair: tuple[socket.socket, ...], before: bytes, ending: str
) -> None:
    ours, theirs = tcp_pair
    pieces, read = reading(ours)
    pump.spawn(read)
    await settled()
    theirs.send(before)
    if ending == "told apart":
        await settled()
    if ending == "half":
        theirs.shutdown(socket.SHUT_WR)
    else:
        theirs.close()
    await settled()
    assert pieces == ([before, b""] if before else [b""])


async def test_end_that_comes_between_a_short_read_and_the_wait_is_not_lost(
    pump: Pump, tcp_pair: tuple[socket.socket, ...]
) -> None:
    ours, theirs = tcp_pair
    pieces: list[bytes] = []

    async def read() -> None:
        channel = Channel(ours)
        pieces.append(await received(channel))
        theirs.close()
        pieces.append(await received(channel))
        pieces.append(await received(channel))

    pump.spawn(read())
    await settled()
    theirs.send(b"x")
    await settled()
    assert pieces == [b"x", b"", b""]


async def test_end_stays_the_end_for_a_strand_that_comes_late(pump: Pump, tcp_pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = tcp_pair
    elsewhere = Wake()
    pieces: list[bytes] = []

    async def read() -> None:
        channel = Channel(ours)
        assert channel.receive() is None
        await elsewhere.wait()
        pieces.append(await received(channel))
        await breathe()
        pieces.append(await received(channel))

    pump.spawn(read())
    await settled()
    theirs.send(b"x")
    await settled()
    theirs.shutdown(socket.SHUT_WR)
    await settled()
    elsewhere.set()
    await settled()
    assert pieces == [b"x", b""]


@pytest.mark.parametrize("waits_for", ["readable", "writable", "readable_or_writable"])
async def test_reset_ends_each_wait(pump: Pump, tcp_pair: tuple[socket.socket, ...], waits_for: str) -> None:
    ours, theirs = tcp_pair
    seen: list[int | None] = []

    async def wait() -> None:
        channel = Channel(ours)
        assert channel.receive() is None
        if waits_for != "readable":
            fill(ours)
        await getattr(channel, waits_for)()
        with pytest.raises(OSError) as caught:
            await received(channel)
        seen.append(caught.value.errno)

    pump.spawn(wait())
    await settled()
    assert seen == []
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    await settled()
    assert seen == [errno.ECONNRESET]


async def test_strand_is_not_stepped_as_long_as_what_comes_is_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    taken: list[bytes | None] = []
    steps: list[bytes | None] = []

    async def wait() -> None:
        channel = Channel(ours)

        def take(_: float) -> bool:
            taken.append(channel.receive())
            return taken[-1] != b"for you"

        assert channel.receive() is None
        await channel.readable(take)
        steps.append(channel.receive())
        await channel.readable()
        steps.append(channel.receive())
        channel.close()

    async with open_pump() as pump:
        pump.spawn(wait())
        for piece in (b"1", b"2", b"for you"):
            await settled()
            assert steps == []
            theirs.send(piece)
        await settled()
        assert (taken, steps) == ([b"1", b"2", b"for you"], [None])
        theirs.send(b"3")
    assert (taken[3:], steps) == ([], [None, b"3"])


# ---- writing


async def test_room_that_is_there_is_told_of(pump: Pump, pair: tuple[socket.socket, ...]) -> None:
    ours, _ = pair
    rounds: list[int] = []

    async def write() -> None:
        channel = Channel(ours)
        for number in range(3):
            await channel.writable()
            rounds.append(number)

    pump.spawn(write())
    await settled()
    assert rounds == [0, 1, 2]


@pytest.mark.parametrize("waits_for", ["writable", "readable_or_writable"])
async def test_full_buffer_is_waited_for(pump: Pump, pair: tuple[socket.socket, ...], waits_for: str) -> None:
    ours, theirs = pair
    sent: list[int] = []

    async def write() -> None:
        channel = Channel(ours)
        assert channel.receive() is None
        for _ in range(3):
            sent.append(fill(ours))
            await getattr(channel, waits_for)()

    pump.spawn(write())
    for rounds in range(1, 4):
        await settled()
        assert len(sent) == rounds
        assert drain(theirs) == sent[-1] > 0


async def test_what_comes_while_a_strand_waits_for_room_is_remembered(
    pump: Pump, pair: tuple[socket.socket, ...]
) -> None:
    ours, theirs = pair
    seen: list[bytes | None] = []

    async def write() -> None:
        channel = Channel(ours)
        seen.append(channel.receive())
        fill(ours)
        await channel.writable()
        seen.append(channel.receive())

    pump.spawn(write())
    await settled()
    theirs.send(b"hurry")
    await settled()
    assert seen == [None]
    drain(theirs)
    await settled()
    assert seen == [None, b"hurry"]


async def test_either_of_reading_and_room_ends_the_wait_for_both(pump: Pump, pair: tuple[socket.socket, ...]) -> None:
    ours, theirs = pair
    seen: list[tuple[bytes | None, bool]] = []

    async def converse() -> None:
        channel = Channel(ours)
        assert channel.receive() is None
        fill(ours)
        for _ in range(3):
            await channel.readable_or_writable()
            seen.append((channel.receive(), fill(ours) > 0))

    pump.spawn(converse())
    await settled()
    theirs.send(b"a")
    await settled()
    assert seen == [(b"a", False)]
    drain(theirs)
    await settled()
    assert seen[1:] == [(None, True)]
    drain(theirs)
    theirs.send(b"b")
    await settled()
    assert seen[2:] == [(b"b", True)]


@pytest.mark.parametrize("answered", [True, False])
async def test_connecting_is_waited_for(pump: Pump, answered: bool) -> None:
    seen: list[int] = []

    async def connect() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            channel = Channel(sock)
            assert sock.connect_ex(address) == errno.EINPROGRESS
            await channel.writable()
            seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            channel.close()

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()
        if answered:
            server.listen()
        pump.spawn(connect())
        await settled()
    assert seen == [0 if answered else errno.ECONNREFUSED]
