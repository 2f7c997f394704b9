"""The header of a message that an account submits: checked, and completed.

Promise: what leaves here has a Date and a Message-ID, and names nobody in From whom the account may not write as, nor
in Sender, Resent-From or Resent-Sender whom it may not send as: readers show those beside From, or in its place. The
octets that the client has sent are passed on as they are; what is missing is put in front of them.

How: pieces are held until the header has ended, as only then is it known what is missing; later ones go through. Bytes
in, bytes out; the first thing that is wrong becomes `refusal`, the reply after the end of the message.
Source: RFC 6409 §6.1, §8.2, §8.3.
"""

from __future__ import annotations

import re
from email.utils import formatdate

from postroika.mail.mailboxes import MOST_FIELD_BYTES, mailboxes
from postroika.mail.reply import Reply, reply
from postroika.policy.accounts import Account

TOO_LARGE = reply(552, "5.3.4", "the message is larger than this account may send")
NO_FROM = reply(550, "5.7.1", "there has to be one From field that is well formed")
FOREIGN_FROM = reply(550, "5.7.1", "this account may not use this address in From")
BAD_HEADER = reply(550, "5.6.0", "the header has line ends that are not CR LF")
_NAMES = (b"sender", b"resent-from", b"resent-sender")
FOREIGN = {
    name: reply(550, "5.7.1", f"this account may not use this address in {name.decode().title()}") for name in _NAMES
}
ILL_FORMED = {
    name: reply(550, "5.7.1", f"{name.decode().title()} is not well formed, or there is too much of it")
    for name in _NAMES
}
_HEADER_TOO_LARGE = reply(552, "5.3.4", "the header is too large")
_MOST_HELD_BYTES = 4 * 1024 * 1024  # above limits.max_header_bytes, as it is in any sensible config
# Expressions over the whole header, for a large one must not hold up the loop.
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_NEXT_FIELD = re.compile(rb"\r\n[!-9;-~]+[ \t]*:")
_FROM, _DATE, _MESSAGE_ID = (
    re.compile(rb"(?:\A|\n)" + name + rb"[ \t]*:", re.IGNORECASE) for name in (b"from", b"date", b"message-id")
)
_SENDING = re.compile(rb"(?:\A|\n)(" + b"|".join(_NAMES) + rb")[ \t]*:", re.IGNORECASE)


class SubmissionHeader:
    """The header of one message.

    Args:
        account: whose it is.
        message_id: for the field, without brackets.
        at: epoch seconds.

    Attributes:
        refusal: None as long as the message may be taken.
    """

    __slots__ = ("_account", "_at", "_held", "_message_id", "_size", "refusal")

    def __init__(self, account: Account, message_id: str, at: float) -> None:
        self._account = account
        self._message_id = message_id
        self._at = at
        self._held: bytearray | None = bytearray()  # None once the header has ended
        self._size = 0
        self.refusal: Reply | None = None

    def feed(self, piece: bytes) -> bytes:
        """What is to be stored of what has come."""
        if self.refusal is not None:
            return b""
        self._size += len(piece)
        if 0 < self._account.max_message_bytes < self._size:
            return self._refuse(TOO_LARGE)
        held = self._held
        if held is None:
            return piece
        searched = max(0, len(held) - 3)
        held += piece
        if held.startswith(b"\r\n"):
            return self._complete(0)
        end = held.find(b"\r\n\r\n", searched)
        if end >= 0:
            return self._complete(end + 2)
        return self._refuse(_HEADER_TOO_LARGE) if len(held) > _MOST_HELD_BYTES else b""

    def finish(self) -> bytes:
        """The message has ended: what is still to be stored."""
        if self._held is None or self.refusal is not None:
            return b""
        return self._complete(len(self._held))

    def _refuse(self, refusal: Reply) -> bytes:
        self.refusal = refusal
        self._held = None
        return b""

    def _complete(self, end: int) -> bytes:
        """What is held, with what was missing in front of it; the header goes up to `end`, the last CR LF of it
        included."""
        assert self._held is not None
        content, self._held = bytes(self._held), None
        header = content[:end]
        if not header.count(b"\n") == header.count(b"\r") == header.count(b"\r\n"):
            return self._refuse(BAD_HEADER)
        if not self._account.from_addresses.everything:
            author = _author(header)
            addresses = None if author is None else mailboxes(author)
            if not addresses:
                return self._refuse(NO_FROM)
            if any(address not in self._account.from_addresses for address in addresses):
                return self._refuse(FOREIGN_FROM)
            if (refusal := self._judge_senders(header)) is not None:
                return self._refuse(refusal)
        missing = b""
        if not _DATE.search(header):
            missing += f"Date: {formatdate(int(self._at)).replace('-0000', '+0000')}\r\n".encode()
        if not _MESSAGE_ID.search(header):
            missing += f"Message-ID: <{self._message_id}>\r\n".encode()
        if header and not _FIELD.match(header):
            missing += b"\r\n"  # it was no header: what came is all body
        return missing + content

    def _judge_senders(self, header: bytes) -> Reply | None:
        """Who sends the message for its author, or has sent it on, must be the account: as it may call itself in From,
        or as reverse-path. A message may have been sent on several times (RFC 5322 §3.6.6)."""
        left_bytes = MOST_FIELD_BYTES  # of all these fields: they are read on the loop
        account, sender_seen = self._account, False
        for field in _SENDING.finditer(header):
            name = field[1].lower()
            body = _body(header, field.end(), left_bytes)
            addresses = None if body is None or (name == b"sender" and sender_seen) else mailboxes(body)
            if body is None or not addresses:
                return ILL_FORMED[name]
            if any(one not in account.from_addresses and one not in account.senders for one in addresses):
                return FOREIGN[name]
            sender_seen |= name == b"sender"
            left_bytes -= len(name) + len(body)
        return None


def _author(header: bytes) -> str | None:
    """The body of the one From field, unfolded; None if there are more or none, or it is too long."""
    first = _FROM.search(header)
    if first is None or _FROM.search(header, first.end()) is not None:
        return None
    return _body(header, first.end(), MOST_FIELD_BYTES)


def _body(header: bytes, start: int, most_bytes: int) -> str | None:
    """The body of a field from behind its colon on, unfolded; None if it is too long. Lines that are no field are
    passed over, as some readers do; so nothing can hide behind them."""
    following = _NEXT_FIELD.search(header, start)
    lines = header[start : len(header) if following is None else following.start()]
    if len(lines) > most_bytes:
        return None
    begin, *rest = lines.split(b"\r\n")
    folded = [line for line in rest if line[:1] in {b" ", b"\t"}]
    return " ".join(line.decode("utf-8", "replace").strip() for line in (begin, *folded))
