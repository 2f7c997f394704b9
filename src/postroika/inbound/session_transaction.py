"""What a session does in a mail transaction: MAIL, RCPT, the content, and what ends it.

Promise: each command is judged by all whom it concerns, in this order: the account, the room in the spool, the hooks;
for recipients [relay] comes first. A refusal is recorded. 250 is the door's to say (`accept`).

How: the handlers of events; each returns what is to be awaited before the next one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from postroika.inbound.accept import NO_ROOM, Acceptance, Judge
from postroika.inbound.header_copy import HeaderCopy
from postroika.inbound.session_base import Pending, SessionBase
from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply
from postroika.policy.pipeline import Content, Stage
from postroika.smtp.server_events import BodyChunk, BodyEnd, BodyRefused, DataBegin, Helo, Mail, Rcpt, Refused, Reset

E = TypeVar("E", Helo, Mail, Rcpt, DataBegin)


class SessionTransaction(SessionBase):
    """A session as far as it takes mail."""

    __slots__ = ()

    def _mail(self, event: Mail) -> Pending:
        if self._login is not None and (verdict := self._login.judge_mail(event)) is not None:
            self._answer_mail(event, verdict)
        elif not self._has_room():
            self._answer_mail(event, NO_ROOM)
        elif self._judges_mail:
            return self._judge("mail", event, self._answer_mail)
        else:
            self._answer_mail(event, None)
        return None

    def _answer_mail(self, event: Mail, verdict: Reply | None) -> None:
        if verdict is None or verdict.code < 400:
            if self._client.mail is not None:
                self._forget_transaction()
            self._client.mail = event
        else:
            self._refusals.note("mail", verdict, sender=event.reverse_path, size_bytes=event.size_bytes)
        self._server.answer(verdict)

    def _rcpt(self, event: Rcpt) -> Pending:
        verdict = self._services.relay(self._client, event)
        if verdict is None and self._judges_rcpt:
            return self._judge("rcpt", event, self._answer_rcpt)
        self._answer_rcpt(event, verdict)
        return None

    def _answer_rcpt(self, event: Rcpt, verdict: Reply | None) -> None:
        client = self._client
        if self._login is not None and (verdict is None or verdict.code < 400):
            verdict = self._login.judge_recipient() or verdict
        if verdict is None or verdict.code < 400:
            address = self._services.relay.mailbox(event, client.local_ip)
            # The same address twice is one recipient, as everywhere.
            if address not in self._seen:
                self._seen.add(address)
                client.recipients.append(Recipient(address, event.notify, event.orcpt, len(client.recipients)))
                self._utf8_recipient |= event.utf8_address
        else:
            self._refusals.note("rcpt", verdict, recipient=event.address)
        self._server.answer(verdict)

    def _data(self, event: DataBegin) -> Pending:
        if not self._has_room():
            self._answer_data(event, NO_ROOM)
        elif self._judges_data:
            return self._judge("data", event, self._answer_data)
        else:
            self._answer_data(event, None)
        return None

    def _answer_data(self, event: DataBegin, verdict: Reply | None) -> None:
        del event
        if verdict is not None and verdict.code >= 400:
            self._refusals.note("data", verdict)
        self._server.answer(verdict)

    def _chunk(self, event: BodyChunk) -> Pending:
        acceptance = self._acceptance
        if acceptance is None:
            acceptance = self._open()
        return acceptance.write(event.piece)

    def _open(self) -> Acceptance:
        """The message begins with its first octet."""
        self._acceptance = acceptance = self._services.door.open(
            self._client,
            esmtp=self._server.esmtp if self._told is None or not self._told.proto else self._told.proto == "ESMTP",
            utf8_recipient=self._utf8_recipient,
            account=None if self._login is None else self._login.account,
            copy=HeaderCopy(self._services.limits.max_header_bytes) if self._judges_message else None,
        )
        return acceptance

    async def _commit(self, end: BodyEnd) -> None:
        acceptance = self._acceptance
        if acceptance is None:
            acceptance = self._open()
        # The commit has a deadline of its own, and nothing that the client does or does not do may cut it short.
        verdict = await acceptance.finish(end, self._judge_message(end) if self._judges_message else None)
        self._acceptance = None
        if verdict.code >= 400:
            self._refusals.note("body", verdict, size_bytes=end.size_bytes)
        self._server.answer(verdict)
        self._forget_transaction()

    def _judge_message(self, end: BodyEnd) -> Judge:
        def judge(header: bytes) -> Awaitable[Reply | None]:
            return self._pipeline.judge("message", self._client, Content(header, end.size_bytes))

        return judge

    def _body_refused(self, event: BodyRefused) -> None:
        self._refusals.note("body", event.reply)
        self._forget_message()

    def _reset(self, _event: Reset) -> None:
        self._forget_transaction()

    def _note_refused(self, event: Refused) -> None:
        if event.stage != "auth":
            self._refusals.note_refused(event)
        elif self._login is not None:
            self._login.note_malformed(event.reply)

    async def _judge(self, stage: Stage, event: E, answer: Callable[[E, Reply | None], None]) -> None:
        answer(event, await self._pipeline.judge(stage, self._client, event))
