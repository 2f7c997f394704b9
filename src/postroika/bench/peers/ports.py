"""Ports that nobody uses."""

from __future__ import annotations

import random
import socket

from postroika.errors import PostroikaError

# Below net.ipv4.ip_local_port_range (32768–60999), so that no outgoing connection takes a port between two binds.
_PORTS = range(10_240, 32_000)
_TRIES = 500


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody uses on `host` now and that the system gives to nobody by itself.

    Raises:
        PostroikaError: none was found.
    """
    for port in random.sample(_PORTS, _TRIES):
        # Without SO_REUSEADDR: a port in TIME_WAIT is left alone as well.
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            try:
                tried.bind((host, port))
            except OSError:
                continue
            return port
    raise PostroikaError(f"no port is free on {host}")


def accepts(host: str, port: int) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
