"""How many connections a site may have, and who gets the next one.

Promise: never more than `limit` places of a site are taken; who waits longest is served first; a connection that is
idle, or given up with a session that still stands, goes to whoever waits for its site, whatever the destination:
the domains of one big provider share its connections. Those that are opened as somebody else, or under another policy
on encryption, do not: "site" here is a name that says so (see `delivery`).

A place is taken with `acquire`. Its holder gives it back with `release`, or hands it over together with the connection.
While it has nothing to do it is at `rest`, and is hurried as soon as somebody else wants the place.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from postroika.pump import Interrupted, Wake

C = TypeVar("C")


class Holder(Protocol):
    """Who has a place and nothing to do."""

    def hurry(self) -> None:
        """Somebody else wants the place."""


class _Waiter(Generic[C]):
    __slots__ = ("granted",)

    def __init__(self) -> None:
        self.granted = Wake()

    def grant(self, connection: C | None) -> None:
        self.granted.set(connection)


class _Site(Generic[C]):
    __slots__ = ("idle", "taken", "waiters")

    def __init__(self) -> None:
        self.taken = 0
        self.waiters: deque[_Waiter[C]] = deque()
        self.idle: list[Holder] = []  # those that nobody has called yet


class SitePool(Generic[C]):
    """The places of all sites of one worker, each for one connection (C).

    Args:
        limit: places per site.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sites: dict[str, _Site[C]] = {}

    def is_full(self, site: str) -> bool:
        """Whether `acquire` would have to wait for a place of somebody who is at work."""
        state = self._sites.get(site)
        return state is not None and not state.idle and (bool(state.waiters) or state.taken >= self._limit)

    async def acquire(self, site: str) -> C | None:
        """Take a place, as soon as it is our turn; with it comes a connection whose session stands, if there is one.

        Interruption: no place is held.
        """
        state = self._sites.get(site)
        if state is None:
            state = self._sites[site] = _Site()
        # Whoever waits while there is room has called an idle holder, which is about to hand over.
        if not state.idle and state.taken < self._limit:
            state.taken += 1
            return None
        waiter: _Waiter[C] = _Waiter()
        state.waiters.append(waiter)
        if state.idle:
            # The latest to go idle: the others then time out.
            state.idle.pop().hurry()
        try:
            connection: C | None = await waiter.granted.wait()
        except Interrupted:
            state.waiters.remove(waiter)  # A grant is never lost: once it is set, the wait is not interrupted.
            raise
        return connection

    def hand_over(self, site: str, connection: C) -> bool:
        """Give our place and `connection`, at rest, to who waits longest; False if nobody waits: we keep both."""
        state = self._sites[site]
        if not state.waiters:
            return False
        state.waiters.popleft().grant(connection)
        return True

    def release(self, site: str) -> None:
        """Give our place back."""
        state = self._sites[site]
        state.taken -= 1
        self._admit(state)
        if not state.taken and not state.waiters:
            del self._sites[site]

    def rest(self, site: str, holder: Holder) -> bool:
        """We have no work, and wait for some. False if somebody waits for a place: hand ours over."""
        state = self._sites[site]
        if state.waiters:
            return False
        state.idle.append(holder)
        return True

    def rise(self, site: str, holder: Holder) -> bool:
        """We wait no longer; whether somebody wants the place. If no work came, hand ours over; otherwise `admit`."""
        state = self._sites[site]
        if holder in state.idle:
            state.idle.remove(holder)
            return False
        return True

    def admit(self, site: str) -> None:
        """Give those who wait the places that are free."""
        self._admit(self._sites[site])

    def wanted(self, site: str) -> bool:
        """Whether somebody waits for a place of the site."""
        return bool(self._sites[site].waiters)

    def _admit(self, state: _Site[C]) -> None:
        while state.waiters and state.taken < self._limit:
            state.taken += 1
            state.waiters.popleft().grant(None)
