"""A policy: what a domain asks of those who send to it. Pure.

Source: RFC 8461 §3.2, §4.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias, cast

Mode: TypeAlias = Literal["enforce", "testing", "none"]

LONGEST_MAX_AGE_S: Final = 31_557_600  # RFC 8461 §3.2
MOST_PATTERNS: Final = 256  # a domain needs a handful; all of them are kept in memory

_MODES = ("enforce", "testing", "none")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_MAX_AGE = re.compile(r"[0-9]{1,10}")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_PATTERN = re.compile(rf"(?=.{{1,255}}\Z)(\*\.)?({_LABEL}\.)*{_LABEL}")


class StsPolicy(NamedTuple):
    """The policy of a domain.

    Args:
        domain: whose it is, in A-labels and lower case.
        mode: "enforce": mail goes to hosts that it names and that can prove their name, or waits. "testing": what does
            not hold is reported, and stops nothing. "none": as if there were no policy.
        patterns: the hosts, in lower case: names, and "*.name" for all names one level below.
        max_age_s: how long it holds from when it was fetched.
        id: that the domain's record had then.
        expires_at: epoch seconds.
    """

    domain: str
    mode: Mode
    patterns: tuple[str, ...]
    max_age_s: int
    id: str
    expires_at: float

    def matches(self, host: str) -> bool:
        """Whether it names an MX host.

        Args:
            host: in A-labels.
        """
        host = host.rstrip(".").lower()
        label, _, parent = host.partition(".")
        return host in self.patterns or bool(label and parent and f"*.{parent}" in self.patterns)

    def lines(self) -> tuple[str, ...]:
        """Its text in the form of RFC 8461 §3.2, without what we did not understand."""
        return (
            "version: STSv1",
            f"mode: {self.mode}",
            *(f"mx: {pattern}" for pattern in self.patterns),
            f"max_age: {self.max_age_s}",
        )


class PolicyText(NamedTuple):
    """What the text of a policy says; see `StsPolicy`."""

    mode: Mode
    patterns: tuple[str, ...]
    max_age_s: int

    def of(self, domain: str, record_id: str, fetched_at: float) -> StsPolicy:
        """The policy of a domain."""
        return StsPolicy(domain, self.mode, self.patterns, self.max_age_s, record_id, fetched_at + self.max_age_s)


def parse_policy(text: bytes) -> PolicyText:
    """Read the text of a policy.

    Keys that are unknown are passed over, and so are empty lines; of a key that comes again, other than mx, the first
    counts.

    Raises:
        ValueError: it is none.
    """
    fields: dict[str, str] = {}
    patterns: dict[str, None] = {}
    for key, value in _fields(text):
        if key == "mx":
            if not _PATTERN.fullmatch(value):
                raise ValueError(f"mx: {value[:80]!a} is neither a host name nor *.name")
            patterns[value.lower()] = None
        else:
            fields.setdefault(key, value)
    if len(patterns) > MOST_PATTERNS:
        raise ValueError(f"it names more than {MOST_PATTERNS} hosts")
    for key in ("version", "mode", "max_age"):
        if key not in fields:
            raise ValueError(f"the key {key} is missing")
    if fields["version"] != "STSv1":
        raise ValueError(f"version: {fields['version'][:80]!a} is not STSv1")
    mode = fields["mode"]
    if mode not in _MODES:
        raise ValueError(f"mode: {mode[:80]!a} is not enforce, testing or none")
    if not _MAX_AGE.fullmatch(fields["max_age"]) or int(fields["max_age"]) > LONGEST_MAX_AGE_S:
        raise ValueError(f"max_age: {fields['max_age'][:80]!a} is not a number from 0 to {LONGEST_MAX_AGE_S}")
    if mode != "none" and not patterns:
        raise ValueError("it names no host (mx)")
    return PolicyText(cast(Mode, mode), tuple(patterns), int(fields["max_age"]))


def _fields(text: bytes) -> Iterator[tuple[str, str]]:
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"octet {error.start} is not UTF-8") from None
    for number, line in enumerate(decoded.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip(" \t"):
            continue
        # Not with one pattern: a stranger's run of blanks would cost the square of its length.
        key, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _KEY.fullmatch(key) or not value.isprintable():
            raise ValueError(f"line {number} is not of the form key: value")
        yield key, value
