"""The exception tree. A remote 4xx/5xx is an outcome value, never an exception."""

from __future__ import annotations


class PostroikaError(Exception):
    """Root of every error that Postroika raises on purpose."""


class ConfigError(PostroikaError):
    """The configuration cannot be used; the text names the key and the file."""


class ProtocolError(PostroikaError):
    """SMTP was not spoken as it must be. `reply` hints at what to answer, where there is a peer to answer."""

    def __init__(self, text: str, reply: str = "") -> None:
        super().__init__(text)
        self.reply = reply


class LocalProtocolError(ProtocolError):
    """Our own code asked a protocol object for something its state does not allow: a bug."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol."""


class RoutingError(PostroikaError):
    """No next hop can be named for a domain (see `routing`)."""


class SpoolError(PostroikaError):
    """The spool cannot do what was asked."""


class SpoolFullError(SpoolError):
    """The disk or the map is full: nothing of the operation was kept. Intake answers 452."""


class SpoolDoubtError(SpoolError):
    """A commit took too long; whether it was or will be kept is unknown. Nothing of it may be removed."""


class SpoolLockedError(SpoolError):
    """Another process owns this shard."""


class SpoolFormatError(SpoolError):
    """The files are foreign, damaged, or of another schema version. They are never recreated."""


class SpoolIOError(SpoolError):
    """A sync failed. What the disk holds is unknown; the process has to end (a failed fsync is never retried)."""


class SigningError(PostroikaError):
    """A message that has to be signed cannot be. The text is for its sender too: it names no file."""


class SinkError(PostroikaError):
    """A consumer of the outbox could not take the events now. They stay in the spool and are offered again."""


class ControlError(PostroikaError):
    """The control socket refused or could not do what was asked."""


class NoServerError(ControlError):
    """Nothing answers at the control socket: no server is running, or another one than was meant."""


class RefusedError(PostroikaError):
    """A running server did not do what it was asked, because the request makes no sense or cannot be met."""


class NotQueuedError(RefusedError):
    """The message is not in the queue: it was settled, or there never was such a one."""
