"""Sets of IP addresses, as lists of networks in the config file name them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence


class Networks:
    """A set of addresses.

    Args:
        networks: CIDR.

    Raises:
        ValueError: one of them is none.
    """

    __slots__ = ("_networks",)

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)

    def __contains__(self, ip: str) -> bool:
        """Whether the address (as of `relay.canonical_ip`) is in one of them."""
        address = ipaddress.ip_address(ip)
        return any(address.version == network.version and address in network for network in self._networks)
