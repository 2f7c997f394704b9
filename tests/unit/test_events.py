"""The event record: what each kind of event says, whole, and what no peer can make of it."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.envelope import Batch, Envelope, Recipient, Stream
from postroika.mail.ids import IdSource, id_text
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply, reply
from postroika.outcome.event_record import Event, EventClient, EventPeer, EventReply, decode
from postroika.outcome.events import MAX_NAME_CHARS, MAX_TEXT_CHARS, EventWriter, FailedLogin, Refusal
from postroika.outcome.json_text import encode
from postroika.tls.facts import TlsFacts

NOW = 1_800_000_000.5678
FIRST_ID = id_text(int(NOW * 1000) << 22 | 3 << 14)
MESSAGE = int(1_799_999_000.25 * 1000) << 22 | 3 << 14 | 7
ALICE = Recipient("alice@example.net")
ENVELOPE = Envelope(
    MESSAGE,
    "news@shop.example",
    1_799_999_000.25,
    4096,
    1,
    tenant="shop",
    stream=Stream.BROADCAST,
    campaign="spring",
    client_ip="192.0.2.7",
    client_helo="app.shop.example",
)


def writer() -> EventWriter:
    return EventWriter(IdSource(3, clock=lambda: NOW), clock=lambda: NOW)


def batch(**changes: Any) -> Batch:
    return msgspec.structs.replace(Batch(ENVELOPE, 0, "example.net", (ALICE,), 1, 0), **changes)


def test_received_event_is_complete_and_in_order() -> None:
    assert writer().received(ENVELOPE, ALICE, "example.net").decode() == (
        f'{{"id":"{FIRST_ID}","type":"received","at":1799999000.25,"message":"{id_text(MESSAGE)}",'
        '"sender":"news@shop.example","recipient":"alice@example.net","destination":"example.net","size_bytes":4096,'
        '"queued_at":1799999000.25,"client":{"ip":"192.0.2.7","helo":"app.shop.example"},"tenant":"shop",'
        '"stream":"broadcast","campaign":"spring"}'
    )


def test_received_event_tells_of_tls() -> None:
    envelope = msgspec.structs.replace(ENVELOPE, tls="TLSv1.3 X")
    line, plain = (writer().received(of, ALICE, "example.net") for of in (envelope, ENVELOPE))
    assert b'"queued_at":1799999000.25,"tls":"TLSv1.3 X","client":{' in line
    assert line == plain.replace(b',"client"', b',"tls":"TLSv1.3 X","client"')


FACTS = TlsFacts("TLSv1.3", "X", "mx.shop.example", "app.shop.example", verified=True)


def test_received_event_tells_whom_the_client_asked_for_and_who_it_is() -> None:
    envelope = msgspec.structs.replace(ENVELOPE, tls="TLSv1.3 X")
    for recipient in (ALICE, Recipient("пётр@почта.рф")):  # joined from text, and by the encoder
        line, plain = (writer().received(envelope, recipient, "example.net", tls) for tls in (FACTS, None))
        assert line == plain.replace(
            b'"helo":"app.shop.example"',
            b'"helo":"app.shop.example","server_name":"mx.shop.example","certificate":"app.shop.example","verified":true',
        )


def test_rejected_and_auth_failed_events_tell_of_tls() -> None:
    answer = reply(550, "5.7.1", "no")
    rejected = decode(writer().rejected(Refusal("192.0.2.7", "h", "", "", answer, "rcpt", tls=FACTS)))
    failed = decode(writer().auth_failed(FailedLogin("192.0.2.7", "h", "ann", "no such account", answer, FACTS)))
    for event in (rejected, failed):
        assert event.tls == "TLSv1.3 X"
        assert event.client == EventClient("192.0.2.7", "h", "mx.shop.example", "app.shop.example", verified=True)


def test_names_in_tls_are_cut() -> None:
    facts = FACTS._replace(server_name="s" * 300, peer_name="p" * 100_000)
    event = decode(writer().received(ENVELOPE, ALICE, "example.net", facts))
    assert event.client is not None
    cut = [f"{c * MAX_NAME_CHARS}…" for c in "sp"]
    assert [event.client.server_name, event.client.certificate] == cut


def test_rejected_event_tells_the_reply_and_the_client() -> None:
    line = writer().rejected(
        Refusal(
            client_ip="203.0.113.9",
            helo="[203.0.113.9]",
            sender="",
            recipient="bob@elsewhere.example",
            reply=reply(550, "5.7.1", "Relaying denied"),
            stage="rcpt",
        )
    )
    assert json.loads(line) == {
        "id": FIRST_ID,
        "type": "rejected",
        "at": 1800000000.567,
        "sender": "",
        "recipient": "bob@elsewhere.example",
        "reply": {"code": 550, "enhanced": "5.7.1", "text": "Relaying denied", "stage": "rcpt", "local": True},
        "client": {"ip": "203.0.113.9", "helo": "[203.0.113.9]"},
    }


def test_rejected_before_mail_has_no_sender() -> None:
    line = writer().rejected(
        Refusal(client_ip="::1", helo="", sender=None, recipient="", reply=reply(421, "4.3.2", "Full"), stage="connect")
    )
    assert json.loads(line) == {
        "id": FIRST_ID,
        "type": "rejected",
        "at": 1800000000.567,
        "reply": {"code": 421, "enhanced": "4.3.2", "text": "Full", "stage": "connect", "local": True},
        "client": {"ip": "::1"},
    }


def test_delivered_event_tells_the_whole_attempt() -> None:
    result = RecipientResult(0, Outcome.DELIVERED, Reply(250, "2.0.0", ("Ok:", "queued as 4F")), Stage.FINAL_DOT)
    attempt = Attempt((result,), Peer("mx1.example.net", "203.0.113.5", 25), "mx.example.net", "192.0.2.1", "TLSv1.3 X")
    assert writer().attempt(batch(attempts=2), ALICE, result, attempt).decode() == (
        f'{{"id":"{FIRST_ID}","type":"delivered","at":1800000000.567,"message":"{id_text(MESSAGE)}",'
        '"sender":"news@shop.example","recipient":"alice@example.net","destination":"example.net",'
        '"site":"mx.example.net","source":"192.0.2.1","attempt":3,"size_bytes":4096,"queued_at":1799999000.25,'
        '"reply":{"code":250,"enhanced":"2.0.0","text":"Ok: queued as 4F","stage":"final_dot"},'
        '"peer":{"host":"mx1.example.net","ip":"203.0.113.5","port":25},"tls":"TLSv1.3 X","tenant":"shop",'
        '"stream":"broadcast","campaign":"spring"}'
    )


def test_deferred_event_tells_the_next_attempt_and_that_the_words_are_ours() -> None:
    result = RecipientResult(
        0, Outcome.DEFERRED, reply(451, "4.4.3", "No answer from the DNS"), Stage.ROUTING, remote=False
    )
    line = writer().attempt(batch(), ALICE, result, Attempt((result,)), NOW + 300)
    assert json.loads(line) == {
        "id": FIRST_ID,
        "type": "deferred",
        "at": 1800000000.567,
        "message": id_text(MESSAGE),
        "sender": "news@shop.example",
        "recipient": "alice@example.net",
        "destination": "example.net",
        "attempt": 1,
        "size_bytes": 4096,
        "queued_at": 1799999000.25,
        "next_attempt_at": 1800000300.567,
        "reply": {
            "code": 451,
            "enhanced": "4.4.3",
            "text": "No answer from the DNS",
            "stage": "routing",
            "local": True,
        },
        "tenant": "shop",
        "stream": "broadcast",
        "campaign": "spring",
    }


def test_the_type_of_an_attempt_is_its_outcome() -> None:
    events = writer()
    types = []
    for outcome in Outcome:
        result = RecipientResult(0, outcome, reply(550, "5.1.1", "x"), Stage.RCPT)
        types.append(decode(events.attempt(batch(), ALICE, result, Attempt((result,)))).type)
    assert types == ["delivered", "deferred", "bounced", "expired", "cancelled", "suppressed"]


def test_attempt_number_can_be_told() -> None:
    result = RecipientResult(0, Outcome.DEFERRED, reply(421, "4.4.1", "Down"), Stage.CONNECT, remote=False)
    event = decode(writer().attempt(batch(attempts=4), ALICE, result, Attempt((result,)), NOW, number=4))
    assert event.attempt == 4


def test_expired_event_repeats_what_the_last_host_said() -> None:
    old = batch(attempts=9, last_reply=Reply(452, "4.2.2", ("Mailbox full",)), last_host="mx1.example.net")
    event = decode(writer().expired(old, ALICE))
    assert event == Event(
        id=FIRST_ID,
        type="expired",
        at=1800000000.567,
        message=id_text(MESSAGE),
        sender="news@shop.example",
        recipient="alice@example.net",
        destination="example.net",
        attempt=9,
        size_bytes=4096,
        queued_at=1799999000.25,
        reply=EventReply(452, "4.2.2", "Mailbox full", "queue"),
        peer=event.peer,
        tenant="shop",
        stream="broadcast",
        campaign="spring",
    )
    assert event.peer is not None
    assert event.peer.host == "mx1.example.net"


def test_expired_event_with_a_reply_of_ours_names_no_peer() -> None:
    old = batch(last_reply=Reply(452, "4.2.2", ("Mailbox full",)), last_host="mx1.example.net")
    event = decode(writer().expired(old, ALICE, reply(554, "5.4.7", "Delivery time expired")))
    assert (event.reply, event.peer) == (EventReply(554, "5.4.7", "Delivery time expired", "queue", local=True), None)


def test_cancelled_event_of_a_batch_that_was_never_tried() -> None:
    event = decode(writer().cancelled(batch(), ALICE))
    assert (event.type, event.attempt, event.reply, event.peer) == ("cancelled", 0, None, None)


def test_ids_differ_and_sort_in_the_order_of_writing() -> None:
    events = writer()
    ids = [decode(events.received(ENVELOPE, ALICE, "example.net")).id for _ in range(3000)]
    assert ids == sorted(set(ids))
    assert ids == [id_text((int(NOW * 1000) << 22 | 3 << 14) + n) for n in range(3000)]


def test_alternating_messages_keep_their_own_facts() -> None:
    other = msgspec.structs.replace(ENVELOPE, message=MESSAGE + 1, client_ip="", stream=Stream.TRANSACTIONAL)
    events = writer()
    seen = [decode(events.received(envelope, ALICE, "example.net")) for envelope in (ENVELOPE, other, ENVELOPE)]
    assert [(e.message, e.stream, e.client is None) for e in seen] == [
        (id_text(MESSAGE), "broadcast", False),
        (id_text(MESSAGE + 1), "transactional", True),
        (id_text(MESSAGE), "broadcast", False),
    ]


def test_what_is_invisible_is_escaped() -> None:
    line = encode(
        Event(
            "1",
            "bounced",
            1.0,
            reply=EventReply(550, text="a\r\n\0\x1b[2J\x7f\x85\u2028\u202e\u00ad\u200b\U000e0001é€😀"),
        )
    )
    assert line.decode() == (
        '{"id":"1","type":"bounced","at":1.0,"reply":{"code":550,"text":'
        '"a\\r\\n\\u0000\\u001b[2J\\u007f\\u0085\\u2028\\u202e\\u00ad\\u200b\\udb40\\udc01é€😀"}}'
    )


def test_bytes_that_were_not_utf8_show_as_replacement_characters() -> None:
    name = b"caf\xe9@example.net".decode("utf-8", "surrogateescape")
    event = decode(encode(Event("1", "rejected", 1.0, recipient=name, reply=EventReply(553, text="\ud800 x"))))
    assert event == Event(
        "1", "rejected", 1.0, recipient="caf\ufffd@example.net", reply=EventReply(553, text="\ufffd x")
    )


def test_a_reply_without_end_is_cut() -> None:
    result = RecipientResult(0, Outcome.FAILED, Reply(550, "", ("x" * 9000,)), Stage.RCPT)
    event = decode(writer().attempt(batch(), ALICE, result, Attempt((result,))))
    assert event.reply == EventReply(550, "", "x" * MAX_TEXT_CHARS + "…", "rcpt")


def test_members_of_a_later_version_are_passed_over() -> None:
    assert decode(b'{"id":"1","type":"delivered","at":1.5,"shape":"round"}') == Event("1", "delivered", 1.5)


anything = st.text(st.characters(exclude_categories=()), max_size=40)
events_of_any_kind = st.builds(
    Event,
    id=anything,
    type=anything,
    at=st.floats(0, 1e11),
    message=anything,
    sender=st.none() | anything,
    recipient=anything,
    destination=anything,
    attempt=st.integers(0, 2**31),
    reply=st.none() | st.builds(EventReply, st.integers(0, 999), anything, anything, anything, st.booleans()),
    tls=anything,
    campaign=anything,
)


def as_seen(value: object) -> object:
    """What a reader can expect: the same, with lone surrogates replaced."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, msgspec.Struct):
        return type(value)(**{f: as_seen(getattr(value, f)) for f in value.__struct_fields__})
    return value


@given(events_of_any_kind)
def test_every_event_is_one_clean_line_that_reads_back(event: Event) -> None:
    line = encode(event)
    text = line.decode()
    assert decode(line) == as_seen(event)
    assert msgspec.convert(json.loads(line), Event) == as_seen(event)
    assert len(text.splitlines()) == 1
    assert not [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@given(anything, anything, anything, st.none() | anything, anything, anything)
def test_no_client_can_forge_a_line(
    ip: str, helo: str, text: str, sender: str | None, recipient: str, name: str
) -> None:
    line = writer().rejected(
        Refusal(
            client_ip=ip,
            helo=helo,
            sender=sender,
            recipient=recipient,
            reply=Reply(550, "5.0.0", (text,)),
            stage="mail",
            tls=TlsFacts("TLSv1.3", "X", name, name, verified=True),
        )
    )
    event = decode(line)
    assert b"\n" not in line
    assert event.reply is not None
    assert event.client is not None
    assert (event.reply.text, event.sender, event.recipient) == tuple(map(as_seen, (text, sender, recipient)))
    assert event.client == as_seen(EventClient(ip, helo, name, name, verified=True))


WORDS = st.text(st.sampled_from('ab@. "\\/é\x00\n\x7f\u200b\ud800\U0001f600'), max_size=6)
MOMENTS = st.floats(0, 4e9)  # ids reach until 2109


@given(
    words=st.lists(WORDS, min_size=14, max_size=14),
    numbers=st.lists(st.integers(0, 1 << 40), min_size=3, max_size=3),
    received_at=MOMENTS,
    now=MOMENTS,
    next_at=st.just(0.0) | MOMENTS,
    stage=st.sampled_from(Stage),
    outcome=st.sampled_from(Outcome),
    remote=st.booleans(),
)
def test_lines_joined_from_text_are_those_of_the_encoder(
    words: list[str],
    numbers: list[int],
    received_at: float,
    now: float,
    next_at: float,
    stage: Stage,
    outcome: Outcome,
    remote: bool,
) -> None:
    sender, recipient, domain, site, source, host, ip, tls, enhanced, text, tenant, campaign, client_ip, helo = words
    size, tried, port = numbers
    envelope = Envelope(
        MESSAGE, sender, received_at, size, 1, tenant=tenant, campaign=campaign, client_ip=client_ip, client_helo=helo,
        tls=tls,
    )  # fmt: skip
    told = Recipient(recipient)
    result = RecipientResult(0, outcome, Reply(250, enhanced, (text,)), stage, remote)
    attempt = Attempt((result,), Peer(host, ip, port), site, source, tls)
    events = EventWriter(IdSource(3, clock=lambda: now), clock=lambda: now)
    for _ in range(2):  # made, and then from what was kept
        first = events.received(envelope, told, domain)
        second = events.attempt(Batch(envelope, 0, domain, (told,), 1, 0, tried), told, result, attempt, next_at)
    queued_at = int(received_at * 1000) / 1000
    came = Event(
        id=decode(first).id,
        type="received",
        at=queued_at,
        message=id_text(MESSAGE),
        sender=sender,
        recipient=recipient,
        destination=domain,
        size_bytes=size,
        queued_at=queued_at,
        tls=tls if client_ip else "",
        client=EventClient(client_ip, helo) if client_ip else None,
        tenant=tenant,
        stream="transactional",
        campaign=campaign,
    )
    assert first == encode(came)
    assert second == encode(
        msgspec.structs.replace(
            came,
            id=decode(second).id,
            type=outcome.value,
            at=int(now * 1000) / 1000,
            site=site,
            source=source,
            attempt=tried + 1,
            next_attempt_at=int(next_at * 1000) / 1000 if next_at else None,
            reply=EventReply(250, enhanced, text, stage.value, local=not remote),
            peer=EventPeer(host, ip, port) if host or ip or port else None,
            tls=tls,
            client=None,
        )
    )
    assert decode(second).id > decode(first).id


def test_a_message_and_a_connection_of_the_same_name_are_not_taken_for_those_before() -> None:
    events = writer()
    for number in range(3):
        envelope = msgspec.structs.replace(ENVELOPE, reverse_path=f"s{number}@shop.example")
        result = RecipientResult(0, Outcome.DELIVERED, reply(250, "2.0.0", "Ok"), Stage.FINAL_DOT)
        attempt = Attempt((result,), Peer(f"mx{number}.example.net", "203.0.113.5", 25), f"site{number}")
        line = decode(events.attempt(batch(envelope=envelope), ALICE, result, attempt))
        assert (line.sender, line.site, line.peer) == (
            f"s{number}@shop.example",
            f"site{number}",
            EventPeer(f"mx{number}.example.net", "203.0.113.5", 25),
        )
