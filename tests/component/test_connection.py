"""One connection, its socket and the pump, with a session that has little or very much to say."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from math import inf

import pytest
import trio.testing

from postroika.config import Delivery
from postroika.mail.outcome import Peer, Stage
from postroika.mail.reply import Reply
from postroika.outbound.connection import Connection
from postroika.outbound.failure import TimedOut
from postroika.pump import Channel, Pump, Wake, current, in_task
from postroika.smtp.client import Client
from postroika.smtp.client_base import ClientSettings
from postroika.smtp.client_transaction import Event, Ready, Refused, Step
from tests.component.outbound_fakes import in_strand
from tests.component.strands import SWEEP_S, moved, nonblocking, settled


@pytest.fixture
def ours_and_theirs() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = nonblocking(*socket.socketpair())
    with one, other:
        yield one, other


Use = Callable[[Connection], Awaitable[None]]
BIG = 4_000_000
GREETING = b"220 x.test hello\r\n"


async def use(pump: Pump, sock: socket.socket, function: Use, *, ehlo: int = 2, **options: float) -> None:
    """Call it with a connection, in a strand.

    Args:
        ehlo: how long the name is that the client calls itself.
        options: of [delivery].
    """

    async def call() -> None:
        client = Client(ClientSettings(ehlo_name="u" * ehlo))
        config = Delivery(**options)  # type: ignore[arg-type]
        connection = Connection(sock, Channel(sock), client, Peer("x", "192.0.2.1", 25), "", config)
        try:
            await function(connection)
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


async def greeted(connection: Connection, theirs: socket.socket) -> None:
    """The greeting was heard; EHLO is to be said next."""
    theirs.send(GREETING)
    await connection.exchange()
    assert connection.next_event() is None
    assert connection.client.waiting is Step.EHLO


async def test_it_reads_while_it_waits_to_write(
    pump: Pump, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs

    async def exchange(connection: Connection) -> None:
        with connection.attended():
            await greeted(connection, theirs)
            theirs.send(b"250-x.test\r\n")
            await connection.exchange()
            left = connection.unsent_bytes
            assert 0 < left < BIG
            theirs.send(b"250 PIPELINING\r\n")
            await connection.exchange()
            assert connection.unsent_bytes == left
            event = connection.next_event()
            assert isinstance(event, Ready)
            assert event.capabilities.pipelining

    await use(pump, ours, exchange, ehlo=BIG)


async def test_stall_after_all_was_sent_is_told_as_such_though_sending_was_blocked_before(
    pump: Pump, mock_clock: trio.testing.MockClock, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    """What was said while it was blocked interrupts the sending; nothing is blocked any more when it goes on."""
    ours, theirs = ours_and_theirs
    waiting = Wake()
    told: list[tuple[Step, bool]] = []

    async def exchange(connection: Connection) -> None:
        try:
            with connection.attended():
                await greeted(connection, theirs)
                theirs.send(b"250-x.test\r\n")
                await connection.exchange()
                while connection.sending:
                    theirs.send(b"250-MORE\r\n")
                    drain(theirs)
                    await connection.exchange()
                waiting.set()
                await connection.exchange()
        except TimedOut as error:
            told.append((error.step, error.sending))
        assert current().deadline == inf

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: use(pump, ours, exchange, ehlo=BIG, ehlo_timeout_s=20.0, body_timeout_s=10.0))
        await waiting.wait()
        await settled()
        await moved(mock_clock, 15)
        assert told == []
        await moved(mock_clock, 5 + SWEEP_S)
        assert told == [(Step.EHLO, False)]


async def test_peer_that_takes_nothing_more_is_told_as_such(
    pump: Pump, mock_clock: trio.testing.MockClock, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    told: list[tuple[Step, bool]] = []

    async def exchange(connection: Connection) -> None:
        try:
            with connection.attended():
                await greeted(connection, theirs)
                await connection.exchange()
        except TimedOut as error:
            told.append((error.step, error.sending))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: use(pump, ours, exchange, ehlo=BIG, body_timeout_s=10.0))
        await settled()
        await moved(mock_clock, 9)
        assert drain(theirs) > 0  # which lets it send, and moves the deadline
        await settled()
        await moved(mock_clock, 9)
        assert told == []
        await moved(mock_clock, 1 + SWEEP_S)
        assert told == [(Step.EHLO, True)]


async def test_single_octets_do_not_move_the_deadline(
    pump: Pump, mock_clock: trio.testing.MockClock, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    told: list[Step] = []

    async def exchange(connection: Connection) -> None:
        try:
            with connection.attended():
                while connection.next_event() is None:
                    await connection.exchange()
        except TimedOut as error:
            told.append(error.step)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: use(pump, ours, exchange, greeting_timeout_s=10.0))
        await settled()
        for octet in GREETING[:9]:
            await moved(mock_clock, 1)
            theirs.send(bytes([octet]))
            await settled()
        assert told == []
        await moved(mock_clock, 1 + SWEEP_S)
        assert told == [Step.GREETING]


async def test_last_words_of_a_peer_that_is_gone_are_heard_though_the_pump_has_not_told_of_them(
    pump: Pump, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    heard: list[Event | None] = []

    async def exchange(connection: Connection) -> None:
        with connection.attended():
            await greeted(connection, theirs)
            theirs.send(b"421 4.3.2 enough\r\n")
            theirs.close()
            await connection.exchange()
        assert connection.client.ended
        heard.append(connection.next_event())

    await use(pump, ours, exchange)
    assert heard == [Refused(Stage.EHLO, Reply(421, "4.3.2", ("enough",)))]


async def test_at_rest_it_looks_closed_once_the_peer_has_gone_or_spoken(
    pump: Pump, ours_and_theirs: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ours_and_theirs
    looks: list[bool] = []

    async def rest(connection: Connection) -> None:
        theirs.send(GREETING)
        with connection.attended():
            await connection.exchange()
            connection.rest()
            await in_task(settled)
            looks.append(connection.looks_closed())
            theirs.send(b"421 enough\r\n")
            await in_task(settled)
            looks.append(connection.looks_closed())
            assert connection.next_event() is None
            assert connection.client.waiting is Step.EHLO
            await connection.exchange()
            looks.append(connection.looks_closed())
            drain(theirs)  # else it would be a reset
            theirs.close()
            await in_task(settled)
            looks.append(connection.looks_closed())

    await use(pump, ours, rest)
    assert looks == [False, True, False, True]
