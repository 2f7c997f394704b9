"""inbound.listener behind proxies: a PROXY header first and in time, then the session of whom it names."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.config import Limits
from postroika.inbound.accept import Door
from postroika.inbound.listener import Listener
from postroika.inbound.session import Services, Session
from postroika.outcome.events import Refusal
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client, Pipeline
from postroika.policy.relay import RelayPolicy
from postroika.smtp.server import ServerSettings
from tests.component.smtp_client import FakeSpool, received_event

BANNER = b"220 mx.test ESMTP Postroika\r\n"
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n"
COMMANDS = b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@ours.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
SENT_AWAY = b"421 4.7.0 mx.test too many connections from your address\r\n"
BEHIND_ONE, FROM_ALL = 0, 1  # listeners


def version_2(source: str, *, command: int = 0x21) -> bytes:
    client = ipaddress.ip_address(source)
    ours, family = ("198.51.100.1", 0x11) if client.version == 4 else ("2001:db8:ffff::1", 0x21)
    block = client.packed + ipaddress.ip_address(ours).packed + struct.pack("!HH", 1, 25)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, len(block)) + block


class House:
    """A Listener whose first [[listener]] stands behind a proxy at 127.0.0.1, which may also relay."""

    def __init__(self) -> None:
        self.supervisor, handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.spool = FakeSpool()
        self.events: list[Refusal] = []
        self.clients: list[trio.SocketStream] = []
        self.seen: list[Client] = []
        services = Services(
            door=Door(self.spool, received_event, hostname="mx.test", clock=lambda: 1_700_000_000.0),
            pipeline=Pipeline(30),
            relay=RelayPolicy(["127.0.0.0/8", "10.0.0.0/8"], ["ours.example"], "mx.test"),
            rejected=self.events.append,
            limits=Limits(),
        )

        def start_session(sock: socket.socket, client: Client) -> Session:
            self.seen.append(client)
            return Session(sock, client, ServerSettings(hostname="mx.test"), services)

        self.listener = Listener(
            handoff,
            start_session,
            self.events.append,
            hostname="mx.test",
            max_connections=4,
            max_connections_per_ip=2,
            proxies={BEHIND_ONE: Networks(["127.0.0.1/32"])},
            proxy_timeout_s=5.0,
        )

    def close(self) -> None:
        self.supervisor.close()
        self.server.close()
        for client in self.clients:
            client.socket.close()

    async def connect(self, header: bytes = b"", listener: int = BEHIND_ONE) -> trio.SocketStream:
        client = await trio.open_tcp_stream(*self.server.getsockname())
        self.clients.append(client)
        accepted, _ = self.server.accept()
        with accepted:
            socket.send_fds(self.supervisor, [bytes([listener])], [accepted.fileno()])
        if header:
            await client.send_all(header)
        return client


@pytest.fixture
async def house(nursery: trio.Nursery) -> AsyncIterator[House]:
    house = House()
    nursery.start_soon(house.listener.run, 1)
    yield house
    house.close()


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for metric in metrics.PROXIED.values():
        monkeypatch.setattr(metric, "value", 0)


def counted() -> dict[str, float]:
    return {result: metric.value for result, metric in metrics.PROXIED.items() if metric.value}


async def read(client: trio.SocketStream) -> bytes:
    """What has been said by the time that all wait for more."""
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(10):
        return await client.receive_some()


async def read_all(client: trio.SocketStream) -> bytes:
    """What comes up to the end, which may be a reset: what was sent need not have been read."""
    heard = b""
    with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
        async for piece in client:
            heard += piece
    return heard


@pytest.mark.parametrize("header", [HEADER, version_2("192.0.2.7")])
async def test_client_is_the_one_that_the_header_names(house: House, header: bytes) -> None:
    client = await house.connect(header + COMMANDS)
    replies = await read_all(client)
    assert replies.startswith(BANNER)
    assert replies.endswith(b"250 2.0.0 Ok: queued as 0000000000001\r\n221 2.0.0 mx.test closing the connection\r\n")
    (message,) = house.spool.kept
    assert message.body.startswith(b"Received: from client.example ([192.0.2.7])\r\n")
    assert message.facts is not None
    assert message.facts["client_ip"] == "192.0.2.7"
    assert house.seen[0].proxy_ip == "127.0.0.1"
    assert house.seen[0].local_ip == "198.51.100.1"
    assert counted() == {"client": 1}
    assert house.events == []


async def test_header_octet_by_octet_and_nothing_is_said_before_its_end(house: House) -> None:
    client = await house.connect()
    for octet in HEADER[:-1]:
        await client.send_all(bytes([octet]))
        await trio.testing.wait_all_tasks_blocked()
    assert (house.seen, house.listener.open_sessions) == ([], 0)
    await client.send_all(HEADER[-1:] + b"NOOP\r\n")
    assert await read(client) == BANNER + b"250 2.0.0 Ok\r\n"


async def test_rights_are_those_of_the_client(house: House) -> None:
    """The proxy may relay; strangers behind it may not, and neither may those whom it cannot name."""
    headers = {
        HEADER: (b"550 5.7.1 relay access denied\r\n", ("192.0.2.7", True, "127.0.0.1", False)),
        b"PROXY TCP4 10.1.2.3 198.51.100.1 1 25\r\n": (b"250 2.1.5 Ok\r\n", ("10.1.2.3", True, "127.0.0.1", True)),
        b"PROXY TCP6 ::ffff:10.1.2.3 ::1 1 25\r\n": (b"250 2.1.5 Ok\r\n", ("10.1.2.3", True, "127.0.0.1", True)),
        b"PROXY UNKNOWN\r\n": (b"550 5.7.1 relay access denied\r\n", ("127.0.0.1", False, "127.0.0.1", False)),
        version_2("192.0.2.9", command=0x20): (b"250 2.1.5 Ok\r\n", ("127.0.0.1", True, "", True)),
    }
    for header, (said, facts) in headers.items():
        client = await house.connect(
            header + b"HELO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@away.example>\r\nQUIT\r\n"
        )
        assert said in await read_all(client)
        seen = house.seen[-1]
        assert (seen.ip, seen.known, seen.proxy_ip, seen.trusted) == facts
    assert counted() == {"client": 3, "unknown": 1, "local": 1}


async def test_connections_are_counted_by_the_address_of_the_client(house: House) -> None:
    first, second = await house.connect(HEADER), await house.connect(version_2("192.0.2.7"))
    assert [await read(first), await read(second)] == [BANNER, BANNER]
    assert await read_all(await house.connect(HEADER)) == SENT_AWAY
    assert [(event.client_ip, event.stage) for event in house.events] == [("192.0.2.7", "connect")]
    others = [await house.connect(b"PROXY TCP4 192.0.2.8 198.51.100.1 1 25\r\n") for _ in range(2)]
    assert [await read(other) for other in others] == [BANNER, BANNER]
    await first.send_all(b"QUIT\r\n")
    await read_all(first)
    assert await read(await house.connect(HEADER)) == BANNER


async def test_ipv6_addresses_of_one_network_are_one_client(house: House) -> None:
    """Who has one address of a /64 has all of them."""
    first, second = [await house.connect(version_2(f"2001:db8::{number}")) for number in (1, 2)]
    assert [await read(first), await read(second)] == [BANNER, BANNER]
    assert await read_all(await house.connect(version_2("2001:db8:0:0:ffff::3"))) == SENT_AWAY
    assert [(event.client_ip, event.stage) for event in house.events] == [("2001:db8::ffff:0:0:3", "connect")]
    assert await read(await house.connect(version_2("2001:db8:0:1::1"))) == BANNER
    await first.send_all(b"QUIT\r\n")
    await read_all(first)
    assert await read(await house.connect(version_2("2001:db8::4"))) == BANNER


async def test_proxies_that_say_nothing_count_among_all(house: House) -> None:
    for _ in range(4):
        await house.connect()
    await trio.testing.wait_all_tasks_blocked()
    assert (
        await read_all(await house.connect()) == b"421 4.3.2 mx.test too many connections, please try again later\r\n"
    )


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"EHLO client.example\r\n", "malformed PROXY header: it does not begin with a PROXY header"),
        (b"\x16\x03\x01\x02\x00", "malformed PROXY header: it does not begin with a PROXY header"),
        (b"PROXY TCP4 192.0.2.7\r\n", "malformed PROXY header: not two addresses and two ports"),
        (version_2("192.0.2.7", command=0x2F), "malformed PROXY header: neither LOCAL nor PROXY of version 2"),
        (b"PROXY " + b"x" * 200_000, "malformed PROXY header: the line is too long"),
    ],
)
async def test_malformed_header_ends_the_connection_without_a_word(
    house: House, caplog: pytest.LogCaptureFixture, sent: bytes, why: str
) -> None:
    client = await house.connect()
    with contextlib.suppress(trio.BrokenResourceError):  # we do not read to the end
        await client.send_all(sent)
        assert await read_all(client) == b""
    await trio.testing.wait_all_tasks_blocked()
    assert [(event.client_ip, event.stage, event.reply.text) for event in house.events] == [("127.0.0.1", "proxy", why)]
    assert house.seen == []
    assert counted() == {"dropped": 1}
    assert caplog.messages == [f"dropped a connection of the proxy at 127.0.0.1: {why} (told once a minute)"]


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0.2.7 198.5", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"])
async def test_proxy_that_falls_silent_is_dropped(
    house: House, mock_clock: trio.testing.MockClock, sent: bytes
) -> None:
    client = await house.connect(sent)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(4.9)
    await trio.testing.wait_all_tasks_blocked()
    assert counted() == {}
    for octet in sent[-1:]:  # the deadline is that of the whole header
        await client.send_all(bytes([octet]) if sent[0] == 80 else b"\0")
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(1)
    assert await read_all(client) == b""
    assert [(event.stage, event.reply.text) for event in house.events] == [("proxy", "no whole PROXY header in time")]
    assert counted() == {"dropped": 1}


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4 192.0.2.7 198.5"])
async def test_who_only_looks_whether_somebody_is_there_leaves_no_record(house: House, sent: bytes) -> None:
    client = await house.connect(sent)
    await client.send_eof()
    assert await read_all(client) == b""
    assert (house.events, counted()) == ([], {})


async def test_header_and_end_at_once_are_a_session(house: House) -> None:
    client = await house.connect(HEADER + b"NOOP\r\n")
    await client.send_eof()
    assert await read_all(client) == BANNER + b"250 2.0.0 Ok\r\n"


async def test_flood_of_bad_headers_is_not_a_flood_of_records(
    house: House, caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    for _ in range(15):
        assert await read_all(await house.connect(b"EHLO c\r\n")) == b""
    assert (len(house.events), len(caplog.messages), counted()) == (10, 1, {"dropped": 15})
    mock_clock.jump(60)
    await read_all(await house.connect(b"EHLO c\r\n"))
    assert (len(house.events), len(caplog.messages)) == (11, 2)


@pytest.mark.parametrize("header", [HEADER, version_2("192.0.2.7")])
async def test_header_of_others_is_a_bad_command(house: House, header: bytes) -> None:
    client = await house.connect(header + b"\r\nEHLO c\r\n", FROM_ALL)
    greeting, *said = (await read(client)).decode().split("\r\n")
    assert greeting.encode() + b"\r\n" == BANNER
    assert {line[:4] for line in said[: said.index("250-mx.test")]} == {"500 "}
    assert (house.seen[0].ip, house.seen[0].proxy_ip) == ("127.0.0.1", "")
    assert counted() == {}


async def test_second_header_is_a_bad_command(house: House) -> None:
    client = await house.connect(HEADER + HEADER.replace(b"192.0.2.7", b"10.0.0.1"))
    assert await read(client) == BANNER + b"500 5.5.1 command not recognised\r\n"
    assert house.seen[0].ip == "192.0.2.7"


async def test_shutdown_does_not_wait_for_headers() -> None:
    house = House()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.listener.run, 1000)
            silent, heard = await house.connect(HEADER[:9]), await house.connect(HEADER)
            assert await read(heard) == BANNER
            house.listener.stop()
            assert await read_all(silent) == b""
            assert await read_all(heard) == b"421 4.3.2 the service is shutting down, please try again\r\n"
        assert house.listener.open_sessions == 0
    finally:
        house.close()
