"""The kernel of the sink against plain Python: marks, sums, and which messages came."""

from __future__ import annotations

import itertools
import tracemalloc
import zlib

from hypothesis import given
from hypothesis import strategies as st

from postroika.bench.histogram import Histogram
from postroika.bench.messages import make_template, parse_mark, recipient_index, render
from postroika.kernels.bench_sink import Content, Tally

# The pieces that a mark is made of, and some that it is not.
WORDS = st.sampled_from([
    b"X-Bench-Id: ", b"X-Bench-Sent: ", b"X-Bench-Sum: ", b"0123abcd", b"0123ABCD", b"abcdefg0", b".", b"1",
    b"0000000001", b"00000000001", b"00000000001234567890", b"01234567890123456789", b"x", b" ", b"\r\n", b"\n", b"\r",
    b"\r\n\r\n", b"Received: by x\r\n",
    b"deadbeef.0000000042\r\nX-Bench-Sent: 00000000000000000007\r\nX-Bench-Sum: 00000000\r\n",
])  # fmt: skip
MARK = b"X-Bench-Id: 0123abcd.0000000001\r\nX-Bench-Sent: 00000000001234567890\r\nX-Bench-Sum: 0badcafe\r\n"


def _read(pieces: list[bytes]) -> tuple[tuple[int, ...] | None, int]:
    content = Content()
    for piece in pieces:
        content.take(piece)
    content.end()
    return content.mark, content.checksum


def _expected(message: bytes) -> tuple[tuple[int, ...] | None, int]:
    end = 2 if message.startswith(b"\r\n") else message.find(b"\r\n\r\n") + 4
    head, body = (message, b"") if end == 3 else (message[:end], message[end:])
    mark = parse_mark(head)
    return (tuple(mark), zlib.crc32(body)) if mark is not None else (None, 0)


def _cut(message: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(message) + 1) for cut in cuts), len(message)]
    return [message[start:stop] for start, stop in itertools.pairwise(edges)]


@given(st.lists(WORDS, max_size=14).map(b"".join), st.lists(st.integers(0, 10_000), max_size=6))
def test_marks_are_read_as_by_the_load(message: bytes, cuts: list[int]) -> None:
    assert _read(_cut(message, cuts)) == _expected(message)


@given(
    st.sampled_from([b"", b"Received: by x\r\n"]),
    st.sampled_from([b"", b"Subject: x\r\n"]),
    st.binary(max_size=700),
    st.lists(st.integers(0, 1000), max_size=4),
)
def test_bodies_are_summed_up_however_they_are_cut(before: bytes, behind: bytes, body: bytes, cuts: list[int]) -> None:
    message = before + MARK + behind + b"\r\n" + body
    assert _read(_cut(message, cuts)) == _expected(message) == (parse_mark(MARK), zlib.crc32(body))


def test_sum_of_each_length_and_alignment() -> None:
    octets = bytes(range(251)) * 8
    for length in range(400):
        for start in (0, 1, 15):
            body = octets[start : start + length]
            assert _read([MARK + b"\r\n", body]) == (parse_mark(MARK), zlib.crc32(body))
            assert _read([MARK + b"\r\n" + body])[1] == zlib.crc32(body)


def test_number_too_large_for_a_mark_is_none() -> None:
    assert _read([MARK.replace(b"00000000001234567890", b"9" * 20) + b"\r\n"]) == (None, 0)


def test_mark_far_from_the_beginning_is_not_looked_for() -> None:
    filler = b"X: " + b"x" * 997 + b"\r\n"
    assert _read([filler] * 60 + [MARK, b"\r\n"])[0] == parse_mark(MARK)
    assert _read([filler] * 70 + [MARK, b"\r\n"])[0] is None


def _message(run: int, number: int) -> Content:
    content = Content()
    template = make_template(run, b"\r\n", stuffed=False)
    content.take(render(template, number, 1))
    content.end()
    return content


KEYS = st.tuples(
    st.sampled_from([0, 1, 2**32 - 1]),
    st.one_of(st.integers(0, 40), st.integers(2**27 - 2, 2**27 + 2), st.integers(0, 10**10 - 1)),
    st.sampled_from(
        ["r0@x", "r1@x", "r63@x.test", "r999999999@x", "r1000000000@x", "r@x", "r1", "R1@x", "s1@x", "r01@x", ""]
    ),
)


@given(st.lists(KEYS, max_size=40))
def test_each_recipient_is_new_once(keys: list[tuple[int, int, str]]) -> None:
    tally = Tally(lambda run: Histogram())
    known: set[tuple[int, int, int]] = set()
    doubled = 0
    for run, number, recipient in keys:
        index = recipient_index(recipient)
        tally.add([recipient], 10, _message(run, number))
        if index is not None:
            doubled += (run, number, index) in known
            known.add((run, number, index))
    counted = (
        tally.messages,
        tally.recipients,
        tally.bytes,
        tally.unique,
        tally.doubled,
        tally.damaged,
        tally.unmarked,
    )
    assert counted == (len(keys), len(keys), 10 * len(keys), len(known), doubled, 0, 0)


def test_many_messages_need_little() -> None:
    tally = Tally(lambda run: Histogram())
    tally.add(["r0@x"], 1, _message(1, 9_999_999))
    tracemalloc.start()
    try:
        for number in (5_000_000, 9_999_999):
            tally.add(["r1@x"], 1, _message(1, number))
        tally.add([f"r{index}@x" for index in range(10_000)], 1, _message(2, 0))
        # The bitmaps themselves are not Python's: 1.25 MB for ten million messages, 32 octets for a recipient.
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert (tally.unique, tally.doubled) == (10_003, 0)


def test_delays_go_into_the_histogram_of_their_run() -> None:
    latencies = {1: Histogram(), 2: Histogram()}
    tally = Tally(latencies.__getitem__)
    for run, number in ((1, 1), (2, 1), (1, 2), (2, 3), (2, 4)):
        tally.add([], 1, _message(run, number))
    assert [latency.count for latency in latencies.values()] == [2, 3]
    for latency in latencies.values():
        # Sent one nanosecond after the clock began.
        assert latency.max_ns <= tally.last_ns - 1
        assert latency.totals[0] <= latency.count * latency.max_ns
        expected = Histogram()
        expected.record(latency.max_ns)
        assert expected.counts.index(1) == max(at for at, count in enumerate(latency.counts) if count)


def test_enough_is_told_once() -> None:
    told = []
    tally = Tally(lambda run: Histogram(), 2, lambda: told.append(tally.messages))
    for _ in range(4):
        tally.add([], 1, Content())
    assert told == [2]
