"""What the recipients' domains publish of how their mail is to be encrypted: DANE first, then MTA-STS.

Promise: where a policy is published and can be known to be theirs, no host gets mail in another way than it allows, and
none while it cannot be found out what the policy is (DANE) or which the policy does not name (MTA-STS). What the config
asks for is never weakened. A host with TLSA records goes by these, whatever MTA-STS would let it do.

How: `Published` stands in front of the router. It gives the hosts of a route that goes by MX a policy of their own each
(`tls.policy.HostPolicy`), and remembers these for as long as the DNS allows, but for a minute at most; so routes that
are known cost no look-up. Smarthosts are the config's business alone, and so is what goes with `tls = "none"`.

Source: RFC 7672 §2.2; RFC 8461 §2, §5; RFC 8689 §4.2.1.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol

import trio

from postroika.config import Config
from postroika.metrics import HOST_POLICIES
from postroika.outbound.contract import Router
from postroika.routing.cache import TtlCache
from postroika.routing.mx import is_host_name
from postroika.routing.resolver import Answer, Resolver, Status
from postroika.routing.router import Host, Route
from postroika.routing.table import RouteTable
from postroika.tls.policy import HostPolicy, Level, PolicySource
from postroika.tls.tlsa import Tlsa, dane_for

log = logging.getLogger(__name__)

# A policy that has changed counts within that time; until then nothing is looked up for a destination that is known.
_KEPT_S = 60.0


class StsPolicy(Protocol):
    """An MTA-STS policy, as its keeper gives it."""

    @property
    def mode(self) -> str:
        """ "enforce", "testing" or "none"."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of the names of MX hosts."""

    def matches(self, host: str) -> bool:
        """Whether one of them is the name of this host."""

    def lines(self) -> tuple[str, ...]:
        """The text of the policy."""


class StsPolicies(Protocol):
    """Keeps the MTA-STS policies of domains."""

    async def policy(self, domain: str) -> StsPolicy | None:
        """That of a domain; None if none is known. Never raises."""


class _Records(NamedTuple):
    """TLSA records that DNSSEC vouches for; or why they could not be had, when there may be some."""

    base: str
    records: tuple[Tlsa, ...] = ()
    failure: str = ""


class _HostKey(NamedTuple):
    """What the policy of a host depends on, besides the destination."""

    name: str
    port: int
    config: HostPolicy
    secure: bool
    canonical: str


class _Policies(NamedTuple):
    """Those of the hosts of one destination."""

    authentic: tuple[str, ...]
    hosts: dict[_HostKey, HostPolicy]

    def applied(self, route: Route) -> Route | None:
        """The route with them; None if it is not the one that they were looked up for."""
        if route.authentic != self.authentic:
            return None
        hosts: list[Host] = []
        for host in route.hosts:
            policy = self.hosts.get(_key(host))
            if policy is None:
                return None
            hosts.append(Host(host.name, host.addresses, host.port, policy, host.secure, host.canonical))
        return Route(route.site, tuple(hosts), route.auth, route.auth_without_tls, route.authentic, published=True)


class Published:
    """Names the next hops, as the router does, with what the recipients' domains ask of them.

    Args:
        config: [[route]] and [dns] are read.
        router: names the next hops.
        resolver: whom to ask for TLSA records, if it validates.
        sts: knows MTA-STS policies, if they are to be used.
    """

    def __init__(self, config: Config, router: Router, resolver: Resolver, sts: StsPolicies | None = None) -> None:
        self._router = router
        self._resolver = resolver
        self._dane = config.dns.validating
        self._sts = sts
        self._table = RouteTable(config.route)
        self._policies: TtlCache[str, _Policies] = TtlCache(config.dns.cache_entries)

    def known(self, destination: str) -> Route | None:
        """As `route`, if no look-up is needed; else None."""
        route = self._router.known(destination)
        if route is None or not self._concerns(destination, route):
            return route
        policies = self._policies.get(_plain(destination), trio.current_time())
        return None if policies is None else policies.applied(route)

    async def route(self, destination: str) -> Route:
        """The hosts that take mail for `destination` now, best first, each with its policy. One with a policy that
        refuses it (`HostPolicy.refused`) is among them, since a sender may waive that.

        Raises:
            NoRoute: there is none.

        Cancellation: safe at any point.
        """
        route = await self._router.route(destination)
        if not self._concerns(destination, route):
            return route
        name = _plain(destination)
        policies = self._policies.get(name, trio.current_time())
        applied = None if policies is None else policies.applied(route)
        if applied is None:
            policies, expires_at = await self._look_up(name, route)
            self._policies.put(name, policies, trio.current_time(), expires_at)
            applied = policies.applied(route)
            assert applied is not None, "policies are looked up for all hosts"
        return applied

    async def look_at_resolver(self) -> None:
        """Tell the operations log if the resolver does not validate, though the config says so: nothing would be secure
        then, and DANE never used. Where there is no root to be asked for, as in a closed network, nothing is said.
        """
        if not self._dane:
            return
        answer = await self._resolver.mx(".")
        if answer.status is not Status.FAILED and not answer.secure:
            log.warning("dns.validating is set, but dns.servers do not vouch for the root: DANE is of no effect")

    def forget(self) -> None:
        """Look all policies up again: an operator who wants mail tried now has perhaps just mended one."""
        self._policies.clear()

    def _concerns(self, destination: str, route: Route) -> bool:
        """Whether anything that is published counts: for what goes by MX, and encrypted if it can."""
        name = _plain(destination)
        return (
            not name.startswith("[") and self._table.hops(name) is None and route.hosts[0].tls.level is not Level.NONE
        )

    async def _look_up(self, destination: str, route: Route) -> tuple[_Policies, float]:
        """The policies of all hosts, and until when they may be relied on."""
        found: dict[_HostKey, _Records | None] = {_key(host): None for host in route.hosts}
        until = [trio.current_time() + _KEPT_S]
        failed_until: list[float] = []
        if self._dane and route.authentic:
            async with trio.open_nursery() as nursery:
                for key in found:
                    nursery.start_soon(self._find_records, key, found, until, failed_until)
        # A failure is short-lived, lest mail waits for long that could go. But where another host takes it, to ask that
        # often would make all of it wait for the same broken name server.
        if all(records is not None and records.failure for records in found.values()):
            until += failed_until
        sts: StsPolicy | None = None
        if self._sts is not None and not all(_is_decided(records) for records in found.values()):
            sts = await self._sts.policy(destination)
        hosts = {key: _host_policy(destination, route.authentic, key, records, sts) for key, records in found.items()}
        return _Policies(route.authentic, hosts), min(until)

    async def _find_records(
        self,
        key: _HostKey,
        found: dict[_HostKey, _Records | None],
        until: list[float],
        failed_until: list[float],
    ) -> None:
        """The TLSA records of one host, below the first of its names that has any; and how long the answers hold.

        Source: RFC 7672 §2.2.2, §2.2.3; RFC 7671 §7.
        """

        def noted(answer: Answer[Tlsa] | Answer[str]) -> None:
            (failed_until if answer.status is Status.FAILED else until).append(answer.expires_at)

        if key.secure:
            # DNSSEC vouches for names of any octets, but there are servers only for those that can be asked for.
            bases = [key.canonical, key.name] if is_host_name(key.canonical) else [key.name]
        elif key.canonical:
            # The end of the chain is not signed, but where it begins may be.
            alias = await self._resolver.alias(key.name)
            noted(alias)
            if alias.status is Status.FAILED:
                found[key] = _Records(key.name, failure=f"DNS look-up of {key.name} failed: {alias.detail}")
                return
            bases = [key.name] if alias.secure else []
        else:
            bases = []
        for base in bases:
            answer = await self._resolver.tlsa(base, key.port)
            noted(answer)
            if answer.status is Status.FAILED:
                words = f"DNS look-up of the TLSA records of {base} failed: {answer.detail}"
                found[key] = _Records(base, failure=words)
                return
            if answer.status is Status.FOUND and answer.secure:
                found[key] = _Records(base, answer.records)
                return


def _is_decided(found: _Records | None) -> bool:
    """DANE has the last word on this host (RFC 8461 §2)."""
    return found is not None and (bool(found.failure) or any(record.usable for record in found.records))


def _key(host: Host) -> _HostKey:
    return _HostKey(host.name, host.port, host.tls, host.secure, host.canonical)


def _plain(destination: str) -> str:
    return destination.rstrip(".").lower()


def _host_policy(
    destination: str, authentic: tuple[str, ...], key: _HostKey, found: _Records | None, sts: StsPolicy | None
) -> HostPolicy:
    """What one host has to have.

    Args:
        destination: the recipient's domain.
        authentic: what it is called, if DNSSEC vouches for the names of its hosts.
        found: what was found of the host's TLSA records; None: it has none.
        sts: the MTA-STS policy of the domain, if there is one.
    """
    policy = key.config._replace(name_trusted=True) if authentic else key.config
    if found is not None and found.failure:
        HOST_POLICIES["dane_failed"].value += 1
        source = PolicySource("tlsa", destination, (), (), enforced=True)
        return policy._replace(published=True, own=policy.level, refused=found.failure, source=source)
    if found is not None:
        dane = dane_for(found.base, found.records, authentic)
        if dane is not None:
            HOST_POLICIES["dane"].value += 1
            return policy._replace(
                level=Level.VERIFY,
                published=True,
                own=policy.level,
                dane=dane,
                demand=f"the TLSA records of {found.base} ask for it",
                source=_tlsa_source(destination, found),
            )
    if sts is not None and sts.mode == "enforce":
        return _enforced(destination, key.name, policy, sts)
    if found is not None:
        # Somebody means to be spoken to in TLS, and says who he is in a way that we do not know (RFC 7672 §2.2).
        HOST_POLICIES["dane_unusable"].value += 1
        source = _tlsa_source(destination, found)
        if policy.level is not Level.OPPORTUNISTIC:
            return policy._replace(source=source)
        demand = f"the TLSA records of {found.base} ask for it, though none of them can be used to check a certificate"
        return policy._replace(level=Level.REQUIRED, published=True, own=policy.level, demand=demand, source=source)
    if sts is not None and sts.mode == "testing":
        HOST_POLICIES["sts_testing"].value += 1
        return policy._replace(source=PolicySource("sts", destination, sts.lines(), sts.patterns, enforced=False))
    HOST_POLICIES["none"].value += 1
    return policy


def _enforced(destination: str, host: str, policy: HostPolicy, sts: StsPolicy) -> HostPolicy:
    source = PolicySource("sts", destination, sts.lines(), sts.patterns, enforced=True)
    if not sts.matches(host):
        HOST_POLICIES["sts_other_host"].value += 1
        words = f"the MTA-STS policy of {destination} does not name this host"
        return policy._replace(published=True, own=policy.level, refused=words, source=source)
    HOST_POLICIES["sts_enforce"].value += 1
    return policy._replace(
        level=Level.VERIFY,
        published=True,
        own=policy.level,
        name_trusted=True,
        demand=f"the MTA-STS policy of {destination} asks for it",
        source=source,
    )


def _tlsa_source(destination: str, found: _Records) -> PolicySource:
    return PolicySource("tlsa", destination, tuple(str(record) for record in sorted(found.records)), (), enforced=True)
