"""The policies that are in memory, and what is known of their renewal.

Promise: never more of them than `MEMORY_BYTES` hold; the one that was of no use for longest goes first. One that has
expired is none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from postroika.sts.fetch import FailureKind
from postroika.sts.policy import StsPolicy

MEMORY_BYTES: Final = 16 * 1024 * 1024
_POLICY_BYTES, _PATTERN_BYTES = 700, 70  # in memory, without the text


class StsFailure(NamedTuple):
    """Why the policy that a domain publishes could not be had.

    Args:
        kind: for reports.
        text: for people.
    """

    kind: FailureKind
    text: str


class Known:
    """A policy that holds.

    Args:
        check_at: Trio time of the next look at its record.

    Attributes:
        failure: why no newer one could be had at the last look, if one was wanted.
        size_bytes: in memory.
    """

    __slots__ = ("check_at", "failure", "policy", "size_bytes")

    def __init__(self, policy: StsPolicy, check_at: float) -> None:
        self.policy = policy
        self.check_at = check_at
        self.failure: StsFailure | None = None
        self.size_bytes = _POLICY_BYTES + sum(_PATTERN_BYTES + len(pattern) for pattern in policy.patterns)


class KnownPolicies:
    """Those of one worker.

    Args:
        clock: epoch seconds.

    Attributes:
        size_bytes: of all of them, in memory.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.size_bytes = 0
        self._clock = clock
        self._by_domain: OrderedDict[str, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_domain)

    def get(self, domain: str) -> Known | None:
        """That of a domain, which is of use now."""
        known = self._by_domain.get(domain)
        if known is None:
            return None
        if known.policy.expires_at <= self._clock():
            self._drop(domain)
            return None
        self._by_domain.move_to_end(domain)
        return known

    def put(self, policy: StsPolicy, check_at: float) -> None:
        """In place of what there was of its domain.

        Args:
            check_at: Trio time of the next look at its record.
        """
        self._drop(policy.domain)
        if policy.expires_at <= self._clock():
            return
        known = self._by_domain[policy.domain] = Known(policy, check_at)
        self.size_bytes += known.size_bytes
        while self.size_bytes > MEMORY_BYTES:
            self.size_bytes -= self._by_domain.popitem(last=False)[1].size_bytes

    def check_all(self) -> None:
        """Look at all records again, as soon as mail asks for the policies."""
        for known in self._by_domain.values():
            known.check_at = 0.0

    def note_failure(self, domain: str, failure: StsFailure | None) -> None:
        """Why the policy of a domain could not be renewed; None: it did not have to be."""
        known = self._by_domain.get(domain)
        if known is not None:
            known.failure = failure

    def _drop(self, domain: str) -> None:
        known = self._by_domain.pop(domain, None)
        if known is not None:
            self.size_bytes -= known.size_bytes
