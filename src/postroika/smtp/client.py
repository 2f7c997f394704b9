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

from postroika.errors import RemoteProtocolError
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_base import CLOSED, Phase, odd
from postroika.smtp.client_sender import Sender, settle
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
_RSET, _FINAL_DOT, _AT_FINAL_DOT = Step.RSET, Step.FINAL_DOT, Stage.FINAL_DOT


class Client(Sender):
    """One SMTP connection, seen from the client.

    Attributes:
        capabilities: what the server offers, once Ready was given.
        replies: how many replies were read; where it stands still, the server says nothing.
        finals: transactions whose final dot (or last chunk) came into the output since the driver last cleared the
            list: mark them in the in-flight table before the output is sent.
    """

    # --- what the driver may ask

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
            settle(t, Verdict(STAGES[t.step], reply))
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
            settle(t, Verdict(Stage.MAIL, reply))
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
            settle(t, Verdict(Stage.DATA, reply))
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
        settle(t, Verdict(Stage.DATA, reply))
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
        settle(t, Verdict(Stage.DATA, reply))
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
        settle(t, Verdict(_AT_FINAL_DOT, reply))
        self._finish(t, unclean=t.chunked and (kind != 2 or not t.accepted))

    def _on_lone_dot(self, t: Transaction, reply: Reply) -> None:
        self._finish(t, unclean=reply.kind != 2)

    def _finish(self, t: Transaction, unclean: bool) -> None:
        self._unclean = unclean
        self._flights.popleft()
        self._events.append(Done(t))


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
