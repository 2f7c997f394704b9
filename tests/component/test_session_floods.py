"""inbound.session: clients that send without end, and those that read slowly or not at all."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from postroika.mail.reply import Reply
from postroika.policy.pipeline import Client, Pipeline
from postroika.smtp.server_events import Helo, Rcpt
from tests.component.session_words import BYE
from tests.component.smtp_client import GREETED, Inbound


async def _read_packets(inbound: Inbound, size: int) -> list[bytes]:
    """So many octets, or those up to the end, as the session has sent them."""
    packets: list[bytes] = []
    with trio.fail_after(10):
        while sum(map(len, packets)) < size and (packet := await inbound.socket.recv(1_000_000)):
            packets.append(packet)
    return packets


FLOODS = {
    "EHLO": (b"EHLO x\r\n", GREETED),
    "all that is answered without an event": (
        b"NOOP\r\nHELP\r\nVRFY x\r\nRSET\r\n",
        (
            "250 2.0.0 Ok\n214 2.0.0 RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\n"
            "252 2.5.0 cannot verify the address, but will take mail for it and try to deliver\n250 2.0.0 Ok\n"
        ),
    ),
    "some with and some without": (
        b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nVRFY x\r\nRSET\r\n",
        GREETED + "250 2.1.0 Ok\n250 2.1.5 Ok\n"
        "252 2.5.0 cannot verify the address, but will take mail for it and try to deliver\n250 2.0.0 Ok\n",
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_replies_to_a_flood_go_out_as_they_are_made(nursery: trio.Nursery, kind: str) -> None:
    """However many commands one read brings: none of them waits behind a heap of replies, and none is lost."""
    commands, replies = FLOODS[kind]
    rounds = 60_000 // len(commands)
    inbound = Inbound(nursery, kind=socket.SOCK_SEQPACKET)
    await inbound.greet()
    await inbound.send(commands * rounds + b"QUIT\r\n")
    expected = (replies * rounds + BYE).replace("\n", "\r\n").encode()
    packets = await _read_packets(inbound, len(expected))
    assert b"".join(packets) == expected
    assert max(map(len, packets)) < 16_384 + 32 * 256
    assert await inbound.read() == ""


async def test_flood_whose_end_is_the_end_of_the_connection(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(b"EHLO x\r\n" * 1000)
    inbound.socket.shutdown(socket.SHUT_WR)
    packets = await _read_packets(inbound, (len(GREETED) + GREETED.count("\n")) * 1000)
    assert b"".join(packets) == (GREETED * 1000).replace("\n", "\r\n").encode()
    assert await inbound.read() == ""


async def test_client_that_reads_no_replies_has_no_commands_taken(nursery: trio.Nursery) -> None:
    taken: list[str] = []

    def count(client: Client, event: Helo) -> Reply | None:
        taken.append(event.name)
        return None

    inbound = Inbound(nursery, pipeline=Pipeline(30, helo=[count]))
    await inbound.greet()
    inbound.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await inbound.send(b"EHLO x\r\n" * 8000)
    await trio.testing.wait_all_tasks_blocked()
    assert 0 < len(taken) < 500
    await _read_packets(inbound, (len(GREETED) + GREETED.count("\n")) * 8000)
    assert len(taken) == 8001


@pytest.mark.parametrize("commands", [b"RCPT TO:<%d@ours.example>\r\n", b"EHLO %d.example\r\n"])
async def test_others_have_their_turn_in_a_flood(nursery: trio.Nursery, commands: bytes) -> None:
    taken: list[str] = []

    def count(client: Client, event: Rcpt | Helo) -> Reply | None:
        taken.append(client.ip)
        return None

    pipeline = Pipeline(30, helo=[count], rcpt=[count])
    flood, honest = Inbound(nursery, pipeline=pipeline, ip="192.0.2.1"), Inbound(nursery, pipeline=pipeline)
    await flood.greet()
    await honest.greet()
    await flood.say(b"MAIL FROM:<a@b.example>\r\n")
    before = len(taken)
    await flood.send(b"".join(commands % number for number in range(1000)))
    await honest.send(b"EHLO honest.example\r\n")
    assert (await honest.socket.recv(1000)).startswith(b"250-mx.test")
    meanwhile = taken[before:].count("192.0.2.1")
    assert meanwhile < 500
    await trio.testing.wait_all_tasks_blocked()
    assert taken[before:].count("192.0.2.1") == 1000


async def test_client_that_is_slow_to_read_gets_all_replies_once(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    inbound.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await inbound.greet()
    for _ in range(30):
        await inbound.send(b"HELP\r\n" * 100)
    await trio.testing.wait_all_tasks_blocked()
    await inbound.send(b"QUIT\r\n")
    said = ""
    while not said.endswith(BYE):
        said += await inbound.read()
    assert said == "214 2.0.0 RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\n" * 3000 + BYE
