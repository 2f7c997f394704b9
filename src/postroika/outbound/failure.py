"""How a session with a next hop can end before its time. Raised by `connection`, put in words by `classify`.

An OSError of the socket and a RemoteProtocolError of the client are the other two ways.
"""

from __future__ import annotations

from typing import TypeAlias

from postroika.errors import PostroikaError, RemoteProtocolError
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_transaction import Step


class NoSession(PostroikaError):
    """A connection could not be opened, or no session be had on it.

    Args:
        error: what happened.
        step: what was awaited; NOTHING while connecting.
        greeting: of the host, if it came that far.
    """

    def __init__(self, error: Failure, step: Step, greeting: Reply | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.step = step
        self.greeting = greeting


class TimedOut(PostroikaError):
    """The peer did not answer, or did not take more of the message, in time.

    Args:
        step: what was awaited; NOTHING while the connection was being opened.
        sending: it was our output that did not get away.
    """

    def __init__(self, step: Step, sending: bool = False) -> None:
        super().__init__(f"timed out at {step.name}")
        self.step = step
        self.sending = sending


class PeerClosed(PostroikaError):
    """The peer closed the connection.

    Args:
        step: what was awaited.
        reply: its 421, or None if it went without a word.
    """

    def __init__(self, step: Step, reply: Reply | None = None) -> None:
        super().__init__(f"closed at {step.name}: {reply}")
        self.step = step
        self.reply = reply


class SessionRefused(PostroikaError):
    """The peer wants no session with us.

    Args:
        stage: greeting, EHLO, TLS or AUTH.
        reply: what it said, or why we do not want one with it.
        remote: the words are the peer's.
    """

    def __init__(self, stage: Stage, reply: Reply, remote: bool = True) -> None:
        super().__init__(str(reply))
        self.stage = stage
        self.reply = reply
        self.remote = remote


class TlsFailed(PostroikaError):
    """There is no TLS with the peer, or no more.

    Args:
        reason: in one line.
        untrusted: it is the certificate that was not good; the rest would have been.
        code: OpenSSL's number for what is wrong with the certificate, 0 if there is none.
    """

    def __init__(self, reason: str, *, untrusted: bool = False, code: int = 0) -> None:
        super().__init__(reason)
        self.untrusted = untrusted
        self.code = code


Failure: TypeAlias = OSError | RemoteProtocolError | TimedOut | PeerClosed | SessionRefused | TlsFailed
FAILURES = (OSError, RemoteProtocolError, TimedOut, PeerClosed, SessionRefused, TlsFailed)
