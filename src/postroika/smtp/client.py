"""The client side of SMTP: bytes of the server in, events and bytes for the server out. No I/O.

Promise: every recipient of every transaction gets the reply that was meant for it, however much is pipelined; and
whoever drives the client can tell, after a connection was lost at any point, whether a message may have arrived.

The driver feeds `receive`, takes events until there are none, offers a further transaction while `ready_for_next`,
and sends what `take_output` gives. Transactions under way form a queue: all replies belong to the first one, in the
order of its steps (`_TABLE`), until it is done; where those to a whole group have come and are good, they are passed
in one go. With PIPELINING the whole of MAIL, RCPT …, DATA is
written at once, and that of the next message directly behind the final dot of this one (RFC 2920 §3.1). With CHUNKING
a body in memory follows its RCPTs in the same write; since such a message can fail with the transaction left open, the
next one then begins with RSET (RFC 3030 §2).
"""

from __future__ import annotations

from collections import deque

from postroika.errors import LocalProtocolError, RemoteProtocolError
from postroika.kernels.stuff import Stuffer
from postroika.mail.envelope import BodyType
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_base import CLOSED, READY, ClientSettings, Phase, SessionBase, odd
from postroika.smtp.client_capabilities import (
    bare_newline_reply,
    envelope_commands,
    obstacle,
    plain_commands,
    unusable_address_reply,
)
from postroika.smtp.client_transaction import (
    STAGES,
    BodyWanted,
    Closed,
    Done,
    Event,
    Fate,
    Step,
    Transaction,
    Verdict,
)

# What is looked up for each message (see READY).
_RSET, _FINAL_DOT, _AT_FINAL_DOT, _BINARY = Step.RSET, Step.FINAL_DOT, Stage.FINAL_DOT, BodyType.BINARY


class Client(SessionBase):
    """One SMTP connection, seen from the client.

    Attributes:
        capabilities: what the server offers, once Ready was given.
        replies: how many replies were read; where it stands still, the server says nothing.
        finals: transactions whose final dot (or last chunk) came into the output since the driver last cleared the
            list: mark them in the in-flight table before the output is sent.
    """

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self.finals: list[Transaction] = []
        self._flights: deque[Transaction] = deque()
        self._hungry: Transaction | None = None
        self._mails = 0
        self._unclean = False  # The server may hold a transaction open.
        self._hung_up = False  # By 421: what was sent behind it was not looked at.
        self._depth = settings.depth

    # --- what the driver may ask

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

    @property
    def has_event(self) -> bool:
        """`next_event` has something to tell without another octet from the server."""
        return bool(self._events)

    @property
    def wants_body(self) -> bool:
        """`next_event` will ask for (more of) a body."""
        return self._hungry is not None

    @property
    def waiting(self) -> Step:
        """Which reply is awaited, or was when the connection ended."""
        return self._flights[0].step if self._flights else _WAITING[self._phase]

    # --- events

    def next_event(self, *, sending: bool = False) -> Event | None:
        """The next thing that the driver has to know, None if the server has to say something first.

        Args:
            sending: what was taken of the output is not sent yet. More of a body is only asked for when all that
                came before it is sent, so that it never piles up.

        Raises:
            RemoteProtocolError: what came is not SMTP, or is the answer to nothing. The connection is useless; go on
                as after Closed.
        """
        events = self._events
        if not events:
            try:
                self._read_replies()
            except RemoteProtocolError:
                self._phase = CLOSED
                self._hungry = None
                raise
        if events:
            return events.popleft()
        if self._hungry is not None and not sending and not self._out:
            wanting, self._hungry = self._hungry, None
            return BodyWanted(wanting)
        if self._eof and self._phase is not CLOSED:
            self._phase = CLOSED
            return Closed(None)
        return None

    def abandon(self, unsent_bytes: int) -> list[tuple[Transaction, Fate]]:
        """Give up the connection: the transactions that are not done, in order, and how far they had come.

        Args:
            unsent_bytes: how much of what `take_output` gave was never handed to the kernel.
        """
        self._phase = CLOSED
        self._hungry = None
        sent = self._taken - unsent_bytes
        rest = []
        for t in self._flights:
            if 0 < t.dot_end <= sent and not self._hung_up:
                fate = Fate.IN_DOUBT
            else:
                fate = Fate.STARTED if t.mail_answered else Fate.UNTOUCHED
            rest.append((t, fate))
        self._flights.clear()
        return rest

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
            _settle(t, Verdict(Stage.MAIL, refusal or unusable_address_reply(), remote=False))
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
            t.hoped = _hoped_of(t) + b"3"
            self._put(group + b"DATA\r\n")
        elif t.body is not None and len(t.body) <= self.settings.one_write_bytes:
            t.hoped = _hoped_of(t)
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
            _settle(t, Verdict(Stage.DATA, bare_newline_reply(), remote=False))
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

    # --- replies

    def _pass_group(self) -> bool:
        flights = self._flights
        if not flights:
            return False
        t = flights[0]
        if not t.hoped or not self._parser.skip(t.hoped):
            return False
        self.replies += len(t.hoped)
        t.hoped = b""
        if t.step is _RSET:
            self._unclean = False
        t.mail_answered = t.mail_accepted = True
        t.index = t.accepted = len(t.recipients)
        if t.chunked:
            t.step = _FINAL_DOT
        else:
            self._write_message(t)
        return True

    def _on_reply(self, reply: Reply) -> None:
        t = self._flights[0]
        t.hoped = b""
        if reply.code == 421:
            self._on_421(t, reply)
        else:
            _TABLE[t.step](self, t, reply)

    def _on_421(self, t: Transaction, reply: Reply) -> None:
        """The server closes, whatever it was asked: nothing behind this has been looked at (RFC 5321 §3.8)."""
        self._hung_up = True
        self._hungry = None
        if t.step not in {Step.RSET, Step.MAIL}:
            _settle(t, Verdict(STAGES[t.step], reply))
            self._finish(t, unclean=True)
        self._phase = CLOSED
        self._events.append(Closed(reply))

    def _on_rset(self, t: Transaction, reply: Reply) -> None:
        if reply.kind != 2:
            raise odd(reply, "RSET")
        self._unclean = False
        t.step = Step.MAIL
        if not self._pipelining:
            self._say(t)

    def _on_mail(self, t: Transaction, reply: Reply) -> None:
        if reply.kind == 3:
            raise odd(reply, "MAIL")
        t.mail_answered = True
        t.step = Step.RCPT
        if reply.kind == 2:
            t.mail_accepted = True
        else:
            _settle(t, Verdict(Stage.MAIL, reply))
        if not self._pipelining:
            if t.mail_accepted:
                self._say(t)
            else:
                self._finish(t, unclean=False)

    def _on_rcpt(self, t: Transaction, reply: Reply) -> None:
        if reply.kind == 2:
            t.accepted += t.mail_accepted
        elif reply.kind == 3:
            raise odd(reply, "RCPT")
        elif t.verdicts[t.index] is None:
            t.verdicts[t.index] = Verdict(Stage.RCPT, reply)
        t.index += 1
        if t.index < len(t.recipients):
            if not self._pipelining:
                self._say(t)
        elif t.dot_end:
            t.step = Step.FINAL_DOT
        elif self._pipelining and not t.chunked:
            t.step = Step.DATA
        elif not t.accepted:
            self._finish(t, unclean=t.mail_accepted)
        elif not t.chunked:
            t.step = Step.DATA
            self._put(b"DATA\r\n")
        elif t.body is not None:
            t.step = Step.FINAL_DOT
            self._write_last_chunk(t, b"", t.body)
        else:
            t.step = Step.CHUNK
            self._hungry = t

    def _on_data(self, t: Transaction, reply: Reply) -> None:
        if reply.kind == 2:
            raise odd(reply, "DATA")
        if reply.kind != 3:
            _settle(t, Verdict(Stage.DATA, reply))
            self._finish(t, unclean=t.mail_accepted)
        elif not t.accepted:
            t.step = Step.LONE_DOT
            self._put(b".\r\n")
            t.dot_end = self._produced
        else:
            self._write_message(t)

    def _on_body(self, t: Transaction, reply: Reply) -> None:
        """A verdict before the message was complete. There is no way back into the dialogue."""
        if reply.kind < 4:
            raise odd(reply, "half a message")
        _settle(t, Verdict(Stage.DATA, reply))
        self._hungry = None
        self._finish(t, unclean=True)
        self._phase = CLOSED
        self._events.append(Closed(None))

    def _on_chunk(self, t: Transaction, reply: Reply) -> None:
        if reply.kind == 3:
            raise odd(reply, "BDAT")
        t.answered += 1
        if reply.kind == 2:
            if t.dot_end and t.answered == t.chunks - 1:
                t.step = Step.FINAL_DOT
            elif not t.dot_end and not self._pipelining:
                self._hungry = t
            return
        _settle(t, Verdict(Stage.DATA, reply))
        self._hungry = None
        if t.answered == t.chunks:
            self._finish(t, unclean=True)
        else:
            t.step = Step.SKIP

    def _on_skip(self, t: Transaction, _reply: Reply) -> None:
        t.answered += 1
        if t.answered == t.chunks:
            self._finish(t, unclean=True)

    def _on_final_dot(self, t: Transaction, reply: Reply) -> None:
        kind = reply.code // 100
        if kind == 3:
            raise odd(reply, "the message")
        if t.dot_end > self._taken:
            raise RemoteProtocolError(f"an answer to the message before it was sent: {reply}")
        _settle(t, Verdict(_AT_FINAL_DOT, reply))
        self._finish(t, unclean=t.chunked and (kind != 2 or not t.accepted))

    def _on_lone_dot(self, t: Transaction, reply: Reply) -> None:
        self._finish(t, unclean=reply.kind != 2)

    def _finish(self, t: Transaction, unclean: bool) -> None:
        self._unclean = unclean
        self._flights.popleft()
        self._events.append(Done(t))


def _settle(t: Transaction, verdict: Verdict) -> None:
    """Give `verdict` to all recipients that have none."""
    t.verdicts = [verdict if known is None else known for known in t.verdicts]


def _hoped_of(t: Transaction) -> bytes:
    """The first digits of good answers to MAIL and RCPT …, behind that to RSET if there is one."""
    return b"2" * (len(t.recipients) + (2 if t.step is _RSET else 1))


_TABLE = {
    Step.RSET: Client._on_rset,
    Step.MAIL: Client._on_mail,
    Step.RCPT: Client._on_rcpt,
    Step.DATA: Client._on_data,
    Step.BODY: Client._on_body,
    Step.CHUNK: Client._on_chunk,
    Step.SKIP: Client._on_skip,
    Step.FINAL_DOT: Client._on_final_dot,
    Step.LONE_DOT: Client._on_lone_dot,
}
_WAITING = {
    Phase.GREETING: Step.GREETING,
    Phase.EHLO: Step.EHLO,
    Phase.HELO: Step.EHLO,
    Phase.STARTTLS: Step.STARTTLS,
    Phase.HANDSHAKE: Step.HANDSHAKE,
    Phase.AUTH: Step.AUTH,
    Phase.REFUSED: Step.NOTHING,
    Phase.READY: Step.NOTHING,
    Phase.QUIT: Step.QUIT,
    Phase.CLOSED: Step.NOTHING,
}
