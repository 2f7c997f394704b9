"""How the sink is told to behave, and what it tells. Values only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from postroika.mail.outcome import Stage
from postroika.smtp.server import EXTENSIONS

STAGES = (Stage.GREETING, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT)
"""Where the sink can wait or hang up: before the banner, and before the reply to each of these."""


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the sink behaves.

    Args:
        hostname: what it calls itself.
        refuse, defer: patterns of recipients (`*`, `?`, `[a-z]`, case does not matter) that get 550, 451.
        store: a directory to keep messages in, as a Maildir; "" keeps nothing.
        unique: the name of a header field that tells messages apart, such as "Message-ID": recipients that get the
            same message twice are counted. Costs memory for each; "" counts nothing of the kind.
        delays_s: seconds to wait at a stage (see STAGES).
        disconnect_at: the stage to hang up at without a reply; at "final_dot" the message has been counted, as if
            the reply had been lost.
        disconnect_share: in how many of the cases, from 0 to 1.
        extensions: what EHLO offers.
        idle_timeout_s: silence after which a client is dropped.
    """

    hostname: str = "sink.localhost"
    refuse: tuple[str, ...] = ()
    defer: tuple[str, ...] = ()
    store: str = ""
    unique: str = ""
    delays_s: Mapping[Stage, float] = {}
    disconnect_at: Stage | None = None
    disconnect_share: float = 1.0
    extensions: frozenset[str] = EXTENSIONS
    max_message_bytes: int = 1024 * 1024 * 1024
    max_recipients: int = 10_000
    idle_timeout_s: float = 600.0


class Counts(msgspec.Struct):
    """What has happened so far. `recipients` and `doubled` count the recipients of accepted messages;
    `first_at` and `last_at` are the Trio times of the first and the last accepted message."""

    connections: int = 0
    messages: int = 0
    recipients: int = 0
    octets: int = 0
    refused: int = 0
    deferred: int = 0
    doubled: int = 0
    disconnects: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def summary(self) -> str:
        """All of it in one line."""
        took_s = self.last_at - self.first_at
        rate = f", {self.messages / took_s:.0f} messages/s over {took_s:.1f} s" if took_s > 0 else ""
        return (
            f"{self.messages} messages to {self.recipients} recipients ({self.doubled} doubled), {self.octets} octets, "
            f"{self.connections} connections{rate}; refused {self.refused}, deferred {self.deferred}, "
            f"hung up {self.disconnects}"
        )


class Message(msgspec.Struct, frozen=True):
    """One accepted message, for `on_message`."""

    reverse_path: str
    recipients: tuple[str, ...]
    size_bytes: int
    client_ip: str
    helo: str
