"""What the SMTP server protocol has to know of the configuration, and the greetings that follow from it."""

from __future__ import annotations

import functools
from typing import Literal

import msgspec

from postroika.mail.reply import Reply

EXTENSIONS = frozenset({
    "PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "ENHANCEDSTATUSCODES", "LIMITS",
})  # fmt: skip


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the protocol has to know of the configuration.

    Args:
        max_junk_commands: of those that lead to no mail, between two messages; each further one is a bad one. 0: any
            number.
        extensions: those to offer, of EXTENSIONS.
        tls: STARTTLS is not known, is offered, or is over and done with: the session is in TLS.
        tls_first: where STARTTLS is offered, next to nothing else is allowed in the clear.
        auth: clients may log in, though perhaps not on each connection: see `Server.mechanisms`.
    """

    hostname: str
    max_message_bytes: int = 50 * 1024 * 1024
    max_recipients: int = 5000
    max_bad_commands: int = 20
    max_junk_commands: int = 100
    max_received: int = 50
    max_header_bytes: int = 1024 * 1024
    bare_newlines: Literal["refuse", "normalise"] = "refuse"
    extensions: frozenset[str] = EXTENSIONS
    tls: Literal["none", "offered", "active"] = "none"
    tls_first: bool = False
    auth: bool = False

    def offered(self) -> frozenset[str]:
        """What this session has: `extensions`, and in TLS REQUIRETLS (RFC 8689 §2)."""
        return self.extensions | {"REQUIRETLS"} if self.tls == "active" else self.extensions


@functools.lru_cache(maxsize=64)
def greetings(
    settings: ServerSettings, mechanisms: tuple[str, ...] = (), xclient: tuple[str, ...] = ()
) -> tuple[bytes, bytes, bytes]:
    """The banner, and the replies to HELO and EHLO, with the mechanisms of AUTH and the attributes of XCLIENT."""
    offered = settings.offered()
    values = {"SIZE": f"SIZE {settings.max_message_bytes}", "LIMITS": f"LIMITS RCPTMAX={settings.max_recipients}"}
    order = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "ENHANCEDSTATUSCODES",
             "LIMITS", "REQUIRETLS")  # fmt: skip
    lines = [settings.hostname, *(values.get(name, name) for name in order if name in offered)]
    if settings.tls == "offered":
        lines.insert(1, "STARTTLS")  # gsasl does not see it in the last line
    if mechanisms:
        lines.append(f"AUTH {' '.join(mechanisms)}")
    if xclient:
        lines.append(f"XCLIENT {' '.join(xclient)}")
    return (
        Reply(220, "", (f"{settings.hostname} ESMTP Postroika",)).wire(),
        Reply(250, "", (settings.hostname,)).wire(),
        Reply(250, "", tuple(lines)).wire(),
    )
