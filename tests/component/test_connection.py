"""One connection, its socket and the pump, with a session that is a list of bytes."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import Any, cast

import pytest
import trio.testing

from postroika.config import Delivery
from postroika.mail.outcome import Peer
from postroika.outbound.connection import Connection
from postroika.outbound.failure import TimedOut
from postroika.pump import Channel, Pump, Wake, current, in_task
from postroika.smtp.client import Client
from postroika.smtp.client_transaction import Step
from tests.component.outbound_fakes import in_strand
from tests.component.strands import SWEEP_S, moved, nonblocking, settled


class FakeClient:
    """Says what is in `out`; keeps what it receives."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.received: list[bytes] = []
        self.waiting = Step.CHUNK
        self.replies = 0
        self.wants_body = False

    @property
    def ended(self) -> bool:
        return b"" in self.received

    def take_output(self) -> list[bytes]:
        out, self.out = self.out, []
        return out

    def receive(self, piece: bytes) -> None:
        self.received.append(piece)


@pytest.fixture
def ours_and_theirs() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = nonblocking(*socket.socketpair())
    with one, other:
        yield one, other


Use = Callable[[Connection, FakeClient], Awaitable[None]]


async def use(pump: Pump, sock: socket.socket, function: Use, **options: float) -> None:
    """Call it with a connection, in a strand."""

    async def call() -> None:
        client = FakeClient()
        config = Delivery(**options)  # type: ignore[arg-type]
        connection = Connection(sock, Channel(sock), cast(Client, client), Peer("x", "192.0.2.1", 25), "", config)
        try:
            await function(connection, client)
        finally:
            connection.close()

    await in_strand(pump, call)


def drain(sock: socket.socket) -> int:
    """Read all there is; how much that was."""
    count = 0
    while True:
        try:
            count += len(sock.recv(1 << 20))
        except BlockingIOError:
            return count


BIG = bytes(4_000_000)


async def test_it_reads_while_it_waits_to_write(
    pump: Pump, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs

    async def exchange(connection: Connection, client: FakeClient) -> None:
        client.out = [BIG]
        theirs.send(b"250 one\r\n")
        with connection.attended():
            await connection.exchange()
            assert client.received == [b"250 one\r\n"]
            left = connection.unsent_bytes
            assert 0 < left < len(BIG)
            theirs.send(b"250 two\r\n")
            await connection.exchange()
            assert client.received == [b"250 one\r\n", b"250 two\r\n"]
            assert connection.unsent_bytes == left

    await use(pump, ours, exchange)


async def test_stall_after_all_was_sent_is_told_as_such_though_sending_was_blocked_before(
    pump: Pump, mock_clock: trio.testing.MockClock, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    """What was said while it was blocked interrupts the sending; nothing is blocked any more when it goes on."""
    ours, theirs = ours_and_theirs
    waiting = Wake()
    told: list[tuple[Step, bool]] = []

    async def exchange(connection: Connection, client: FakeClient) -> None:
        client.out = [BIG]
        theirs.send(b"250 one\r\n")
        try:
            with connection.attended():
                await connection.exchange()
                while connection.sending:
                    client.replies += 1
                    theirs.send(b"250 more\r\n")
                    drain(theirs)
                    await connection.exchange()
                waiting.set()
                await connection.exchange()
        except TimedOut as error:
            told.append((error.step, error.sending))
        assert current().deadline == inf

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: use(pump, ours, exchange, final_dot_timeout_s=20.0, body_timeout_s=10.0))
        await waiting.wait()
        await settled()
        await moved(mock_clock, 15)
        assert told == []
        await moved(mock_clock, 5 + SWEEP_S)
        assert told == [(Step.CHUNK, False)]


async def test_peer_that_takes_nothing_more_is_told_as_such(
    pump: Pump, mock_clock: trio.testing.MockClock, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    told: list[tuple[Step, bool]] = []

    async def exchange(connection: Connection, client: FakeClient) -> None:
        client.out = [BIG]
        try:
            with connection.attended():
                await connection.exchange()
        except TimedOut as error:
            told.append((error.step, error.sending))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: use(pump, ours, exchange, body_timeout_s=10.0))
        await settled()
        await moved(mock_clock, 9)
        assert drain(theirs) > 0  # which lets it send, and moves the deadline
        await settled()
        await moved(mock_clock, 9)
        assert told == []
        await moved(mock_clock, 1 + SWEEP_S)
        assert told == [(Step.CHUNK, True)]


async def test_single_octets_do_not_move_the_deadline(
    pump: Pump, mock_clock: trio.testing.MockClock, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    told: list[Step] = []

    async def exchange(connection: Connection, client: FakeClient) -> None:
        try:
            with connection.attended():
                while True:
                    await connection.exchange()
        except TimedOut as error:
            told.append(error.step)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: use(pump, ours, exchange, final_dot_timeout_s=10.0))
        await settled()
        for _ in range(9):
            await moved(mock_clock, 1)
            theirs.send(b"2")
            await settled()
        assert told == []
        await moved(mock_clock, 1 + SWEEP_S)
        assert told == [Step.CHUNK]


async def test_last_words_of_a_peer_that_is_gone_are_heard_though_the_pump_has_not_told_of_them(
    pump: Pump, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    heard: list[Any] = []

    async def exchange(connection: Connection, client: FakeClient) -> None:
        theirs.send(b"220 hello\r\n")
        with connection.attended():
            await connection.exchange()
            theirs.send(b"421 enough\r\n")
            theirs.close()
            client.out = [b"NOOP\r\n"]
            await connection.exchange()
        heard.extend(client.received)

    await use(pump, ours, exchange)
    assert heard[:3] == [b"220 hello\r\n", b"421 enough\r\n", b""]


async def test_at_rest_it_looks_closed_once_the_peer_has_gone_or_spoken(
    pump: Pump, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    looks: list[bool] = []

    async def rest(connection: Connection, client: FakeClient) -> None:
        theirs.send(b"220 hello\r\n")
        with connection.attended():
            await connection.exchange()
            connection.rest()
            await in_task(settled)
            looks.append(connection.looks_closed())
            theirs.send(b"421 enough\r\n")
            await in_task(settled)
            looks.append(connection.looks_closed())
            assert client.received == [b"220 hello\r\n"]
            await connection.exchange()
            looks.append(connection.looks_closed())
            theirs.close()
            await in_task(settled)
            looks.append(connection.looks_closed())

    await use(pump, ours, rest)
    assert looks == [False, True, False, True]
