"""How the sink is told to behave, and what it tells. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from postroika.mail.outcome import Stage
from postroika.smtp.server import EXTENSIONS

STAGES = (Stage.GREETING, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT)
"""Where the sink can wait or hang up: before the banner, and before the reply to each of these."""

Tls = Literal["none", "starttls", "implicit"]


class SinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the sink behaves.

    Args:
        hostname: what it calls itself.
        refuse, defer: patterns of recipients (`*`, `?`, `[a-z]`, case does not matter) that get 550, 451.
        refuse_share, defer_share: of the other recipients, the share from 0 to 1 that gets 550, 451.
        greylist: the first RCPT for each recipient gets 451, and so do those within `greylist_s` seconds of it.
        seed: of all that goes by share: the same sequence of commands gets the same sequence of replies.
        store: a directory to keep messages in, as a Maildir; "" keeps nothing.
        unique: the name of a header field that tells messages apart, such as "Message-ID", in place of the marks of
            the load generator. Costs memory for each message; "" goes by the marks.
        delays_s: seconds to wait at a stage (see STAGES).
        disconnect_at: the stage to hang up at without a reply; at "final_dot" the message has been counted, as if
            the reply had been lost.
        disconnect_share: in how many of the cases, from 0 to 1.
        messages_per_connection: after so many, MAIL gets 421 and the connection is closed; 0 for no limit.
        max_connections: who comes when there are so many gets 421; 0 for no limit.
        bytes_per_s, connection_bytes_per_s: read no faster, from all together and from each; 0 for no limit.
        extensions: what EHLO offers.
        tls: "implicit" begins every connection with a handshake.
        certificate, key: PEM files; "" makes a self-signed certificate.
        idle_timeout_s: silence after which a client is dropped.
    """

    hostname: str = "sink.localhost"
    refuse: tuple[str, ...] = ()
    defer: tuple[str, ...] = ()
    refuse_share: float = 0.0
    defer_share: float = 0.0
    greylist: bool = False
    greylist_s: float = 0.0
    seed: int = 0
    store: str = ""
    unique: str = ""
    delays_s: Mapping[Stage, float] = {}
    disconnect_at: Stage | None = None
    disconnect_share: float = 1.0
    messages_per_connection: int = 0
    max_connections: int = 0
    bytes_per_s: float = 0.0
    connection_bytes_per_s: float = 0.0
    extensions: frozenset[str] = EXTENSIONS
    tls: Tls = "none"
    certificate: str = ""
    key: str = ""
    max_message_bytes: int = 1024 * 1024 * 1024
    max_recipients: int = 10_000
    idle_timeout_s: float = 600.0

    @property
    def obliging(self) -> bool:
        """Every message is taken at once and only counted: nothing has to be decided between two commands."""
        return not (
            self.refuse
            or self.defer
            or self.refuse_share
            or self.defer_share
            or self.greylist
            or self.store
            or self.unique
            or self.disconnect_at
            or any(self.delays_s.values())
        )


class Counts(msgspec.Struct):
    """What has happened so far.

    Args:
        messages, recipients, bytes: of accepted messages; the bytes are those of their content.
        unique, doubled: recipients of accepted messages that can be told apart (by the marks of the load generator or
            by `SinkSettings.unique`): how many different ones there were, and how often one came again.
        damaged: marked messages whose body is not what was sent. They are in the other counts as well.
        unmarked: messages that cannot be told apart.
        refused, deferred: recipients.
        disconnects: connections that the sink hung up on as it was told to.
        turned_away: connections beyond `SinkSettings.max_connections`. They are among the sessions.
        first_at, last_at: when the first and the last message were accepted, in seconds of CLOCK_MONOTONIC.
    """

    messages: int = 0
    recipients: int = 0
    unique: int = 0
    doubled: int = 0
    damaged: int = 0
    unmarked: int = 0
    refused: int = 0
    deferred: int = 0
    disconnects: int = 0
    turned_away: int = 0
    sessions: int = 0
    open_sessions: int = 0
    bytes: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def summary(self) -> str:
        """All of it in one line."""
        took_s = self.last_at - self.first_at
        rate = f", {self.messages / took_s:.0f} messages/s over {took_s:.1f} s" if took_s > 0 else ""
        marked = self.unique or self.damaged
        told_apart = f" ({self.doubled} doubled, {self.damaged} messages damaged)" if marked else ""
        return (
            f"{self.messages} messages to {self.recipients} recipients{told_apart}, {self.bytes} bytes, "
            f"{self.sessions} sessions{rate}; refused {self.refused}, deferred {self.deferred}, "
            f"hung up {self.disconnects}"
        )


class Message(msgspec.Struct, frozen=True):
    """One accepted message, for `on_message`."""

    reverse_path: str
    recipients: tuple[str, ...]
    size_bytes: int
    client_ip: str
    helo: str
