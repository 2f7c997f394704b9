"""Counts durations in buckets whose width grows with them.

Promise: any quantile is told within 1/64 (1.6 %) of itself, and the largest exactly, in 15 KB however many durations
there are; two histograms can be added up. How: 128 linear buckets of 1.024 µs, then 64 for each doubling, as in
HdrHistogram. The kernels record into `counts` by the same rule (`bucket`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import TypedDict

UNIT_BITS = 10
"""Durations are told apart from 2**10 ns on."""
SUB_BITS = 6
"""2**6 buckets for each doubling."""
_SUB = 1 << SUB_BITS
_LARGEST_BITS = 34  # in units: 4.8 hours, and all that is longer
BUCKETS = (_LARGEST_BITS - SUB_BITS - 1) * _SUB + 2 * _SUB

_NS_IN_MS = 1_000_000


class LatencyJson(TypedDict):
    """Quantiles in milliseconds (None where nothing was counted), and [largest of the bucket in ms, count] of all
    buckets that are not empty."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    histogram: list[tuple[float, int]]


def bucket(duration_ns: int) -> int:
    """The number of the bucket that a duration falls into; below nought counts as nought."""
    units = duration_ns >> UNIT_BITS
    if units < 2 * _SUB:
        return max(units, 0)
    if units >> _LARGEST_BITS:
        return BUCKETS - 1
    shift = units.bit_length() - SUB_BITS - 1
    return shift * _SUB + (units >> shift)


def largest_ns(number: int) -> int:
    """The longest duration that falls into a bucket (the last one has no longest: where the next one would begin)."""
    shift = max(number // _SUB - 1, 0)
    return ((number - shift * _SUB + 1) << shift << UNIT_BITS) - 1


class Histogram:
    """Durations in nanoseconds. `counts` is writable: a kernel may record into it, and into `totals`.

    `totals` holds the sum and the largest of all durations, in that order.
    """

    __slots__ = ("counts", "totals")

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * BUCKETS))
        self.totals = array("Q", (0, 0))

    def record(self, duration_ns: int) -> None:
        """Count one duration."""
        self.counts[bucket(duration_ns)] += 1
        if duration_ns > 0:
            self.totals[0] += duration_ns
            self.totals[1] = max(self.totals[1], duration_ns)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)

    @property
    def max_ns(self) -> int:
        """The longest, exactly."""
        return self.totals[1]

    def quantile(self, share: float) -> int | None:
        """The duration, in ns, that at least `share` (0 to 1) of all do not exceed; None if there is none at all.

        What it tells is the upper edge of a bucket, so at most 1.6 % too long, and never longer than the longest.
        """
        rank = max(math.ceil(share * self.count), 1)
        seen = 0
        for number, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return min(largest_ns(number), self.max_ns)
        return None

    def merge(self, other: Histogram) -> None:
        """Add what another one has counted."""
        self.add(enumerate(other.counts), other.totals[0], other.max_ns)

    def add(self, counts: Iterable[tuple[int, int]], total_ns: int, max_ns: int) -> None:
        """Add counts by number of bucket, the sum of all their durations, and the longest of them."""
        for number, count in counts:
            self.counts[number] += count
        self.totals[0] += total_ns
        self.totals[1] = max(self.totals[1], max_ns)

    def to_json(self) -> LatencyJson:
        """Quantiles and buckets, in milliseconds, for a report."""
        count = self.count

        def quantile_ms(share: float) -> float | None:
            found = self.quantile(share)
            return None if found is None else _ms(found)

        return {
            "count": count,
            "mean": _ms(self.totals[0] / count) if count else None,
            "p50": quantile_ms(0.5),
            "p95": quantile_ms(0.95),
            "p99": quantile_ms(0.99),
            "max": _ms(self.max_ns) if count else None,
            "histogram": [(_ms(largest_ns(number)), count) for number, count in enumerate(self.counts) if count],
        }

    @classmethod
    def from_json(cls, told: LatencyJson) -> Histogram:
        """What `to_json` told, to be merged with others."""
        histogram = cls()
        if told["mean"] is not None and told["max"] is not None:
            counts = [(bucket(round(edge_ms * _NS_IN_MS)), count) for edge_ms, count in told["histogram"]]
            total_ns = round(told["mean"] * told["count"] * _NS_IN_MS)
            histogram.add(counts, total_ns, round(told["max"] * _NS_IN_MS))
        return histogram


def _ms(duration_ns: float) -> float:
    return round(duration_ns / _NS_IN_MS, 6)
