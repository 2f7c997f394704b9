"""Times small functions fairly: turn by turn, so that a slow moment of the machine strikes all of them alike.

It counts the CPU time of this thread and not the clock on the wall: what other processes take away is not ours to tell.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_TURN_S = 0.01


@dataclass(frozen=True)
class Timing:
    """CPU seconds per call of one function, turn by turn."""

    turns_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The median over all turns."""
        return statistics.median(self.turns_s)

    def ratio_to(self, other: Timing) -> float:
        """How many times as long as the other: the median of the ratios of each turn."""
        return statistics.median(a / b for a, b in zip(self.turns_s, other.turns_s, strict=True))


def time_in_turns(functions: Mapping[str, Callable[[], object]], turns: int) -> dict[str, Timing]:
    """Call each function for a hundredth of a second, then the next, and so on for `turns` rounds."""
    calls = {name: _calls_per_turn(function) for name, function in functions.items()}
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            taken[name].append(_run(function, calls[name]) / calls[name])
    return {name: Timing(tuple(turns_s)) for name, turns_s in taken.items()}


def _calls_per_turn(function: Callable[[], object]) -> int:
    calls = 1
    while (took_s := _run(function, calls)) < _TURN_S / 10:
        calls *= 4
    return max(1, round(calls * _TURN_S / took_s))


def _run(function: Callable[[], object], calls: int) -> float:
    begin = time.thread_time()
    for _ in range(calls):
        function()
    return time.thread_time() - begin
