"""The members of an event, one JSON object on one line (docs/event-record.md), and reading one back.

A member without a value is left out; the order of members never changes. Times are epoch seconds with three decimals.
"""

from __future__ import annotations

import msgspec


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
    """The `client` member: who gave us the message, or wanted to. Over TLS also the name that it asked for (SNI), the
    name in its certificate, and whether that certificate was checked and is good."""

    ip: str = ""
    helo: str = ""
    server_name: str = ""
    certificate: str = ""
    verified: bool = False


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
    reason: str = ""
    peer: EventPeer | None = None
    tls: str = ""
    client: EventClient | None = None
    account: str = ""
    tenant: str = ""
    stream: str = ""
    campaign: str = ""


_decode_json = msgspec.json.Decoder(Event).decode


def decode(line: bytes | bytearray | memoryview | str) -> Event:
    """The inverse of `encode`. Members that this version does not know are passed over.

    Raises:
        msgspec.DecodeError: not an event.
    """
    return _decode_json(line)
