"""DNS block lists: who is on one of them is refused.

Promise: a list that fails never blocks mail. One that does not answer in time, says that it will not answer us, or
lists everybody has no say, is left alone for a while, and is logged. That we had too much to ask is no failure of a
list's, and no client alone brings that about: `policy.turns` bounds what is asked about each. A client is looked up
once a session, on all lists at once; the first of the config that lists it is named in the reply.

How: the address is turned around below the list's zone, and A records tell (RFC 5782 §2.1, §2.4). Before a client is
refused, the list is asked about 127.0.0.1, which no list may list (§5).
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

import trio

from postroika import metrics
from postroika.config import Blocklist
from postroika.mail.reply import Reply, reply
from postroika.policy.names import Found, Names
from postroika.policy.pipeline import Client
from postroika.policy.turns import Turns

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3  # then the list is left alone
REST_S = 60.0
BROKEN_REST_S = 600.0  # of one that lists everybody, or wants none of our questions
_NOBODY = "1.0.0.127"  # RFC 5782 §5: must not be listed
_MEANINGFUL = ipaddress.IPv4Network("127.0.0.0/8")
_REFUSED = ipaddress.IPv4Network("127.255.255.0/24")  # what large lists answer those whom they do not want to serve


def reversed_address(ip: str) -> str:
    """How lists know an address: "2.2.0.192", or the 32 nibbles of an IPv6 address, the last one first."""
    address = ipaddress.ip_address(ip)
    if isinstance(address, ipaddress.IPv4Address):
        return ".".join(reversed(ip.split(".")))
    return ".".join(reversed(address.exploded.replace(":", "")))


class _List:
    """One list, and how it has been of late."""

    def __init__(self, entry: Blocklist, names: Names, now: Callable[[], float]) -> None:
        self.zone = entry.zone
        self._reply = entry.reply
        self._answers = tuple(ipaddress.IPv4Network(answer) for answer in entry.answers)
        self._names = names
        self._now = now
        self._failures = 0
        self._rests_until = -math.inf

    def words(self, ip: str) -> str:
        """For the reply."""
        return self._reply.replace("{ip}", ip).replace("{zone}", self.zone)

    async def lists(self, turned: str) -> bool:
        """Whether it lists the client. A list that is left alone lists nobody."""
        if self._now() < self._rests_until:
            return False
        found = await self._ask(turned)
        if found is None or not self._hits(found):
            return False
        nobody = await self._ask(_NOBODY)
        if nobody is not None and nobody.records:
            self._leave_alone(BROKEN_REST_S, "it lists 127.0.0.1, so it lists everybody")
        return nobody is not None and not nobody.records

    async def _ask(self, turned: str) -> Found | None:
        """None if it failed, or could not be asked."""
        found = await self._names.ipv4(f"{turned}.{self.zone}")
        if not found.asked:
            return None
        if not found.certain:
            metrics.BLOCKLIST_FAILURES.value += 1
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                self._leave_alone(REST_S, "it does not answer")
            return None
        self._failures = 0
        strange = next((record for record in found.records if _is_strange(record)), "")
        if strange:
            metrics.BLOCKLIST_FAILURES.value += 1
            self._leave_alone(BROKEN_REST_S, f"it answers {strange}, which lists nobody")
            return None
        return found

    def _hits(self, found: Found) -> bool:
        return any(ipaddress.IPv4Address(record) in answer for record in found.records for answer in self._answers)

    def _leave_alone(self, for_s: float, why: str) -> None:
        now = self._now()
        if now >= self._rests_until:  # of those that have asked at once, one says so
            log.warning("the block list %s is left alone for %g s: %s", self.zone, for_s, why)
        self._rests_until = now + for_s
        self._failures = 0


def _is_strange(record: str) -> bool:
    address = ipaddress.IPv4Address(record)
    return address not in _MEANINGFUL or address in _REFUSED


class Blocklists:
    """The check, for any stage up to "rcpt".

    Args:
        lists: in the order in which they are named.
        names: whom to ask.
        now: of a clock that never goes back.
    """

    def __init__(self, lists: Sequence[Blocklist], names: Names, now: Callable[[], float] = trio.current_time) -> None:
        self._lists = [_List(entry, names, now) for entry in lists]
        self._turns = Turns()

    def __call__(self, client: Client, event: object) -> Awaitable[Reply | None] | Reply | None:
        """The verdict on the client: 550, or 554 to one that has just come."""
        if client.account:
            return None
        key = (self, client.ip)
        if key not in client.remembered:
            return self._look_up(client, event)
        return self._counted(client.remembered[key])

    async def _look_up(self, client: Client, event: object) -> Reply | None:
        turned = reversed_address(client.ip)
        listed = [False] * len(self._lists)

        async def ask(number: int) -> None:
            listed[number] = await self._lists[number].lists(turned)

        async with self._turns.of(client.ip), trio.open_nursery() as nursery:
            for number in range(len(listed)):
                nursery.start_soon(ask, number)
        refusal = None
        if True in listed:
            words = self._lists[listed.index(True)].words(client.ip)
            refusal = reply(554 if event is None else 550, "5.7.1", words)
        client.remembered[self, client.ip] = refusal
        return self._counted(refusal)

    def _counted(self, refusal: Reply | None) -> Reply | None:
        if refusal is not None:
            metrics.POLICY_REFUSALS["blocklists"].value += 1
        return refusal
