"""Policies of MTA-STS, without the DNS and HTTPS that bring them."""

from __future__ import annotations

from typing import NamedTuple

import trio


class Policy(NamedTuple):
    """As that of MTA-STS."""

    mode: str
    patterns: tuple[str, ...]

    def matches(self, host: str) -> bool:
        return host in self.patterns

    def lines(self) -> tuple[str, ...]:
        return ("version: STSv1", f"mode: {self.mode}", *(f"mx: {pattern}" for pattern in self.patterns))


class Policies:
    """Those of some domains; remembers for whom it was asked."""

    def __init__(self, **policies: Policy) -> None:
        self.policies = {f"{name}.test": policy for name, policy in policies.items()}
        self.asked: list[str] = []

    async def policy(self, domain: str) -> Policy | None:
        self.asked.append(domain)
        await trio.lowlevel.checkpoint()
        return self.policies.get(domain)
