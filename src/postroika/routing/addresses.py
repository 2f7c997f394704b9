"""What an IP address may be good for, and in which order to try several.

Promise: an address from outside that leads into this machine or its private networks is told apart from a public
one, also where it hides inside an IPv6 address. Pure: no look-ups; randomness is passed in.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar

T = TypeVar("T")
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Ipv6Policy: TypeAlias = Literal["prefer", "equal", "after_ipv4", "never"]
"""`dns.ipv6`. "never" means that nobody asks for AAAA records; an address that is there all the same is used."""

# From the IANA special-purpose registries (RFC 6890): every block that a packet from here reaches without crossing
# the public Internet. Own lists, because `ipaddress.is_private` also covers documentation and benchmark blocks and
# has changed between Python releases.
_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network; connecting to 0.0.0.0 reaches the machine itself (RFC 1122 §3.2.1.3)
        "10.0.0.0/8",  # RFC 1918
        "100.64.0.0/10",  # shared by carrier NAT (RFC 6598)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, cloud metadata services among them (RFC 3927)
        "172.16.0.0/12",  # RFC 1918
        "192.168.0.0/16",  # RFC 1918
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, and the limited broadcast address
    )
)
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "::/96",  # unspecified, loopback, and the deprecated IPv4-compatible form (RFC 4291 §2.5.5.1)
        "64:ff9b:1::/48",  # local-use NAT64: leads to whatever the site maps there (RFC 8215)
        "fc00::/7",  # unique local (RFC 4193)
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local (RFC 3879)
        "ff00::/8",  # multicast
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1


def parse_literal(literal: str) -> Address:
    """The address in "[192.0.2.1]" or "[IPv6:2001:db8::1]".

    Raises:
        ValueError: another tag, a scope, or not an address.

    Source: RFC 5321 §4.1.3.
    """
    if not (literal.startswith("[") and literal.endswith("]")):
        raise ValueError(f"{literal} is not an address literal")
    inner = literal[1:-1]
    if inner[:5].lower() == "ipv6:":
        v6 = ipaddress.IPv6Address(inner[5:])
        if v6.scope_id is not None:
            raise ValueError(f"{literal} has a scope, which means nothing outside of one machine")
        return v6
    return ipaddress.IPv4Address(inner)


def is_public(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether mail may be sent to `address` on the word of somebody else.

    An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4, Teredo) is judged by both.

    Args:
        allowed: networks that count as public whatever else they are.
    """
    carried = _carried(address)
    if any(_within(one, network) for one in (address, carried) if one is not None for network in allowed):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if any(address in network for network in _NOT_PUBLIC_V6):
        return False
    return carried is None or not any(carried in network for network in _NOT_PUBLIC_V4)


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to `address` may end up at."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def shares(counts: Sequence[int], limit: int) -> list[int]:
    """How many of its addresses each host may keep so that all together keep at most `limit`.

    The first address of every host goes before the second of any: one host with hundreds of addresses does not
    displace its backups. Hosts come best first; when there are more hosts than places, the last get none.
    """
    kept = [0] * len(counts)
    while limit > 0:
        hungry = [i for i, count in enumerate(counts) if kept[i] < count][:limit]
        if not hungry:
            break
        for i in hungry:
            kept[i] += 1
        limit -= len(hungry)
    return kept


def mixed(items: Sequence[T], rng: random.Random) -> Sequence[T]:
    """The same items in an order of chance; like `rng.sample` but a tenth of its cost for the usual one or two."""
    if len(items) < 2:
        return items
    if len(items) == 2:
        return items if rng.random() < 0.5 else (items[1], items[0])
    shuffled = list(items)
    rng.shuffle(shuffled)
    return shuffled


def in_order(
    v4: tuple[str, ...], v6: tuple[str, ...], policy: Ipv6Policy, limit: int, rng: random.Random
) -> tuple[str, ...]:
    """At most `limit` addresses of one host in the order to try: shuffled, then by the policy on IPv6.

    When something has to go, each family keeps up to half of the places, so that one broken family never takes the
    other's last chance.
    """
    if len(v4) + len(v6) > limit:
        v6_kept = min(len(v6), max(limit - len(v4), limit // 2))
        v4_kept = min(len(v4), limit - v6_kept)
        v4, v6 = tuple(rng.sample(v4, v4_kept)), tuple(rng.sample(v6, v6_kept))
    if policy in {"equal", "never"}:
        return tuple(mixed(v4 + v6, rng))
    first, second = (v6, v4) if policy == "prefer" else (v4, v6)
    return (*mixed(first, rng), *mixed(second, rng))
