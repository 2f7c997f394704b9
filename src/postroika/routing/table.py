"""The [[route]] table.

Promise: the first [[route]] that matches a destination wins, at a cost that does not grow with the table. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from postroika.config import Route, begins_with_tls, parse_next_hop


class Hop(NamedTuple):
    """A host to hand mail to: a name or an IP address, the TCP port, and whether TLS comes first there."""

    host: str
    port: int
    implicit_tls: bool = False

    @property
    def text(self) -> str:
        """The host, with the port where it is not the one of SMTP: a set of MX hosts and the same hosts as
        smarthosts are one site."""
        if self.port == 25:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RouteTable:
    """Answers which next hops the config names for a destination.

    Args:
        routes: the [[route]] sections, their domains in canonical form (as `config.load` leaves them).
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = tuple(routes)
        self._hops = [_hops(route) for route in routes]
        self._first: dict[str, int] = {}
        for i, route in enumerate(routes):
            for domain in route.domains:
                self._first.setdefault(domain.lower(), i)

    def hops(self, destination: str) -> tuple[Hop, ...] | None:
        """The next hops for `destination` in the order to try; None: by MX, also where nothing matches.

        Args:
            destination: in lower case; a domain or an address literal.
        """
        number = self._number(destination)
        return None if number is None else self._hops[number]

    def route(self, destination: str) -> Route | None:
        """The [[route]] that matches, None if none does."""
        number = self._number(destination)
        return None if number is None else self._routes[number]

    def _number(self, destination: str) -> int | None:
        matches = [self._first[key] for key in _keys(destination) if key in self._first]
        return min(matches) if matches else None


def _hops(route: Route) -> tuple[Hop, ...] | None:
    if route.next_hop == "mx":
        return None
    texts = (route.next_hop,) if isinstance(route.next_hop, str) else route.next_hop
    hops = ((*parse_next_hop(text), begins_with_tls(text)) for text in texts)
    return tuple(dict.fromkeys(Hop(host.lower(), port, implicit) for host, port, implicit in hops))


def _keys(destination: str) -> Iterator[str]:
    """All patterns that would match: "a.b.test" gives "a.b.test", ".b.test", ".test", "*"."""
    yield destination
    if not destination.startswith("["):
        dot = destination.find(".")
        while dot >= 0:
            yield destination[dot:]
            dot = destination.find(".", dot + 1)
    yield "*"
