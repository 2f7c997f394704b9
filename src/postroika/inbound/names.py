"""The resolver as the checks of `policy` want to be answered."""

from __future__ import annotations

from typing import Any

from postroika.policy.names import Found
from postroika.routing.resolver import Answer, Resolver, Status


class ResolvedNames:
    """Answers from a resolver; see `policy.names.Names`. It should not be that of the routes: clients choose what is
    asked, and would push what mail needs out of its memory. Nor should one be asked about senders and block lists, for
    whoever floods us with the first would switch off the second."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def ipv4(self, name: str) -> Found:
        """A records."""
        answer = await self._resolver.ipv4(name)
        return _found(answer, answer.records)

    async def ipv6(self, name: str) -> Found:
        """AAAA records."""
        answer = await self._resolver.ipv6(name)
        return _found(answer, answer.records)

    async def mail_hosts(self, name: str) -> Found:
        """Hosts of MX records."""
        answer = await self._resolver.mx(name)
        return _found(answer, tuple(record.host for record in answer.records))


def _found(answer: Answer[Any], records: tuple[str, ...]) -> Found:
    certain = answer.status is not Status.FAILED
    return Found(records, exists=answer.status is not Status.NXDOMAIN, certain=certain, asked=answer.asked)
