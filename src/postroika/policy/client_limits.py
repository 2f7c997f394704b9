"""How much one client may do, and all clients of its network together: connections, messages, recipients.

Promise: pure but for the clock, and bounded: whoever has ever so many addresses makes the tables no larger than
`MAX_KEYS`, and those of IPv6 push none of IPv4 out. What is refused is not counted. Accounts have limits of their own,
and are not counted here once they have logged in.

How: rates are kept by GCRA (`policy.limits`). A client is an IPv4 address or an IPv6 /64 network: whoever has an
address there has all of them. Its network has the lengths of `[policy]`. Connections that are open are counted by
network until `parted` is called.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import trio

from postroika import metrics
from postroika.config import Policy
from postroika.mail.reply import Reply, reply
from postroika.policy.limits import Rate, Rates
from postroika.policy.pipeline import Client

MAX_KEYS = 20_000  # of each kind and each IP version: some 5 MB when full
_CLIENT_IPV6_BITS = 64
_MINUTE_S = 60.0
_Kind: TypeAlias = Literal["connections", "messages", "recipients"]


class _Counted(NamedTuple):
    """A kind of thing that is limited: the rates of a client and of its network, None where there is none."""

    client: Rate | None
    network: Rate | None
    tables: dict[int, Rates]


class ClientLimits:
    """The limits of one worker.

    Args:
        settings: its share of them.
        now: of a clock that never goes back.
    """

    def __init__(self, settings: Policy, now: Callable[[], float] = trio.current_time) -> None:
        self._now = now
        self._bits = {4: settings.ipv4_net_bits, 6: settings.ipv6_net_bits}
        self._most_open = settings.max_connections_per_net
        self._open: dict[str, int] = {}
        self._kinds: dict[_Kind, _Counted] = {
            "connections": _counted(settings.connections_per_minute, settings.net_connections_per_minute),
            "messages": _counted(settings.messages_per_minute, settings.net_messages_per_minute),
            "recipients": _counted(settings.recipients_per_minute, settings.net_recipients_per_minute),
        }

    def __len__(self) -> int:
        """Entries of all tables."""
        return len(self._open) + sum(len(table) for kind in self._kinds.values() for table in kind.tables.values())

    def limits(self, kind: _Kind) -> bool:
        """Whether there is a limit of this kind."""
        counted = self._kinds[kind]
        most_open = self._most_open if kind == "connections" else 0
        return bool(counted.client or counted.network or most_open)

    def connect(self, client: Client, event: None = None) -> Reply | None:
        """421 to one connection too many."""
        del event
        self.parted(client)  # who is another one than it seemed (a proxy has said so) is counted anew
        if self._most_open:
            network = self._network(client.ip)
            count = self._open.get(network, 0)
            if count >= self._most_open:
                metrics.POLICY_REFUSALS["rates"].value += 1
                return reply(421, "4.7.0", f"too many connections from {network}, please try again later")
        refusal = self._take("connections", client, 421, "4.7.0")
        if refusal is None and self._most_open:
            self._open[network] = count + 1
            client.counted_as = network
        return refusal

    def mail(self, client: Client, event: object) -> Reply | None:
        """450 to one message too many."""
        del event
        return None if client.account else self._take("messages", client, 450, "4.7.1")

    def rcpt(self, client: Client, event: object) -> Reply | None:
        """450 to one recipient too many."""
        del event
        return None if client.account else self._take("recipients", client, 450, "4.7.1")

    def parted(self, client: Client) -> None:
        """The client is there no more. May be called twice."""
        network, client.counted_as = client.counted_as, ""
        if network:
            self._open[network] -= 1
            if not self._open[network]:
                del self._open[network]

    def _take(self, kind: _Kind, client: Client, code: int, enhanced: str) -> Reply | None:
        counted = self._kinds[kind]
        wanted: list[tuple[str, Rate]] = []
        if counted.client is not None:
            wanted.append((client_of(client.ip), counted.client))
        if counted.network is not None:
            # Never the same key as that of a client, though the network may be.
            wanted.append((f"net {self._network(client.ip)}", counted.network))
        if not wanted:
            return None
        table = counted.tables[6 if ":" in client.ip else 4]
        wait_s = table.take_all(wanted, self._now())
        if not wait_s:
            return None
        metrics.POLICY_REFUSALS["rates"].value += 1
        return reply(code, enhanced, f"too many {kind} from your address; try again in {int(wait_s) + 1} s")

    def _network(self, ip: str) -> str:
        return _network(ip, self._bits[6 if ":" in ip else 4])


def client_of(ip: str) -> str:
    """Who is counted as one: an IPv4 address, or the /64 network of an IPv6 address."""
    return ip if ":" not in ip else _network(ip, _CLIENT_IPV6_BITS)


def _network(ip: str, bits: int) -> str:
    return str(ipaddress.ip_network((ip, bits), strict=False))


def _counted(per_client: int, per_network: int) -> _Counted:
    return _Counted(
        Rate(per_client, _MINUTE_S) if per_client else None,
        Rate(per_network, _MINUTE_S) if per_network else None,
        {4: Rates(MAX_KEYS), 6: Rates(MAX_KEYS)},
    )
