"""Which messages came, and which came again."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from postroika.bench.messages import Mark
from postroika.bench.sink_tally import Seen, Tally

KEYS = st.tuples(
    st.sampled_from([0, 1, 2**32 - 1]),
    st.one_of(st.integers(0, 40), st.integers(2**27 - 2, 2**27 + 2), st.integers(0, 10**10 - 1)),
    st.sampled_from([0, 1, 999_999_999]),
)


@given(st.lists(KEYS, max_size=60))
def test_each_is_new_once(keys: list[tuple[int, int, int]]) -> None:
    seen = Seen()
    known: set[tuple[int, int, int]] = set()
    for key in keys:
        assert seen.add(*key) is (key not in known)
        known.add(key)


def test_many_messages_and_many_recipients_need_little() -> None:
    tracemalloc.start()
    try:
        messages = Seen()
        messages.add(1, 9_999_999, 0)
        assert tracemalloc.get_traced_memory()[0] < 3_000_000
        recipients = Seen()
        for index in range(10_000):
            recipients.add(1, 0, index)
        assert tracemalloc.get_traced_memory()[0] < 3_000_000 + 10_000 * 400
    finally:
        tracemalloc.stop()


def test_delays_are_told_apart_by_run() -> None:
    tally = Tally()
    assert tally.latency.to_json()["count"] == 0
    for run, count in ((1, 2), (2, 3)):
        for number in range(count):
            tally.add(["r0@x.test"], 5, Mark(run, number, 0, 0), 0, None)
    assert {run: latency.count for run, latency in tally.latencies.items()} == {1: 2, 2: 3}
    assert tally.latency.count == 5


def test_many_runs_cost_no_more_than_a_few() -> None:
    tally = Tally()
    for run in range(1000):
        tally.add(["r0@x.test"], 5, Mark(run, 0, 0, 0), 0, None)
    assert list(tally.latencies) == [*range(16), None]
    assert (tally.latency.count, tally.latencies[None].count) == (1000, 984)


def test_timeline_has_a_point_only_where_something_came() -> None:
    tally = Tally()
    assert [tally.note_time(), tally.timeline] == [False, []]
    for _ in range(2):
        tally.add(["r0@x.test"], 5, Mark(1, 1, 0, 0), 0, None)
        assert [tally.note_time(), tally.note_time()] == [True, False]
    assert [count for _, count in tally.timeline] == [1, 2]
    assert (tally.counts.unique, tally.counts.doubled, tally.counts.damaged) == (1, 1, 0)
