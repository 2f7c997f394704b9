"""From the MX records of a domain to the hosts to try.

Promise: the order of RFC 5321 §5.1, or the reason why there is none. Pure: no look-ups; randomness is passed in.
"""

from __future__ import annotations

import enum
import hashlib
import random
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple, TypeAlias

Groups: TypeAlias = tuple[tuple[str, ...], ...]
"""Host names by rising preference value; those of one group are equal."""

# Longer names become a digest: the site is part of keys and log lines.
SITE_NAME_MAX = 100

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_LOOKS_LIKE_IPV4 = re.compile(r"[0-9.]+")


class Mx(NamedTuple):
    """One MX record; `host` in lower case without the final dot, "" for the root."""

    preference: int
    host: str


class MxProblem(enum.Enum):
    """Why MX records name no host that we could deliver to."""

    NULL = "null"  # the domain takes no mail (RFC 7505)
    LOOP = "loop"  # the best of them is ourselves
    UNUSABLE = "unusable"  # none of them is a host name


def is_host_name(text: str) -> bool:
    """Whether `text` can be the name of a host: letters, digits, hyphens (and underscores, which occur), not an
    IPv4 address in disguise."""
    return bool(_HOST_NAME.fullmatch(text)) and not _LOOKS_LIKE_IPV4.fullmatch(text)


def preference_groups(records: Collection[Mx], own_names: Collection[str]) -> Groups | MxProblem:
    """The hosts of an MX set that may be tried.

    Records that name no host are left out (an IP address, the root beside other records). If one of them is
    ourselves, it and all of equal or worse preference are left out: they would hand the mail back to us. A host
    listed twice counts where it is best.

    Args:
        records: the whole set.
        own_names: the names that we go by, in lower case.

    Source: RFC 5321 §5.1, RFC 7505 §3.
    """
    if records and all(record.host == "" for record in records):
        return MxProblem.NULL
    best: dict[str, int] = {}
    for record in records:
        if is_host_name(record.host):
            best[record.host] = min(record.preference, best.get(record.host, record.preference))
    if not best:
        return MxProblem.UNUSABLE
    ours = min((preference for host, preference in best.items() if host in own_names), default=None)
    by_preference: dict[int, list[str]] = {}
    for host, preference in best.items():
        if ours is None or preference < ours:
            by_preference.setdefault(preference, []).append(host)
    if not by_preference:
        return MxProblem.LOOP
    return tuple(tuple(sorted(by_preference[preference])) for preference in sorted(by_preference))


def cut(groups: Groups, limit: int, rng: random.Random) -> Groups:
    """The best `limit` hosts; among the equals of the last group that fits, chance decides."""
    kept: list[tuple[str, ...]] = []
    for group in groups:
        if limit <= 0:
            break
        kept.append(group if len(group) <= limit else tuple(sorted(rng.sample(group, limit))))
        limit -= len(group)
    return tuple(kept)


def site_name(hosts: Iterable[str]) -> str:
    """One name for a set of hosts: the same for every domain and in every order, fit for keys and logs.

    A set too long for that keeps its first host, for the reader, and a digest of all.
    """
    names = sorted(set(hosts))
    whole = ",".join(names)
    if len(whole) <= SITE_NAME_MAX:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return f"{names[0][: SITE_NAME_MAX - 40]}+{len(names) - 1}#{digest}"
