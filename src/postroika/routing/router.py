"""From a destination to the hosts that take its mail.

Promise: `Router.route` answers within `dns.timeout_s` with a Route of at least one host and address, or raises
NoRoute with the reply to record; it never opens an SMTP connection. An address that comes from outside (from DNS, or
from an address literal in a mail address) and leads into private space is never part of a Route, unless
`dns.allow_private` says so; hosts that the config names may be anywhere.

How: the [[route]] table says "mx" or names smarthosts. The hosts and addresses found make a plan, which is kept until
the first of its answers expires; each call shuffles the plan anew, so that equal hosts get equal shares.
"""

from __future__ import annotations

import ipaddress
import math
import random
from collections.abc import Sequence

import msgspec
import trio

from postroika.config import Config
from postroika.config import Route as RouteConfig
from postroika.errors import RoutingError
from postroika.mail.reply import Reply, reply
from postroika.routing import mx
from postroika.routing.addresses import in_order, is_public, mixed, parse_literal, shares
from postroika.routing.cache import TtlCache
from postroika.routing.doors import Doors
from postroika.routing.finder import Finder, Found
from postroika.routing.resolver import Resolver, Status
from postroika.routing.table import Hop, RouteTable
from postroika.tls.policy import OPPORTUNISTIC, HostPolicy, Level


class Host(msgspec.Struct, frozen=True):
    """One host to try.

    Args:
        name: as in the MX record or the config, lower case without a final dot; an IP address in plain form where
            the config or the address literal named one. What to log and what to verify a certificate against.
        addresses: IPv4 and IPv6 addresses in the order to try; never empty.
        port: TCP port.
        tls: what encryption with it has to be.
        secure: DNSSEC vouches for its addresses.
        canonical: what its name is an alias of, if it is one and the resolver validates.
    """

    name: str
    addresses: tuple[str, ...]
    port: int = 25
    tls: HostPolicy = OPPORTUNISTIC
    secure: bool = False
    canonical: str = ""


class Route(msgspec.Struct, frozen=True):
    """Where a destination's mail goes now.

    Args:
        site: the name under which limits and connections are shared: the same for all destinations with the same
            set of hosts.
        hosts: in the order to try; never empty.
        auth: the file of the credentials to log in with, "" if there is none.
        auth_without_tls: log in in clear, too.
        authentic: where DNSSEC vouches for the MX records, or for that there are none: what the destination is called,
            itself and the name that it is an alias of. Empty: the names of the hosts may be forged, or are not of DNS.
        published: what the recipient's domain publishes counts for it, so that the policies of its hosts may be others
            at any time: whoever uses it for long asks for it again.
    """

    site: str
    hosts: tuple[Host, ...]
    auth: str = ""
    auth_without_tls: bool = False
    authentic: tuple[str, ...] = ()
    published: bool = False

    @property
    def identity(self) -> str:
        """What tells its connections from others to the same site: as whom, and under which policies, they are opened;
        and to which hosts, where a policy is published: another domain's may vouch for others of the site. "" for what
        is usual. The order of the hosts does not matter."""
        policies = {host.tls for host in self.hosts}
        published = any(policy.published for policy in policies)
        if len(policies) == 1 and not published:
            words = [self.hosts[0].tls.words]
        else:
            told = [(host, host.tls.words) for host in self.hosts]
            words = sorted(f"{host.name}:{host.port} {text}".rstrip() for host, text in told if published or text)
        if self.auth:
            words.append(f"auth {self.auth!r}{' without TLS' if self.auth_without_tls else ''}")
        return "; ".join(filter(None, words))


class NoRoute(RoutingError):
    """There is no host to try.

    Args:
        permanent: True: fail the recipients; False: try again later.
        reply: what to record for them, of our own making (stage "routing").
    """

    def __init__(self, permanent: bool, reply: Reply) -> None:
        super().__init__(str(reply))
        self.permanent = permanent
        self.reply = reply


class _Plan(msgspec.Struct, frozen=True):
    """A route before chance has its say: groups of equal hosts, all of them usable."""

    site: str
    groups: tuple[tuple[Found, ...], ...]
    expires_at: float
    tls: HostPolicy = OPPORTUNISTIC
    auth: str = ""
    auth_without_tls: bool = False
    authentic: tuple[str, ...] = ()


class Router:
    """Names the next hops of destinations, from the [[route]] table and DNS.

    A destination that no [[route]] matches goes by MX.

    Args:
        config: the whole configuration; [[route]], [dns], the listeners and our names are read.
        resolver: look-ups; by default one made from `config.dns`.
        rng: chance.
    """

    def __init__(self, config: Config, *, resolver: Resolver | None = None, rng: random.Random | None = None) -> None:
        self._dns = config.dns
        self._resolver = resolver or Resolver(config.dns)
        self._finder = Finder(config.dns, self._resolver)
        self._rng = rng or random.Random()
        self._table = RouteTable(config.route)
        self._doors = Doors([listener.address for listener in config.listener], config.dns.mx_port)
        self._allowed = [ipaddress.ip_network(text) for text in config.dns.allow_private]
        names = (config.server.hostname, config.delivery.ehlo_name)
        self._own_names = {name.rstrip(".").lower() for name in names if name}
        self._plans: TtlCache[str, _Plan] = TtlCache(config.dns.cache_entries)

    def known(self, destination: str) -> Route | None:
        """As `route`, if no look-up is needed; else None."""
        plan = self._plans.get(destination.rstrip(".").lower(), trio.current_time())
        return None if plan is None else self._shuffled(plan)

    async def route(self, destination: str) -> Route:
        """The hosts that take mail for `destination` now, best first.

        Call it for every attempt: what is known already is answered without a look-up (and without a checkpoint),
        and hosts of equal preference are shuffled anew each time.

        Args:
            destination: a domain in A-labels, or an address literal "[192.0.2.1]", "[IPv6:2001:db8::1]".

        Raises:
            NoRoute: there is none.

        Cancellation: safe at any point; others that wait for the same look-up are not disturbed.
        """
        destination = destination.rstrip(".").lower()
        plan = self._plans.get(destination, trio.current_time())
        if plan is None:
            plan = await self._plan(destination)
            self._plans.put(destination, plan, trio.current_time(), plan.expires_at)
        return self._shuffled(plan)

    def forget_failures(self) -> None:
        """Ask anew for whatever DNS did not have, or failed to say: an operator who wants mail tried now has perhaps
        just mended it."""
        self._plans.clear()  # made again from the answers that are kept
        self._resolver.forget_failures()

    def _shuffled(self, plan: _Plan) -> Route:
        rng, limit, policy = self._rng, self._dns.max_addresses, self._dns.ipv6
        found = [host for group in plan.groups for host in mixed(group, rng)]
        counts = [len(host.v4) + len(host.v6) for host in found]
        room = shares(counts, limit) if sum(counts) > limit else counts
        hosts = tuple(
            Host(
                host.name,
                in_order(host.v4, host.v6, policy, places, rng),
                host.port,
                plan.tls._replace(implicit=True) if host.implicit_tls else plan.tls,
                host.secure,
                host.canonical,
            )
            for host, places in zip(found, room, strict=True)
            if places
        )
        return Route(plan.site, hosts, plan.auth, plan.auth_without_tls, plan.authentic)

    async def _plan(self, destination: str) -> _Plan:
        deadline = trio.current_time() + self._dns.timeout_s
        hops = self._table.hops(destination)
        if hops is not None:
            plan = await self._smarthost_plan(hops, deadline)
        elif destination.startswith("["):
            plan = self._literal_plan(destination)
        else:
            plan = await self._mx_plan(destination, deadline)
        route = self._table.route(destination)
        return plan if route is None else _secured(plan, route, name_trusted=hops is not None)

    async def _smarthost_plan(self, hops: Sequence[Hop], deadline: float) -> _Plan:
        """The hosts that the config names, in its order. What is wrong with them is the administrator's to mend, so
        no mail fails for it."""
        found = await self._finder.find([(hop,) for hop in hops], deadline, trusted=True)
        usable = tuple((host,) for (host,) in found if host.usable)
        if not usable:
            said = "; ".join(f"{host.name}: {host.failure or 'no such host'}" for (host,) in found)
            raise NoRoute(False, reply(451, "4.4.4", f"no configured next hop has an address: {said}"))
        site = mx.site_name(hop.text for hop in hops)
        return _Plan(site, usable, _expiry(found))

    def _literal_plan(self, destination: str) -> _Plan:
        try:
            address = parse_literal(destination)
        except ValueError:
            raise NoRoute(True, reply(550, "5.1.3", f"{destination} is not an address")) from None
        if not is_public(address, self._allowed):
            raise NoRoute(True, reply(550, "5.4.4", f"{destination} is refused: not a public address"))
        if address.version == 6 and self._dns.ipv6 == "never":
            raise NoRoute(True, reply(550, "5.4.4", f"{destination} is refused: IPv6 is switched off"))
        if self._doors.lead_to(str(address)):
            raise _loops(destination)
        text, port = str(address), self._dns.mx_port
        host = Found(text, port, v4=(text,)) if address.version == 4 else Found(text, port, v6=(text,))
        return _Plan(destination, ((host,),), math.inf)

    async def _mx_plan(self, destination: str, deadline: float) -> _Plan:
        answer = await self._resolver.mx(destination)
        if answer.status is Status.FAILED:
            raise NoRoute(False, reply(451, "4.4.3", f"DNS look-up of MX for {destination} failed: {answer.detail}"))
        if answer.status is Status.NXDOMAIN:
            raise NoRoute(True, reply(550, "5.1.2", f"domain {destination} does not exist"))
        # An alias of what can be the name of no host is known by its own name.
        canonical = answer.canonical if mx.is_host_name(answer.canonical) else destination
        if answer.status is Status.NODATA:
            # RFC 5321 §5.1: a name that exists without MX records is its own MX.
            groups = mx.preference_groups([mx.Mx(0, destination)], self._own_names)
            site = canonical
        else:
            groups = mx.preference_groups(answer.records, self._own_names)
            site = mx.site_name(record.host for record in answer.records if mx.is_host_name(record.host))
        if groups is mx.MxProblem.NULL:
            raise NoRoute(True, reply(556, "5.1.10", f"domain {destination} accepts no mail (null MX)"))
        if groups is mx.MxProblem.LOOP:
            raise _loops(destination)
        if isinstance(groups, mx.MxProblem):
            raise NoRoute(True, reply(550, "5.4.4", f"no MX record of {destination} names a host"))
        best = mx.cut(groups, self._dns.max_mx, self._rng)
        port = self._dns.mx_port
        found = await self._finder.find([[Hop(host, port) for host in group] for group in best], deadline)
        authentic = tuple(dict.fromkeys((destination, canonical))) if answer.secure else ()
        expires_at = min(answer.expires_at, _expiry(found))
        return _Plan(site, self._usable(destination, found), expires_at, authentic=authentic)

    def _usable(self, destination: str, found: Sequence[Sequence[Found]]) -> tuple[tuple[Found, ...], ...]:
        """The groups of hosts with addresses, cut before the first that turns out to be ourselves.

        Raises:
            NoRoute: none is left.
        """
        groups: list[tuple[Found, ...]] = []
        ourselves = False
        for group in found:
            if any(self._doors.lead_to(address) for host in group for address in (*host.v4, *host.v6)):
                ourselves = True
                break
            groups.append(tuple(host for host in group if host.usable))
        groups = [group for group in groups if group]
        if groups:
            return tuple(groups)
        hosts = [host for group in found for host in group if not host.usable]
        for host in hosts:
            if host.failure:
                raise NoRoute(False, reply(451, "4.4.3", f"DNS look-up of {host.name} failed: {host.failure}"))
        if ourselves:
            raise _loops(destination)
        for host in hosts:
            if host.refused:
                text = f"{host.name} is refused: {host.refused[0]} is not a public address"
                raise NoRoute(True, reply(550, "5.4.4", text))
        names = ", ".join(host.name for host in hosts[:3])
        raise NoRoute(True, reply(550, "5.4.4", f"no mail host of {destination} has an address (tried {names})"))


def _secured(plan: _Plan, route: RouteConfig, *, name_trusted: bool) -> _Plan:
    """The plan with what the [[route]] says of encryption and logging in."""
    level = Level(route.tls)
    if route.auth and not route.auth_without_tls and level is Level.OPPORTUNISTIC:
        level = Level.REQUIRED  # In clear there would be no logging in, so that it is of no use.
    tls = HostPolicy(level, False, route.certificate, route.key, name_trusted)
    if tls == OPPORTUNISTIC:
        tls = OPPORTUNISTIC  # the very one, which is told at a glance
    return msgspec.structs.replace(plan, tls=tls, auth=route.auth, auth_without_tls=route.auth_without_tls)


def _loops(destination: str) -> NoRoute:
    return NoRoute(True, reply(554, "5.4.6", f"mail for {destination} loops back to myself"))


def _expiry(found: Sequence[Sequence[Found]]) -> float:
    return min(host.expires_at for group in found for host in group)
