"""What became of one recipient in one attempt."""

from __future__ import annotations

import enum

import msgspec

from postroika.mail.reply import Reply


class Outcome(enum.StrEnum):
    """The six ends of an attempt; all but DEFERRED are final."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "bounced"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SUPPRESSED = "suppressed"


class Stage(enum.StrEnum):
    """Where in the dialogue a reply came, or what we were doing when we made it up."""

    ROUTING = "routing"
    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    FINAL_DOT = "final_dot"
    QUEUE = "queue"


class Peer(msgspec.Struct, frozen=True, gc=False):
    """The host we spoke with, or tried to."""

    host: str = ""
    ip: str = ""
    port: int = 0


class RecipientResult(msgspec.Struct, frozen=True, gc=False):
    """The outcome for one recipient of a batch.

    Args:
        index: position in `Batch.recipients` as it was when the attempt began.
        reply: the peer's reply, or one of our own making (then `remote` is False).
        relayed_without_dsn: delivered to a peer that does not speak DSN, so that a SUCCESS notice is ours to send.
        peer: who gave `reply`, where that is not `Attempt.peer` (several hosts were tried in one attempt).
    """

    index: int
    outcome: Outcome
    reply: Reply
    stage: Stage
    remote: bool = True
    relayed_without_dsn: bool = False
    peer: Peer | None = None


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try at one batch: what every recipient got, and where.

    Args:
        results: one for each recipient of the batch.
        peer: whom we spoke with; empty where no connection was tried.
        site: name of the MX set.
        source: local address used, "" for the system's choice.
        tls: protocol and cipher, and behind them "verified" if the certificate was good, "verified dane" if that is by
            TLSA records; "" in clear.
        counted: False where nothing was tried (an idle connection had been closed, shutdown): the batch is
            simply due again, no attempt is recorded and no event written.
    """

    results: tuple[RecipientResult, ...]
    peer: Peer = Peer()
    site: str = ""
    source: str = ""
    tls: str = ""
    counted: bool = True
