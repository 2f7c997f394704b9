"""The event record: what became of one recipient, one JSON object on one line (docs/event-record.md).

Promise: whatever a peer or a client has sent, the bytes returned here are valid UTF-8 JSON without a line break,
a control character or anything else that is invisible: those are written as \\u escapes, so that nobody outside
can forge a line or steer the terminal of whoever reads the log. Bytes that were not UTF-8 show as U+FFFD.

A member without a value is left out; the order of members never changes. Times are epoch seconds with three decimals.
An event is made for every recipient of every attempt, so this is a hot path: one struct, one encoder, and the text
of ids is kept while it stays the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

from postroika.mail.envelope import Batch, Envelope, Recipient, Stream
from postroika.mail.ids import IdSource, id_text
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply

MAX_TEXT_CHARS: Final = 2000  # Four full reply lines (RFC 5321 §4.5.3.1.5); what a peer adds beyond that is padding.
_STREAM_NAMES: Final = {stream: stream.name.lower() for stream in Stream}


class EventReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The `reply` member. `local` is true if the words are ours, false (left out) if a peer spoke them."""

    code: int
    enhanced: str = ""
    text: str = ""
    stage: str = ""
    local: bool = False


class EventPeer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The `peer` member: the next hop."""

    host: str = ""
    ip: str = ""
    port: int = 0


class EventClient(msgspec.Struct, frozen=True, omit_defaults=True):
    """The `client` member: who gave us the message."""

    ip: str = ""
    helo: str = ""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event, with the members in the order in which they are written."""

    id: str
    type: str
    at: float
    message: str = ""
    sender: str | None = None
    recipient: str = ""
    destination: str = ""
    site: str = ""
    source: str = ""
    attempt: int = 0
    size_bytes: int = 0
    queued_at: float | None = None
    next_attempt_at: float | None = None
    reply: EventReply | None = None
    peer: EventPeer | None = None
    tls: str = ""
    client: EventClient | None = None
    tenant: str = ""
    stream: str = ""
    campaign: str = ""


_INVISIBLE = re.compile(r"[^\x20-\x7e\xa1-\xac\xae-\u024f]")  # What needs a closer look; Latin text does not.
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder(Event).decode


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    if char.isprintable():
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _replace_surrogates(value: object) -> object:
    """The same tree with every lone surrogate (a byte that was not UTF-8) as U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, msgspec.Struct):
        return type(value)(**{f: _replace_surrogates(getattr(value, f)) for f in value.__struct_fields__})
    return value


def encode(event: Event) -> bytes:
    """One line without its line feed; see the module for what it can and cannot hold."""
    try:
        line = _encode_json(event)
    except UnicodeEncodeError:
        line = _encode_json(_replace_surrogates(event))
    if line.isascii() and b"\x7f" not in line:
        return line  # The encoder has escaped C0 itself.
    return _INVISIBLE.sub(_escape, line.decode()).encode()


def decode(line: bytes | bytearray | memoryview | str) -> Event:
    """The inverse of `encode`. Members that this version does not know are passed over.

    Raises:
        msgspec.DecodeError: not an event.
    """
    return _decode_json(line)


def _ms(at: float) -> float:
    """Cut to milliseconds; a quarter of what `round` takes."""
    return int(at * 1000) / 1000


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}…"


def _reply(reply: Reply, stage: str, local: bool) -> EventReply:
    lines = reply.lines
    return EventReply(reply.code, reply.enhanced, _cut(lines[0] if len(lines) == 1 else reply.text), stage, local)


class EventWriter:
    """Makes events with ids that never repeat. One for each worker; not for several threads.

    Args:
        ids: gives the event ids; its `after` must be at least the last id in the outbox.
        clock: epoch seconds, for `at`.
    """

    def __init__(self, ids: IdSource, clock: Callable[[], float] = time.time) -> None:
        self._next_id = ids.next_id
        self._clock = clock
        self._id_head = -1
        self._id_head_text = ""
        self._envelope: Envelope | None = None
        self._message = self._stream = ""
        self._queued_at = 0.0
        self._client: EventClient | None = None
        self._attempt: Attempt | None = None
        self._peer: EventPeer | None = None

    def received(self, envelope: Envelope, recipient: Recipient, destination: str) -> bytes:
        """`recipient` of a message has been accepted; `at` is when the message was."""
        if envelope is not self._envelope:
            self._keep(envelope)
        return encode(
            Event(
                self._id(),
                "received",
                self._queued_at,
                self._message,
                envelope.reverse_path,
                recipient.address,
                destination,
                "",
                "",
                0,
                envelope.size_bytes,
                self._queued_at,
                None,
                None,
                None,
                "",
                self._client,
                envelope.tenant,
                self._stream,
                envelope.campaign,
            )
        )

    def rejected(
        self,
        *,
        client_ip: str,
        helo: str,
        sender: str | None,
        recipient: str,
        reply: Reply,
        stage: Stage | str,
        size_bytes: int = 0,
    ) -> bytes:
        """We refused something, and said so with `reply`.

        Args:
            sender: None if there was no (valid) MAIL, "" for the null sender.
            recipient: "" where none was the reason.
            stage: of the dialogue with the client.
            size_bytes: of the message, where it is known.
        """
        return encode(
            Event(
                id=self._id(),
                type="rejected",
                at=_ms(self._clock()),
                sender=None if sender is None else _cut(sender),
                recipient=_cut(recipient),
                size_bytes=size_bytes,
                reply=_reply(reply, str(stage), local=True),
                client=EventClient(client_ip, _cut(helo)),
            )
        )

    def attempt(
        self,
        batch: Batch,
        recipient: Recipient,
        result: RecipientResult,
        attempt: Attempt,
        next_attempt_at: float = 0.0,
        number: int | None = None,
    ) -> bytes:
        """What an attempt brought for one recipient: the type is the outcome.

        Args:
            batch: as it was when the attempt began.
            next_attempt_at: 0 if there will be none.
            number: of the attempt, from 1; None for the one after `batch.attempts`.
        """
        if attempt is not self._attempt:
            peer = attempt.peer
            self._attempt = attempt
            self._peer = EventPeer(peer.host, peer.ip, peer.port) if peer != Peer() else None
        envelope = batch.envelope
        if envelope is not self._envelope:
            self._keep(envelope)
        return encode(
            Event(
                self._id(),
                result.outcome._value_,  # `value` is a descriptor written in Python: half a microsecond.
                _ms(self._clock()),
                self._message,
                envelope.reverse_path,
                recipient.address,
                batch.destination,
                attempt.site,
                attempt.source,
                batch.attempts + 1 if number is None else number,
                envelope.size_bytes,
                self._queued_at,
                _ms(next_attempt_at) if next_attempt_at else None,
                _reply(result.reply, result.stage._value_, not result.remote),
                self._peer if result.peer is None else EventPeer(result.peer.host, result.peer.ip, result.peer.port),
                attempt.tls,
                None,
                envelope.tenant,
                self._stream,
                envelope.campaign,
            )
        )

    def expired(self, batch: Batch, recipient: Recipient, reply: Reply | None = None) -> bytes:
        """The time to deliver is over and no attempt was made now. `reply` is ours; without it the last one is told."""
        return self._given_up(Outcome.EXPIRED, batch, recipient, reply)

    def cancelled(self, batch: Batch, recipient: Recipient, reply: Reply | None = None) -> bytes:
        """An operator has taken the recipient out of the queue. `reply` as for `expired`."""
        return self._given_up(Outcome.CANCELLED, batch, recipient, reply)

    def _given_up(self, outcome: Outcome, batch: Batch, recipient: Recipient, reply: Reply | None) -> bytes:
        told: EventReply | None = None
        peer: EventPeer | None = None
        if reply is not None:
            told = _reply(reply, Stage.QUEUE.value, local=True)
        elif batch.last_reply is not None:
            told = _reply(batch.last_reply, Stage.QUEUE.value, local=not batch.last_host)
            peer = EventPeer(batch.last_host) if batch.last_host else None
        envelope = batch.envelope
        if envelope is not self._envelope:
            self._keep(envelope)
        return encode(
            Event(
                id=self._id(),
                type=outcome.value,
                at=_ms(self._clock()),
                message=self._message,
                sender=envelope.reverse_path,
                recipient=recipient.address,
                destination=batch.destination,
                attempt=batch.attempts,
                size_bytes=envelope.size_bytes,
                queued_at=self._queued_at,
                reply=told,
                peer=peer,
                tenant=envelope.tenant,
                stream=self._stream,
                campaign=envelope.campaign,
            )
        )

    def _id(self) -> str:
        number = self._next_id()
        head = number >> 10
        if head != self._id_head:
            self._id_head, self._id_head_text = head, id_text(number)[:11]
        return self._id_head_text + _ID_TAILS[number & 1023]

    def _keep(self, envelope: Envelope) -> None:
        """Hold on to what all events of a message say."""
        self._envelope = envelope
        self._message = id_text(envelope.message)
        self._stream = _STREAM_NAMES[envelope.stream]
        self._queued_at = _ms(envelope.received_at)
        self._client = EventClient(envelope.client_ip, envelope.client_helo) if envelope.client_ip else None


_ID_TAILS: Final = [id_text(number)[11:] for number in range(1024)]
