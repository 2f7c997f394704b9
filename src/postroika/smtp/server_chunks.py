"""The server side of BDAT: the octets that it announces are consumed whatever becomes of them.

Promise: what follows a BDAT whose count cannot be read is never run, for nobody can tell where it ends; what is refused
is not kept, and the refusal is said behind the chunk. Source: RFC 3030 §2.
"""

from __future__ import annotations

from postroika.kernels import command
from postroika.kernels.server_lane import AWAIT_DATA, CHUNK, COMMANDS
from postroika.mail.reply import Reply, reply
from postroika.smtp.body import TOO_LARGE
from postroika.smtp.grammar import parse_bdat
from postroika.smtp.server_base import OK, ServerBase
from postroika.smtp.server_events import BodyRefused, DataBegin, Reset
from postroika.smtp.server_settings import ServerSettings
from postroika.smtp.states import AFTER_REFUSED_CHUNK, AFTER_REFUSED_LAST_CHUNK, State

_BAD_BDAT = reply(501, "5.5.4", "syntax: BDAT octets [LAST]; closing, as what follows cannot be told apart")
_NO_CHUNKING = reply(502, "5.5.1", "BDAT is not offered")


class ChunkingServer(ServerBase):
    """Takes content in chunks; see `Server`."""

    __slots__ = ("_chunk_last", "_chunk_left", "_chunk_refusal")

    def __init__(self, settings: ServerSettings, *, greet: bool = True) -> None:
        super().__init__(settings, greet=greet)
        self._chunk_left = 0
        self._chunk_last = False
        self._chunk_refusal: Reply | None = None

    def _bdat(self, argument: bytes, entry: State | Reply) -> None:
        """BDAT in any state: the octets that it announces are consumed whatever becomes of them (RFC 3030 §2)."""
        parsed = parse_bdat(argument)
        if parsed is None:
            self._refuse(command.BDAT, _BAD_BDAT, argument)
            self.closed = True
            return
        size, self._chunk_last = parsed
        self._chunk_left = size
        self._chunk_refusal = None
        self._mode = CHUNK
        before = self._body.size_bytes if self._body is not None else 0
        if isinstance(entry, Reply):
            self._refuse_chunk(entry, argument)
        elif "CHUNKING" not in self._offered:
            self._refuse_chunk(_NO_CHUNKING, argument)
        elif before + size > self.settings.max_message_bytes:
            if self._body is None:
                self._refuse_chunk(TOO_LARGE, argument)
            else:
                self._chunk_refusal = TOO_LARGE
                self._dropped = True
                self._events.append(BodyRefused(TOO_LARGE))
        elif self._body is None:
            self._events.append(DataBegin(chunked=True))
            self._awaiting = AWAIT_DATA

    def _refuse_chunk(self, refusal: Reply, argument: bytes) -> None:
        """Like `_refuse`, but the reply has to wait until the chunk is over."""
        self._chunk_refusal = refusal
        self._note_refusal(command.BDAT, refusal, argument, bad=True)

    def _step_chunk(self) -> bool:
        left = self._chunk_left
        if left:
            start = self._pos
            stop = min(start + left, len(self._buffer))
            if start == stop:
                self.closed = self._eof
                return False
            self._pos = stop
            self._chunk_left = left - (stop - start)
            if self._chunk_refusal is None:
                body = self._body
                assert body is not None
                piece, _ = body.feed(self._buffer, start, stop)
                self._pass_on(piece)
                self._chunk_refusal = body.refusal
            return True
        self._mode = COMMANDS
        self._end_of_chunk()
        return True

    def _end_of_chunk(self) -> None:
        refusal, body = self._chunk_refusal, self._body
        if refusal is None and self._chunk_last:
            assert body is not None
            self._pass_on(body.finish())
            self._end_of_message()
        elif refusal is None:
            self._out.append(OK)
        else:
            self._out.append(refusal.wire())
            if self._chunk_last:
                empty = self._body is None
                if self.in_transaction and not self._dropped:
                    self._events.append(Reset())
                self._end_transaction(AFTER_REFUSED_LAST_CHUNK[self.state])
                if empty:
                    self._count_junk()  # no content was taken: all that it did is what RSET does
            else:
                self.state = AFTER_REFUSED_CHUNK[self.state]

    def _refuse_data(self, verdict: Reply) -> None:
        if self._mode == CHUNK:
            self._chunk_refusal = verdict  # said after the chunk (RFC 3030 §2)
        else:
            self._out.append(verdict.wire())
            self._guard_commands()
