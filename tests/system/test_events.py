"""The event log of a running server, line by line: every member with its value, against a next hop on a known port."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.process import wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink

_CONFIG = """
[relay]
networks = ["127.0.0.0/8"]
[retry]
delays_s = [1, 600]
jitter = 0
delay_dsn_after_s = 0
expire_after_s = {expire_after_s}
[delivery]
source_address = "127.0.0.1"
[[route]]
domains = ["*"]
next_hop = "smtp://localhost:{port}"
"""
_CONTENT = b"Subject: x\r\n\r\nSome words.\r\n"
_STORED = len(
    b"Received: from client.test ([127.0.0.1])\r\n"
    b"\tby mx.postroika.test (Postroika) with ESMTP id 0123456789abc\r\n"
    b"\tfor <>; Sat, 21 Nov 2026 22:09:44 +0000\r\n"
) + len(_CONTENT)
"""Size of the message as it is kept, but for the recipient in `for <…>`."""


class World:
    """A server and its next hop."""

    def __init__(self, path: Path, stack: ExitStack, *, expire_after_s: float = 600.0) -> None:
        self.began = time.time()
        self.sink: OurSink = start_our_sink(path, "--refuse", "bounce@*", "--defer", "defer@*")
        stack.enter_context(self.sink.process)
        config = _CONFIG.format(port=self.sink.port, expire_after_s=expire_after_s)
        self.server = stack.enter_context(Postroika(path, config, workers=1))

    def send(self, recipient: str) -> str:
        """One message; returns its id."""
        with Dialogue(self.server.port, "client.test") as client:
            reply = client.message("me@sender.test", [recipient], _CONTENT)
        assert reply.startswith("250 2.0.0 Ok: queued as ")
        return reply.rpartition(" ")[2]

    def events(self, message: str, count: int) -> list[dict[str, Any]]:
        """All events of a message, as soon as there are `count`; without `id` and times, which are checked here."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.server.events() if event.get("message") == message]

        wait_until(lambda: len(found()) >= count, f"{count} events of {message}", 30)
        events = found()
        ids = [event.pop("id") for event in events]
        times = [event.pop("at") for event in events]
        queued = {event.pop("queued_at") for event in events}
        assert ids == sorted(set(ids))
        assert {len(one) for one in ids} == {13}
        assert times == sorted(times)
        assert queued == {times[0]}
        assert self.began < times[0] <= times[-1] <= time.time()
        for event, at in zip(events, times, strict=True):
            if "next_attempt_at" in event:
                event["next_attempt_at"] = round(event["next_attempt_at"] - at, 1)
        return events

    def common(self, message: str, recipient: str) -> dict[str, Any]:
        """What all events of a message have."""
        return {
            "message": message,
            "sender": "me@sender.test",
            "recipient": recipient,
            "destination": recipient.partition("@")[2].lower(),
            "size_bytes": _STORED + len(recipient),
            "stream": "transactional",
        }

    def received(self, message: str, recipient: str) -> dict[str, Any]:
        """The first event."""
        client = {"ip": "127.0.0.1", "helo": "client.test"}
        return {"type": "received", **self.common(message, recipient), "client": client}

    def attempt(self, kind: str, message: str, recipient: str, number: int, reply: dict[str, Any]) -> dict[str, Any]:
        """An event of an attempt."""
        return {
            "type": kind,
            **self.common(message, recipient),
            "site": f"localhost:{self.sink.port}",
            "source": "127.0.0.1",
            "attempt": number,
            "reply": reply,
            "peer": {"host": "localhost", "ip": "127.0.0.1", "port": self.sink.port},
        }


def refusal(recipient: str) -> dict[str, Any]:
    return {
        "code": 550,
        "enhanced": "5.1.1",
        "text": f"<{recipient}>: the sink refuses this recipient",
        "stage": "rcpt",
    }


def deferral(recipient: str, stage: str = "rcpt") -> dict[str, Any]:
    return {
        "code": 451,
        "enhanced": "4.7.1",
        "text": f"<{recipient}>: the sink defers this recipient",
        "stage": stage,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def test_delivered(world: World) -> None:
    message = world.send("you@Shop.test")
    reply = {"code": 250, "enhanced": "2.0.0", "text": "Ok", "stage": "final_dot"}
    assert world.events(message, 2) == [
        world.received(message, "you@shop.test"),
        world.attempt("delivered", message, "you@shop.test", 1, reply),
    ]


def test_bounced(world: World) -> None:
    message = world.send("bounce@shop.test")
    assert world.events(message, 2) == [
        world.received(message, "bounce@shop.test"),
        world.attempt("bounced", message, "bounce@shop.test", 1, refusal("bounce@shop.test")),
    ]
    # And the notice, which has no client, and no sender.

    def delivered() -> bool:
        return any(event["sender"] == "" for event in world.server.events_of("delivered"))

    wait_until(delivered, "the notice to be delivered")
    (notice,) = [event for event in world.server.events_of("received") if event["sender"] == ""]
    assert (notice["recipient"], notice["destination"]) == ("me@sender.test", "sender.test")
    assert "client" not in notice


def test_deferred_twice_then_cancelled(world: World) -> None:
    message = world.send("defer@shop.test")
    said = deferral("defer@shop.test")
    expected = [
        world.received(message, "defer@shop.test"),
        {**world.attempt("deferred", message, "defer@shop.test", 1, said), "next_attempt_at": 1},
        {**world.attempt("deferred", message, "defer@shop.test", 2, said), "next_attempt_at": 600},
    ]
    assert world.events(message, 3) == expected
    world.server.run("queue", "cancel", message, "--yes")
    reply = {
        "code": 554,
        "enhanced": "5.7.0",
        "text": "cancelled by the operator",
        "stage": "queue",
        "local": True,
    }
    assert world.events(message, 4) == [
        *expected,
        {"type": "cancelled", **world.common(message, "defer@shop.test"), "attempt": 2, "reply": reply},
    ]


def test_expired(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack, expire_after_s=4)
        message = world.send("defer@shop.test")
        events = world.events(message, 4)
        assert [event["type"] for event in events] == ["received", "deferred", "deferred", "expired"]
        assert events[-1] == {
            "type": "expired",
            **world.common(message, "defer@shop.test"),
            "attempt": 2,
            "reply": deferral("defer@shop.test", "queue"),
            "peer": {"host": "localhost"},
        }


def test_rejected(world: World) -> None:
    with Dialogue(world.server.port, "rude.test") as client:
        assert client.say("MAIL FROM:<a@x.test> SIZE=99999999").startswith("552")
        assert client.say("MAIL FROM:<a@x.test>").startswith("250")
        assert client.say("RCPT TO:<nobody>").startswith("501")
        assert client.say("RCPT TO:<you@shop.test>").startswith("250")
        assert client.say("DATA").startswith("354")
        client.send(b"Subject: x\r\n\r\na\0b\r\n")
        assert client.say(".").startswith("550")

    def rejected() -> list[dict[str, Any]]:
        return [event for event in world.server.events_of("rejected") if event["client"]["helo"] == "rude.test"]

    wait_until(lambda: len(rejected()) >= 3, "three rejections")
    client_fields = {"ip": "127.0.0.1", "helo": "rude.test"}
    events = rejected()
    for event in events:
        assert event.pop("id")
        assert world.began < event.pop("at") <= time.time()
    assert events == [
        {
            "type": "rejected",
            "sender": "a@x.test",
            "reply": {
                "code": 552,
                "enhanced": "5.3.4",
                "text": "message is too large",
                "stage": "mail",
                "local": True,
            },
            "client": client_fields,
        },
        {
            "type": "rejected",
            "sender": "a@x.test",
            "recipient": "nobody",
            "reply": {
                "code": 501,
                "enhanced": "5.1.3",
                "text": "bad recipient address syntax: the domain is missing",
                "stage": "rcpt",
                "local": True,
            },
            "client": client_fields,
        },
        {
            "type": "rejected",
            "sender": "a@x.test",
            "reply": {
                "code": 550,
                "enhanced": "5.6.0",
                "text": "message has a NUL octet: encode it, or use BINARYMIME (RFC 5321 section 4.5.2)",
                "stage": "final_dot",
                "local": True,
            },
            "client": client_fields,
        },
    ]


def test_what_comes_from_outside_cannot_forge_a_line(world: World) -> None:
    with world.server.dialogue(helo="") as client:
        client.say(b'EHLO evil"}\x1b[2J\x7f{"type":"delivered"}\xff')
        assert client.say(b"MAIL FROM:<\x1b@x.test>").startswith("5")
        assert client.say('MAIL FROM:<"}{"@x.test>').startswith("250")
        assert client.say("RCPT TO:<evil@shop.test>").startswith("250")
        assert client.say("DATA").startswith("354")
        client.send(b"x\r\n")
        assert client.say(".").startswith("250")
    wait_until(
        lambda: any(event["recipient"] == "evil@shop.test" for event in world.server.events_of("delivered")),
        "the delivery",
    )
    lines = world.server.event_log.read_bytes().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert all(32 <= octet != 127 for line in lines for octet in line)
    (received,) = [e for e in world.server.events_of("received") if e["recipient"] == "evil@shop.test"]
    assert received["client"] == {"ip": "127.0.0.1", "helo": 'evil"}?[2J?{"type":"delivered"}?'}
    assert received["sender"] == '"}{"@x.test'


def test_events_are_complete_after_a_stop(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack)
        messages = [world.send(f"r{number}@shop.test") for number in range(50)]
        world.server.process.signal(signal.SIGTERM)
        assert world.server.process.wait(60) == 0
        kinds = [(event["message"], event["type"]) for event in world.server.events()]
        for message in messages:
            assert (message, "received") in kinds
        assert len(kinds) == len(set(kinds))
