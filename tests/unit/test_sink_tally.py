"""What the sink counts beside what its kernel does: delays by run, the timeline, messages told apart by a header."""

from __future__ import annotations

from postroika.bench.messages import make_template, render
from postroika.bench.sink_content import Content, identity_field
from postroika.bench.sink_tally import Tally


def _message(run: int, number: int) -> Content:
    content = Content(None, None)
    content.take(render(make_template(run, b"\r\n", stuffed=False), number, 1))
    assert content.finish()
    return content


def test_delays_are_told_apart_by_run() -> None:
    tally = Tally()
    assert tally.latency.to_json()["count"] == 0
    for run, count in ((1, 2), (2, 3)):
        for number in range(count):
            tally.add(["r0@x.test"], 5, _message(run, number))
    assert {run: latency.count for run, latency in tally.latencies.items()} == {1: 2, 2: 3}
    assert tally.latency.count == 5


def test_many_runs_cost_no_more_than_a_few() -> None:
    tally = Tally()
    for run in range(1000):
        tally.add(["r0@x.test"], 5, _message(run, 0))
    assert list(tally.latencies) == [*range(16), None]
    assert (tally.latency.count, tally.latencies[None].count) == (1000, 984)


def test_timeline_has_a_point_only_where_something_came() -> None:
    tally = Tally()
    assert [tally.note_time(), tally.timeline] == [False, []]
    for _ in range(2):
        tally.add(["r0@x.test"], 5, _message(1, 1))
        assert [tally.note_time(), tally.note_time()] == [True, False]
    assert [count for _, count in tally.timeline] == [1, 2]
    assert (tally.counts.unique, tally.counts.doubled, tally.counts.damaged) == (1, 1, 0)


def test_header_tells_messages_apart_in_place_of_the_mark() -> None:
    tally = Tally()
    for number, recipients in ((1, ["r0@x", "r1@x", "r1@x"]), (2, ["r1@x"]), (1, ["r1@x"])):
        content = Content(None, identity_field("message-id"))
        content.take(b"X: y\r\nMessage-ID:\t<%d@x>\r\n .fold\r\nmessage-id: <no>\r\n\r\n" % number)
        assert content.finish()
        assert content.identity == b"<%d@x>\r\n .fold" % number
        tally.add(recipients, 1, content)
    counts = tally.counts
    told = (counts.messages, counts.recipients, counts.unique, counts.doubled, counts.unmarked)
    assert told == (3, 5, 3, 2, 0)
