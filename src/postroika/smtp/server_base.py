"""What any line-based server side needs below the commands of SMTP: input, output, refusals and their limits.

Promise: every buffer is bounded; a line that is refused is passed over up to its CR LF and nothing in it is run; a
peer that keeps sending rubbish is sent away. `server_chunks`, `server_login` and `server` build the commands upon this.
"""

from __future__ import annotations

from postroika.errors import LocalProtocolError
from postroika.kernels import command
from postroika.kernels.command import find_line_end
from postroika.kernels.server_lane import COMMANDS, SKIPPING, Lane, Words
from postroika.mail.envelope import BodyType, Recipient
from postroika.mail.reply import Reply, reply
from postroika.smtp.body import REFUSALS
from postroika.smtp.server_events import BodyChunk, BodyEnd, BodyRefused, DataBegin, Event, Mail, Rcpt, Refused
from postroika.smtp.server_settings import ServerSettings, greetings
from postroika.smtp.states import AFTER_MESSAGE, TABLE, TABLE_BEFORE_TLS, Entry, State

# RFC 5321 §4.5.3.1.4 says 512 octets, to which DSN adds 600 (RFC 3461 §5), SMTPUTF8 10, BODY 17, SIZE 26, …
MAX_COMMAND_BYTES = 4096
MAX_RESPONSE_BYTES = 12_288  # RFC 4954 §4: longer lines need not be taken in an authentication exchange
MAX_SKIPPED_BYTES = 65_536  # of one line that is refused anyway; then the peer is no mail client
MAX_DETAIL = 300

_STAGES = {command.MAIL: "mail", command.RCPT: "rcpt", command.DATA: "data", command.BDAT: "data",
           command.XCLIENT: "xclient"}  # fmt: skip
LINE_BARE_LF = reply(500, "5.5.2", "bare LF in a command line: lines must end with CR LF")
LINE_BARE_CR = reply(500, "5.5.2", "bare CR in a command line: lines must end with CR LF")
LINE_NUL = reply(500, "5.5.2", "NUL octet in a command line")
LINE_TOO_LONG = reply(500, "5.5.2", f"command line is longer than {MAX_COMMAND_BYTES} octets")
RESPONSE_TOO_LONG = reply(500, "5.5.6", "authentication exchange line is too long")


OK = reply(250, "2.0.0", "Ok").wire()


def _words(table: list[list[Entry]]) -> Words:
    return Words(
        events=(Mail, Rcpt, DataBegin(chunked=False), BodyChunk, BodyEnd, BodyRefused),
        reply=Reply,
        body_types=(BodyType.SEVEN_BIT, BodyType.EIGHT_BIT, BodyType.BINARY),
        states=(State.MAIL, State.RCPT, State.DATA, State.CHUNKS, AFTER_MESSAGE),
        table=table,
        replies=(
            reply(250, "2.1.0", "Ok").wire(),
            reply(250, "2.1.5", "Ok").wire(),
            reply(354, "", "End data with <CR><LF>.<CR><LF>").wire(),
            OK,
        ),
        refusals=REFUSALS,
        misuse=LocalProtocolError,
        recipient=Recipient,
    )


_WORDS = _words(TABLE)
_WORDS_BEFORE_TLS = _words(TABLE_BEFORE_TLS)


class ServerBase(Lane[Event, Reply, ServerSettings, State]):
    """Buffers, limits and refusals of one session; see `Server`.

    Args:
        greet: begin with the banner.
    """

    __slots__ = ("_skipped", "_skipped_lf", "_table")

    def __init__(self, settings: ServerSettings, *, greet: bool = True) -> None:
        before_tls = settings.tls_first and settings.tls == "offered"
        super().__init__(_WORDS_BEFORE_TLS if before_tls else _WORDS, settings, State.START)
        self._table = TABLE_BEFORE_TLS if before_tls else TABLE
        if greet:
            self._out.append(greetings(settings)[0])
        else:
            self._greeted = True
        self._skipped = self._skipped_lf = 0

    def shut_down(self, last: Reply) -> None:
        """Say `last` (a 421; or whatever refuses the connection, in place of a banner not sent yet) and close."""
        if self.closed:
            return
        if not self._greeted:
            self._out.clear()
        self._out.append(last.wire())
        self._awaiting = 0
        self._events.clear()
        self.closed = True

    def _skip(self, refusal: Reply, start: int) -> None:
        """Refuse the line that begins at `start`, and pass over it up to its CR LF."""
        self._out.append(refusal.wire())
        self._pos = start
        self._mode = SKIPPING
        self._skipped = self._skipped_lf = 0
        self._count_bad()

    def _step_skip(self) -> bool:
        buffer, start = self._buffer, self._pos
        behind, bare = find_line_end(buffer, start)
        if behind < 0:
            # A CR at the very end may yet be followed by its LF.
            keep = 1 if buffer.endswith(b"\r") and len(buffer) > start else 0
            self._pos = len(buffer) - keep
        else:
            self._pos = behind
            self._mode = COMMANDS
        self._skipped += self._pos - start
        self._skipped_lf += bare
        if self._skipped_lf > 1 or self._skipped > MAX_SKIPPED_BYTES:
            self._give_up("lines must end with CR LF", b"")
        elif behind < 0 and self._eof:
            self.closed = True
        return behind >= 0

    def _refuse(self, code: int, refusal: Reply, argument: bytes, *, bad: bool = True) -> None:
        """Refuse a command. `bad`: it counts towards the limit, unless it only follows from an earlier refusal."""
        self._out.append(refusal.wire())
        self._note_refusal(code, refusal, argument, bad=bad)
        if code == command.DATA:
            self._guard_commands()

    def _note_refusal(self, code: int, refusal: Reply, argument: bytes, *, bad: bool) -> None:
        """All of a refusal but its reply."""
        stage = _STAGES.get(code)
        if stage is not None:
            self._events.append(Refused(stage, refusal, argument[:MAX_DETAIL].decode("utf-8", "replace")))
            if code not in {command.MAIL, command.XCLIENT} and self._credit:
                self._credit -= 1
                return
        if bad:
            self._count_bad()

    def _guard_commands(self) -> None:
        """After a refused DATA: DATA is the last command of a group (RFC 2920 §3.1), so what is already there behind
        it is the content, sent without waiting for our 354. None of that may be run; harmless ends are let pass."""
        rest = self._buffer[self._pos : self._pos + 7].upper()
        if not (b"QUIT\r\n".startswith(rest) or b"RSET\r\n".startswith(rest)):
            self._give_up("content was sent although DATA was refused", b"")

    def _count_bad(self) -> None:
        self._bad += 1
        if self._bad > self.settings.max_bad_commands:
            self._give_up("too many bad commands", b"")

    def _count_junk(self) -> None:
        """A command was answered that leads to no mail. Whoever goes on with those for ever keeps a place from others,
        and may be looking for something; who keeps a connection open between messages says a few."""
        self._junk += 1
        if 0 < self.settings.max_junk_commands < self._junk:
            self._count_bad()

    def _give_up(self, why: str, line: bytes) -> None:
        """Send the peer away."""
        if self.closed:
            return
        last = reply(421, "4.7.0", f"{self.settings.hostname} closing the connection: {why}")
        self._out.append(last.wire())
        self._events.append(Refused("protocol", last, line[:MAX_DETAIL].decode("utf-8", "replace").strip()))
        self.closed = True
