"""The words of the SMTP client: a transaction and what became of it, the steps of the dialogue, the events.

Promise: plain values without behaviour; `client` is what moves them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from postroika.kernels.stuff import Stuffer
from postroika.mail.envelope import Envelope, Recipient
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_capabilities import Capabilities


class Verdict(NamedTuple):
    """What a recipient got. `remote` is False for an obstacle that we saw ourselves: nothing of it was sent."""

    stage: Stage
    reply: Reply
    remote: bool = True


class Fate(enum.Enum):
    """How far a transaction had come when the connection went away."""

    UNTOUCHED = enum.auto()  # The server has answered nothing of it and cannot have the message.
    STARTED = enum.auto()  # Some of it was answered; the server cannot have the message.
    IN_DOUBT = enum.auto()  # All of the message was sent and no reply says what became of it.


class Step(enum.IntEnum):
    """The reply that is awaited, for the whole connection or for the first transaction."""

    NOTHING = 0
    GREETING = 1
    EHLO = 2
    RSET = 3
    MAIL = 4
    RCPT = 5
    DATA = 6
    BODY = 7  # None: the body is being sent (DATA).
    CHUNK = 8  # To one of several BDAT.
    FINAL_DOT = 9
    LONE_DOT = 10  # To a DATA that was accepted although no recipient was: belongs to nobody (RFC 2920 §3.1).
    SKIP = 11  # To the BDAT commands after one that was refused.
    QUIT = 12
    STARTTLS = 13
    HANDSHAKE = 14  # None: TLS is being agreed on, below SMTP.
    AUTH = 15


STAGES = {
    Step.NOTHING: Stage.CONNECT,
    Step.GREETING: Stage.GREETING,
    Step.EHLO: Stage.EHLO,
    Step.RSET: Stage.MAIL,
    Step.MAIL: Stage.MAIL,
    Step.RCPT: Stage.RCPT,
    Step.DATA: Stage.DATA,
    Step.BODY: Stage.DATA,
    Step.CHUNK: Stage.DATA,
    Step.SKIP: Stage.DATA,
    Step.FINAL_DOT: Stage.FINAL_DOT,
    Step.LONE_DOT: Stage.DATA,
    Step.QUIT: Stage.CONNECT,
    Step.STARTTLS: Stage.TLS,
    Step.HANDSHAKE: Stage.TLS,
    Step.AUTH: Stage.AUTH,
}
"""The stage of the dialogue that a step belongs to."""


_MAIL: Step = Step.MAIL  # looked up for each message


class Transaction:
    """One message for some recipients, and what became of it.

    Args:
        envelope, recipients: what to say in MAIL and RCPT.
        body: the whole message; None if it will be given in pieces when BodyWanted asks for them.

    Attributes:
        verdicts: one for each recipient; None while there is none.
    """

    __slots__ = (
        "accepted",
        "answered",
        "body",
        "chunked",
        "chunks",
        "commands",
        "dot_end",
        "end",
        "envelope",
        "hoped",
        "index",
        "mail_accepted",
        "mail_answered",
        "recipients",
        "step",
        "stuffer",
        "verdicts",
    )  # fmt: skip

    def __init__(self, envelope: Envelope, recipients: Sequence[Recipient], body: bytes | None) -> None:
        self.envelope = envelope
        self.recipients = recipients
        self.verdicts: list[Verdict | None] = [None] * len(recipients)
        self.body = body
        self.stuffer: Stuffer | None = None
        self.end = b""  # dot-stuffed body: its terminator
        self.commands: list[bytes] | None = None  # Without PIPELINING: what is still to be said, last first.
        self.hoped = b""  # With it: first digits of the replies to the group if all goes well; b"" once one was read
        self.step = _MAIL
        self.index = 0  # of the recipient whose reply comes next
        self.accepted = 0  # recipients
        self.mail_answered = self.mail_accepted = False
        self.chunked = False
        self.chunks = 0  # BDAT commands written …
        self.answered = 0  # … and answered
        self.dot_end = 0  # position in the output after the final dot or the last chunk; 0: not written


class Ready(NamedTuple):
    """The session stands; transactions may be sent."""

    capabilities: Capabilities


class TlsWanted(NamedTuple):
    """The server waits for a handshake. Shake hands, then call `secured`; nothing else may be called before."""


class Refused(NamedTuple):
    """The server does not want to speak with us (greeting, EHLO, STARTTLS, AUTH), or we not with it as it is (then
    `remote` is False and the words are ours). QUIT, then try another host."""

    stage: Stage
    reply: Reply
    remote: bool = True


class BodyWanted(NamedTuple):
    """Call `body` once. The next piece is asked for when this one is sent."""

    transaction: Transaction


class Done(NamedTuple):
    """Every recipient has its verdict."""

    transaction: Transaction


class Closed(NamedTuple):
    """Nothing more will come: the server closed, said 421 (then `reply` is that), or QUIT was answered.

    Call `abandon` to learn what became of transactions that are not done.
    """

    reply: Reply | None


Event: TypeAlias = Ready | TlsWanted | Refused | BodyWanted | Done | Closed
