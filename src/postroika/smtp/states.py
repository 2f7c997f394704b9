"""The states of an SMTP server session, and in one table what each command does in each of them.

`TABLE[state][code]` is the state after the command has been accepted, or the Reply that refuses it. A command that
is refused, by the table or by a verdict, leaves the state as it is. What the table does not say is only how a
message ends: `AFTER_MESSAGE`, and `AFTER_REFUSED_CHUNK` for a chunk of BDAT that was not the last. `TABLE_BEFORE_TLS`
is the one of a session that has to begin TLS first.
Source: RFC 5321 §3.3, §4.1.4; RFC 3030 §2; RFC 3207 §4; RFC 4954 §4; Postfix XCLIENT_README.
"""

from __future__ import annotations

import enum

from postroika.kernels import command
from postroika.mail.reply import Reply, reply


class State(enum.IntEnum):
    """Where a session is."""

    START = 0  # greeted by us, not yet by the peer
    READY = 1  # between transactions
    AUTH = 2  # an exchange of AUTH is under way: lines are responses, not commands
    MAIL = 3  # a transaction, no recipient accepted
    RCPT = 4  # at least one recipient accepted
    DATA = 5  # the content of a message is coming: no commands
    CHUNKS = 6  # at least one BDAT accepted, LAST not seen
    FAILED = 7  # a chunk was refused: the transaction is lost, but chunks are still consumed


_HELO_FIRST = reply(503, "5.5.1", "send HELO or EHLO first")
_NESTED_MAIL = reply(503, "5.5.1", "nested MAIL command; send RSET first")
_NEED_MAIL = reply(503, "5.5.1", "need MAIL command")
_NO_RECIPIENTS = reply(554, "5.5.1", "no valid recipients")
_IN_CHUNKS = reply(503, "5.5.1", "BDAT was begun: only BDAT or RSET may follow")
_LOST = reply(503, "5.5.1", "a chunk was refused, the transaction has failed; send RSET")
_AUTH_IN_MAIL = reply(503, "5.5.1", "AUTH is not permitted during a mail transaction")
_XCLIENT_IN_MAIL = reply(503, "5.5.1", "XCLIENT is not permitted during a mail transaction")
_IN_AUTH = reply(503, "5.5.1", "an authentication exchange is under way")
_NO_EXPN = reply(502, "5.5.1", "EXPN is not offered")
_TLS_FIRST = reply(530, "5.7.0", "must issue a STARTTLS command first")
_UNKNOWN = reply(500, "5.5.1", "command not recognised")

Entry = State | Reply


def _row(
    state: State, mail: Entry, rcpt: Entry, data: Entry, bdat: Entry, reset: State, tls: Entry, auth: Entry
) -> list[Entry]:
    """One state's row, by verb code."""
    row: dict[int, Entry] = {
        command.UNKNOWN: _UNKNOWN,
        command.EHLO: State.READY,
        command.HELO: State.READY,
        command.MAIL: mail,
        command.RCPT: rcpt,
        command.DATA: data,
        command.BDAT: bdat,
        command.RSET: reset,
        command.NOOP: state,
        command.QUIT: state,
        command.VRFY: state,
        command.EXPN: _NO_EXPN,
        command.HELP: state,
        command.STARTTLS: tls,
        command.AUTH: auth,
        command.XCLIENT: State.START if state < State.MAIL else _XCLIENT_IN_MAIL,
        command.FOREIGN: _UNKNOWN,
    }
    return [row[code] for code in range(len(row))]


_S = State
TABLE: list[list[Entry]] = [
    #    in         MAIL          RCPT         DATA            BDAT            RSET      STARTTLS     AUTH
    _row(_S.START, _HELO_FIRST, _HELO_FIRST, _HELO_FIRST, _HELO_FIRST, _S.START, _HELO_FIRST, _HELO_FIRST),
    _row(_S.READY, _S.MAIL, _NEED_MAIL, _NEED_MAIL, _NEED_MAIL, _S.READY, _S.START, _S.AUTH),
    [_IN_AUTH] * (command.FOREIGN + 1),  # nor does AUTH: the server reads responses before it looks here
    _row(_S.MAIL, _NESTED_MAIL, _S.RCPT, _NO_RECIPIENTS, _NO_RECIPIENTS, _S.READY, _S.START, _AUTH_IN_MAIL),
    _row(_S.RCPT, _NESTED_MAIL, _S.RCPT, _S.DATA, _S.CHUNKS, _S.READY, _S.START, _AUTH_IN_MAIL),
    [],  # DATA takes no commands
    _row(_S.CHUNKS, _IN_CHUNKS, _IN_CHUNKS, _IN_CHUNKS, _S.CHUNKS, _S.READY, _IN_CHUNKS, _AUTH_IN_MAIL),
    _row(_S.FAILED, _LOST, _LOST, _LOST, _LOST, _S.READY, _LOST, _AUTH_IN_MAIL),
]
_HEARD_IN_THE_CLEAR = (command.EHLO, command.HELO, command.NOOP, command.RSET, command.STARTTLS, command.QUIT)
# Where nothing is taken in the clear, or a client has to show a certificate: it could spare itself that by not saying
# STARTTLS (RFC 3207 §4).
TABLE_BEFORE_TLS: list[list[Entry]] = [
    [entry if code in _HEARD_IN_THE_CLEAR else _TLS_FIRST for code, entry in enumerate(row)] for row in TABLE
]
AFTER_MESSAGE = State.READY
AFTER_REFUSED_CHUNK = {
    _S.START: _S.START, _S.READY: _S.READY, _S.MAIL: _S.MAIL, _S.RCPT: _S.FAILED, _S.CHUNKS: _S.FAILED,
    _S.FAILED: _S.FAILED,
}  # fmt: skip
AFTER_REFUSED_LAST_CHUNK = {
    _S.START: _S.START, _S.READY: _S.READY, _S.MAIL: _S.READY, _S.RCPT: _S.READY, _S.CHUNKS: _S.READY,
    _S.FAILED: _S.READY,
}  # fmt: skip
