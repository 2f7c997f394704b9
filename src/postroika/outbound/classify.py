"""What a reply or a failure means for a recipient: the only place that decides between delivered, deferred, failed.

Pure. The policy, which is Postfix's:

- A reply of the peer to MAIL, RCPT, DATA or the message: 2xx delivered, 4xx deferred, 5xx failed; by first digit alone.
- A greeting, EHLO, STARTTLS or AUTH that is refused, 4xx or 5xx, is about the host and not about the mail: next host,
  then deferred. So is TLS that the policy wants and that cannot be had.
- An obstacle that we see ourselves (size, 8-bit, SMTPUTF8) and a routing failure: by our own reply.
- A message that has to be signed and cannot be is deferred.
- Whatever breaks a session (connect, timeout, close, nonsense) is deferred; before the final dot the next host may be
  tried at once, after it never: nobody can tell whether the message arrived.
"""

from __future__ import annotations

import errno
import os

from postroika.errors import RemoteProtocolError, SigningError
from postroika.mail.outcome import Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply, reply
from postroika.outbound.failure import Failure, PeerClosed, SessionRefused, TimedOut, TlsFailed
from postroika.smtp.client_transaction import STAGES, Step, Verdict

_DELIVERED = Outcome.DELIVERED  # looked up for each message
_ABOUT_THE_HOST = {Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.TLS, Stage.AUTH}
_WORDS = {
    Step.GREETING: "its greeting", Step.EHLO: "the answer to EHLO", Step.RSET: "the answer to RSET",
    Step.MAIL: "the answer to MAIL FROM", Step.RCPT: "the answer to RCPT TO", Step.DATA: "the answer to DATA",
    Step.BODY: "the end of the message", Step.CHUNK: "the answer to BDAT", Step.SKIP: "the answer to BDAT",
    Step.FINAL_DOT: "the answer to the message", Step.LONE_DOT: "the answer to the final dot",
    Step.QUIT: "the answer to QUIT", Step.NOTHING: "a connection", Step.STARTTLS: "the answer to STARTTLS",
    Step.HANDSHAKE: "the end of the TLS handshake", Step.AUTH: "the answer to AUTH",
}  # fmt: skip
_OURS_TO_MEND = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EADDRNOTAVAIL,
    errno.EACCES,
    errno.EPERM,
}
_TOO_MANY = {(452, ""), (452, "4.5.3"), (452, "5.5.3"), (552, "4.5.3"), (552, "5.5.3")}


def result(index: int, verdict: Verdict, *, wants_success_notice: bool = False) -> RecipientResult:
    """What `verdict` means for the recipient at `index`. `wants_success_notice`: NOTIFY=SUCCESS was asked for, and
    the peer does not speak DSN (RFC 3461 §5.2.2)."""
    stage, said, remote = verdict
    kind = said.code // 100
    if kind == 2:
        return RecipientResult(index, _DELIVERED, said, stage, remote, wants_success_notice)
    if kind == 5 and stage not in _ABOUT_THE_HOST:
        return RecipientResult(index, Outcome.FAILED, said, stage, remote)
    return RecipientResult(index, Outcome.DEFERRED, said, stage, remote)


def failure(error: Failure, step: Step, peer: Peer, demand: str = "") -> Verdict:
    """A session that could not be had, or broke while `step` was awaited, before the message was complete.

    Args:
        demand: who asks for TLS, in words, where it is not the config: whoever reads the record wants to know.
    """
    verdict = _failure(error, step, peer)
    if not demand or verdict.stage is not Stage.TLS:
        return verdict
    said = verdict.reply
    if not verdict.remote:
        return Verdict(Stage.TLS, reply(said.code, said.enhanced, f"{said.text}; {demand}"), False)
    words = f"{peer.host} [{peer.ip}]:{peer.port} refuses TLS ({said}); {demand}"
    return Verdict(Stage.TLS, reply(451, "4.7.4", words), False)


def _failure(error: Failure, step: Step, peer: Peer) -> Verdict:
    whom = f"{peer.host} [{peer.ip}]:{peer.port}"
    stage = STAGES[step]
    # The message as a whole is not in doubt here, so its last stage is told as the one before.
    stage = Stage.DATA if stage is Stage.FINAL_DOT else stage
    match error:
        case SessionRefused(remote=False):
            words = f"{whom}: {error.reply.text}"
            return Verdict(error.stage, reply(error.reply.code, error.reply.enhanced, words), False)
        case SessionRefused():
            return Verdict(error.stage, error.reply)
        case TlsFailed() if stage is Stage.TLS:
            return Verdict(stage, reply(451, "4.7.5", f"TLS with {whom} failed: {error}"), False)
        case TlsFailed():
            words = f"TLS with {whom} broke before {_WORDS[step]}: {error}"
            return Verdict(stage, reply(451, "4.7.5", words), False)
        case PeerClosed(reply=Reply() as said):
            return Verdict(stage, said)
        case PeerClosed():
            return Verdict(stage, reply(451, "4.4.2", f"{whom} closed the connection before {_WORDS[step]}"), False)
        case TimedOut(sending=True):
            return Verdict(stage, reply(451, "4.4.2", f"{whom} stopped taking the message"), False)
        case TimedOut(step=Step.NOTHING):
            return Verdict(stage, reply(451, "4.4.1", f"connecting to {whom} timed out"), False)
        case TimedOut():
            return Verdict(stage, reply(451, "4.4.2", f"waiting for {_WORDS[step]} of {whom} timed out"), False)
        case RemoteProtocolError():
            return Verdict(stage, reply(451, "4.5.0", f"{whom} does not speak SMTP properly: {error}"), False)
        case ConnectionRefusedError():
            return Verdict(stage, reply(451, "4.4.1", f"{whom} refused the connection"), False)
        case OSError(errno=number) if number in _OURS_TO_MEND:
            return Verdict(stage, reply(451, "4.3.0", f"connecting to {whom} failed here: {_strerror(error)}"), False)
        case OSError() if stage is Stage.CONNECT:
            return Verdict(stage, reply(451, "4.4.1", f"connecting to {whom} failed: {_strerror(error)}"), False)
        case OSError():
            words = f"the connection to {whom} was lost before {_WORDS[step]}: {_strerror(error)}"
            return Verdict(stage, reply(451, "4.4.2", words), False)


def doubt(error: Failure, peer: Peer) -> Verdict:
    """The message was sent and what became of it was never heard."""
    how = "was not given in time" if isinstance(error, TimedOut) else "was lost with the connection"
    said = f"the answer of {peer.host} [{peer.ip}]:{peer.port} to the message {how}; it may have been delivered"
    return Verdict(Stage.FINAL_DOT, reply(451, "4.4.2", said), False)


_STOPPED = Verdict(Stage.QUEUE, reply(451, "4.3.2", "the attempt was cut short, since the server stops"), False)
_STOPPED_IN_DOUBT = Verdict(
    Stage.FINAL_DOT,
    reply(451, "4.4.2", "the server stopped before the answer to the message came; it may have been delivered"),
    False,
)


def stopped(dot_sent: bool) -> Verdict:
    """We stop in the middle of an attempt of which some recipients have a verdict already."""
    return _STOPPED_IN_DOUBT if dot_sent else _STOPPED


def unsigned(error: SigningError) -> Verdict:
    """The message cannot be signed, and so is not sent."""
    return Verdict(Stage.QUEUE, reply(451, "4.7.5", f"the message cannot be signed: {error}"), False)


def too_many_recipients(verdict: Verdict) -> bool:
    """The peer takes no more recipients in this transaction, and may in the next (RFC 5321 §4.5.3.1.10)."""
    return verdict.stage is Stage.RCPT and (verdict.reply.code, verdict.reply.enhanced) in _TOO_MANY


def worth_another_host(verdict: Verdict) -> bool:
    """A deferral that another host of the destination could lift: not one that is about the mailbox (x.2.y), nor one
    where the message may have arrived."""
    return not verdict.reply.enhanced.startswith("4.2.") and (verdict.remote or verdict.stage is not Stage.FINAL_DOT)


def _strerror(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
