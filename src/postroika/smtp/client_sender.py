"""What the client of SMTP writes: the commands and the body of one transaction after the other.

Promise: a group of commands is written at once where the server has PIPELINING, one by one where it has not; a body
that smuggles anything is never brought to its end; more of a body is written only when what came before it was taken.

`client` reads what is answered, and says of each step what comes next.
"""

from __future__ import annotations

from collections import deque

from postroika.errors import LocalProtocolError
from postroika.kernels.stuff import Stuffer
from postroika.mail.envelope import BodyType
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_base import CLOSED, READY, ClientSettings, SessionBase
from postroika.smtp.client_capabilities import (
    bare_newline_reply,
    envelope_commands,
    obstacle,
    plain_commands,
    unusable_address_reply,
)
from postroika.smtp.client_transaction import Closed, Done, Step, Transaction, Verdict

# What is looked up for each message (see READY).
_RSET, _FINAL_DOT, _BINARY = Step.RSET, Step.FINAL_DOT, BodyType.BINARY


class Sender(SessionBase):
    """A session that writes transactions; see `client.Client`."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.finals: list[Transaction] = []
        self._flights: deque[Transaction] = deque()
        self._hungry: Transaction | None = None
        self._mails = 0
        self._unclean = False  # The server may hold a transaction open.
        self._hung_up = False  # By 421: what was sent behind it was not looked at.
        self._depth = settings.depth

    @property
    def ready_for_next(self) -> bool:
        """`send` may be called."""
        if self._phase is not READY:
            return False
        flights = self._flights
        if flights and not (flights[-1].dot_end and self._pipelining and len(flights) < self._depth):
            return False
        return not 0 < self._max_mails <= self._mails

    @property
    def exhausted(self) -> bool:
        """The server takes no further transaction on this connection (LIMITS MAILMAX), or the session is over."""
        return self._phase is not READY or 0 < self._max_mails <= self._mails

    @property
    def busy(self) -> bool:
        """A transaction is under way."""
        return bool(self._flights)

    # --- what the driver may want

    def retire(self) -> None:
        """Take no further transaction; but a first one, where there was none. What is under way goes on."""
        self._max_mails = max(1, self._mails)

    def send(self, transaction: Transaction) -> None:
        """Begin a transaction. If the server cannot take the message, it is Done at once and nothing is sent.

        Raises:
            LocalProtocolError: not `ready_for_next`.
        """
        if not self.ready_for_next:
            raise LocalProtocolError("send() while no further transaction can be taken")
        t = transaction
        capabilities = self.capabilities
        group = plain_commands(t.envelope, t.recipients, capabilities)
        refusal = None
        if group is None:
            group = envelope_commands(t.envelope, t.recipients, capabilities)
            refusal = obstacle(t.envelope, t.recipients, capabilities)
        refusal = refusal or self._prepare_body(t)
        if refusal is not None or group is None:
            settle(t, Verdict(Stage.MAIL, refusal or unusable_address_reply(), remote=False))
            self._events.append(Done(t))
            return
        self._mails += 1
        flights = self._flights
        if self._unclean or (flights and flights[-1].chunked):
            t.step = Step.RSET
            group = b"RSET\r\n" + group
        flights.append(t)
        if not self._pipelining:
            t.commands = group.splitlines(keepends=True)[::-1]
            self._say(t)
        elif not t.chunked:
            t.hoped = hoped_of(t) + b"3"
            self._put(group + b"DATA\r\n")
        elif t.body is not None and len(t.body) <= self.settings.one_write_bytes:
            t.hoped = hoped_of(t)
            self._write_last_chunk(t, group, t.body)
        else:
            self._put(group)

    def body(self, piece: bytes, *, last: bool) -> None:
        """The next piece of the body, after BodyWanted. If it has bare newlines that must not be sent, the
        transaction is Done with a verdict of ours and the connection is given up before the message is complete.

        Raises:
            LocalProtocolError: no body is wanted.
        """
        t = self._flights[0] if self._flights else None
        if t is None or t.dot_end or t.step not in {Step.BODY, Step.CHUNK}:
            raise LocalProtocolError("body() while no body is wanted")
        stuffer = t.stuffer
        if stuffer is None:
            stuffer = t.stuffer = Stuffer()
        if t.step is Step.BODY:
            pieces = [stuffer.feed(piece)]
        else:
            pieces = [b"BDAT %d%s\r\n" % (len(piece), b" LAST" if last else b""), piece]
            if t.envelope.body_type is not BodyType.BINARY:
                stuffer.scan(piece)
        if last:
            end = stuffer.finish()
            if t.step is Step.BODY:
                pieces.append(end)
        if stuffer.bare_newline:
            settle(t, Verdict(Stage.DATA, bare_newline_reply(), remote=False))
            self._flights.popleft()
            self._phase = CLOSED
            self._events += (Done(t), Closed(None))
            return
        for part in pieces:
            self._put(part)
        if t.step is Step.CHUNK:
            t.chunks += 1
        if last:
            self._ended(t)
            if t.step is Step.BODY or t.answered == t.chunks - 1:
                t.step = Step.FINAL_DOT
        elif t.step is Step.BODY or self._pipelining:
            self._hungry = t

    # --- writing

    def _prepare_body(self, t: Transaction) -> Reply | None:
        """Decide between DATA and BDAT, stuff a body that is here already, and see that it smuggles nothing."""
        binary = t.envelope.body_type is _BINARY
        t.chunked = self.capabilities.chunking and (binary or self.settings.chunking)
        body = t.body
        if body is None or binary:
            return None
        stuffer = Stuffer()
        if t.chunked:
            stuffer.scan(body)
        else:
            t.body = stuffer.feed(body)
        t.end = stuffer.finish()
        return bare_newline_reply() if stuffer.bare_newline else None

    def _say(self, t: Transaction) -> None:
        """Without PIPELINING: the next command."""
        assert t.commands is not None
        self._put(t.commands.pop())

    def _write_last_chunk(self, t: Transaction, before: bytes, body: bytes) -> None:
        commands = b"%bBDAT %d LAST\r\n" % (before, len(body))
        self._out += (commands, body)
        self._produced += len(commands) + len(body)
        self._ended(t)

    def _write_message(self, t: Transaction) -> None:
        """To a DATA that was answered with 354."""
        body, end = t.body, t.end
        if body is None:
            t.step = Step.BODY
            self._hungry = t
        else:
            t.step = _FINAL_DOT
            self._out += (body, end)
            self._produced += len(body) + len(end)
            self._ended(t)

    def _ended(self, t: Transaction) -> None:
        """The last octet of the message is in the output."""
        t.dot_end = self._produced
        t.body = None
        self.finals.append(t)


def settle(t: Transaction, verdict: Verdict) -> None:
    """Give `verdict` to all recipients that have none."""
    t.verdicts = [verdict if known is None else known for known in t.verdicts]


def hoped_of(t: Transaction) -> bytes:
    """The first digits of good answers to MAIL and RCPT …, behind that to RSET if there is one."""
    return b"2" * (len(t.recipients) + (2 if t.step is _RSET else 1))
