"""What encryption one next hop has to have, whoever says so. Plain values.

Promise: two policies with the same `key` ask for the same; nothing that was agreed on under one of them (a connection,
a session to resume) is used under another one.

The [[route]] table makes the first policy of each host; what the recipient's domain publishes (DANE, MTA-STS) makes
another one of it (`outbound.published`), and delivery needs to know nothing more of either.
"""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple

from postroika.tls.tlsa import Dane


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


class PolicySource(NamedTuple):
    """Which policy of the recipient's domain speaks, as it is told in reports (RFC 8460 §4.4).

    Args:
        kind: MTA-STS or DANE.
        domain: the recipient's.
        lines: the policy as it was found: lines of its text, or TLSA records.
        mx_patterns: the names that it has for MX hosts; none with DANE.
        enforced: False: what is not as it says is told and does no harm.
    """

    kind: Literal["sts", "tlsa"]
    domain: str
    lines: tuple[str, ...]
    mx_patterns: tuple[str, ...]
    enforced: bool


class HostPolicy(NamedTuple):
    """What one next hop has to have.

    Args:
        level: how much.
        implicit: TLS from the first octet on, so that nothing can go in clear.
        certificate, key: files with ours, to be shown to a host that asks; "" = we have none.
        name_trusted: the name of the host is from the config or was otherwise vouched for, not from a DNS that anybody
            could have forged: only then does a good certificate say that we are where the mail is to go.
        published: the recipient's domain asks for it, so that a sender may waive it (RFC 8689 §4.1, TLS-Required: No).
        own: how much the config alone asks for, where `published`.
        dane: what the certificate has to be instead of one that the authorities whom we trust vouch for.
        refused: why no mail may go there; "" if it may.
        demand: who asks for it, in words for the record; "" where it is the config.
        source: the policy of the recipient's domain that says so, or would if it were enforced.
    """

    level: Level = Level.OPPORTUNISTIC
    implicit: bool = False
    certificate: str = ""
    key: str = ""
    name_trusted: bool = False
    published: bool = False
    own: Level = Level.OPPORTUNISTIC
    dane: Dane | None = None
    refused: str = ""
    demand: str = ""
    source: PolicySource | None = None

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
        parts = [
            str(self.level),
            "implicit" if self.implicit else "",
            "published" if self.published else "",
            "refused" if self.refused else "",
            f"dane {self.dane.digest}" if self.dane is not None else "",
            f"{self.certificate!r}" if self.certificate else "",
        ]
        return " ".join([part for part in parts if part])

    def stricter(self) -> HostPolicy:
        """As REQUIRETLS wants it, whatever is enough for other mail."""
        return self._replace(level=Level.VERIFY, published=False)

    def waived(self) -> HostPolicy:
        """As "TLS-Required: No" wants it: what the recipient's domain asks for does not hold."""
        if not self.published:
            return self
        return HostPolicy(self.own, self.implicit, self.certificate, self.key, self.name_trusted)


OPPORTUNISTIC = HostPolicy()
