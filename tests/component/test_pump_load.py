"""pump: many strands and much traffic, in orders that chance chooses."""

from __future__ import annotations

import hashlib
import os
import random
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from postroika.pump import (
    READ_BYTES,
    Channel,
    Interrupted,
    Late,
    Pump,
    Strand,
    Wake,
    breathe,
    current,
    in_task,
    now,
    open_pump,
)
from tests.component.strands import moved, nonblocking, received, send_all, settled, wait_for


@pytest.mark.parametrize("seed", range(4))
async def test_no_byte_and_no_wake_up_is_lost_under_random_interleaving(seed: int) -> None:
    """Pairs of strands send each other what is random in small buffers, in chunks of random size, with rests."""
    chance = random.Random(seed)
    digests: dict[str, list[str]] = {}
    kinds: list[Callable[[], tuple[socket.socket, socket.socket]]] = [socket.socketpair, _tcp]

    async def send(name: str, sock: socket.socket, channel: Channel, done: Wake) -> None:
        digest = hashlib.sha256()
        for _ in range(60):
            chunk = chance.randbytes(chance.choice((1, 100, 5000, 20_000, READ_BYTES, 3 * READ_BYTES)))
            digest.update(chunk)
            await send_all(sock, channel, chunk)
            if chance.random() < 0.2:
                await breathe()
        sock.shutdown(socket.SHUT_WR)
        digests.setdefault(name, []).append(digest.hexdigest())
        done.set()

    async def receive(name: str, sock: socket.socket) -> None:
        channel = Channel(sock)
        digest = hashlib.sha256()
        while piece := await received(channel):
            digest.update(piece)
            if chance.random() < 0.2:
                await breathe()
            if chance.random() < 0.05:
                await in_task(trio.lowlevel.checkpoint)
        digests.setdefault(name, []).append(digest.hexdigest())
        channel.close()
        sock.close()

    async def start(name: str, sock: socket.socket) -> None:
        done = Wake()
        channel = Channel(sock)
        pump.spawn(send(name, sock, channel, done))
        await done.wait()
        channel.close()
        sock.close()

    with trio.fail_after(60):
        async with open_pump() as pump:
            for number in range(8):
                ours, theirs = nonblocking(*kinds[number % 2]())
                for sock in (ours, theirs):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << chance.randrange(11, 18))
                pump.spawn(start(f"{number}", ours))
                pump.spawn(receive(f"{number}", theirs))
                await trio.lowlevel.checkpoint()
    assert len(digests) == 8
    assert all(sent == got for sent, got in digests.values())


def _tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        return server.accept()[0], theirs


async def test_echo_over_both_directions_comes_back_whole() -> None:
    """Each side writes and reads in one strand, as `readable_or_writable` is for."""
    ours, theirs = nonblocking(*socket.socketpair())
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    content = os.urandom(4_000_000)
    echoed = bytearray()

    async def ask() -> None:
        channel = Channel(ours)
        view = memoryview(content)
        while len(echoed) < len(content):
            piece = channel.receive()
            if piece:
                echoed.extend(piece)
                continue
            try:
                view = view[ours.send(view[:10_007]) :]
            except BlockingIOError:
                await channel.readable_or_writable()
            if not view and channel.quiet:
                await channel.readable()
        ours.shutdown(socket.SHUT_WR)

    async def echo() -> None:
        channel = Channel(theirs)
        while piece := await received(channel):
            await send_all(theirs, channel, piece)

    with trio.fail_after(60):
        async with open_pump() as pump:
            pump.spawn(ask())
            pump.spawn(echo())
    assert bytes(echoed) == content
    ours.close()
    theirs.close()


async def test_many_connections_are_served_at_once() -> None:
    pairs = [nonblocking(*socket.socketpair()) for _ in range(200)]
    answers: dict[int, bytes] = {}

    async def serve(sock: socket.socket) -> None:
        channel = Channel(sock)
        while piece := await received(channel):
            await send_all(sock, channel, piece.upper())
        channel.close()

    async def ask(number: int, sock: socket.socket) -> None:
        channel = Channel(sock)
        for turn in range(5):
            sock.send(b"%d-%d," % (turn, number))
            answers[number] = answers.get(number, b"") + await received(channel)
        sock.shutdown(socket.SHUT_WR)
        channel.close()

    strands: list[Strand] = []
    with trio.fail_after(60):
        async with open_pump() as pump:
            for number, (ours, theirs) in enumerate(pairs):
                strands.append(pump.spawn(serve(ours)))
                strands.append(pump.spawn(ask(number, theirs)))
            assert len(pump) == 400
    assert answers == {number: b"".join(b"%d-%d," % (turn, number) for turn in range(5)) for number in range(200)}
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.parametrize("seed", range(20))
async def test_no_grant_is_lost_or_doubled_whoever_is_interrupted(
    mock_clock: trio.testing.MockClock, seed: int
) -> None:
    """Strands hand tokens to each other while others interrupt them and let them be late: the tokens stay as many."""
    chance = random.Random(seed)
    free = deque(range(5))
    waiters: deque[Wake] = deque()
    held: set[int] = set()
    strands: list[Strand] = []
    taken = 0

    async def take() -> int:
        if free:
            return free.popleft()
        granted = Wake()
        waiters.append(granted)
        try:
            token: int = await granted.wait()
        except (Late, Interrupted):
            waiters.remove(granted)
            raise
        return token

    def give(token: int) -> None:
        held.remove(token)
        if waiters:
            waiters.popleft().set(token)
        else:
            free.append(token)

    async def work() -> None:
        nonlocal taken
        for _ in range(30):
            if chance.random() < 0.3:
                current().deadline = now() + chance.random()
            with suppress(Late, Interrupted):
                token = await take()
                assert token not in held
                held.add(token)
                taken += 1
                try:
                    for _ in range(chance.randrange(3)):
                        await chance.choice((breathe, Wake().wait))()
                finally:
                    give(token)

    with trio.fail_after(1000):
        async with open_pump() as pump:
            strands.extend(pump.spawn(work()) for _ in range(30))
            while pump:
                for strand in chance.sample(strands, 3):
                    strand.interrupt()
                mock_clock.jump(chance.choice((0, 0.1, 0.3)))
                await trio.lowlevel.checkpoint()
    assert (sorted(free), held, list(waiters)) == ([0, 1, 2, 3, 4], set(), [])
    assert taken > 100


async def test_strand_that_was_told_of_bytes_wakes_more_than_are_stepped_in_a_turn(pump: Pump) -> None:
    ours, theirs = nonblocking(*socket.socketpair())
    wakes, seen = [Wake() for _ in range(1000)], list[object]()

    async def read() -> None:
        channel = Channel(ours)
        await received(channel)
        for wake in wakes:
            wake.set(1)
        channel.close()

    for wake in wakes:
        pump.spawn(wait_for(wake, seen))
    pump.spawn(read())
    await settled()
    theirs.send(b"x")
    await settled()
    assert seen == [1] * 1000
    ours.close()
    theirs.close()


async def test_thousands_of_strands(pump: Pump, mock_clock: trio.testing.MockClock) -> None:
    wakes, seen = [Wake() for _ in range(20_000)], list[object]()
    strands = [pump.spawn(wait_for(wake, seen)) for wake in wakes]
    await settled()
    assert len(pump) == 20_000
    for wake in wakes[:10_000]:
        wake.set(1)
    for strand in strands[10_000:15_000]:
        strand.deadline = 1
    await moved(mock_clock, 2)
    for strand in strands[15_000:]:
        strand.interrupt()
    await settled()
    assert (seen, len(pump)) == ([1] * 10_000 + [Late] * 5000 + [Interrupted] * 5000, 0)
