"""What encryption one next hop has to have, whoever says so. Plain values.

Promise: two policies with the same `key` ask for the same; nothing that was agreed on under one of them (a connection,
a session to resume) is used under another one.

Now the [[route]] table alone makes policies. Whatever else can ask for encryption (a policy that the recipient's domain
publishes) makes an object of this kind for each host, and delivery needs to know nothing more of it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Level(enum.StrEnum):
    """How much is asked for. `[[route]] tls` says one of these."""

    NONE = "none"  # STARTTLS is not used.
    OPPORTUNISTIC = "opportunistic"  # It is used where it works; whether the certificate is good is noted.
    REQUIRED = "required"  # Nothing goes in clear.
    VERIFY = "verify"  # … and the certificate is good for the name of the host.


class Rung(enum.IntEnum):
    """A way to speak with a host, the best first."""

    VERIFIED = 0
    UNVERIFIED = 1
    CLEAR = 2


_RUNGS = {
    Level.NONE: (Rung.CLEAR,),
    Level.OPPORTUNISTIC: (Rung.VERIFIED, Rung.UNVERIFIED, Rung.CLEAR),
    Level.REQUIRED: (Rung.VERIFIED, Rung.UNVERIFIED),
    Level.VERIFY: (Rung.VERIFIED,),
}


class HostPolicy(NamedTuple):
    """What one next hop has to have.

    Args:
        level: how much.
        implicit: TLS from the first octet on, so that nothing can go in clear.
        certificate, key: files with ours, to be shown to a host that asks; "" = we have none.
        name_trusted: the name of the host is from the config or was otherwise vouched for, not from a DNS that anybody
            could have forged: only then does a good certificate say that we are where the mail is to go.
        published: the recipient's domain asks for it, so that a sender may waive it (RFC 8689 §4.1, TLS-Required: No).
    """

    level: Level = Level.OPPORTUNISTIC
    implicit: bool = False
    certificate: str = ""
    key: str = ""
    name_trusted: bool = False
    published: bool = False

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """What is allowed, the best first; never empty."""
        rungs = _RUNGS[self.level]
        if self.implicit:
            return tuple(rung for rung in rungs if rung is not Rung.CLEAR) or (Rung.UNVERIFIED,)
        return rungs

    @property
    def words(self) -> str:
        """What tells it from others, in one line; "" for the default."""
        if self.level is Level.OPPORTUNISTIC and not self.implicit and not self.certificate and not self.published:
            return ""
        parts = [str(self.level), "implicit" if self.implicit else "", "published" if self.published else ""]
        return " ".join(
            [part for part in parts if part] + [f"{self.certificate!r}" if self.certificate else ""]
        ).strip()

    def stricter(self) -> HostPolicy:
        """As REQUIRETLS wants it, whatever is enough for other mail."""
        return self._replace(level=Level.VERIFY, published=False)

    def waived(self) -> HostPolicy:
        """As "TLS-Required: No" wants it: what the recipient's domain asks for does not hold."""
        return self._replace(level=Level.OPPORTUNISTIC, published=False) if self.published else self


OPPORTUNISTIC = HostPolicy()
