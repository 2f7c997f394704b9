"""Finds the addresses of mail hosts.

Promise: for a list of hosts, best first, what DNS says of each by a deadline. Addresses that lead into private space
are told apart, unless the host is trusted or the config allows them. A host with a broken name server delays the
others by `GRACE_S` at most.

How: A and AAAA of a window of hosts are asked for at once; the next window only while there is room for addresses.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec
import trio

from postroika.config import Dns
from postroika.config.addresses import is_ip
from postroika.routing.addresses import is_public
from postroika.routing.resolver import Answer, Resolver, Status
from postroika.routing.table import Hop

_Kind: TypeAlias = Literal["A", "AAAA"]

# Once the best host is known, the rest may take this long; what is still missing then is not worth the wait.
GRACE_S = 2.0
# An answer that failed is asked for again after this long when there are other hosts to use: sooner would make every
# message wait for the same broken name server.
INCOMPLETE_S = 60.0
# So many hosts are looked up at once: a domain with many hosts in dead zones must not take all sockets.
_WINDOW = 5


class Found(msgspec.Struct, frozen=True):
    """What is known of one host.

    Args:
        v4, v6: addresses to use.
        refused: addresses that there are, but that lead into private space.
        failure: why something may be missing here ("" if it is certain that nothing is).
        expires_at: Trio time until which this may be relied on.
        implicit_tls: TLS comes first there.
        secure: DNSSEC vouches for all of the addresses, and for every alias on the way to them.
        canonical: what the host is an alias of, where DNSSEC can vouch for anything at all; "" if it is none.
    """

    name: str
    port: int
    v4: tuple[str, ...] = ()
    v6: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    failure: str = ""
    expires_at: float = math.inf
    implicit_tls: bool = False
    secure: bool = False
    canonical: str = ""

    @property
    def usable(self) -> bool:
        """Whether there is an address to connect to."""
        return bool(self.v4 or self.v6)


class _Search:
    """One host while its answers come in."""

    def __init__(self, hop: Hop, kinds: tuple[_Kind, ...]) -> None:
        self.hop = hop
        self.missing = list(kinds)
        self.addresses: dict[_Kind, tuple[str, ...]] = {}
        self.refused: list[str] = []
        self.failure = ""
        self.expires_at = math.inf
        self.secure = True
        self.canonical = ""

    @property
    def usable(self) -> bool:
        return any(self.addresses.values())

    def take(self, kind: _Kind, answer: Answer[str], trusts: Callable[[str], bool]) -> None:
        """Note the answer to one of the questions."""
        self.missing.remove(kind)
        if answer.status is Status.FAILED:
            self._lacks(answer.detail)
            return
        if answer.status is Status.FOUND:
            self.secure &= answer.secure
            self.canonical = self.canonical or answer.canonical
        self.addresses[kind] = tuple(address for address in answer.records if trusts(address))
        self.refused += (address for address in answer.records if not trusts(address))
        self.expires_at = min(self.expires_at, answer.expires_at)

    def end(self, *, validating: bool) -> Found:
        """What is known when there is no more time."""
        if self.missing:
            self._lacks("no answer in time")
        return Found(
            name=self.hop.host,
            port=self.hop.port,
            v4=self.addresses.get("A", ()),
            v6=self.addresses.get("AAAA", ()),
            refused=tuple(self.refused),
            failure=self.failure,
            expires_at=self.expires_at,
            implicit_tls=self.hop.implicit_tls,
            secure=validating and self.usable and self.secure,
            canonical=self.canonical if validating and self.canonical != self.hop.host else "",
        )

    def _lacks(self, why: str) -> None:
        self.failure = why
        self.expires_at = min(self.expires_at, trio.current_time() + INCOMPLETE_S)


class Finder:
    """Looks hosts up.

    Args:
        settings: the [dns] section.
        resolver: whom to ask.
    """

    def __init__(self, settings: Dns, resolver: Resolver) -> None:
        self._resolver = resolver
        self._room = settings.max_addresses
        self._validating = settings.validating
        self._kinds: tuple[_Kind, ...] = ("A",) if settings.ipv6 == "never" else ("A", "AAAA")
        allowed = [ipaddress.ip_network(text) for text in settings.allow_private]

        # The same hosts take the mail of many domains; the verdict on an address never changes.
        @functools.lru_cache(maxsize=settings.cache_entries)
        def is_trusted(address: str) -> bool:
            return is_public(ipaddress.ip_address(address), allowed)

        self._is_trusted: Callable[[str], bool] = is_trusted

    async def find(
        self, groups: Sequence[Sequence[Hop]], deadline: float, *, trusted: bool = False
    ) -> list[list[Found]]:
        """What is known of each host, in the same groups; hosts for whose addresses there is no room are left out.

        Args:
            groups: best first.
            deadline: Trio time.
            trusted: the hosts are from the config: they may be anywhere, "localhost" and IP addresses included.

        Cancellation: safe at any point.
        """
        trusts = _everywhere if trusted else self._is_trusted
        searches = [[self._search(hop, trusted) for hop in group] for group in groups]
        in_order = [search for group in searches for search in group]
        room = self._room
        begun: set[_Search] = set()
        with trio.move_on_at(deadline) as scope:
            while len(begun) < len(in_order) and room > 0:
                window = in_order[len(begun) : len(begun) + _WINDOW]
                begun.update(window)
                for search in window:
                    self._recall(search, trusts)
                if any(search.missing for search in window):
                    _limit_wait(scope, in_order)
                    async with trio.open_nursery() as nursery:
                        for search in window:
                            for kind in search.missing:
                                nursery.start_soon(self._inquire, search, kind, trusts, in_order, scope)
                room -= sum(len(addresses) for search in window for addresses in search.addresses.values())
        ended = [[search.end(validating=self._validating) for search in group if search in begun] for group in searches]
        return [found for found in ended if found]

    def _search(self, hop: Hop, trusted: bool) -> _Search:
        """A search, ended already where there is nothing to ask."""
        search = _Search(hop, self._kinds)
        if trusted and hop.host.rpartition(".")[2] == "localhost":
            # RFC 6761 §6.3: these names are not for the DNS.
            search.missing.clear()
            search.addresses = {"A": ("127.0.0.1",), "AAAA": ("::1",) if "AAAA" in self._kinds else ()}
        elif trusted and is_ip(hop.host):
            search.missing.clear()
            search.addresses = {"AAAA" if ":" in hop.host else "A": (hop.host,)}
        return search

    def _recall(self, search: _Search, trusts: Callable[[str], bool]) -> None:
        """Take what is known without asking."""
        for kind in tuple(search.missing):
            answer = self._resolver.known(search.hop.host, kind)
            if answer is not None:
                search.take(kind, answer, trusts)

    async def _inquire(
        self,
        search: _Search,
        kind: _Kind,
        trusts: Callable[[str], bool],
        in_order: Sequence[_Search],
        scope: trio.CancelScope,
    ) -> None:
        resolver = self._resolver
        answer = await (resolver.ipv4 if kind == "A" else resolver.ipv6)(search.hop.host)
        search.take(kind, answer, trusts)
        _limit_wait(scope, in_order)


def _everywhere(address: str) -> bool:
    del address
    return True


def _limit_wait(scope: trio.CancelScope, in_order: Sequence[_Search]) -> None:
    """Start the grace time, once there is a host to begin with: all better ones have turned out to be no use."""
    for search in in_order:
        if search.usable:
            scope.deadline = min(scope.deadline, trio.current_time() + GRACE_S)
            return
        if search.missing:
            return
