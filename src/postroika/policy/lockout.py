"""Who has tried to log in in vain, how long the answer is put off, and who may not try any more.

Promise: pure and bounded, whatever names and addresses strangers come with; a name that no account has is treated as
any other, so that nobody learns from it which names there are. Whoever has logged in to an account from an address
lately is not locked out by the failures of others: neither those of neighbours behind the same address, nor those of
strangers who try that account to lock its owner out.

How: a table for addresses (an IPv6 /64 network counts as one: whoever has an address there has all of them), and for
names, whether accounts have them or not, a fixed number of counters that nothing can be pushed out of: a name has one
in each of four rows, found by a hash with a key of ours, and its failures are at most what the lowest of them says (a
count-min sketch). A counter is the time at which all in it will have been forgotten, as in `policy.limits`. Each
worker has its own.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import struct
from array import array
from typing import NamedTuple

_MOST_DOUBLINGS = 4  # of the delay
_ROWS = 4
_ROW = struct.Struct(f"<{_ROWS}H")
_ROW_COUNTERS = 0x10000


class _Failures:
    """Failures by key. When it is full, the key whose last failure is longest ago makes room."""

    __slots__ = ("_entries", "_max_entries", "_most", "_period_s")

    def __init__(self, most: int, period_s: float, max_entries: int) -> None:
        self._most = most
        self._period_s = period_s
        self._max_entries = max_entries
        self._entries: dict[str, tuple[int, float]] = {}  # how many, and when they are forgotten

    def __len__(self) -> int:
        return len(self._entries)

    def count(self, key: str, now: float) -> int:
        count, until = self._entries.get(key, (0, 0.0))
        return count if now < until else 0

    def locks(self, key: str, now: float) -> bool:
        return self.count(key, now) >= self._most

    def add(self, key: str, now: float) -> bool:
        """Whether this is the failure that locks."""
        count = self.count(key, now) + 1
        self._entries.pop(key, None)
        self._entries[key] = (count, now + self._period_s)
        if len(self._entries) > self._max_entries:
            del self._entries[next(iter(self._entries))]
        return count == self._most


class _Counters:
    """Failures by name. They are forgotten evenly, `most` of them in a period; names that share all of their counters
    share their failures."""

    __slots__ = ("_counters", "_key", "_most", "_period_s")

    def __init__(self, most: int, period_s: float) -> None:
        self._most = most
        self._period_s = period_s
        self._key = secrets.token_bytes(16)
        # When its failures will be forgotten, or, less than 0, minus the time up to which it is locked.
        self._counters = array("d", bytes(8 * _ROWS * _ROW_COUNTERS))

    def _places(self, name: str) -> list[int]:
        digest = hashlib.blake2b(name.encode(), digest_size=_ROW.size, key=self._key).digest()
        return [row * _ROW_COUNTERS + place for row, place in enumerate(_ROW.unpack(digest))]

    def locks(self, name: str, now: float) -> bool:
        return all(self._counters[place] < -now for place in self._places(name))

    def add(self, name: str, now: float) -> bool:
        """Whether this is the failure that locks."""
        counters, places = self._counters, self._places(name)
        locked = self.locks(name, now)
        step_s = self._period_s / self._most
        left_s = min(self._left_s(counters[place], now) for place in places) + step_s
        locks = left_s / step_s > self._most - 1 + 1e-9  # what has been forgotten of one failure does not matter
        for place in places:
            if locks:
                counters[place] = -(now + self._period_s)
            elif self._left_s(counters[place], now) < left_s:
                counters[place] = now + left_s
        return locks and not locked

    def _left_s(self, counter: float, now: float) -> float:
        """How long until all is forgotten."""
        if counter < 0:
            return self._period_s if now < -counter else 0.0
        return max(0.0, counter - now)


class Failure(NamedTuple):
    """What a failed login has led to.

    Args:
        delay: for how many times the usual delay the answer is put off.
        locks: from now on the address, or the account, is locked.
    """

    delay: float
    locks: bool


class Lockout:
    """The failed logins of one worker.

    Args:
        per_ip, per_account: failures after which an address or an account is locked.
        period_s: how long it is, and how long failures are remembered.
        max_entries: of the table of addresses, and of who has logged in from where.
    """

    __slots__ = ("_addresses", "_known", "_max_entries", "_names")

    def __init__(self, *, per_ip: int, per_account: int, period_s: float, max_entries: int = 10_000) -> None:
        self._addresses = _Failures(per_ip, period_s, max_entries)
        self._names = _Counters(per_account, period_s)
        self._max_entries = max_entries
        self._known: dict[tuple[str, str], None] = {}  # (address, account) that have logged in, in order of that

    def __len__(self) -> int:
        """Entries of all tables."""
        return len(self._addresses) + len(self._known)

    def locks_out(self, ip: str, name: str, now: float) -> bool:
        """Whether this address may not try this account at present."""
        key = _network(ip)
        if (key, name) in self._known:
            return False
        return self._addresses.locks(key, now) or self._names.locks(name, now)

    def failed(self, ip: str, name: str, now: float) -> Failure:
        """A login has failed."""
        key = _network(ip)
        self._known.pop((key, name), None)
        locks = self._addresses.add(key, now)
        if name:
            locks |= self._names.add(name, now)
        # There is no end to the count: those who are known to an address fail there however many have failed before.
        return Failure(2.0 ** min(self._addresses.count(key, now) - 1, _MOST_DOUBLINGS), locks)

    def succeeded(self, ip: str, name: str) -> None:
        """A login has succeeded. Failures are not forgiven: one account of one's own must not buy guesses at others."""
        pair = (_network(ip), name)
        self._known.pop(pair, None)
        self._known[pair] = None
        if len(self._known) > self._max_entries:
            del self._known[next(iter(self._known))]


def _network(ip: str) -> str:
    """An IPv4 address as it is, an IPv6 address as its /64 network."""
    if ":" not in ip:
        return ip
    return str(ipaddress.ip_network((int(ipaddress.IPv6Address(ip)) >> 64 << 64, 64)))
