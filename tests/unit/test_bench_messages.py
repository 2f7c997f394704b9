"""The messages of the load generator: exact sizes, ordinary content, marks that are found again."""

from __future__ import annotations

import email
import email.policy
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.bench.messages import (
    Mark,
    Template,
    make_template,
    parse_mark,
    recipient_index,
    render,
    spread,
    templates,
)
from postroika.errors import PostroikaError

RUN = 0x00C0FFEE


def made(size: str, *, stuffed: bool = False) -> list[Template]:
    return templates(size, run=RUN, sender="a@load.test", date="Mon, 1 Jan 2024 00:00:00 +0000", stuffed=stuffed)[0]


def content(size: str, number: int = 7, sent_ns: int = 123) -> bytes:
    [template] = made(size)
    return render(template, number, sent_ns)


def unstuffed(wire: bytes) -> bytes:
    return b"\r\n".join(line.removeprefix(b".") for line in wire.split(b"\r\n"))


def test_marks_stand_first() -> None:
    body = content("4096").partition(b"\r\n\r\n")[2]
    assert content("4096", 42, 5_000_000_000).split(b"\r\n")[:4] == [
        b"X-Bench-Id: 00c0ffee.0000000042",
        b"X-Bench-Sent: 00000000005000000000",
        b"X-Bench-Sum: %08x" % zlib.crc32(body),
        b"Message-ID: <00c0ffee.0000000042@load.test>",
    ]


@given(st.integers(400, 9000))
def test_a_message_is_as_long_as_asked_for_and_made_of_whole_lines(size_bytes: int) -> None:
    message = content(str(size_bytes))
    assert len(message) == size_bytes
    assert message.endswith(b"\r\n")
    lines = message.split(b"\r\n")
    assert max(map(len, lines)) < 998
    assert not any(b"\r" in line or b"\n" in line for line in lines)


@given(st.integers(400, 9000), st.integers(0, 10**10 - 1), st.integers(0, 10**20 - 1))
def test_stuffed_for_data_and_plain_for_bdat_are_the_same_message(size_bytes: int, number: int, sent_ns: int) -> None:
    [dotted], [plain] = made(str(size_bytes), stuffed=True), made(str(size_bytes))
    assert unstuffed(render(dotted, number, sent_ns)) == render(plain, number, sent_ns)
    assert dotted.content_bytes == plain.content_bytes == size_bytes


def test_there_are_lines_that_begin_with_dots() -> None:
    lines = content("4096").split(b"\r\n")
    assert {b".", b".signature"} <= set(lines)


def test_it_is_ordinary_mail() -> None:
    message = email.message_from_bytes(content("4096"), policy=email.policy.default)
    assert message.defects == []
    assert {name: str(value) for name, value in message.items()[3:]} == {
        "Message-ID": "<00c0ffee.0000000007@load.test>",
        "Subject": "Your parcel is on its way",
        "From": "Shop <a@load.test>",
        "To": "Readers <readers@load.test>",
        "Date": "Mon, 01 Jan 2024 00:00:00 +0000",
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="us-ascii"',
    }


@given(st.integers(0, 10**10 - 1), st.integers(0, 10**20 - 1))
def test_marks_are_read_back(number: int, sent_ns: int) -> None:
    message = content("1k", number, sent_ns)
    body_sum = zlib.crc32(message.partition(b"\r\n\r\n")[2])
    assert parse_mark(message) == Mark(RUN, number, sent_ns, body_sum)
    assert parse_mark(b"Received: from a by b;\r\n\tlater\r\nX-Other: y\r\n" + message) == parse_mark(message)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"Subject: x\r\n\r\nX-Bench-Id: ",
        b"Subject: x\r\n\r\n" + content("1k"),
        b"Subject: " + content("1k"),
        content("1k")[:60],
        content("1k").replace(b"X-Bench-Sent", b"X-Bench-Spent"),
        content("1k").replace(b"00c0ffee.", b"00C0FFEE."),
    ],
)
def test_no_marks_where_there_are_none(head: bytes) -> None:
    assert parse_mark(head) is None


@pytest.mark.parametrize(("size", "size_bytes"), [("512", 512), ("4k", 4096), ("1M", 1 << 20)])
def test_sizes_may_have_a_unit(size: str, size_bytes: int) -> None:
    assert len(content(size)) == size_bytes


def test_sizes_come_in_their_shares() -> None:
    each, order = templates("4k:70,100k:25,1m:5", run=1, sender="", date="", stuffed=True)
    assert [one.content_bytes for one in each] == [4096, 102_400, 1 << 20]
    assert Counter(order) == {0: 14, 1: 5, 2: 1}
    assert "".join(map(str, order)) == "01000100201000100010"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any))
def test_any_weights_are_kept(weights: list[int]) -> None:
    counts = Counter(spread(weights))
    assert all(counts[i] * sum(weights) == weight * counts.total() for i, weight in enumerate(weights))


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ("", "size '' is not a number of octets, as 4096 or 4k, nor SIZE:WEIGHT,…"),
        ("4x", "size '4x' is not a number of octets, as 4096 or 4k, nor SIZE:WEIGHT,…"),
        ("4k:1,5k", "size '5k' is not a number of octets, as 4096 or 4k, nor SIZE:WEIGHT,…"),
        ("100", "size '100' is not within 337 (the header) to 1073741824 octets"),
        ("2000m", "size '2000m' is not within 337 (the header) to 1073741824 octets"),
        ("4k:0,5k:0", "all sizes have the weight 0"),
        ("4k:10001,5k:1", "the weights add up to 10002, more than 10000: use smaller ones"),
        ("file:/nowhere/x", "cannot read /nowhere/x: No such file or directory"),
    ],
)
def test_sizes_that_cannot_be_made_are_refused(size: str, reason: str) -> None:
    with pytest.raises(PostroikaError) as caught:
        made(size)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"Subject: x\n\nhi\n", b"Subject: x\r\n\r\nhi\r\n"),
        (b"Subject: x\r\n\r\n.hi", b"Subject: x\r\n\r\n.hi\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\n\r\n"),
        (b"", b"\r\n"),
        (b"\nno\n\nheader\n", b"\r\nno\r\n\r\nheader\r\n"),
    ],
)
def test_a_file_becomes_the_content_below_the_marks(tmp_path: Path, written: bytes, expected: bytes) -> None:
    (tmp_path / "mail").write_bytes(written)
    message = content(f"file:{tmp_path}/mail")
    assert message.split(b"load.test>\r\n")[1] == expected
    mark = parse_mark(message)
    assert mark is not None
    assert mark.sum == zlib.crc32(message.partition(b"\r\n\r\n")[2])


def test_a_file_with_bare_cr_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mail").write_bytes(b"Subject: x\r\n\r\na\rb\r\n")
    with pytest.raises(PostroikaError, match="has a CR without LF"):
        made(f"file:{tmp_path}/mail")


def test_the_sum_is_that_of_the_body_without_header() -> None:
    template = make_template(RUN, b"\r\n", stuffed=True)
    mark = parse_mark(render(template, 0, 0))
    assert mark == Mark(RUN, 0, 0, 0)


@pytest.mark.parametrize(("address", "index"), [("r0@d0.test", 0), ("r99999@x", 99999), ("rcpt@x", None), ("", None)])
def test_the_index_of_a_recipient_is_in_its_address(address: str, index: int | None) -> None:
    assert recipient_index(address) == index
