"""One SMTP session: one Trio task that stands between a socket and the sans-IO server.

Promise: a client that is slow, rude or gone costs only its own session: every wait has a deadline, what it sends is
bounded by `smtp.server`, and a broken connection ends here. A message whose content is complete is answered even
when the worker is shutting down. A bug is not caught: it goes to the root nursery.

How: the socket is tried first and waited for only when it has nothing; all replies to what one read brought go out
in one send; one cancel scope lives as long as the session and only its deadline is moved.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from typing import Literal

import trio

from postroika import metrics
from postroika.config import Limits
from postroika.inbound.accept import NO_ROOM, Acceptance, Door, Rejected
from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply, reply
from postroika.policy.pipeline import Client, Pipeline
from postroika.policy.relay import RelayPolicy
from postroika.smtp.server import Server, ServerSettings
from postroika.smtp.server_events import (
    BodyChunk,
    BodyEnd,
    BodyRefused,
    DataBegin,
    Event,
    Helo,
    Mail,
    Quit,
    Rcpt,
    Refused,
    Reset,
)

READ_BYTES = 65_536
READS_IN_A_ROW = 32  # then others get their turn, however much the client has sent
MAX_REJECTED_EVENTS = 1000  # of one session: a client that is refused for ever must not fill our disk
LINGER_S = 2.0  # how long a client that is sent away gets to read why
LINGER_BYTES = 1024 * 1024
_DEADLINE_SLACK_S = 0.5  # moving a deadline costs more than being late by this

_TIMED_OUT = reply(421, "4.4.2", "timeout: closing the connection")
_SHUTTING_DOWN = reply(421, "4.3.2", "the service is shutting down, please try again")
_GOT = {"connect": "connect", "helo": "ehlo", "mail": "mail", "rcpt": "rcpt", "data": "data", "body": "final_dot"}


class _GoneError(Exception):
    """The connection is broken."""


@dataclass(frozen=True, slots=True)
class Services:
    """What all sessions of a worker share.

    Args:
        rejected: records refusals; see `accept.Rejected`.
    """

    door: Door
    pipeline: Pipeline
    relay: RelayPolicy
    rejected: Rejected
    limits: Limits


class Session:
    """One connection.

    Args:
        sock: connected and non-blocking; the session closes it.
        client: who is there.
    """

    __slots__ = (
        "_acceptance", "_client", "_line_deadline", "_recorded", "_scope", "_seen", "_server", "_services",
        "_sock", "_stop", "_stuck", "_transaction_deadline", "_utf8_recipient",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, client: Client, settings: ServerSettings, services: Services) -> None:
        self._sock = sock
        self._client = client
        client.trusted = services.relay.trusts(client.ip)
        self._services = services
        self._server = Server(settings)
        self._scope = trio.CancelScope()
        self._acceptance: Acceptance | None = None
        self._stop: Literal["", "gently", "now"] = ""
        self._stuck = False
        self._transaction_deadline = math.inf
        self._line_deadline = math.inf
        self._utf8_recipient = False
        self._seen: set[str] = set()
        self._recorded = 0

    @property
    def ip(self) -> str:
        """Of the client."""
        return self._client.ip

    def stop(self, *, now: bool) -> None:
        """Ask the session to end: with 421 as soon as no transaction is open, or (`now`) at once. A message that is
        being committed is answered first in both cases."""
        self._stop = "now" if now else "gently"
        if now or not self._server.in_transaction:
            self._scope.cancel()

    async def run(self) -> None:
        """Hold the session until it ends. Returns with the socket closed.

        Cancellation: the client is not told; an unfinished message is dropped, one that was handed over is kept.
        """
        metrics.SESSIONS.value += 1
        metrics.SESSIONS_OPEN.value += 1
        try:
            with self._scope as scope:
                await self._converse()
            if scope.cancelled_caught:
                self._server.shut_down(_SHUTTING_DOWN if self._stop else _TIMED_OUT)
                if not self._stuck:
                    self._send_nowait(self._server.take_output())
        except _GoneError:
            pass
        finally:
            metrics.SESSIONS_OPEN.value -= 1
            self._forget_transaction()
            self._sock.close()

    async def _converse(self) -> None:
        """Read, act, reply, until the server is closed."""
        server, sock, limits = self._server, self._sock, self._services.limits
        verdict = await self._services.pipeline.judge("connect", self._client, None)
        if verdict is not None and verdict.code >= 400:
            server.shut_down(verdict)
            self._note("connect", verdict)
        reads = 0
        unread = False
        while True:
            output = server.take_output()
            if output:
                self._line_deadline = math.inf
                await self._send(output)
            if server.closed:
                if unread:
                    await self._linger()
                return
            if self._stop and not server.in_transaction:
                server.shut_down(_SHUTTING_DOWN)
                unread = False
                continue
            reads += 1
            if reads > READS_IN_A_ROW:
                reads = 0
                self._set_deadline(limits)
                await trio.lowlevel.checkpoint()
            while True:
                try:
                    piece = sock.recv(READ_BYTES)
                    break
                except BlockingIOError:
                    reads = 0
                    self._set_deadline(limits)
                    await trio.lowlevel.wait_readable(sock)
                    self._leave_time_to_act(limits)
                except OSError as error:
                    raise _GoneError from error
            server.receive(piece)
            last: Event | None = None
            while (event := server.next_event()) is not None:
                last = event
                await self._act(event)
            unread = bool(piece) and not isinstance(last, Quit)

    def _set_deadline(self, limits: Limits) -> None:
        """Until when the next bytes have to come."""
        server, now = self._server, trio.current_time()
        if server.receiving:
            deadline = now + limits.data_timeout_s
        elif server.mid_command:
            # From the first octet of a line: a client that drips octets gains nothing.
            if self._line_deadline == math.inf:
                self._line_deadline = now + limits.command_timeout_s
            deadline = self._line_deadline
        else:
            self._line_deadline = math.inf
            deadline = now + (limits.command_timeout_s if server.in_transaction else limits.idle_timeout_s)
        deadline = min(deadline, self._transaction_deadline)
        ahead = deadline - self._scope.deadline
        if ahead < 0 or ahead > _DEADLINE_SLACK_S:
            self._scope.deadline = deadline

    def _leave_time_to_act(self, limits: Limits) -> None:
        """The client has kept its deadline, if late: storing what it sent has one of its own."""
        earliest = trio.current_time() + 2 * limits.commit_timeout_s
        if self._scope.deadline < earliest:  # noqa: PLR1730 - setting it costs far more than looking
            self._scope.deadline = earliest

    # ---- events

    async def _act(self, event: Event) -> None:
        if isinstance(event, BodyChunk):
            assert self._acceptance is not None
            await self._acceptance.write(event.piece)
        elif isinstance(event, Rcpt):
            await self._rcpt(event)
        elif isinstance(event, Mail):
            await self._mail(event)
        elif isinstance(event, DataBegin):
            await self._data(event)
        elif isinstance(event, BodyEnd):
            await self._commit(event)
        elif isinstance(event, Refused):
            # What it was about is in the argument, as the client wrote it.
            self._note_refused(event)
        elif isinstance(event, Helo):
            verdict = await self._services.pipeline.judge("helo", self._client, event, self._scope)
            if verdict is None or verdict.code < 400:
                self._client.helo = event.name
            else:
                self._note("helo", verdict)
            self._server.answer(verdict)
        elif isinstance(event, BodyRefused):
            self._note("body", event.reply)
            self._forget_message()
        elif isinstance(event, Reset):
            self._forget_transaction()

    async def _mail(self, event: Mail) -> None:
        services, client = self._services, self._client
        verdict = None
        if not services.door.has_room():
            verdict = NO_ROOM
        else:
            verdict = await services.pipeline.judge("mail", client, event, self._scope)
        if verdict is None or verdict.code < 400:
            self._forget_transaction()
            client.mail = event
            self._transaction_deadline = trio.current_time() + services.limits.transaction_timeout_s
        else:
            self._note("mail", verdict, sender=event.reverse_path, size_bytes=event.size_bytes)
        self._server.answer(verdict)

    async def _rcpt(self, event: Rcpt) -> None:
        services, client = self._services, self._client
        verdict = services.relay(client, event)
        if verdict is None:
            verdict = await services.pipeline.judge("rcpt", client, event, self._scope)
        if verdict is None or verdict.code < 400:
            address = services.relay.mailbox(event, client.local_ip)
            # The same address twice is one recipient, as everywhere.
            if address not in self._seen:
                self._seen.add(address)
                client.recipients.append(Recipient(address, event.notify, event.orcpt, len(client.recipients)))
                self._utf8_recipient |= event.utf8_address
        else:
            self._note("rcpt", verdict, recipient=event.address)
        self._server.answer(verdict)

    async def _data(self, event: DataBegin) -> None:
        services, client = self._services, self._client
        if not services.door.has_room():
            verdict: Reply | None = NO_ROOM
        else:
            verdict = await services.pipeline.judge("data", client, event, self._scope)
        if verdict is None or verdict.code < 400:
            self._acceptance = services.door.open(client, esmtp=self._server.esmtp, utf8_recipient=self._utf8_recipient)
        else:
            self._note("data", verdict)
        self._server.answer(verdict)

    async def _commit(self, end: BodyEnd) -> None:
        acceptance = self._acceptance
        assert acceptance is not None
        # The commit has a deadline of its own, and nothing that the client does or does not do may cut it short.
        self._scope.deadline = math.inf
        verdict = await acceptance.finish(end)
        self._acceptance = None
        if verdict.code >= 400:
            self._note("body", verdict, size_bytes=end.size_bytes)
        self._server.answer(verdict)
        self._forget_transaction()

    def _forget_message(self) -> None:
        if self._acceptance is not None:
            self._acceptance.abandon()
            self._acceptance = None

    def _forget_transaction(self) -> None:
        self._forget_message()
        client = self._client
        if client.mail is not None:
            client.mail = None
            client.recipients = []
            self._seen.clear()
            self._utf8_recipient = False
            self._transaction_deadline = math.inf

    # ---- the record of refusals

    def _note_refused(self, event: Refused) -> None:
        if event.stage == "protocol":
            self._note("helo" if not self._client.helo else "mail", event.reply)
        elif event.stage == "mail":
            self._note("mail", event.reply, sender=_path_in(event.detail))
        elif event.stage == "rcpt":
            self._note("rcpt", event.reply, recipient=_path_in(event.detail))
        else:
            self._note("data", event.reply)

    def _note(
        self, stage: str, given: Reply, *, sender: str | None = None, recipient: str = "", size_bytes: int = 0
    ) -> None:
        stage = _GOT[stage]
        self._recorded += 1
        if self._recorded > MAX_REJECTED_EVENTS:
            metrics.REJECTED[stage].value += 1
            return
        client = self._client
        if sender is None and client.mail is not None:
            sender = client.mail.reverse_path
        self._services.rejected(
            client_ip=client.ip,
            helo=client.helo,
            sender=sender,
            recipient=recipient,
            reply=given,
            stage=stage,
            size_bytes=size_bytes,
        )

    # ---- the socket

    async def _send(self, output: bytes) -> None:
        """Send all of it. A client that does not read its replies runs into the deadline."""
        view = memoryview(output)
        while True:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                self._stuck = True  # in the middle of a reply: another one would only garble it
                self._scope.deadline = trio.current_time() + self._services.limits.command_timeout_s
                await trio.lowlevel.wait_writable(self._sock)
            except OSError as error:
                raise _GoneError from error
            if not view:
                self._stuck = False
                return

    def _send_nowait(self, output: bytes) -> None:
        """Send what the socket takes at once."""
        try:
            self._sock.send(output)
        except OSError as error:
            raise _GoneError from error

    async def _linger(self) -> None:
        """Let a client that is sent away read why: with unread input, closing would reset the connection and take
        our last reply with it."""
        left = LINGER_BYTES
        try:
            self._sock.shutdown(socket.SHUT_WR)
            with trio.move_on_after(LINGER_S):
                while left > 0:
                    try:
                        got = len(self._sock.recv(READ_BYTES))
                    except BlockingIOError:
                        await trio.lowlevel.wait_readable(self._sock)
                        continue
                    if not got:
                        return
                    left -= got
        except OSError as error:
            raise _GoneError from error


def _path_in(argument: str) -> str:
    """What stands between < and > in the refused argument of MAIL or RCPT; all of it where nothing does."""
    start, stop = argument.find("<"), argument.rfind(">")
    return argument[start + 1 : stop] if 0 <= start < stop else argument
