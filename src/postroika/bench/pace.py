"""How long a run still takes: what each scenario was thought to take, put right by how long those before it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

# One scenario says little about the others.
_LEAST, _MOST = 0.5, 3.0


class Pace:
    """Estimates, and how they turn out.

    Args:
        estimates_s: of each scenario, in their order.
        clock: in seconds; a test may have one of its own.
    """

    def __init__(self, estimates_s: Sequence[float], clock: Callable[[], float] = time.monotonic) -> None:
        self._estimates_s = list(estimates_s)
        self._clock = clock
        self._number = 0
        self._began_at = clock()
        self._estimated_s = self._took_s = 0.0

    def begin(self, number: int) -> None:
        """The scenario of that number begins, from 0; those left out before it count for nothing."""
        self._number = number
        self._began_at = self._clock()

    def end(self) -> None:
        """It has ended."""
        self._estimated_s += self._estimates_s[self._number]
        self._took_s += self._clock() - self._began_at
        self._number += 1
        self._began_at = self._clock()

    def scenario_s(self) -> float:
        """What the scenario that runs now, or is the next, takes in all."""
        return self._estimates_s[self._number] * self._factor()

    def left_s(self) -> float:
        """What is left of all."""
        if self._number == len(self._estimates_s):
            return 0.0
        now_s = max(0.0, self.scenario_s() - (self._clock() - self._began_at))
        return now_s + sum(self._estimates_s[self._number + 1 :]) * self._factor()

    def _factor(self) -> float:
        if not self._estimated_s:
            return 1.0
        return min(_MOST, max(_LEAST, self._took_s / self._estimated_s))


def duration_text(seconds: float) -> str:
    """As "45 s" or "9 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
