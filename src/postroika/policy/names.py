"""What checks ask of the DNS, and how they are answered; `inbound.names` has the resolver do it."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Found(NamedTuple):
    """What is known of a name and a record type.

    Args:
        records: addresses, or host names of MX records ("" is the root).
        exists: the name does, though perhaps without such records; as far as it is known.
        certain: the DNS has said so. False: it failed to say anything.
        asked: False if it was not certain because we had too much else to ask.
    """

    records: tuple[str, ...] = ()
    exists: bool = True
    certain: bool = True
    asked: bool = True


class Names(Protocol):
    """The DNS. Each question ends in a bounded time, and fails with nothing but an answer that is not certain."""

    async def ipv4(self, name: str) -> Found:
        """A records."""

    async def ipv6(self, name: str) -> Found:
        """AAAA records."""

    async def mail_hosts(self, name: str) -> Found:
        """Hosts of MX records."""
