"""Tells whether an address leads back to ourselves.

Promise: mail is not sent to a listener of our own because an MX record under another name points to it. Only a
listener on the port that MX hosts are reached at counts.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from postroika.config import split_host_port


class Doors:
    """The addresses at which MX mail would reach us.

    Args:
        listeners: "address:port" of all listeners.
        mx_port: the port of MX hosts.
    """

    def __init__(self, listeners: Sequence[str], mx_port: int) -> None:
        self._addresses: set[str] = set()
        self._wildcards: set[int] = set()
        self._port = mx_port
        for listener in listeners:
            host, port = split_host_port(listener)
            address = ipaddress.ip_address(host)
            if port != mx_port:
                continue
            if address.is_unspecified:
                self._wildcards.add(address.version)
            else:
                self._addresses.add(str(address))

    def lead_to(self, address: str) -> bool:
        """Whether a connection to `address` (in canonical form) would come out at one of our listeners."""
        if address in self._addresses:
            return True
        return bool(self._wildcards) and self._is_local(address)

    def _is_local(self, address: str) -> bool:
        """Whether the kernel would answer `address` itself: then it also is the source that the kernel chooses for
        it. Nothing is sent; unlike a bind, it is not fooled by net.ipv4.ip_nonlocal_bind."""
        version = ipaddress.ip_address(address).version
        if version not in self._wildcards:
            return False
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((address, self._port))
            except OSError:
                return False  # not even reachable
            return str(probe.getsockname()[0]) == address
