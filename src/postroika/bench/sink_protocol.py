"""What the sink needs of the SMTP protocol beyond `smtp.server`: STARTTLS, and the way to and from the express lane.

Promise: the words that the express lane (`kernels.bench_sink`) says are the Server's own, because they are learnt from
one; a Server that takes over in the middle of a transaction is in the state in which it would be had it seen all of it.
"""

from __future__ import annotations

from postroika.kernels import command
from postroika.kernels.server_lane import COMMANDS
from postroika.mail.reply import Reply, reply
from postroika.smtp.server import Server, ServerSettings
from postroika.smtp.server_events import Mail, Rcpt
from postroika.smtp.states import State

_READY_FOR_TLS = reply(220, "2.0.0", "ready to start TLS").wire()


class SinkServer(Server):
    """A Server that can offer STARTTLS, and can be told of commands that were answered without it.

    `starttls` is true once STARTTLS was taken: send the output, shake hands, and begin again with a new Server.
    """

    __slots__ = ("_offers_tls", "starttls")

    def __init__(self, settings: ServerSettings, *, offers_tls: bool = False) -> None:
        super().__init__(settings)
        self._offers_tls = offers_tls
        self.starttls = False

    @property
    def at_rest(self) -> bool:
        """Between two transactions, with nothing read that is not answered: another may go on from here."""
        return (
            self.state is State.READY
            and self._mode == COMMANDS
            and not self._awaiting
            and not self._eof
            and not self.closed
            and self._pos == len(self._buffer)
        )

    @property
    def offered(self) -> frozenset[str]:
        """What the client may use; nothing after HELO."""
        return self._offered

    def take_over(self, envelope: bytes, *, began: bool, accepted: bool) -> tuple[str, list[str]]:
        """Go on from a transaction that somebody else has answered up to here.

        Args:
            envelope: its commands, all of which were accepted.
            began: there were whole transactions before it since the last call.
            accepted: one of these was accepted.

        Returns:
            the reverse-path and the recipients of the transaction.
        """
        reverse_path = ""
        recipients = []
        if accepted:
            self._bad = 0
        if began:
            self._credit = self.settings.max_recipients + 2
        if envelope:
            self.receive(envelope)
            while (event := self.next_event()) is not None:
                if isinstance(event, Mail):
                    reverse_path = event.reverse_path
                elif isinstance(event, Rcpt):
                    recipients.append(event.address)
                self.answer()
            self._out.clear()
        return reverse_path, recipients

    def _answer_helo(self, verdict: Reply | None, accepted: bool) -> None:
        super()._answer_helo(verdict, accepted)
        if accepted and self.esmtp and self._offers_tls:
            lines = self._out[-1]
            last = lines.rfind(b"\r\n", 0, -2) + 2 if lines.count(b"\r\n") > 1 else 0
            self._out[-1] = lines[: last + 3] + b"-" + lines[last + 4 :] + b"250 STARTTLS\r\n"

    def _refuse(self, code: int, refusal: Reply, argument: bytes, *, bad: bool = True) -> None:
        if code == command.STARTTLS and self._offers_tls and not argument and not self.in_transaction:
            self._out.append(_READY_FOR_TLS)
            self.starttls = True
            # What came with it, in clear, is nobody's command: RFC 3207 §4.2.
            self._buffer = b""
            self._pos = 0
            return
        super()._refuse(code, refusal, argument, bad=bad)


def learn_replies(settings: ServerSettings) -> tuple[bytes, bytes, bytes, bytes]:
    """What the Server says to MAIL, RCPT, DATA and the end of a message."""
    server = Server(settings)
    said = []
    for step in (b"EHLO x\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b>\r\n", b"DATA\r\n", b".\r\n"):
        server.receive(step)
        while server.next_event() is not None:
            server.answer()
        said.append(server.take_output())
    _, mail, rcpt, data, end = said
    return mail, rcpt, data, end
