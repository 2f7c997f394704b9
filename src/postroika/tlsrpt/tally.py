"""Counts of one day: sessions that were encrypted as they should be, and those that were not, and why. Pure.

Promise: what is held is bounded, whatever peers say and however they fail. Where there is no room for another domain or
policy, its sessions are left out and counted as `uncounted`; where there is none for another kind of failure, the
failure loses its particulars, so that the sums stay right.
"""

from __future__ import annotations

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
MAX_FAILURES = 60  # kinds of them, of a policy
_MAX_TEXT = 300
_MAX_LINES = 100


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

    def add_failures(self, failure: Failure, count: int) -> None:
        """Sessions that failed of the same."""
        failures = self.failures
        if failure not in failures and len(failures) >= MAX_FAILURES:
            failure = Failure(failure.result)  # there are few of these
        failures[failure] = failures.get(failure, 0) + count


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

    Attributes:
        domains: by name, in A-labels.
        uncounted: sessions that found no room.
    """

    def __init__(self, max_domains: float = inf) -> None:
        self.domains: dict[str, Policies] = {}
        self.uncounted = 0
        self._max_domains = max_domains

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
        if counts is None:
            self.uncounted += count
            return False
        counts.add_failures(failure, count)
        return True

    def _counts(self, domain: str, policy: Policy) -> Counts | None:
        policies = self.domains.get(domain)
        if policies is None:
            if len(self.domains) >= self._max_domains:
                return None
            policies = self.domains[domain] = {}
        counts = policies.get(policy)
        if counts is None and len(policies) < MAX_POLICIES:
            counts = policies[policy] = Counts()
        return counts

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


def clipped(text: str) -> str:
    """Words of a peer, fit for a report: printable, and not endless."""
    if len(text) <= _MAX_TEXT and text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text[:_MAX_TEXT])


def clipped_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """The same for several."""
    return tuple([clipped(line) for line, _ in zip(lines, range(_MAX_LINES), strict=False)])
