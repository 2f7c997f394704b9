"""Rates by GCRA, the generic cell rate algorithm: so many in a period, all at once if need be, then evenly.

Promise: pure and bounded. What is allowed depends on the arguments alone, no clock is read; a key that has been quiet
for its period is the same as one that was never seen, and is forgotten when room is needed.

How: for each key and rate there is one number, the time at which its allowance will be whole again ("theoretical
arrival time"). Taking one moves that time on by period / most; it may not get further away than the period.
Source: ITU-T I.371, Annex A.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import NamedTuple


class Rate(NamedTuple):
    """At most `most` in each `period_s` in the long run, and never more than `most` at once."""

    most: int
    period_s: float


class Rates:
    """What is left of the rates of many keys.

    Attributes:
        max_keys: pairs of key and rate that are remembered. If all of them are in use and one more comes, the one that
            was moved longest ago is forgotten.
    """

    __slots__ = ("_sweep_in", "_whole_at", "max_keys")

    def __init__(self, max_keys: int = 20_000) -> None:
        self.max_keys = max_keys
        self._whole_at: dict[tuple[Hashable, float], float] = {}
        self._sweep_in = 0  # how many may still come before it is worth while to look through all of them again

    def __len__(self) -> int:
        """Pairs that are remembered."""
        return len(self._whole_at)

    def take(self, key: Hashable, rates: Iterable[Rate], now: float, amount: int = 1) -> float:
        """Take `amount` from all of the rates of `key`, or from none of them.

        Args:
            now: seconds of any clock that never goes back.

        Returns:
            0.0 if it was allowed; else after how many seconds it will be, infinity if never.
        """
        return self.take_all([(key, rate) for rate in rates], now, amount)

    def take_all(self, wanted: Iterable[tuple[Hashable, Rate]], now: float, amount: int = 1) -> float:
        """The same for rates of several keys."""
        moved: list[tuple[tuple[Hashable, float], float]] = []
        wait = 0.0
        for key, rate in wanted:
            pair = (key, rate.period_s)
            whole_at = max(self._whole_at.get(pair, now), now) + amount * rate.period_s / rate.most
            # A billionth of slack: the sum of so many steps of period / most need not be exactly the period.
            late = whole_at - now - rate.period_s * (1 + 1e-9)
            if amount > rate.most:
                wait = math.inf
            elif late > 0:
                wait = max(wait, late)
            moved.append((pair, whole_at))
        if wait:
            return wait
        for pair, whole_at in moved:
            self._whole_at.pop(pair, None)  # so that the order is that of the last use
            self._whole_at[pair] = whole_at
        if len(self._whole_at) > self.max_keys:
            self._make_room(now)
        return 0.0

    def _make_room(self, now: float) -> None:
        """Forget those that are whole again, or else the oldest. Whoever fills the table with keys that are all in use
        does not have us look through all of it each time."""
        self._sweep_in -= 1
        if self._sweep_in <= 0:
            for pair in [pair for pair, whole_at in self._whole_at.items() if whole_at <= now]:
                del self._whole_at[pair]
            self._sweep_in = self.max_keys // 8
        while len(self._whole_at) > self.max_keys:
            del self._whole_at[next(iter(self._whole_at))]
