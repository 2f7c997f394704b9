"""One SMTP session: one strand that stands between a socket and the sans-IO server.

Promise: a client that is slow, rude or gone costs only its own session: every wait has a deadline, what it sends is
bounded by `smtp.server`, and a broken connection ends here. What it sends without waiting for replies is taken in turns
with others, and no further than the replies have somewhere to go. A message whose content is complete is answered even
when the worker is shutting down. Nothing that came in the clear counts for anything in TLS. A bug is not caught: it
goes to the root nursery.

How: the socket is tried first and waited for only when it has nothing; all replies to what one read brought go out
in one send, unless they are many; the deadline of a wait is a number that the pump looks at. What needs no decision of
ours is answered by `_advance` while the strand goes on waiting: of the usual message, all but its end. What a command
leads to is in `session_transaction` and `session_client`, how octets go out in `wire`. After STARTTLS a new server
takes the place of the one that spoke in the clear, and what is read and said goes through `encrypted`. XCLIENT makes
another one of the client, and takes the dialogue back to the greeting.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import msgspec

from postroika import metrics
from postroika.inbound.encrypted import Encrypted
from postroika.inbound.session_base import Pending, Services
from postroika.inbound.session_client import SessionClient
from postroika.inbound.wire import GoneError, Wire
from postroika.kernels.server_lane import REST_OF_COMMAND
from postroika.mail.reply import reply
from postroika.policy.pipeline import Client
from postroika.pump import LARGE_READ_BYTES, READ_BYTES, Interrupted, Late, Strand, breathe, current, now
from postroika.smtp.server import MOST_OUTPUT_BYTES, ServerSettings
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
from postroika.tls.certificates import ListenerTls
from postroika.tls.layer import TlsError

__all__ = ["Services", "Session"]

READS_IN_A_ROW = 32  # then others get their turn, however much the client has sent
EVENTS_IN_A_ROW = 128  # of one read, likewise
_READS_IN_A_LARGE_ONE = LARGE_READ_BYTES // READ_BYTES

_TIMED_OUT = reply(421, "4.4.2", "timeout: closing the connection")
_SHUTTING_DOWN = reply(421, "4.3.2", "the service is shutting down, please try again")


class Session(SessionClient):
    """One connection; its arguments are those of `SessionBase`."""

    __slots__ = ("_gone", "_line_deadline", "_patience_s", "_reads", "_stop", "_strand", "_unread", "_wire")

    def __init__(
        self,
        sock: socket.socket,
        client: Client,
        settings: ServerSettings,
        services: Services,
        tls: ListenerTls | None = None,
    ) -> None:
        super().__init__(sock, client, settings, services, tls)
        limits = services.limits
        self._patience_s = (  # by what the server awaits
            limits.idle_timeout_s, limits.command_timeout_s, limits.command_timeout_s, limits.data_timeout_s
        )  # fmt: skip
        self._strand: Strand | None = None
        self._stop: Literal["", "gently", "now"] = ""
        self._line_deadline = math.inf
        self._unread = False  # the last read has brought something, and not only QUIT
        self._gone = False
        self._reads = 0  # in a row

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
        self._wire = wire = Wire(self._sock)
        try:
            if self._settings.tls == "active":
                await self._shake_hands()
            await self._converse()
        except (Late, Interrupted) as end:
            if isinstance(end, Interrupted) and not self._stop:
                raise
            self._server.shut_down(_SHUTTING_DOWN if self._stop else _TIMED_OUT)
            if not wire.stuck:
                with suppress(GoneError):  # then nobody needs to be told
                    self._say(self._server.take_output())
                    wire.part()
        except GoneError:
            pass
        finally:
            metrics.SESSIONS_OPEN.value -= 1
            self._forget_transaction()
            self._services.pipeline.part(self._client)
            if self._login is not None:
                self._login.close()
            wire.close()

    async def _converse(self) -> None:
        """Read, act, reply, until the server is closed."""
        server, wire, channel = self._server, self._wire, self._wire.channel
        strand, act = current(), _HANDLERS
        verdict = await self._pipeline.judge("connect", self._client, None)
        if verdict is not None and verdict.code >= 400:
            server.shut_down(verdict)
            self._refusals.note("connect", verdict)
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
            if wire.unsent:
                await wire.send_rest(self._services.limits.command_timeout_s)
            if server.closed:
                wire.part()
                if self._unread:
                    await wire.linger()
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
                raise GoneError

    def _advance(self, at: float) -> bool:
        """Take what has come, and answer as far as that needs neither a wait nor an event. Called by the strand, and by
        the channel while the strand waits. Whether there is nothing left to do but to wait for more."""
        wire, strand = self._wire, self._strand
        assert strand is not None
        if wire.encrypted is not None:
            return self._advance_encrypted(wire.encrypted, at)
        channel = wire.channel
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
                if wire.unsent or not channel.quiet:
                    return False
        except (OSError, GoneError):
            self._gone = True
            return False
        strand.deadline = self._next_deadline(at)
        return True

    def _advance_encrypted(self, encrypted: Encrypted, at: float) -> bool:
        """`_advance` where there is TLS."""
        wire, strand = self._wire, self._strand
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
            if not wire.unsent and encrypted.speaks:
                wire.send(encrypted.take_output())
            # A socket that is quiet does not mean that all has been read: one read of it brings several records.
            if wire.unsent or not encrypted.quiet:
                return False
        except TlsError:
            with suppress(GoneError):
                wire.send(encrypted.take_output())  # why, in an alert
            self._gone = True
            return False
        except (OSError, GoneError):
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

    def _say(self, output: bytes) -> None:
        """Send what the socket takes at once. A line of which the end has not come has time from now on."""
        self._line_deadline = math.inf
        self._wire.say(output)

    # ---- TLS

    async def _start_tls(self, _event: StartTls) -> None:
        """From here on in TLS. What the client, or somebody in its name, has said so far is forgotten, and so is what
        it has sent without waiting for our 220 (RFC 3207 §4.2, and §6 on what is put in between)."""
        wire = self._wire
        self._forget_transaction()
        wire.drop_input()
        self._say(self._server.take_output())
        if wire.unsent:
            await wire.send_rest(self._services.limits.command_timeout_s)
        await self._shake_hands()
        self._client.helo = ""
        self._told = None
        self._settings = msgspec.structs.replace(self._settings, tls="active")
        self._server = self._new_server(greet=False)

    async def _shake_hands(self) -> None:
        """Begin TLS, or note why not."""
        assert self._tls is not None
        try:
            encrypted = await self._wire.shake_hands(self._tls.layer(), self._services.limits.tls_handshake_timeout_s)
            self._client.tls = encrypted.facts
        except TlsError as failure:
            self._refusals.note("tls", reply(421, "4.7.0", f"the TLS handshake failed: {failure}"))
            raise GoneError from failure
        except Late:
            self._refusals.note("tls", reply(421, "4.7.0", "the TLS handshake took too long"))
            raise GoneError from None
        if self._login is not None:
            self._login.begin_tls(encrypted.bindings)
        metrics.TLS_SESSIONS.value += 1

    # ---- the end

    def _quit(self, _event: Quit) -> None:
        """All is said."""


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
