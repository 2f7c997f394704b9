"""Counts of one day: sessions that were encrypted as they should be, and those that were not, and why. Pure.

Promise: what is held is bounded in octets, whatever peers say and however they fail. Particulars, which peers choose,
have half of the room: where that is full, policies are kept without their lines and failures without what is known of
them, so that the sums stay right, and whoever fills it takes no other domain's place. Where there is no room for
another domain or policy at all, its sessions are left out and counted as `uncounted`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from math import inf
from typing import Literal, NamedTuple, TypeAlias

import msgspec

PolicyKind: TypeAlias = Literal["tlsa", "sts", "no-policy-found"]
ResultType: TypeAlias = Literal[
    "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
    "validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
    "sts-policy-invalid", "sts-webpki-invalid",
]  # fmt: skip
"""RFC 8460 §4.3."""

MAX_POLICIES = 30  # of a domain and day: a policy that is published anew, or a TLSA record set for each host
MAX_FAILURES = 20  # kinds of them, of a policy
_MAX_TEXT = 100
_MAX_LINE = 300  # Names are that long.
_MAX_LINES = 50

# In memory, without texts: what is in tuples and tables, rounded up.
_DOMAIN_BYTES = 400
_POLICY_BYTES = 500
_FAILURE_BYTES = 350
_BYTES_FOR_A_DOMAIN = 4096
_LEAST_BYTES = 1024 * 1024


class Policy(NamedTuple):
    """What a session was to be like.

    Args:
        kind: who says so.
        domain: whose it is: the recipient's domain, or the host that TLSA records are for.
        lines: the policy itself, as RFC 8460 §4.4 wants it ("policy-string").
        mx_hosts: names, or patterns of names, of the hosts that it is about.
    """

    kind: PolicyKind
    domain: str
    lines: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()


class Failure(NamedTuple):
    """What a session failed of. Texts are "" where nothing is known.

    Args:
        sending_ip: ours.
        mx_host: the host, as its MX record names it.
        mx_helo: what it calls itself.
        receiving_ip: its address.
        reason: in words.
    """

    result: ResultType
    sending_ip: str = ""
    mx_host: str = ""
    mx_helo: str = ""
    receiving_ip: str = ""
    reason: str = ""


def budget(max_domains: int) -> int:
    """The octets of memory for the counts of so many domains."""
    return max(max_domains * _BYTES_FOR_A_DOMAIN, _LEAST_BYTES)


class Counts:
    """Of one policy.

    Attributes:
        successes: sessions.
        failures: sessions, by what they failed of.
    """

    __slots__ = ("failures", "successes")

    def __init__(self, successes: int = 0, failures: dict[Failure, int] | None = None) -> None:
        self.successes = successes
        self.failures: dict[Failure, int] = failures or {}

    @property
    def failed(self) -> int:
        """Sessions that failed."""
        return sum(self.failures.values())


Policies: TypeAlias = dict[Policy, Counts]


class PolicyRecord(msgspec.Struct, frozen=True):
    """A policy with its counts, as it is kept on disk."""

    policy: Policy
    successes: int
    failures: list[tuple[Failure, int]]


class DomainRecord(msgspec.Struct, frozen=True):
    """A domain with its policies, as it is kept on disk."""

    domain: str
    policies: list[PolicyRecord]


class Tally:
    """All counts of a day.

    Args:
        max_domains: how many domains it has room for.
        max_bytes: how many octets of memory; see `budget`.

    Attributes:
        domains: by name, in A-labels.
        uncounted: sessions that found no room.
        size_bytes: of what is held, in memory.
    """

    def __init__(self, max_domains: float = inf, max_bytes: float = inf) -> None:
        self.domains: dict[str, Policies] = {}
        self.uncounted = 0
        self.size_bytes = 0
        self._max_domains = max_domains
        self._max_bytes = max_bytes

    def succeeded(self, domain: str, policy: Policy, count: int = 1) -> bool:
        """Sessions that were as the policy wants them. False if there is no room for them."""
        counts = self._counts(domain, policy)
        if counts is None:
            self.uncounted += count
            return False
        counts.successes += count
        return True

    def failed(self, domain: str, policy: Policy, failure: Failure, count: int = 1) -> bool:
        """Sessions that were not. False if there is no room for them."""
        counts = self._counts(domain, policy)
        kept = None if counts is None else self._kept(counts.failures, failure)
        if counts is None or kept is None:
            self.uncounted += count
            return False
        counts.failures[kept] = counts.failures.get(kept, 0) + count
        return True

    def _counts(self, domain: str, policy: Policy) -> Counts | None:
        """Of a policy, or else of what it is without particulars; None if there is no room."""
        policies = self.domains.get(domain)
        if policies is None and len(self.domains) >= self._max_domains:
            return None
        domain_bytes = _DOMAIN_BYTES + sys.getsizeof(domain) if policies is None else 0
        bare = Policy(policy.kind, policy.domain)
        for kept in (policy, bare):
            counts = None if policies is None else policies.get(kept)
            if counts is not None:
                return counts
            if policies is not None and len(policies) >= MAX_POLICIES:
                continue
            size_bytes = _POLICY_BYTES + _size((kept.domain, *kept.lines, *kept.mx_hosts))
            if self._take(domain_bytes + size_bytes, particular=kept != bare):
                return self.domains.setdefault(domain, {}).setdefault(kept, Counts())
        return None

    def _kept(self, failures: dict[Failure, int], failure: Failure) -> Failure | None:
        """A failure as it is counted: as it is, or else without particulars; None if there is no room."""
        bare = Failure(failure.result)  # There are few of these.
        for kept in (failure, bare):
            if kept in failures:
                return kept
            if kept != bare and len(failures) >= MAX_FAILURES:
                continue
            if self._take(_FAILURE_BYTES + _size(kept[1:]), particular=kept != bare):
                return kept
        return None

    def _take(self, size_bytes: int, *, particular: bool) -> bool:
        """Whether there is room for something, which is taken up then."""
        room = self._max_bytes / 2 if particular else self._max_bytes
        if self.size_bytes + size_bytes > room:
            return False
        self.size_bytes += size_bytes
        return True

    def add(self, records: Iterable[DomainRecord]) -> None:
        """The counts of another worker, or of an earlier run."""
        for record in records:
            for kept in record.policies:
                if kept.successes:
                    self.succeeded(record.domain, kept.policy, kept.successes)
                for failure, count in kept.failures:
                    self.failed(record.domain, kept.policy, failure, count)

    def record(self, domain: str) -> DomainRecord:
        """What there is of a domain, to be kept."""
        return DomainRecord(
            domain,
            [
                PolicyRecord(policy, counts.successes, list(counts.failures.items()))
                for policy, counts in self.domains[domain].items()
            ],
        )


def _size(texts: Iterable[str]) -> int:
    """Octets of memory."""
    return sum(sys.getsizeof(text) + 8 for text in texts)


def clipped(text: str, most: int = _MAX_TEXT) -> str:
    """Words of a peer, fit for a report: printable, and not endless."""
    if len(text) <= most and text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text[:most])


def clipped_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """The same for the lines of a policy."""
    return tuple([clipped(line, _MAX_LINE) for line, _ in zip(lines, range(_MAX_LINES), strict=False)])
