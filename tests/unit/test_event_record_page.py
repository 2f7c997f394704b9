"""docs/event-record.md: every member is described, in order, and every example is what is really written."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from postroika.mail.envelope import Batch, Envelope, Recipient, Stream
from postroika.mail.ids import IdSource
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply, reply
from postroika.outcome.event_record import Event, EventClient, EventPeer, EventReply, decode
from postroika.outcome.events import EventWriter, FailedLogin, Refusal
from postroika.tls.facts import TlsFacts

PAGE = (Path(__file__).parents[2] / "docs/event-record.md").read_text(encoding="utf-8")
NOW = 1_800_000_000.125
ARRIVED = 1_799_999_990.5
MESSAGE = IdSource(0, clock=lambda: ARRIVED).next_id()
PEER = Peer("mx1.example.net", "203.0.113.5", 25)


KINDS = ["received", "rejected", "auth_failed", "delivered", "deferred", "bounced", "expired", "cancelled"]


def written() -> dict[str, str]:
    """One event of each type, about the same recipient where that makes sense."""
    events = EventWriter(IdSource(0, clock=lambda: NOW), clock=lambda: NOW)
    alice = Recipient("alice@example.net")
    envelope = Envelope(
        message=MESSAGE,
        reverse_path="news@shop.example",
        received_at=ARRIVED,
        size_bytes=4096,
        chunks=1,
        tenant="shop",
        stream=Stream.BROADCAST,
        campaign="spring-2027",
        client_ip="192.0.2.7",
        client_helo="app.shop.example",
        account="app@shop.example",
    )
    batch = Batch(envelope, 0, "example.net", (alice,), 0, 0)

    def attempt(outcome: Outcome, given: Reply, stage: Stage, *, remote: bool = True, next_at: float = 0.0) -> bytes:
        result = RecipientResult(0, outcome, given, stage, remote)
        tls = "TLSv1.3 TLS_AES_256_GCM_SHA384"
        made = Attempt((result,), PEER if remote else Peer(), "mx.example.net", "192.0.2.1", tls if remote else "")
        return events.attempt(batch, alice, result, made, next_at)

    lines = [
        events.received(envelope, alice, "example.net"),
        events.rejected(
            Refusal(
                client_ip="198.51.100.23",
                helo="[198.51.100.23]",
                sender="someone@elsewhere.example",
                recipient="victim@example.org",
                reply=reply(550, "5.7.1", "relaying denied"),
                stage="rcpt",
            )
        ),
        events.auth_failed(
            FailedLogin(
                client_ip="198.51.100.23",
                helo="[198.51.100.23]",
                account="info@shop.example",
                reason="no such account",
                reply=reply(535, "5.7.8", "authentication credentials are invalid"),
                tls=TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", "mx.shop.example"),
            )
        ),
        attempt(Outcome.DELIVERED, Reply(250, "2.0.0", ("Ok: queued as 4WQ8rt",)), Stage.FINAL_DOT),
        attempt(Outcome.DEFERRED, Reply(452, "4.2.2", ("Mailbox full",)), Stage.RCPT, next_at=NOW + 312.5),
        attempt(Outcome.FAILED, Reply(550, "5.1.1", ("No such user\x1b[2J",)), Stage.RCPT),
        events.expired(
            msgspec.structs.replace(
                batch, attempts=31, last_reply=Reply(452, "4.2.2", ("Mailbox full",)), last_host=PEER.host
            ),
            alice,
        ),
        events.cancelled(
            msgspec.structs.replace(batch, attempts=2), alice, reply(554, "5.7.0", "cancelled by the operator")
        ),
    ]
    return {decode(line).type: line.decode() for line in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_example_is_what_is_written(kind: str) -> None:
    examples = re.findall(r"```json\n(.+)\n```", PAGE)
    assert written()[kind] in examples


def test_every_example_has_its_test() -> None:
    assert sorted(re.findall(r"```json\n(.+)\n```", PAGE)) == sorted(written().values())


def test_every_member_is_described_in_the_order_of_writing() -> None:
    table = PAGE.partition("\n## Members\n")[2].partition("\n## ")[0]
    described = re.findall(r"^\| `([a-z_.]+)` \|", table, re.MULTILINE)
    nested = {"reply": EventReply, "peer": EventPeer, "client": EventClient}
    assert described == [
        name
        for field in Event.__struct_fields__
        for name in ([f"{field}.{part}" for part in nested[field].__struct_fields__] if field in nested else [field])
    ]
