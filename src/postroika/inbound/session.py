"""One SMTP session: one strand that stands between a socket and the sans-IO server.

Promise: a client that is slow, rude or gone costs only its own session: every wait has a deadline, what it sends is
bounded by `smtp.server`, and a broken connection ends here. What it sends without waiting for replies is taken in turns
with others, and no further than the replies have somewhere to go. A message whose content is complete is answered even
when the worker is shutting down. Nothing that came in the clear counts for anything in TLS. A bug is not caught: it
goes to the root nursery.

How: the socket is tried first and waited for only when it has nothing; all replies to what one read brought go out
in one send, unless they are many; the deadline of a wait is a number that the pump looks at. What needs no decision of
ours is answered by `_advance` while the strand goes on waiting: of the usual message, all but its end. After STARTTLS a
new server takes the place of the one that spoke in the clear, and what is read and said goes through `encrypted`.
XCLIENT makes another one of the client, and takes the dialogue back to the greeting.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from postroika import metrics
from postroika.config import Limits
from postroika.inbound.accept import NO_ROOM, Acceptance, Door, Judge
from postroika.inbound.encrypted import Encrypted
from postroika.inbound.header_copy import HeaderCopy
from postroika.inbound.login import Login, Logins
from postroika.inbound.proxies import retell
from postroika.kernels.server_lane import REST_OF_COMMAND
from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply, reply
from postroika.outcome.events import Refusal
from postroika.policy.accounts import Account
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client, Content, Pipeline, Stage
from postroika.policy.relay import RelayPolicy
from postroika.pump import LARGE_READ_BYTES, READ_BYTES, Channel, Interrupted, Late, Strand, breathe, current, now
from postroika.smtp.server import MOST_OUTPUT_BYTES, Server, ServerSettings
from postroika.smtp.server_events import (
    Auth,
    AuthResponse,
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
    StartTls,
    XClient,
)
from postroika.smtp.xclient import ATTRIBUTES
from postroika.tls.certificates import ListenerTls
from postroika.tls.layer import TlsError

READS_IN_A_ROW = 32  # then others get their turn, however much the client has sent
EVENTS_IN_A_ROW = 128  # of one read, likewise
_READS_IN_A_LARGE_ONE = LARGE_READ_BYTES // READ_BYTES
MAX_REJECTED_EVENTS = 1000  # of one session: a client that is refused for ever must not fill our disk
LINGER_S = 2.0  # how long a client that is sent away gets to read why
LINGER_BYTES = 1024 * 1024
_MOST_DROPPED_BYTES = 1024 * 1024  # of what a client has sent behind STARTTLS without waiting

_NO_LOGIN = tuple(attribute for attribute in ATTRIBUTES if attribute != "LOGIN")
_TIMED_OUT = reply(421, "4.4.2", "timeout: closing the connection")
_SHUTTING_DOWN = reply(421, "4.3.2", "the service is shutting down, please try again")
_GOT = {
    "connect": "connect",
    "tls": "tls",
    "helo": "ehlo",
    "xclient": "xclient",
    "mail": "mail",
    "rcpt": "rcpt",
    "data": "data",
    "body": "final_dot",
}


Pending = Awaitable[None] | None
E = TypeVar("E", Helo, Mail, Rcpt, DataBegin)


class _GoneError(Exception):
    """The connection is broken."""


@dataclass(frozen=True, slots=True)
class Services:
    """What all sessions of a worker share.

    Args:
        rejected: records a refusal and counts it in `metrics.REJECTED`; must not block and must not fail.
        logins: None if there are no accounts.
        xclient_from: by the number of the listener, who may say with XCLIENT for whom it speaks; None: nobody.
        settings_of: those of a session with this client, before TLS; None: those that it began with.
    """

    door: Door
    pipeline: Pipeline
    relay: RelayPolicy
    rejected: Callable[[Refusal], None]
    limits: Limits
    logins: Logins | None = None
    xclient_from: Mapping[int, Networks] | None = None
    settings_of: Callable[[Client], ServerSettings] | None = None


class Session:
    """One connection.

    Args:
        sock: connected and non-blocking; the session closes it.
        client: who is there.
        settings: if TLS is active in them, it begins with the first octet.
        tls: of the listener; None where there is none.

    Attributes:
        move: told of the old and the new address when XCLIENT changes the client's; says why that may not be.
    """

    __slots__ = (
        "_acceptance", "_channel", "_client", "_encrypted", "_gone", "_has_room", "_judges_data", "_judges_mail",
        "_judges_message", "_judges_rcpt", "_line_deadline", "_login", "_patience_s", "_peer_ip", "_pipeline", "_reads",
        "_recorded", "_seen", "_server", "_services", "_settings", "_sock", "_stop", "_strand", "_stuck", "_tls",
        "_told", "_transaction_deadline", "_unread", "_unsent", "_utf8_recipient", "_xclient_attributes", "move",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        client: Client,
        settings: ServerSettings,
        services: Services,
        tls: ListenerTls | None = None,
    ) -> None:
        self._sock = sock
        self._client = client
        client.trusted = client.known and services.relay.trusts(client.ip)
        self._services = services
        self._settings = settings
        self._tls = tls
        self._encrypted: Encrypted | None = None
        self._seen: set[str] = set()
        self._peer_ip = ""  # of who may use XCLIENT, whatever it has told
        self._told: XClient | None = None  # the last that it has
        self.move: Callable[[str, str], Reply | None] | None = None
        if services.xclient_from is not None:
            trusted = services.xclient_from.get(client.listener)
            if trusted is not None and client.known and client.ip in trusted:
                self._peer_ip = client.ip
        self._login: Login | None = None
        logins = services.logins
        # Where nobody but a peer that speaks for others can log in, logging in may be required all the same.
        if logins is not None and (settings.auth or self._peer_ip or logins.rules[client.listener].required):
            self._login = logins.open(client)
        self._xclient_attributes: tuple[str, ...] = ()
        if self._peer_ip:
            self._xclient_attributes = ATTRIBUTES if self._login is not None else _NO_LOGIN
        self._has_room = services.door.has_room
        self._find_judges()
        self._server = self._new_server(greet=True)
        limits = services.limits
        self._patience_s = (  # by what the server awaits
            limits.idle_timeout_s, limits.command_timeout_s, limits.command_timeout_s, limits.data_timeout_s
        )  # fmt: skip
        self._strand: Strand | None = None
        self._acceptance: Acceptance | None = None
        self._stop: Literal["", "gently", "now"] = ""
        self._stuck = False
        self._transaction_deadline = math.inf
        self._line_deadline = math.inf
        self._utf8_recipient = False
        self._unsent = b""
        self._unread = False  # the last read has brought something, and not only QUIT
        self._gone = False
        self._reads = 0  # in a row
        self._recorded = 0

    def _find_judges(self) -> None:
        """Who judges this client: to be found anew if it turns out to be another one."""
        self._services.pipeline.part(self._client)
        self._pipeline = self._services.pipeline.of(self._client)
        judges = self._pipeline.judges
        self._judges_mail, self._judges_rcpt, self._judges_data = judges("mail"), judges("rcpt"), judges("data")
        self._judges_message = judges("message")

    def _new_server(self, *, greet: bool) -> Server:
        server = Server(self._settings, greet=greet)
        server.xclient = self._xclient_attributes
        server.pauses = True
        self._accept_unasked(server)
        return server

    def _accept_unasked(self, server: Server) -> None:
        """Tell the server what nobody is to be asked about, as things are."""
        asks = self._login is not None and self._login.judges
        server.accept_unasked(
            self._client,
            self._seen,
            self._has_room,
            mail=not self._judges_mail and not asks,
            rcpt=self._client.trusted and not self._judges_rcpt and not asks,
            data=not self._judges_data,
        )

    @property
    def ip(self) -> str:
        """Of the client."""
        return self._client.ip

    def stop(self, *, now: bool) -> None:
        """Ask the session to end: with 421 as soon as no transaction is open, or (`now`) at once. A message that is
        being committed is answered first in both cases."""
        self._stop = "now" if now else "gently"
        if self._strand is not None and (now or not self._server.in_transaction):
            self._strand.interrupt()

    async def run(self) -> None:
        """Hold the session until it ends, in a strand. Returns with the socket closed.

        Interruption other than by `stop`: the client is not told; an unfinished message is dropped, one that was
        handed over is kept.
        """
        metrics.SESSIONS.value += 1
        metrics.SESSIONS_OPEN.value += 1
        self._strand = current()
        self._channel = Channel(self._sock)
        try:
            if self._settings.tls == "active":
                await self._shake_hands()
            await self._converse()
        except (Late, Interrupted) as end:
            if isinstance(end, Interrupted) and not self._stop:
                raise
            self._server.shut_down(_SHUTTING_DOWN if self._stop else _TIMED_OUT)
            if not self._stuck:
                with suppress(_GoneError):  # then nobody needs to be told
                    self._say(self._server.take_output())
                    self._part()
        except _GoneError:
            pass
        finally:
            metrics.SESSIONS_OPEN.value -= 1
            self._forget_transaction()
            self._services.pipeline.part(self._client)
            if self._login is not None:
                self._login.close()
            self._channel.close()
            self._sock.close()

    async def _converse(self) -> None:
        """Read, act, reply, until the server is closed."""
        server, channel = self._server, self._channel
        strand, act = current(), _HANDLERS
        verdict = await self._pipeline.judge("connect", self._client, None)
        if verdict is not None and verdict.code >= 400:
            server.shut_down(verdict)
            self._note("connect", verdict)
        while True:
            last: Event | None = None
            taken = 0
            while (event := server.next_event()) is not None:
                last = event
                pending = act[type(event)](self, event)
                if pending is not None:
                    await pending
                taken += 1
                if taken == EVENTS_IN_A_ROW:
                    taken = 0
                    if server.full and not server.closed:
                        break
                    await breathe()
            if isinstance(last, Quit):
                self._unread = False
            elif isinstance(last, StartTls):
                server = self._server
            output = server.take_output()
            if output:
                self._say(output)
            if self._unsent:
                await self._send_rest()
            if server.closed:
                self._part()
                if self._unread:
                    await self._linger()
                return
            if self._stop and not server.in_transaction:
                server.shut_down(_SHUTTING_DOWN)
                self._unread = False
                continue
            paused = len(output) >= MOST_OUTPUT_BYTES
            self._reads += 1
            if self._reads > READS_IN_A_ROW or paused:
                self._reads = 0
                if self._next_deadline(now()) <= now():
                    raise Late  # who never lets us wait is not spared
                await breathe()
            if paused:
                continue  # there may be commands left
            if self._advance(now()):
                self._reads = 0
                await channel.readable(self._advance)
            # The client has kept its deadline: storing what it sent, and hooks, have their own.
            strand.deadline = math.inf
            if self._gone:
                raise _GoneError

    def _advance(self, at: float) -> bool:
        """Take what has come, and answer as far as that needs neither a wait nor an event. Called by the strand, and by
        the channel while the strand waits. Whether there is nothing left to do but to wait for more."""
        if self._encrypted is not None:
            return self._advance_encrypted(self._encrypted, at)
        channel, strand = self._channel, self._strand
        assert strand is not None
        try:
            piece = channel.receive()
            if piece is not None:
                self._unread = bool(piece)
                if len(piece) > READ_BYTES:
                    self._reads += _READS_IN_A_LARGE_ONE
                output = self._server.advance(piece)
                if output is None:
                    return False
                if output:
                    self._say(output)
                if self._unsent or not channel.quiet:
                    return False
        except (OSError, _GoneError):
            self._gone = True
            return False
        strand.deadline = self._next_deadline(at)
        return True

    def _advance_encrypted(self, encrypted: Encrypted, at: float) -> bool:
        """`_advance` where there is TLS."""
        strand = self._strand
        assert strand is not None
        try:
            piece = encrypted.receive()
            if piece is not None:
                self._unread = bool(piece)
                output = self._server.advance(piece)
                if output is None:
                    return False
                if output:
                    self._say(output)
            if not self._unsent and encrypted.speaks:
                self._send(encrypted.take_output())
            # A socket that is quiet does not mean that all has been read: one read of it brings several records.
            if self._unsent or not encrypted.quiet:
                return False
        except TlsError:
            with suppress(_GoneError):
                self._send(encrypted.take_output())  # why, in an alert
            self._gone = True
            return False
        except (OSError, _GoneError):
            self._gone = True
            return False
        if piece is not None or strand.deadline == math.inf:
            # Octets that are no whole record yet give no more time, or a client could send one now and then for ever.
            strand.deadline = self._next_deadline(at)
        return True

    def _next_deadline(self, at: float) -> float:
        """Until when the next bytes have to come, as things are at `at`."""
        awaited = self._server.awaits
        deadline: float = at + self._patience_s[awaited]
        if awaited == REST_OF_COMMAND:
            # From the first octet of a line: a client that drips octets gains nothing.
            if self._line_deadline == math.inf:
                self._line_deadline = deadline
            deadline = self._line_deadline
        limit = self._transaction_deadline
        if limit == math.inf and self._client.mail is not None:
            limit = self._transaction_deadline = at + self._services.limits.transaction_timeout_s
        return min(deadline, limit)

    # ---- TLS

    async def _start_tls(self, _event: StartTls) -> None:
        """From here on in TLS. What the client, or somebody in its name, has said so far is forgotten, and so is what
        it has sent without waiting for our 220 (RFC 3207 §4.2, and §6 on what is put in between)."""
        self._forget_transaction()
        self._drop_input()
        self._say(self._server.take_output())
        if self._unsent:
            await self._send_rest()
        await self._shake_hands()
        self._client.helo = ""
        self._told = None
        self._settings = msgspec.structs.replace(self._settings, tls="active")
        self._server = self._new_server(greet=False)

    def _drop_input(self) -> None:
        dropped = 0
        try:
            while dropped < _MOST_DROPPED_BYTES:
                # Not through the channel, which asks only once it has been told of something new.
                piece = self._sock.recv(READ_BYTES)
                if not piece:
                    raise _GoneError
                dropped += len(piece)
        except BlockingIOError:
            return
        except OSError as error:
            raise _GoneError from error
        raise _GoneError

    async def _shake_hands(self) -> None:
        """Begin TLS. If that fails, the client learns it by an alert at most: nothing else can be said."""
        assert self._tls is not None
        encrypted = Encrypted(self._tls.layer(), self._sock, self._channel)
        strand = current()
        self._stuck = True
        strand.deadline = now() + self._services.limits.tls_handshake_timeout_s
        try:
            await encrypted.shake_hands()
            facts = encrypted.facts
        except TlsError as failure:
            self._note("tls", reply(421, "4.7.0", f"the TLS handshake failed: {failure}"))
            raise _GoneError from failure
        except Late:
            self._note("tls", reply(421, "4.7.0", "the TLS handshake took too long"))
            raise _GoneError from None
        except OSError as error:
            raise _GoneError from error
        strand.deadline = math.inf
        self._stuck = False
        self._encrypted = encrypted
        self._client.tls = facts
        if self._login is not None:
            self._login.begin_tls(encrypted.bindings)
        metrics.TLS_SESSIONS.value += 1

    def _part(self) -> None:
        """Say that no more will be said, where there is a way to say so."""
        if self._encrypted is not None and not self._unsent and not self._stuck:
            with suppress(_GoneError):
                self._send(self._encrypted.part())

    # ---- events

    # Each returns what is to be awaited before the next event, or None: most events need no wait, and a coroutine for
    # each would cost as much as the event.

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

    async def _auth(self, event: Auth | AuthResponse) -> None:
        assert self._login is not None
        await self._login.advance(self._server, event)
        self._heed_account()
        self._accept_unasked(self._server)

    def _heed_account(self) -> None:
        """Let the server go by what holds for the account: its limit is announced (RFC 1870 §3), and kept to."""
        settings, server = self._settings, self._server
        account = None if self._login is None else self._login.account
        if account is not None and 0 < account.max_message_bytes < settings.max_message_bytes:
            settings = msgspec.structs.replace(settings, max_message_bytes=account.max_message_bytes)
        if settings.max_message_bytes != server.settings.max_message_bytes:
            server.use(settings)

    async def _xclient(self, event: XClient) -> None:
        """The client is another one: all begins anew with that one, as behind the greeting. If that may not be, nothing
        has changed."""
        client, login, services = self._client, self._login, self._services
        account: Account | None = None
        if event.login and login is not None:
            found = login.find(event.login)
            if isinstance(found, Reply):
                self._note("xclient", found)
                self._server.answer(found)
                return
            account = found
        if event.addr is not None and self.move is not None and (event.addr or self._peer_ip) != client.ip:
            refusal = self.move(client.ip, event.addr or self._peer_ip)
            if refusal is not None:
                self._note("xclient", refusal)
                self._server.answer(refusal)
                return
        if login is not None:
            login.become(None)  # before the client is another one: what was noted of it goes with it
        retell(client, event, self._peer_ip)
        self._told = event
        metrics.XCLIENTS.value += 1
        client.trusted = client.known and services.relay.trusts(client.ip)
        if services.settings_of is not None:
            settings = services.settings_of(client)
            self._settings = settings if self._encrypted is None else msgspec.structs.replace(settings, tls="active")
        if login is not None:
            login.become(account)
        self._find_judges()
        server = self._server
        server.use(self._settings)
        self._heed_account()
        self._accept_unasked(server)
        verdict = await self._pipeline.judge("connect", client, None)
        if verdict is not None and verdict.code >= 400:
            self._note("connect", verdict)
            server.shut_down(verdict)
            return
        server.answer(None)
        server.authenticated = account is not None

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
            self._note("mail", verdict, sender=event.reverse_path, size_bytes=event.size_bytes)
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
            self._note("rcpt", verdict, recipient=event.address)
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
            self._note("data", verdict)
        self._server.answer(verdict)

    async def _commit(self, end: BodyEnd) -> None:
        acceptance = self._acceptance
        if acceptance is None:
            acceptance = self._open()
        # The commit has a deadline of its own, and nothing that the client does or does not do may cut it short.
        verdict = await acceptance.finish(end, self._judge_message(end) if self._judges_message else None)
        self._acceptance = None
        if verdict.code >= 400:
            self._note("body", verdict, size_bytes=end.size_bytes)
        self._server.answer(verdict)
        self._forget_transaction()

    def _judge_message(self, end: BodyEnd) -> Judge:
        def judge(header: bytes) -> Awaitable[Reply | None]:
            return self._pipeline.judge("message", self._client, Content(header, end.size_bytes))

        return judge

    def _helo(self, event: Helo) -> Pending:
        if self._told is not None and self._told.helo:
            event = Helo(event.verb, self._told.helo)
        if self._pipeline.judges("helo"):
            return self._judge("helo", event, self._answer_helo)
        self._answer_helo(event, None)
        return None

    def _answer_helo(self, event: Helo, verdict: Reply | None) -> None:
        if verdict is None or verdict.code < 400:
            self._client.helo = event.name
            if self._login is not None:
                self._server.mechanisms = self._login.mechanisms
        else:
            self._note("helo", verdict)
        self._server.answer(verdict)

    def _body_refused(self, event: BodyRefused) -> None:
        self._note("body", event.reply)
        self._forget_message()

    def _reset(self, _event: Reset) -> None:
        self._forget_transaction()

    def _quit(self, _event: Quit) -> None:
        """All is said."""

    async def _judge(self, stage: Stage, event: E, answer: Callable[[E, Reply | None], None]) -> None:
        answer(event, await self._pipeline.judge(stage, self._client, event))

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
        # What it was about is in the argument, as the client wrote it.
        if event.stage == "protocol":
            self._note("helo" if not self._client.helo else "mail", event.reply)
        elif event.stage == "mail":
            self._note("mail", event.reply, sender=_path_in(event.detail))
        elif event.stage == "rcpt":
            self._note("rcpt", event.reply, recipient=_path_in(event.detail))
        elif event.stage == "xclient":
            self._note("xclient", event.reply)
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
            Refusal(client.ip, client.helo, sender, recipient, given, stage, size_bytes, client.account, client.tenant)
        )

    # ---- the socket

    def _say(self, output: bytes) -> None:
        """Send what the socket takes at once; the rest becomes `_unsent`."""
        self._line_deadline = math.inf
        if self._encrypted is not None:
            try:
                output = self._encrypted.sealed(output)
            except TlsError as failure:
                raise _GoneError from failure
        self._send(output)

    def _send(self, output: bytes) -> None:
        """`_say` for what is sent as it is."""
        try:
            sent = self._sock.send(output)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _GoneError from error
        if sent < len(output):
            self._unsent = output[sent:]

    async def _send_rest(self) -> None:
        """Send what is unsent. A client that does not read its replies runs into the deadline."""
        view = memoryview(self._unsent)
        self._unsent = b""
        while True:
            try:
                sent = self._sock.send(view)  # not within the brackets: mypyc would send twice
                view = view[sent:]
            except BlockingIOError:
                self._stuck = True  # in the middle of a reply: another one would only garble it
                strand = current()
                strand.deadline = now() + self._services.limits.command_timeout_s
                await self._channel.writable()
                strand.deadline = math.inf
            except OSError as error:
                raise _GoneError from error
            if not view:
                self._stuck = False
                return

    async def _linger(self) -> None:
        """Let a client that is sent away read why: with unread input, closing would reset the connection and take
        our last reply with it."""
        left = LINGER_BYTES
        try:
            self._sock.shutdown(socket.SHUT_WR)
            current().deadline = now() + LINGER_S
            while left > 0:
                piece = self._channel.receive()
                if piece is None:
                    await self._channel.readable()
                elif piece:
                    left -= len(piece)
                else:
                    return
        except Late:
            return
        except OSError as error:
            raise _GoneError from error


def _path_in(argument: str) -> str:
    """What stands between < and > in the refused argument of MAIL or RCPT; all of it where nothing does."""
    start, stop = argument.find("<"), argument.rfind(">")
    return argument[start + 1 : stop] if 0 <= start < stop else argument


_HANDLERS: dict[type[Event], Callable[[Session, Any], Pending]] = {
    BodyChunk: Session._chunk,
    Mail: Session._mail,
    Rcpt: Session._rcpt,
    DataBegin: Session._data,
    BodyEnd: Session._commit,
    Refused: Session._note_refused,
    Helo: Session._helo,
    Auth: Session._auth,
    AuthResponse: Session._auth,
    BodyRefused: Session._body_refused,
    Reset: Session._reset,
    StartTls: Session._start_tls,
    XClient: Session._xclient,
    Quit: Session._quit,
}
