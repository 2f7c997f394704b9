"""Latency histograms: quantiles, the exact maximum, adding up, JSON."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.bench.histogram import BUCKETS, Histogram, bucket, largest_ns

durations = st.lists(st.integers(0, 10**13), min_size=1)


def recorded(*durations_ns: int) -> Histogram:
    histogram = Histogram()
    for duration_ns in durations_ns:
        histogram.record(duration_ns)
    return histogram


def test_buckets_follow_each_other_without_gap() -> None:
    for number in range(BUCKETS - 1):
        assert bucket(largest_ns(number)) == number
        assert bucket(largest_ns(number) + 1) == number + 1


@pytest.mark.parametrize(("duration_ns", "number"), [(-1, 0), (0, 0), (1023, 0), (1024, 1), (1 << 60, BUCKETS - 1)])
def test_the_outermost_buckets(duration_ns: int, number: int) -> None:
    assert bucket(duration_ns) == number


@given(st.integers(128 << 10, 10**13))
def test_a_bucket_is_at_most_a_sixtyfourth_wide(duration_ns: int) -> None:
    assert duration_ns <= largest_ns(bucket(duration_ns)) <= duration_ns * (1 + 1 / 64) + 1


@given(durations, st.floats(0, 1))
def test_a_quantile_is_that_of_the_sorted_durations_within_its_bucket(durations_ns: list[int], share: float) -> None:
    true_ns = sorted(durations_ns)[max(math.ceil(share * len(durations_ns)), 1) - 1]
    found_ns = recorded(*durations_ns).quantile(share)
    assert found_ns == min(largest_ns(bucket(true_ns)), max(durations_ns))


@given(durations, durations)
def test_merging_is_recording_all(some: list[int], others: list[int]) -> None:
    merged = recorded(*some)
    merged.merge(recorded(*others))
    together = recorded(*some, *others)
    assert (merged.counts, merged.totals) == (together.counts, together.totals)


def test_nothing_recorded() -> None:
    assert Histogram().quantile(0.5) is None
    nothing = {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None, "histogram": []}
    assert Histogram().to_json() == nothing
    assert Histogram.from_json(Histogram().to_json()).count == 0


def test_json_has_milliseconds() -> None:
    assert recorded(500, 500, 1_000_000, 3_000_000).to_json() == {
        "count": 4,
        "mean": 1.00025,
        "p50": 0.001023,
        "p95": 3.0,
        "p99": 3.0,
        "max": 3.0,
        "histogram": [(0.001023, 2), (1.007615, 1), (3.014655, 1)],
    }


@given(durations)
def test_json_loses_no_count(durations_ns: list[int]) -> None:
    told = recorded(*durations_ns).to_json()
    again = Histogram.from_json(told)
    assert again.counts == recorded(*durations_ns).counts
    assert again.to_json()["histogram"] == told["histogram"]
    assert (again.max_ns, again.count) == (max(durations_ns), len(durations_ns))
