"""Who has tried to log in in vain, how long the answer is put off, and who may not try any more.

Promise: pure and bounded, whatever names and addresses strangers come with; a name that no account has is treated as
any other, so that nobody learns from it which names there are. Whoever has logged in to an account from an address
lately is not locked out by the failures of others: neither those of neighbours behind the same address, nor those of
strangers who try that account to lock its owner out.

How: one table for addresses (an IPv6 /64 network counts as one: whoever has an address there has all of them), one for
accounts, one for names that are none, so that made-up names cannot push accounts out. Each worker has its own.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

_MOST_DOUBLINGS = 4  # of the delay


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
        max_entries: of each table.
    """

    __slots__ = ("_accounts", "_addresses", "_known", "_max_entries", "_names")

    def __init__(self, *, per_ip: int, per_account: int, period_s: float, max_entries: int = 10_000) -> None:
        self._addresses = _Failures(per_ip, period_s, max_entries)
        self._accounts = _Failures(per_account, period_s, max_entries)
        self._names = _Failures(per_account, period_s, max_entries)
        self._max_entries = max_entries
        self._known: dict[tuple[str, str], None] = {}  # (address, account) that have logged in, in order of that

    def __len__(self) -> int:
        """Entries of all tables."""
        return len(self._addresses) + len(self._accounts) + len(self._names) + len(self._known)

    def locks_out(self, ip: str, name: str, now: float) -> bool:
        """Whether this address may not try this account at present."""
        key = _network(ip)
        if (key, name) in self._known:
            return False
        return self._addresses.locks(key, now) or self._accounts.locks(name, now) or self._names.locks(name, now)

    def failed(self, ip: str, name: str, now: float, *, exists: bool) -> Failure:
        """A login has failed. `exists`: there is such an account."""
        key = _network(ip)
        self._known.pop((key, name), None)
        locks = self._addresses.add(key, now)
        if name:
            locks |= (self._accounts if exists else self._names).add(name, now)
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
