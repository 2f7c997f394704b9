"""The part of a delivery status notification that people read. Pure.

Promise: plain words, in lines of at most 78 columns, that say what happened to which recipient, who said so and
when in the dialogue, and what the reader can do. Whatever a peer has sent appears indented, so that it cannot pass
for our own words, and only as visible characters.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from postroika.mail.envelope import Recipient
from postroika.mail.outcome import Peer, Stage
from postroika.mail.reply import Reply

MAX_REPLY_CHARS: Final = 2000  # Four full reply lines (RFC 5321 §4.5.3.1.5).
_WIDTH: Final = 76
_LONGEST_WORD: Final = 200  # Characters; of up to 4 octets, and there may be an indent and a field name before it.


class Kind(enum.StrEnum):
    """What a notification reports."""

    FAILED = "failed"
    EXPIRED = "expired"
    DELAYED = "delayed"
    RELAYED = "relayed"
    DELIVERED = "delivered"


class RecipientReport(msgspec.Struct, frozen=True):
    """What a notification says of one recipient.

    Args:
        reply: the peer's, or one of our own making (then `remote` is False).
        peer: whom we spoke with; empty if nobody.
        attempted_at: epoch seconds of the last attempt, 0 if there was none.
        retry_until: epoch seconds at which we give up; for `Kind.DELAYED`.
    """

    recipient: Recipient
    reply: Reply
    stage: Stage = Stage.RCPT
    remote: bool = True
    peer: Peer = Peer()
    attempted_at: float = 0.0
    retry_until: float = 0.0


SUBJECTS: Final = {
    Kind.FAILED: "Undelivered mail returned to sender",
    Kind.EXPIRED: "Undelivered mail returned to sender",
    Kind.DELAYED: "Delayed mail (still being tried)",
    Kind.RELAYED: "Mail passed on to the next server",
    Kind.DELIVERED: "Mail delivered",
}

_OPENING: Final = {
    Kind.FAILED: (
        "Your message could not be delivered to the recipients below, and will not be tried again for them. "
        "Others, if there were any, are not affected."
    ),
    Kind.EXPIRED: (
        "Your message could not be delivered to the recipients below in the time that is allowed for it. "
        "It will not be tried again for them."
    ),
    Kind.DELAYED: (
        "Your message could not yet be delivered to the recipients below. THIS IS ONLY A WARNING: it is still being "
        "tried, and you do not need to send it again."
    ),
    Kind.RELAYED: (
        "Your message has been handed to a mail server that does not confirm deliveries. It has been accepted for the "
        "recipients below, but you may not hear whether it reaches them."
    ),
    Kind.DELIVERED: "Your message has been delivered to the recipients below.",
}

_STAGES: Final = {
    Stage.ROUTING: "when looking up where mail for this address goes",
    Stage.CONNECT: "when connecting",
    Stage.GREETING: "in its greeting",
    Stage.EHLO: "when we introduced ourselves (EHLO)",
    Stage.TLS: "when the connection was to be encrypted (STARTTLS)",
    Stage.AUTH: "when we logged in (AUTH)",
    Stage.MAIL: "when told the sender (MAIL FROM)",
    Stage.RCPT: "when told the recipient (RCPT TO)",
    Stage.DATA: "before the message was sent (DATA)",
    Stage.FINAL_DOT: "after the whole message was sent",
    Stage.QUEUE: "while the message was waiting here",
}

# By subject.detail of the enhanced status code (RFC 3463 §3, RFC 7504, RFC 7505, RFC 6531), then by subject alone.
_ADVICE: Final = {
    "1.1": "Check the part before the @ for typing mistakes; such a mailbox is not known there.",
    "1.2": "Check the part after the @ for typing mistakes; mail cannot be sent to such a domain.",
    "1.3": "Check the address for typing mistakes; it is not well-formed.",
    "1.6": "The mailbox has moved. Ask the recipient for the new address.",
    "1.7": "The address you send from was refused. Check the sender settings of your mail program.",
    "1.8": "The domain you send from was refused. Check that it exists and can receive mail.",
    "1.10": "This domain declares that it takes no mail. Ask the recipient for another address.",
    "2.1": "The mailbox is disabled. Reach the recipient in another way.",
    "2.2": "The mailbox is full. Try again in some days, or reach the recipient in another way.",
    "2.3": "The message is too large for this mailbox. Send less, or a link in place of the attachment.",
    "3.4": "The message is too large for that server. Send less, or a link in place of the attachment.",
    "4.7": "That server could not be reached, or would not take the message, for too long. You may try again.",
    "6.3": "The next server cannot take 8-bit mail as it is. Send it in another encoding (quoted-printable, base64).",
    "6.7": "The next server cannot take addresses or headers with non-ASCII letters. Use an address without them.",
    "7.5": "What makes the message safe (a signature, encryption) could not be had. Forward this notice to your own "
    "postmaster.",
    "7.1": "That server refuses the message by its own policy. Its words above may say why; ask its postmaster.",
    "1": "Check the address for typing mistakes.",
    "2": "The trouble is with that mailbox. Reach the recipient in another way.",
    "3": "The trouble is with that mail server. Try again later, or ask its postmaster.",
    "4": "The trouble is on the way to that server. Try again later.",
    "5": "The two mail servers do not understand each other. Forward this notice to your own postmaster.",
    "6": "The trouble is with the form of the message. Send it in a simpler form.",
    "7": "That server refuses the message by its own policy. Its words above may say why; ask its postmaster.",
}
_ADVICE_DEFAULT: Final = (
    "If the words above do not help, forward this notice to the postmaster of the recipient's domain."
)


def clean(text: str, ascii_only: bool = False) -> str:
    """`text` on one line: white space is a space, anything else that cannot be seen (controls, lone surrogates,
    direction marks), or with `ascii_only` is not ASCII, a question mark."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() and (c < "\x7f" or not ascii_only) else " " if c.isspace() else "?" for c in text
    )


def fold(text: str, indent: str = "", width: int = _WIDTH, room: int | None = None) -> list[str]:
    """`text` as lines of up to `width` columns, broken at spaces; all but the first begin with `indent`.

    Only a word that could make a line of more than 998 octets (RFC 5322 §2.1.1) is broken itself.

    Args:
        room: columns that the first line may have, if not `width`.
    """
    columns = width if room is None else room
    if len(text) <= columns and len(text) <= _LONGEST_WORD and "  " not in text:
        return [text.strip(" ")]
    lines = []
    line = ""
    for whole in text.split():
        for start in range(0, len(whole), _LONGEST_WORD):
            word = whole[start : start + _LONGEST_WORD]
            if line and len(line) + 1 + len(word) > columns:
                lines.append(line)
                line, columns = indent + word, width
            else:
                line = f"{line} {word}" if line else word
    lines.append(line)
    return lines


_OPENING_LINES: Final = {kind: fold(text) for kind, text in _OPENING.items()}


def reply_text(reply: Reply, ascii_only: bool = False) -> str:
    """Code, enhanced code and words of a reply in one clean line of bounded length."""
    text = clean(str(reply), ascii_only)
    return text if len(text) <= MAX_REPLY_CHARS else f"{text[:MAX_REPLY_CHARS]} [...]"


def explain(
    kind: Kind, reports: Sequence[RecipientReport], *, hostname: str, arrived: str, given_up: str, attached: str
) -> list[str]:
    """The lines of the text part, without line ends.

    Args:
        arrived: when the message came, as text.
        given_up: until when it is tried, as text; for `Kind.DELAYED`, "" if not known.
        attached: what the third part of the report is, as in "Your message".
    """
    lines = [f"This is the mail server {hostname}.", ""]
    lines += _OPENING_LINES[kind]
    lines += fold(f"The message came here on {arrived}.")
    if kind is Kind.DELAYED and given_up:
        lines += fold(f"It is tried until {given_up}.")
    for report in reports:
        lines.append("")
        lines += fold(f"<{clean(report.recipient.address)}>", indent="  ")
        lines += ["  " + line for line in fold(_who_said(kind, report), width=_WIDTH - 2)]
        lines += ["      " + line for line in fold(reply_text(report.reply), width=_WIDTH - 6)]
        if kind in {Kind.FAILED, Kind.EXPIRED}:
            lines += ["  " + line for line in fold(_advice(kind, report.reply), width=_WIDTH - 2)]
    lines += ["", *fold(f"Below are a report for mail programs, and {attached}.")]
    return lines


def _who_said(kind: Kind, report: RecipientReport) -> str:
    stage = _STAGES[report.stage]
    host, ip = clean(report.peer.host), clean(report.peer.ip)
    if ip:
        host = f"{host} [{ip}]" if host and host != ip else f"[{ip}]"
    if not report.remote:
        where = f" (next server: {host})" if host else ""
        return f"Our own server noted {stage.replace('in its', 'at the')}{where}:"
    speaker = f"The server {host}" if host else "The next server"
    return f"{speaker} said{' last,' if kind is Kind.EXPIRED else ''} {stage}:"


def _advice(kind: Kind, reply: Reply) -> str:
    detail = reply.enhanced.partition(".")[2]
    if detail not in _ADVICE and kind is Kind.EXPIRED and detail in {"", "0.0"}:
        detail = "4.7"
    return _ADVICE.get(detail) or _ADVICE.get(detail.partition(".")[0], _ADVICE_DEFAULT)
