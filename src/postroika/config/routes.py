"""[[route]] as a whole: what is wrong with it, and whether anything goes by MX. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from postroika.config.addresses import begins_with_tls, canonical_domain, is_ip, parse_next_hop, split_ip_port
from postroika.config.sections import Config
from postroika.config.sections_outbound import Route


def goes_by_mx(routes: Sequence[Route]) -> bool:
    """Whether any mail may go by MX: not if a [[route]] to smarthosts takes all that those before it leave."""
    for route in routes:
        if route.next_hop == "mx":
            return True
        if "*" in route.domains:
            return False
    return True


def route_problems(config: Config) -> Iterator[tuple[str, str]]:
    """(key, problem) of each value that cannot be meant."""
    taken: dict[str, int] = {}
    for i, route in enumerate(config.route):
        for j, domain in enumerate(route.domains):
            key = f"route[{i}].domains[{j}]"
            try:
                name = domain if domain == "*" else canonical_domain(domain)
            except ValueError as error:
                yield key, str(error)
                continue
            first = taken.get("*", taken.get(name, i))
            if first != i:
                yield key, f"{domain!r} is never reached: route[{first}] takes it first"
            taken.setdefault(name, i)
        if route.next_hop != "mx":
            yield from _next_hops(f"route[{i}].next_hop", route.next_hop, config)
        yield from _route_security(f"route[{i}]", route)


def _route_security(key: str, route: Route) -> Iterator[tuple[str, str]]:
    """Wishes that exclude each other, and a password that would go where nobody has named the host."""
    hops = (route.next_hop,) if isinstance(route.next_hop, str) else route.next_hop
    if route.tls == "none" and any(begins_with_tls(hop) for hop in hops):
        yield f"{key}.tls", 'an smtps:// next hop cannot be reached with "none"'
    if route.auth and "mx" in hops:
        yield f"{key}.auth", "needs smarthosts as next_hop: the password would go to whoever the DNS names"
    if route.auth and route.tls == "none" and not route.auth_without_tls:
        yield (
            f"{key}.auth",
            'needs TLS, which tls = "none" forbids; auth_without_tls = true would let it be read by all',
        )
    if route.key and not route.certificate:
        yield f"{key}.key", "is of no use without a certificate"


def _next_hops(key: str, next_hop: str | tuple[str, ...], config: Config) -> Iterator[tuple[str, str]]:
    if not next_hop:
        yield key, "names no host"
    for hop in (next_hop,) if isinstance(next_hop, str) else next_hop:
        if hop == "mx":
            yield key, '"mx" stands alone, not in a list'
            continue
        try:
            address = parse_next_hop(hop)
        except ValueError as error:
            yield key, str(error)
            continue
        if any(_listens(listener.address, *address) for listener in config.listener):
            yield key, f"{hop} is our own listener: mail would go in a circle"


def _listens(listener: str, host: str, port: int) -> bool:
    """Whether a connection to `host` and `port` reaches `listener` for sure."""
    try:
        own_host, own_port = split_ip_port(listener)
    except ValueError:
        return False  # reported by `check`
    if host == "localhost":
        host = "127.0.0.1"
    if port != own_port or not is_ip(host):
        return False
    wanted, own = ipaddress.ip_address(host), ipaddress.ip_address(own_host)
    return wanted == own or (own.is_unspecified and wanted.is_loopback and wanted.version == own.version)
