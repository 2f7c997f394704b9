"""Delivery to real next hops: smtp-sink and Postfix."""

from __future__ import annotations

import pytest
import trio

from postroika.config import Config, Delivery, Server
from postroika.mail.outcome import Outcome, Stage
from postroika.outbound.delivery import Deliverer
from postroika.pump import open_pump
from postroika.routing.router import Host
from postroika.spool.reader import Loaded
from tests.component.outbound_fakes import FakeBodies, FakeInFlight, FakeLane, FakeRouter, loaded
from tests.system.peers import StartSink
from tests.system.postfix_peer import StartPostfix
from tests.system.process import wait_until

WITHIN_S = 120.0


def text_body(number: int, lines: int = 100) -> bytes:
    """Lines that begin with dots, in a message of its own."""
    head = f"Subject: {number}\r\n\r\n".encode()
    return head + b"".join(b"." * (i % 4) + b"line %d of message %d\r\n" % (i, number) for i in range(lines))


def batch(number: int, *addresses: str, lines: int = 100, **fields: object) -> Loaded:
    body = text_body(number, lines)
    return loaded(number, *addresses, body=body, size_bytes=len(body), **fields)


def deliver(address: str, lanes: list[FakeLane], **options: object) -> FakeInFlight:
    host, _, port = address.rpartition(":")
    config = Config(
        server=Server(hostname="mx.postroika.test"),
        delivery=Delivery(connection_idle_s=0.05, **options),  # type: ignore[arg-type]
    )
    in_flight = FakeInFlight()
    deliverer = Deliverer(config, FakeRouter(Host(host, (host,), int(port))), FakeBodies(), in_flight)

    async def run() -> None:
        with trio.fail_after(WITHIN_S):
            async with open_pump() as pump:
                for lane in lanes:
                    pump.spawn(deliverer.deliver(lane))

    trio.run(run)
    return in_flight


def outcomes(lanes: list[FakeLane]) -> list[Outcome]:
    return [result.outcome for lane in lanes for _, attempt in lane.attempts for result in attempt.results]


def lanes_with(count: int, lanes: int, **fields: object) -> list[FakeLane]:
    batches = [batch(number, f"r{number}@sink.test", **fields) for number in range(1, count + 1)]
    return [FakeLane(*batches[i::lanes]) for i in range(lanes)]


@pytest.mark.parametrize("options", [{}, {"pipelining": False}])
def test_sink_gets_every_message_once_and_byte_for_byte(smtp_sink: StartSink, options: dict[str, object]) -> None:
    sink = smtp_sink(dump=True)
    lanes = lanes_with(500, 4)
    deliver(sink.address, lanes, **options)
    assert outcomes(lanes) == [Outcome.DELIVERED] * 500
    received = {message.sender: message for message in sink.wait_for(500)}
    assert len(received) == 500
    for number in range(1, 501):
        message = received[f"s{number}@x.test"]
        assert message.recipients == (f"r{number}@sink.test",)
        # The sink puts a Received field of two lines before what it was given.
        assert message.content.endswith(text_body(number).replace(b"\r\n", b"\n"))


def test_sink_without_esmtp_is_spoken_to_with_helo(smtp_sink: StartSink) -> None:
    sink = smtp_sink("-e", dump=True)
    lanes = lanes_with(3, 1)
    deliver(sink.address, lanes)
    assert outcomes(lanes) == [Outcome.DELIVERED] * 3
    assert {message.proto for message in sink.wait_for(3)} == {"SMTP"}


@pytest.mark.parametrize(
    ("stage", "at"),
    [("mail", Stage.MAIL), ("rcpt", Stage.RCPT), ("data", Stage.DATA), (".", Stage.FINAL_DOT)],
)
@pytest.mark.parametrize(("switch", "outcome"), [("-r", Outcome.DEFERRED), ("-f", Outcome.FAILED)])
def test_refusals_of_the_sink_are_the_outcome(
    smtp_sink: StartSink, stage: str, at: Stage, switch: str, outcome: Outcome
) -> None:
    sink = smtp_sink(switch, stage)
    lanes = lanes_with(20, 1)
    deliver(sink.address, lanes)
    assert {(o, s) for o, _, s in lanes[0].outcomes.values()} == {(outcome, at)}
    assert len(lanes[0].outcomes) == 20


def test_sink_that_hangs_up_is_deferred_and_nothing_is_lost(smtp_sink: StartSink) -> None:
    sink = smtp_sink("-q", "rcpt")
    lanes = lanes_with(5, 1)
    deliver(sink.address, lanes)
    assert {o for o, _, _ in lanes[0].outcomes.values()} == {Outcome.DEFERRED}
    assert len(lanes[0].outcomes) == 5


@pytest.mark.parametrize("options", [{}, {"chunking": False}, {"pipelining": False}])
def test_postfix_takes_all_as_next_hop(postfix: StartPostfix, options: dict[str, object]) -> None:
    hop = postfix(virtual=["y.test"])
    lanes = [FakeLane(*[batch(number, f"r{number}@y.test") for number in range(i, 201, 4)]) for i in range(1, 5)]
    lanes.append(FakeLane(batch(900, "big@y.test", lines=60_000), batch(901, "after@y.test")))
    deliver(hop.address, lanes, **options)
    assert set(outcomes(lanes)) == {Outcome.DELIVERED}
    wait_until(lambda: len(hop.mailbox()) >= 202, "202 messages in the mailbox", WITHIN_S)
    bodies = {body[body.index(b"Subject:") :] for body in hop.mailbox()}
    expected = [text_body(number) for number in [*range(1, 201), 901]] + [text_body(900, 60_000)]
    assert bodies == {body.replace(b"\r\n", b"\n") for body in expected}


def test_recipients_that_postfix_refuses_fail_alone(postfix: StartPostfix) -> None:
    hop = postfix(
        virtual=["y.test"],
        settings={"smtpd_recipient_restrictions": "check_recipient_access inline:{bad@y.test=REJECT}"},
    )
    lane = FakeLane(batch(1, "good@y.test", "bad@y.test"), batch(2, "bad@y.test"), batch(3, "good@y.test"))
    deliver(hop.address, [lane])
    told = [[result.outcome for result in attempt.results] for _, attempt in lane.attempts]
    assert told == [[Outcome.DELIVERED, Outcome.FAILED], [Outcome.FAILED], [Outcome.DELIVERED]]


def test_batch_beyond_the_recipient_limit_of_postfix_goes_in_several_transactions(postfix: StartPostfix) -> None:
    hop = postfix(virtual=["y.test"], settings={"smtpd_recipient_limit": "10"})
    lane = FakeLane(batch(1, *[f"r{i}@y.test" for i in range(35)]), batch(2, "last@y.test"))
    deliver(hop.address, [lane])
    assert outcomes([lane]) == [Outcome.DELIVERED] * 36
