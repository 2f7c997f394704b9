"""Writing events: what became of one recipient, one JSON object on one line (docs/event-record.md).

Promise: whatever a peer or a client has sent, the bytes returned here are valid UTF-8 JSON without a line break,
a control character or anything else that is invisible: those are written as \\u escapes, so that nobody outside
can forge a line or steer the terminal of whoever reads the log. Bytes that were not UTF-8 show as U+FFFD.

An event is made for every recipient of every attempt, so this is a hot path. The two kinds that nearly all mail has
("received", and an attempt that was the last) are joined from text, of which that of a message and that of a connection
are kept; whatever is out of the ordinary goes through a struct and its encoder. The octets are the same.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from postroika.mail.envelope import Batch, Envelope, Recipient, Stream
from postroika.mail.ids import IdSource, id_text
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply
from postroika.outcome.event_record import Event, EventClient, EventPeer, EventReply
from postroika.outcome.json_text import encode, is_plain, quoted, seconds
from postroika.tls.facts import TlsFacts

MAX_NAME_CHARS: Final = 255  # of a name in TLS: a host name has no more (RFC 1035 §2.3.4); a certificate might
MAX_TEXT_CHARS: Final = 2000  # Four full reply lines (RFC 5321 §4.5.3.1.5); what a peer adds beyond that is padding.
_KEPT: Final = 1024  # texts of messages and of connections: more than are under way in most workers
_REMOTE: Final = "}"
_LOCAL: Final = ',"local":true}'
_STREAM_NAMES: Final = {stream: stream.name.lower() for stream in Stream}


class Refusal(NamedTuple):
    """Something that we refused, and said so with `reply`.

    Args:
        sender: None if there was no (valid) MAIL, "" for the null sender.
        recipient: "" where none was the reason.
        stage: of the dialogue with the client.
        size_bytes: of the message, where it is known.
        account, tenant: of who had logged in, "" if nobody had.
        tls: of the connection; None in the clear.
    """

    client_ip: str
    helo: str
    sender: str | None
    recipient: str
    reply: Reply
    stage: str
    size_bytes: int = 0
    account: str = ""
    tenant: str = ""
    tls: TlsFacts | None = None


class FailedLogin(NamedTuple):
    """Somebody has tried to log in, in vain.

    Args:
        account: the name that was tried; there need not be such an account.
        reason: for us; the client is told `reply`.
        tls: of the connection; None in the clear.
        tenant: of the account, if there is one.
    """

    client_ip: str
    helo: str
    account: str
    reason: str
    reply: Reply
    tls: TlsFacts | None = None
    tenant: str = ""


def _ms(at: float) -> float:
    """Cut to milliseconds; a quarter of what `round` takes."""
    return int(at * 1000) / 1000


def _cut(text: str, most_chars: int = MAX_TEXT_CHARS) -> str:
    return text if len(text) <= most_chars else f"{text[:most_chars]}…"


def _reply(reply: Reply, stage: str, local: bool) -> EventReply:
    lines = reply.lines
    return EventReply(reply.code, reply.enhanced, _cut(lines[0] if len(lines) == 1 else reply.text), stage, local)


class _Told:
    """What all events of a message say, as text."""

    __slots__ = ("envelope", "head", "queued_at", "size", "tail")

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.head = f',"message":"{id_text(envelope.message)}","sender":{quoted(envelope.reverse_path)}'
        self.queued_at = queued_at = seconds(int(envelope.received_at * 1000))
        size = envelope.size_bytes
        self.size = f',"size_bytes":{size},"queued_at":{queued_at}' if size else f',"queued_at":{queued_at}'
        self.tail = _class_text(envelope.account, envelope.tenant, envelope.stream, envelope.campaign)


class _Way:
    """What all events of a connection say, as text."""

    __slots__ = ("head", "peer", "site", "source", "tail", "tls")

    def __init__(self, attempt: Attempt) -> None:
        self.peer, self.site, self.source, self.tls = attempt.peer, attempt.site, attempt.source, attempt.tls
        self.head = _member("site", self.site) + _member("source", self.source)
        peer = f',"peer":{encode(_peer(self.peer)).decode()}' if self.peer != Peer() else ""
        self.tail = peer + _member("tls", self.tls)


def _member(name: str, text: str) -> str:
    return f',"{name}":{quoted(text)}' if text else ""


@functools.lru_cache(maxsize=1024)
def _client_text(ip: str, helo: str, tls: str, facts: TlsFacts | None = None) -> str:
    return f'{_member("tls", tls)},"client":{encode(_client(ip, helo, facts)).decode()}'


@functools.lru_cache(maxsize=1024)
def _class_text(account: str, tenant: str, stream: Stream, campaign: str) -> str:
    whose = _member("account", account) + _member("tenant", tenant)
    return whose + _member("stream", _STREAM_NAMES[stream]) + _member("campaign", campaign) + "}"


def _client(ip: str, helo: str, tls: TlsFacts | None) -> EventClient:
    if tls is None:
        return EventClient(ip, helo)
    return EventClient(
        ip, helo, _cut(tls.server_name, MAX_NAME_CHARS), _cut(tls.peer_name, MAX_NAME_CHARS), tls.verified
    )


def _peer(peer: Peer) -> EventPeer:
    return EventPeer(peer.host, peer.ip, peer.port)


class EventWriter:
    """Makes events with ids that never repeat. One for each worker; not for several threads.

    Args:
        ids: gives the event ids; its `after` must be at least the last id in the outbox.
        clock: epoch seconds, for `at` and for the ids.
    """

    def __init__(self, ids: IdSource, clock: Callable[[], float] = time.time) -> None:
        self._next_at = ids.next_at
        self._clock = clock
        self._ms = -1
        self._at = ""
        self._id_head = -1
        self._id_head_text = ""
        self._told: dict[int, _Told] = {}
        self._told_before: dict[int, _Told] = {}
        self._ways: dict[str, _Way] = {}

    def received(
        self, envelope: Envelope, recipient: Recipient, destination: str, tls: TlsFacts | None = None
    ) -> bytes:
        """`recipient` of a message has been accepted; `at` is when the message was.

        Args:
            tls: of the connection that it came over, if there is more to say of it than `envelope.tls` does.
        """
        ms = int(self._clock() * 1000)
        told = self._told.get(envelope.message)
        if told is None or told.envelope is not envelope:
            told = self._tell(envelope)
        address = recipient.address
        if address and destination and is_plain(address + destination):
            client = ""
            if envelope.client_ip:
                client = (
                    _client_text(envelope.client_ip, envelope.client_helo, envelope.tls)
                    if tls is None
                    else _client_text(envelope.client_ip, envelope.client_helo, envelope.tls, tls)
                )
            return (
                f'{{"id":"{self._id(ms)}","type":"received","at":{told.queued_at}{told.head},"recipient":"{address}",'
                f'"destination":"{destination}"{told.size}{client}{told.tail}'
            ).encode()
        queued_at = _ms(envelope.received_at)
        return encode(
            Event(
                id=self._id(ms),
                type="received",
                at=queued_at,
                message=id_text(envelope.message),
                sender=envelope.reverse_path,
                recipient=address,
                destination=destination,
                size_bytes=envelope.size_bytes,
                queued_at=queued_at,
                tls=envelope.tls if envelope.client_ip else "",
                client=_client(envelope.client_ip, envelope.client_helo, tls) if envelope.client_ip else None,
                account=envelope.account,
                tenant=envelope.tenant,
                stream=_STREAM_NAMES[envelope.stream],
                campaign=envelope.campaign,
            )
        )

    def rejected(self, refusal: Refusal) -> bytes:
        """We refused something."""
        client_ip, helo, sender, recipient, reply, stage, size_bytes, account, tenant, tls = refusal
        ms = int(self._clock() * 1000)
        return encode(
            Event(
                id=self._id(ms),
                type="rejected",
                at=ms / 1000,
                sender=None if sender is None else _cut(sender),
                recipient=_cut(recipient),
                size_bytes=size_bytes,
                reply=_reply(reply, stage, local=True),
                tls="" if tls is None else tls.text(),
                client=_client(client_ip, _cut(helo), tls),
                account=account,
                tenant=tenant,
            )
        )

    def auth_failed(self, failed: FailedLogin) -> bytes:
        """Somebody has tried to log in, in vain."""
        ms = int(self._clock() * 1000)
        return encode(
            Event(
                id=self._id(ms),
                type="auth_failed",
                at=ms / 1000,
                reply=_reply(failed.reply, "auth", local=True),
                reason=_cut(failed.reason),
                tls="" if failed.tls is None else failed.tls.text(),
                client=_client(failed.client_ip, _cut(failed.helo), failed.tls),
                account=_cut(failed.account),
                tenant=failed.tenant,
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
        ms = int(self._clock() * 1000)
        number = batch.attempts + 1 if number is None else number
        reply = result.reply
        lines = reply.lines
        text = lines[0] if len(lines) == 1 else reply.text
        address, destination, enhanced = recipient.address, batch.destination, reply.enhanced
        if (
            not next_attempt_at
            and result.peer is None
            and number
            and address
            and destination
            and enhanced
            and text
            and len(text) <= MAX_TEXT_CHARS
            and is_plain(f"{address}{destination}{enhanced}{text}")
        ):
            envelope = batch.envelope
            told = self._told.get(envelope.message)
            if told is None or told.envelope is not envelope:
                told = self._tell(envelope)
            way = self._ways.get(attempt.peer.ip)
            if (
                way is None
                or (way.peer is not attempt.peer and way.peer != attempt.peer)  # each lane has one of its own
                or way.site != attempt.site
                or way.source != attempt.source
                or way.tls != attempt.tls
            ):
                way = self._keep_way(attempt)
            if ms != self._ms:
                self._ms, self._at = ms, seconds(ms)
            # `value` of an enum is a descriptor written in Python: half a microsecond.
            return (
                f'{{"id":"{self._id(ms)}","type":"{result.outcome._value_}","at":{self._at}{told.head},'
                f'"recipient":"{address}","destination":"{destination}"{way.head},"attempt":{number}{told.size},'
                f'"reply":{{"code":{reply.code},"enhanced":"{enhanced}","text":"{text}",'
                f'"stage":"{result.stage._value_}"{_REMOTE if result.remote else _LOCAL}{way.tail}{told.tail}'
            ).encode()
        return self._attempt_in_full(batch, recipient, result, attempt, next_attempt_at, number, ms)

    def _attempt_in_full(
        self,
        batch: Batch,
        recipient: Recipient,
        result: RecipientResult,
        attempt: Attempt,
        next_attempt_at: float,
        number: int,
        ms: int,
    ) -> bytes:
        envelope = batch.envelope
        peer = result.peer or attempt.peer
        return encode(
            Event(
                id=self._id(ms),
                type=result.outcome._value_,
                at=ms / 1000,
                message=id_text(envelope.message),
                sender=envelope.reverse_path,
                recipient=recipient.address,
                destination=batch.destination,
                site=attempt.site,
                source=attempt.source,
                attempt=number,
                size_bytes=envelope.size_bytes,
                queued_at=_ms(envelope.received_at),
                next_attempt_at=_ms(next_attempt_at) if next_attempt_at else None,
                reply=_reply(result.reply, result.stage._value_, not result.remote),
                peer=_peer(peer) if result.peer is not None or peer != Peer() else None,
                tls=attempt.tls,
                account=envelope.account,
                tenant=envelope.tenant,
                stream=_STREAM_NAMES[envelope.stream],
                campaign=envelope.campaign,
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
        ms = int(self._clock() * 1000)
        return encode(
            Event(
                id=self._id(ms),
                type=outcome.value,
                at=ms / 1000,
                message=id_text(envelope.message),
                sender=envelope.reverse_path,
                recipient=recipient.address,
                destination=batch.destination,
                attempt=batch.attempts,
                size_bytes=envelope.size_bytes,
                queued_at=_ms(envelope.received_at),
                reply=told,
                peer=peer,
                account=envelope.account,
                tenant=envelope.tenant,
                stream=_STREAM_NAMES[envelope.stream],
                campaign=envelope.campaign,
            )
        )

    def _id(self, ms: int) -> str:
        number = self._next_at(ms)
        head = number >> 10
        if head != self._id_head:
            self._id_head, self._id_head_text = head, id_text(number)[:11]
        return self._id_head_text + _ID_TAILS[number & 1023]

    def _tell(self, envelope: Envelope) -> _Told:
        """The text of a message: kept from when it came, or made."""
        message = envelope.message
        told = self._told_before.get(message)
        if told is None or told.envelope is not envelope:
            told = _Told(envelope)
        if len(self._told) >= _KEPT:
            self._told_before, self._told = self._told, {}
        self._told[message] = told
        return told

    def _keep_way(self, attempt: Attempt) -> _Way:
        if len(self._ways) >= _KEPT:
            self._ways.clear()
        way = self._ways[attempt.peer.ip] = _Way(attempt)
        return way


_ID_TAILS: Final = [id_text(number)[11:] for number in range(1024)]
