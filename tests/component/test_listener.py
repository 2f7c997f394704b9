"""inbound.listener: connections handed over by descriptor, limits, and a shutdown in order."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from postroika.config import Limits
from postroika.inbound.accept import Door
from postroika.inbound.listener import Listener
from postroika.inbound.session import Services, Session
from postroika.mail.reply import Reply
from postroika.outcome.events import Refusal
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client, Pipeline
from postroika.policy.relay import RelayPolicy
from postroika.smtp.server import ServerSettings
from postroika.smtp.server_events import Mail
from tests.component.smtp_client import FakeSpool, received_event

BANNER = b"220 mx.test ESMTP Postroika\r\n"
TOO_MANY = b"421 4.7.0 mx.test too many connections from your address\r\n"
SHUTTING_DOWN = b"421 4.3.2 the service is shutting down, please try again\r\n"


class House:
    """A Listener, and the supervisor's end of its hand-off."""

    def __init__(
        self,
        pipeline: Pipeline | None = None,
        *,
        max_connections: int = 100,
        max_connections_per_ip: int = 100,
        xclient_from: dict[int, Networks] | None = None,
    ) -> None:
        self.supervisor, handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.spool = FakeSpool()
        self.events: list[Refusal] = []
        self.clients: list[trio.SocketStream] = []
        relay = RelayPolicy(["127.0.0.0/8"], [], "mx.test")
        services = Services(
            door=Door(self.spool, received_event, hostname="mx.test"),
            pipeline=pipeline or Pipeline(30),
            relay=relay,
            rejected=self.events.append,
            limits=Limits(),
            xclient_from=xclient_from,
        )
        settings = [
            ServerSettings(hostname="mx.test"),
            ServerSettings(hostname="mx.test", bare_newlines="normalise"),
        ]

        def start_session(sock: socket.socket, client: Client) -> Session:
            return Session(sock, client, settings[client.listener], services)

        self.listener = Listener(
            handoff,
            start_session,
            self.events.append,
            hostname="mx.test",
            max_connections=max_connections,
            max_connections_per_ip=max_connections_per_ip,
            tls_at_once=[2],
        )

    def close(self) -> None:
        self.supervisor.close()
        self.server.close()
        for client in self.clients:
            client.socket.close()

    async def connect(self, listener: int = 0) -> trio.SocketStream:
        client = await trio.open_tcp_stream(*self.server.getsockname())
        self.clients.append(client)
        accepted, _ = self.server.accept()
        with accepted:
            socket.send_fds(self.supervisor, [bytes([listener])], [accepted.fileno()])
        return client


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House(max_connections=3, max_connections_per_ip=2)
    yield house
    house.close()


async def read(client: trio.SocketStream) -> bytes:
    with trio.fail_after(10):
        return await client.receive_some()


async def read_all(client: trio.SocketStream) -> bytes:
    with trio.fail_after(10):
        return b"".join([piece async for piece in client])


async def test_handed_over_connection_is_served(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.listener.run, 1)
    client = await house.connect()
    assert await read(client) == BANNER
    await client.send_all(b"EHLO c\r\n")
    assert (await read(client)).startswith(b"250-mx.test\r\n")
    assert house.listener.open_sessions == 1
    await client.send_all(b"QUIT\r\n")
    assert await read_all(client) == b"221 2.0.0 mx.test closing the connection\r\n"


async def test_each_listener_has_its_own_settings(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.listener.run, 1)
    strict, lenient = await house.connect(0), await house.connect(1)
    for client in (strict, lenient):
        assert await read(client) == BANNER
        await client.send_all(b"NOOP\n")
    assert (await read(strict)).startswith(b"500 5.5.2 bare LF")
    assert await read(lenient) == b"250 2.0.0 Ok\r\n"


async def test_too_many_of_one_address_are_sent_away_and_room_comes_back(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.listener.run, 1)
    first, second = await house.connect(), await house.connect()
    assert [await read(first), await read(second)] == [BANNER, BANNER]
    third = await house.connect()
    assert await read_all(third) == TOO_MANY
    assert [(event.stage, event.client_ip, event.reply.code) for event in house.events] == [
        ("connect", "127.0.0.1", 421)
    ]
    await first.send_all(b"QUIT\r\n")
    await read_all(first)
    assert await read(await house.connect()) == BANNER


async def become(client: trio.SocketStream, ip: str) -> bool:
    """Tell with XCLIENT that the client is there. It leaves if there are too many; whether it may stay."""
    await client.send_all(b"XCLIENT ADDR=" + (b"IPV6:" if ":" in ip else b"") + ip.encode() + b"\r\n")
    said = await read(client)
    if said == BANNER:
        return True
    assert said == TOO_MANY
    client.socket.close()
    await trio.testing.wait_all_tasks_blocked()
    return False


@pytest.mark.parametrize(
    ("new_ip", "moves", "room"), [("2001:db8::2", True, 0), ("192.0.2.1", True, 1), ("2001:db8:0:1::1", False, 1)]
)
async def test_session_that_moves_is_counted_where_it_is(
    nursery: trio.Nursery, new_ip: str, moves: bool, room: int
) -> None:
    """Within a network that has all it may have, too: there it is one of them already."""
    house = House(max_connections_per_ip=2, xclient_from={0: Networks(["127.0.0.0/8"])})

    async def come(ip: str) -> bool:
        client = await house.connect()
        assert await read(client) == BANNER
        return await become(client, ip)

    try:
        nursery.start_soon(house.listener.run, 1)
        for ip in ("2001:db8::1", "2001:db8::1", "2001:db8:0:1::8", "2001:db8:0:1::9"):
            assert await come(ip)
        assert await become(house.clients[0], new_ip) == moves
        assert [await come(f"2001:db8::{n}") for n in (3, 4)] == [room > 0, False]
        assert not await come("2001:db8:0:1::2")
        assert house.listener.open_sessions == 3 + moves + room
    finally:
        house.close()


async def test_nothing_is_said_in_the_clear_where_tls_comes_first(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.listener.run, 1)
    for _ in range(2):
        assert await read(await house.connect()) == BANNER
    assert await read_all(await house.connect(2)) == b""
    assert [(event.stage, event.reply.code) for event in house.events] == [("connect", 421)]


async def test_too_many_in_all_are_sent_away(nursery: trio.Nursery) -> None:
    house = House(max_connections=1)
    try:
        nursery.start_soon(house.listener.run, 1)
        assert await read(await house.connect()) == BANNER
        assert await read_all(await house.connect()) == (
            b"421 4.3.2 mx.test too many connections, please try again later\r\n"
        )
    finally:
        house.close()


async def test_flood_of_refused_connections_is_not_a_flood_of_events(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    house = House(max_connections=1)
    try:
        nursery.start_soon(house.listener.run, 1)
        await read(await house.connect())
        for _ in range(30):
            await (await house.connect()).receive_some()
        assert len(house.events) == 10
        mock_clock.jump(1)
        await (await house.connect()).receive_some()
        assert len(house.events) == 11
    finally:
        house.close()


async def test_shutdown_takes_no_more_tells_the_idle_and_waits_for_the_busy(house: House) -> None:
    idle, busy = await house.connect(), await house.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.listener.run, 60)
        assert [await read(idle), await read(busy)] == [BANNER, BANNER]
        await busy.send_all(b"HELO c\r\nMAIL FROM:<a@b.example>\r\n")
        assert await read(busy) == b"250 mx.test\r\n250 2.1.0 Ok\r\n"
        house.listener.stop()
        assert await read_all(idle) == SHUTTING_DOWN
        with pytest.raises(BrokenPipeError):
            await house.connect()
        await busy.send_all(b"RCPT TO:<c@d.example>\r\nDATA\r\n")
        assert (await read(busy)).endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")
        await busy.send_all(b".\r\n")
        assert await read_all(busy) == b"250 2.0.0 Ok: queued as 0000000000001\r\n" + SHUTTING_DOWN
    assert house.listener.open_sessions == 0


async def test_shutdown_does_not_wait_longer_than_its_grace(house: House, mock_clock: trio.testing.MockClock) -> None:
    busy = await house.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.listener.run, 60)
        await read(busy)
        await busy.send_all(b"HELO c\r\nMAIL FROM:<a@b.example>\r\n")
        await read(busy)
        house.listener.stop()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(61)
        assert await read_all(busy) == SHUTTING_DOWN


async def test_listener_ends_when_the_supervisor_is_gone(house: House) -> None:
    client = await house.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.listener.run, 60)
        await read(client)
        house.supervisor.close()
        assert await read_all(client) == SHUTTING_DOWN


async def test_connection_that_broke_on_the_way_is_passed_over(house: House, nursery: trio.Nursery) -> None:
    gone = await house.connect()
    gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.socket.close()
    nursery.start_soon(house.listener.run, 1)
    assert await read(await house.connect()) == BANNER


async def test_client_that_resets_the_connection_ends_only_its_session(house: House, nursery: trio.Nursery) -> None:
    nursery.start_soon(house.listener.run, 1)
    rude, polite = await house.connect(), await house.connect()
    await read(rude)
    await read(polite)
    rude.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await rude.send_all(b"EHLO c\r\nMAIL FROM:<a@b.example>\r\n")
    rude.socket.close()
    await polite.send_all(b"NOOP\r\n")
    assert await read(polite) == b"250 2.0.0 Ok\r\n"


async def test_client_that_is_sent_away_amid_a_large_upload_still_reads_why(
    house: House, nursery: trio.Nursery
) -> None:
    nursery.start_soon(house.listener.run, 1)
    client = await house.connect()
    await client.send_all(b"POST / HTTP/1.1\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000)
    assert await read_all(client) == BANNER + (b"421 4.7.0 mx.test closing the connection: that is not SMTP\r\n")


async def test_bug_in_a_session_ends_the_listener() -> None:
    def hook(client: Client, event: Mail) -> Reply | None:
        raise ZeroDivisionError

    broken = House(Pipeline(30, mail=[hook]))
    try:
        client = await broken.connect()
        await client.send_all(b"HELO c\r\nMAIL FROM:<a@b.example>\r\n")
        with pytest.RaisesGroup(ZeroDivisionError):
            await broken.listener.run(1)
        assert broken.listener.open_sessions == 0
        assert await read_all(client) == BANNER  # the connection is closed, without an answer to MAIL
    finally:
        broken.close()
