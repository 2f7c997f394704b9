"""The only door into the spool.

Promise: `finish` says 250 only after the writer has said that message and recipients are on disk. Everything else
that can happen becomes a 4xx, and nothing is left behind. The Received field is the first thing in each message.

How: an Acceptance is one message being received. It gathers the facts of the envelope, streams pieces to the spool's
MessageWriter, and keeps the first thing that went wrong until there is a reply to give: SMTP lets us speak only
after the final dot.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from postroika import metrics
from postroika.errors import SpoolError, SpoolFullError
from postroika.inbound.header_copy import HeaderCopy
from postroika.inbound.submission import SubmissionHeader
from postroika.mail.envelope import BodyType, Envelope, Recipient
from postroika.mail.ids import id_text
from postroika.mail.reply import Reply, reply
from postroika.mail.trace import received_field, tls_comment, with_protocol
from postroika.policy.accounts import Account
from postroika.policy.pipeline import Client
from postroika.smtp.server_events import BodyEnd, Mail
from postroika.tls.facts import TlsFacts

NO_ROOM = reply(452, "4.3.1", "insufficient system storage, please try again later")
NOT_STORED = reply(451, "4.3.0", "the message could not be stored, please try again later")

# Judges a message that is complete by its header; the verdict, or None to accept.
Judge = Callable[[bytes], Awaitable[Reply | None]]

# Makes the "received" event of (envelope, recipient, destination), stored in the message's own transaction.
Received = Callable[[Envelope, Recipient, str], bytes]


class ReceivedOver(Protocol):
    """A `Received` that may be told of the connection, too."""

    def __call__(
        self, envelope: Envelope, recipient: Recipient, destination: str, tls: TlsFacts | None = None, /
    ) -> bytes:
        """The event, as one line."""


class MessageWriter(Protocol):
    """What the spool gives for one message; see `spool.writer.MessageWriter`."""

    message: int

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Take the next piece; what is to be awaited before the next one, if anything. Raises SpoolError."""

    async def finish(
        self,
        *,
        reverse_path: str,
        recipients: Sequence[Recipient],
        received: Received,
        body_type: BodyType,
        eight_bit: bool,
        smtputf8: bool,
        utf8_needed: bool,
        ret: str,
        envid: str,
        client_ip: str,
        client_helo: str,
        tls: str,
        tenant: str,
        account: str,
        requiretls: bool,
        ours: bool,
    ) -> None:
        """Commit; returns when it is on disk. Raises SpoolError."""

    def abandon(self) -> None:
        """Drop all of it. May be called twice."""


class Spool(Protocol):
    """Where messages go; see `spool.writer.Intake`."""

    def begin(self) -> MessageWriter:
        """A writer for one message."""

    def has_room(self) -> bool:
        """Whether more may come in."""


class Door:
    """What all acceptances of a worker share.

    Args:
        received: see ReceivedOver.
        hostname: ours, in the Received field.
        clock: epoch seconds.

    Attributes:
        has_room: whether MAIL and DATA may be accepted; otherwise answer NO_ROOM.
    """

    __slots__ = ("clock", "has_room", "hostname", "received", "spool")

    def __init__(
        self, spool: Spool, received: ReceivedOver, *, hostname: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.spool = spool
        self.has_room = spool.has_room
        self.received = received
        self.hostname = hostname
        self.clock = clock

    def open(
        self,
        client: Client,
        *,
        esmtp: bool,
        utf8_recipient: bool,
        account: Account | None = None,
        copy: HeaderCopy | None = None,
    ) -> Acceptance:
        """Begin to receive the message of `client.mail` for `client.recipients`; both stay as they are until its end.

        Args:
            utf8_recipient: a recipient has characters beyond ASCII.
            account: who submits it; then its header is checked and completed.
            copy: takes in the header, if somebody is to judge it.
        """
        assert client.mail is not None
        return Acceptance(self, client, client.mail, client.recipients, esmtp, utf8_recipient, account, copy)


class Acceptance:
    """One message on its way through the door."""

    __slots__ = (
        "_client",
        "_copy",
        "_door",
        "_failure",
        "_header",
        "_id_text",
        "_mail",
        "_recipients",
        "_stamp",
        "_utf8_recipient",
        "_writer",
    )

    def __init__(
        self,
        door: Door,
        client: Client,
        mail: Mail,
        recipients: list[Recipient],
        esmtp: bool,
        utf8_recipient: bool,
        account: Account | None = None,
        copy: HeaderCopy | None = None,
    ) -> None:
        self._copy = copy
        self._door = door
        self._client = client
        self._mail = mail
        self._recipients = recipients
        self._utf8_recipient = utf8_recipient
        self._failure: Reply | None = None
        self._writer = writer = door.spool.begin()
        self._id_text = id_text(writer.message)
        at = door.clock()
        self._header: SubmissionHeader | None = None
        if account is not None:
            self._header = SubmissionHeader(account, f"{self._id_text}@{door.hostname}", at)
        tls = client.tls
        self._stamp: bytes | None = received_field(
            helo=client.helo,
            ip=client.ip,
            hostname=door.hostname,
            protocol=with_protocol(
                esmtp=esmtp, smtputf8=mail.smtputf8, tls=tls is not None, authenticated=bool(client.account)
            ),
            id_text=self._id_text,
            at=at,
            recipient=recipients[0].address if len(recipients) == 1 else "",
            tls="" if tls is None else tls_comment(tls),
            name=client.name,
        )

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Store the next piece of content. Returns what is to be awaited before the next one, or None. What goes wrong
        is told by `finish`.

        Cancellation: the message must then be abandoned.
        """
        if self._failure is not None:
            return None
        if self._copy is not None:
            self._copy.feed(piece)
        if self._header is not None:
            piece = self._header.feed(piece)
            if self._header.refusal is not None:
                self._failure = self._header.refusal
                self._writer.abandon()
            if not piece:
                return None
        return self._write(piece)

    def _write(self, piece: bytes) -> Awaitable[None] | None:
        if self._stamp is not None:
            piece, self._stamp = self._stamp + piece, None
        wait = self._writer.write(piece)
        return None if wait is None else self._stored(wait)

    async def _stored(self, wait: Awaitable[None]) -> None:
        try:
            await wait
        except SpoolError as error:
            self._fail(error)

    async def finish(self, end: BodyEnd, judge: Judge | None = None) -> Reply:
        """Commit the message.

        Args:
            judge: asked before, if there was a `copy`.

        Returns:
            250 with the id, or 451 or 452: then nothing was kept, or (a commit that outlasted its deadline) it is
            not known, and the client's next try may make a second copy; or what refuses the header.

        Cancellation: see `spool.writer.MessageWriter.finish`; once handed over, the commit goes on.
        """
        rest = b""
        if self._header is not None and self._failure is None:
            rest = self._header.finish()
            if self._header.refusal is not None:
                self._failure = self._header.refusal
                self._writer.abandon()
        if judge is not None and self._copy is not None and self._failure is None:
            verdict = await judge(self._copy.header)
            if verdict is not None and verdict.code >= 400:
                self._failure = verdict
                self._writer.abandon()
        if self._failure is None and (rest or self._stamp is not None) and (wait := self._write(rest)) is not None:
            await wait
        if self._failure is not None:
            return self._failure
        mail, client = self._mail, self._client
        tls = client.tls
        received: Received = self._door.received
        if tls is not None and (tls.server_name or tls.verified):
            received = _over(tls, self._door.received)
        try:
            await self._writer.finish(
                reverse_path=mail.reverse_path,
                recipients=self._recipients,
                received=received,
                body_type=mail.body_type,
                # Our own stamp names a recipient beyond ASCII, if it is the only one.
                eight_bit=end.eight_bit or self._utf8_recipient,
                smtputf8=mail.smtputf8,
                utf8_needed=mail.utf8_address or self._utf8_recipient or end.header_eight_bit,
                ret=mail.ret,
                envid=mail.envid,
                client_ip=client.ip,
                client_helo=client.helo,
                tls="" if tls is None else tls.text(),
                tenant=client.tenant,
                account=client.account,
                requiretls=mail.requiretls,
                ours=client.trusted or bool(client.account),
            )
        except SpoolError as error:
            return self._fail(error)
        metrics.ACCEPTED_MESSAGES.value += 1
        metrics.ACCEPTED_RECIPIENTS.value += len(self._recipients)
        metrics.ACCEPTED_BYTES.value += end.size_bytes
        return Reply(250, "2.0.0", (f"Ok: queued as {self._id_text}",))

    def abandon(self) -> None:
        """Drop the message. May be called twice, and after a failure; not after a `finish` that gave 250."""
        self._writer.abandon()

    def _fail(self, error: SpoolError) -> Reply:
        self._failure = NO_ROOM if isinstance(error, SpoolFullError) else NOT_STORED
        self._writer.abandon()
        return self._failure


def _over(tls: TlsFacts, received: ReceivedOver) -> Received:
    """`received`, told of the connection."""

    def received_over(envelope: Envelope, recipient: Recipient, destination: str) -> bytes:
        return received(envelope, recipient, destination, tls)

    return received_over
