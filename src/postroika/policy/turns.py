"""How much of one client's goes on at once, where what it has us do takes long and there is not much room for it.

Promise: whoever opens ever so many connections takes up no more of the look-ups than `AT_ONCE`; the rest of its waits,
and holds up nobody else. Of clients that wait for nothing nothing is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio

from postroika.policy.client_limits import client_of

AT_ONCE = 4


class _Turn:
    """Of one client.

    Attributes:
        waiting: those who have their turn, and those who wait for it.
    """

    __slots__ = ("slots", "waiting")

    def __init__(self) -> None:
        self.slots = trio.Semaphore(AT_ONCE)
        self.waiting = 0


class Turns:
    """Of one kind of thing, for all clients; these are counted as `policy.client_limits` does."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def __len__(self) -> int:
        """Clients that have something going on."""
        return len(self._turns)

    @contextlib.asynccontextmanager
    async def of(self, ip: str) -> AsyncIterator[None]:
        """Have one of the client's turns.

        Cancellation: safe at any point.
        """
        key = client_of(ip)
        turn = self._turns.setdefault(key, _Turn())
        turn.waiting += 1
        try:
            async with turn.slots:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[key]
