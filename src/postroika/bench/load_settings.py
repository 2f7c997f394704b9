"""How the load generator is told to behave, and what it tells. Values only."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from postroika.bench.histogram import LatencyJson
from postroika.bench.messages import MAX_MESSAGES
from postroika.config import split_host_port
from postroika.errors import PostroikaError

TLS = Literal["none", "starttls", "implicit"]

MAX_RECIPIENTS = 10_000_000
MAX_DOMAINS = 100_000_000

_RUN = re.compile(r"[0-9a-f]{8}")
# What fits between the brackets of a path without a thought about quoting, and into a domain.
_SENDER = re.compile(r"[!-;=?-~]+@[!-;=?-~]+")
_NAME = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sent, and how.

    Args:
        target: "host:port".
        sessions: connections at once.
        idle_sessions: further connections that greet and then say nothing until the others are done.
        messages: how many in all; 0: as many as go within `duration_s`.
        messages_per_connection: 0: as many as there are.
        size: see `messages.templates`: "4096", "4k:70,100k:25,1m:5" or "file:PATH".
        recipients: of each message.
        domains, domain: recipient i of message n is in domain (n * recipients + i) % domains; its name is `domain` with
            that number in place of "{}", so that one message to many domains has them all.
        sender: of MAIL FROM; "" is the null reverse-path.
        helo: what EHLO says.
        pipelining: MAIL, all RCPT and DATA in one write; otherwise each command waits for the reply to the one before.
        across: with pipelining, the commands of the next message, or QUIT, go out behind the content of this one.
        bdat: BDAT in place of DATA.
        tls: without any verification: it is for loopback.
        rate_per_s: open loop: message n is due at n / rate whatever the server does, and latency counts from then.
            0: closed loop: each connection sends the next message when it has the reply to the last.
        duration_s: begin no message after that; with `sessions` 0, how long idle sessions are held. 0: no limit.
        deadline_s: break off after that, wherever it stands. 0: never.
        reply_timeout_s: silence after which a connection is given up.
        patience_s: how long a server that takes no connection is tried again.
        run: 8 hex digits that all messages of this load bear; "": by chance.
    """

    target: str
    sessions: int = 50
    idle_sessions: int = 0
    messages: int = 1000
    messages_per_connection: int = 0
    size: str = "4096"
    recipients: int = 1
    domains: int = 1
    domain: str = "d{}.test"
    sender: str = "sender@load.test"
    helo: str = "load.test"
    pipelining: bool = True
    across: bool = True
    bdat: bool = False
    tls: TLS = "none"
    rate_per_s: float = 0.0
    duration_s: float = 0.0
    deadline_s: float = 0.0
    reply_timeout_s: float = 300.0
    patience_s: float = 30.0
    run: str = ""

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            PostroikaError: says which setting, and what it may be.
        """
        bounds = {
            "sessions": (0, 60_000),
            "idle_sessions": (0, 60_000),
            "messages": (0, MAX_MESSAGES),
            "messages_per_connection": (0, MAX_MESSAGES),
            "recipients": (1, MAX_RECIPIENTS),
            "domains": (1, MAX_DOMAINS),
            "rate_per_s": (0, 1e7),
            "duration_s": (0, 1e7),
            "deadline_s": (0, 1e7),
            "reply_timeout_s": (0.1, 1e7),
            "patience_s": (0, 1e7),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise PostroikaError(f"{name} is {value:g}: not within {least:g} to {most:g}")
        patterns = {"run": (_RUN, self.run), "sender": (_SENDER, self.sender), "helo": (_NAME, self.helo)}
        for name, (pattern, text) in patterns.items():
            if not pattern.fullmatch(text) and (text or name == "helo"):
                raise PostroikaError(f"{name} cannot be {text!r}")
        if not _NAME.fullmatch(self.domain.replace("{}", "0", 1)):
            raise PostroikaError(f"domain cannot be {self.domain!r}")
        if self.sessions + self.idle_sessions == 0:
            raise PostroikaError("there is no session to send over")
        if self.duration_s == 0 and (self.messages == 0 or self.sessions == 0):
            raise PostroikaError("without a duration there must be sessions, and a number of messages")
        try:
            split_host_port(self.target)
        except ValueError as error:
            raise PostroikaError(f"target: {error}") from None

    def to_arguments(self) -> list[str]:
        """The arguments of `postroika bench load` that mean the same."""
        arguments = [self.target]
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if field.name == "target" or value == field.default:
                continue
            option = field.encode_name.replace("_", "-")
            if isinstance(value, bool):
                arguments.append(f"--{option}" if value else f"--no-{option}")
            else:
                arguments += [f"--{option}", str(value)]
        return arguments


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    Args:
        run: that the messages bear.
        messages: how many were acknowledged: 2xx to the final dot.
        recipients: of these, that had been accepted; refused_recipients: that were not, of all messages.
        failed: messages that were refused, or whose connections were lost too often.
        in_doubt: those of them whose final dot was sent, and whose reply was lost.
        unsent: messages that should have been sent, and were not.
        retried: how often a message was begun again because its connection was lost before its end.
        bytes: the content of acknowledged messages.
        elapsed_s: from before the first connection until the last acknowledgement, or to the end if there is none.
        cpu_s: user and system time of this process meanwhile.
        started_at, first_at, last_at: time.monotonic() before the first connection, at the first MAIL and at the last
            acknowledgement; None if it did not come to that.
        connections: that were made; connect_failures: that got no greeting; disconnects: that broke after it.
        idle_sessions: how many of those were open at the end.
        latency_ms: from MAIL (or when it was due) until the reply to the final dot. For a message whose commands went
            out behind the content of the one before: from the reply to that one.
        timeline: [seconds since started_at, messages acknowledged by then], every quarter of a second.
        errors: replies and other mishaps by their text.
        ended_by: "deadline" or the name of a signal; "" by itself.
    """

    run: str
    messages: int
    recipients: int
    refused_recipients: int
    failed: int
    in_doubt: int
    unsent: int
    retried: int
    bytes: int
    elapsed_s: float
    cpu_s: float
    started_at: float
    first_at: float | None
    last_at: float | None
    connections: int
    connect_failures: int
    disconnects: int
    idle_sessions: int
    latency_ms: LatencyJson
    timeline: list[tuple[float, int]]
    errors: dict[str, int]
    ended_by: str

    @property
    def complete(self) -> bool:
        """All that should have been sent was acknowledged, to each recipient."""
        return not (self.failed or self.unsent or self.refused_recipients or self.ended_by)


class LoadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is. `open_sessions` are past their greetings; `idle_sessions` are those that say nothing."""

    messages: int
    recipients: int
    failed: int
    in_flight: int
    bytes: int
    elapsed_s: float
    open_sessions: int
    idle_sessions: int

    def summary(self) -> str:
        """One line."""
        idle = f" and {self.idle_sessions} idle" if self.idle_sessions else ""
        rate = self.messages / self.elapsed_s if self.elapsed_s > 0 else 0.0
        return (
            f"{self.messages} messages, {self.failed} failed, {self.open_sessions} sessions{idle}, "
            f"{self.elapsed_s:.1f} s, {rate:.0f} messages/s"
        )
