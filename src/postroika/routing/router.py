"""From a destination to the hosts that take its mail.

Promise: `Router.route` answers within `dns.timeout_s` with a Route of at least one host and address, or raises
NoRoute with the reply to record; it never opens an SMTP connection.
"""

from __future__ import annotations

import msgspec

from postroika.config import Config
from postroika.errors import RoutingError
from postroika.mail.reply import Reply


class Host(msgspec.Struct, frozen=True):
    """One host to try.

    Args:
        name: as in the MX record or the config, lower case without a final dot; an IP address in plain form where
            the config or the address literal named one. What to log and what to verify a certificate against.
        addresses: IPv4 and IPv6 addresses in the order to try; never empty.
        port: TCP port.
    """

    name: str
    addresses: tuple[str, ...]
    port: int = 25


class Route(msgspec.Struct, frozen=True):
    """Where a destination's mail goes now.

    Args:
        site: the name under which limits and connections are shared: the same for all destinations with the same
            set of hosts.
        hosts: in the order to try; never empty.
    """

    site: str
    hosts: tuple[Host, ...]


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


class Router:
    """Names the next hops of destinations, from the [[route]] table and DNS."""

    def __init__(self, config: Config) -> None:
        self._config = config

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
        raise NotImplementedError
