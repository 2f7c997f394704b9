"""kernels.dkim against its plain twin, whole and cut everywhere."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.kernels.dkim import Fields, RelaxedBody, relaxed_field
from tests.reference import dkim as reference

BODIES = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b"  ", b"a", b"word two", b"\0", b"\xff", b"x" * 130])
).map(b"".join)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b"To:",
            b"tO \t:",
            b"From: a\r\n",
            b"X",
            b" b\r\n",
            b"\xc3\xa4",
            b"\0",
        ]
    ),
    max_size=20,
).map(b"".join)
CUTS = st.lists(st.integers(min_value=0, max_value=60))
NAMES = (b"From", b"To", b"X", b"Subject")


def relaxed(pieces: list[bytes]) -> bytes:
    blocks: list[bytes] = []
    body = RelaxedBody(blocks.append)
    for piece in pieces:
        body.feed(piece)
    body.finish()
    assert max(map(len, blocks), default=0) <= 32_768
    return b"".join(blocks)


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(body), *(c for c in cuts if c < len(body))})
    return [body[a:b] for a, b in itertools.pairwise(at)]


@given(body=BODIES, cuts=CUTS)
def test_any_cut_gives_what_the_twin_gives(body: bytes, cuts: list[int]) -> None:
    expected = reference.relaxed_body(body)
    assert relaxed([body]) == expected
    assert relaxed(cut(body, cuts)) == expected
    assert relaxed([body[i : i + 1] for i in range(len(body))]) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),  # RFC 6376 §3.4.5
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\n\r\n", b""),
        (b" \t\r\n \r\n", b""),
        (b" ", b""),
        (b"no end", b"no end\r\n"),
        (b"no end ", b"no end\r\n"),
        (b"a\r\n\r\n \t\r\nb\r\n", b"a\r\n\r\n\r\nb\r\n"),
        (b"\r\n\r\na", b"\r\n\r\na\r\n"),
        (b"a \t b  \r\n", b"a b\r\n"),
        (b"a\rb\nc\r\n", b"a\rb\nc\r\n"),
        (b"a \r\r\n", b"a \r\r\n"),
        (b"a\r", b"a\r\r\n"),
        (b"\r", b"\r\r\n"),
        (b"\xff\xfe\0\r\n", b"\xff\xfe\0\r\n"),
    ],
)
def test_body_split_at_every_octet_is_relaxed_the_same(body: bytes, expected: bytes) -> None:
    assert reference.relaxed_body(body) == expected
    assert relaxed([body[i : i + 1] for i in range(len(body))]) == expected
    for i in range(len(body) + 1):
        assert relaxed([body[:i], body[i:]]) == expected


@pytest.mark.parametrize("odd", [b" ", b"\t", b"\r", b"\n", b"\r\n", b" \r\n", b"\r\n\r\n", b"  a", b"\r\n \r\n"])
def test_block_may_end_anywhere(odd: bytes) -> None:
    for before in range(32_760, 32_770):
        body = b"x" * before + odd + b"y" * 40_000 + odd
        assert relaxed([body]) == reference.relaxed_body(body)
        assert relaxed([body[:before], body[before:]]) == reference.relaxed_body(body)


def test_empty_lines_are_held_back_as_a_number() -> None:
    lines = 3_000_000
    digest = hashlib.sha256()
    largest = 0

    def update(block: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(block))
        digest.update(block)

    body = RelaxedBody(update)
    body.feed(b"a")
    for _ in range(lines // 1000):
        body.feed(b"\r\n" * 500 + b" \t\r\n" * 500)
    assert largest == 0
    body.feed(b"b")
    body.finish()
    assert digest.digest() == hashlib.sha256(b"a" + b"\r\n" * lines + b"b\r\n").digest()
    assert 0 < largest <= 32_768


def test_long_piece_is_walked_over_without_the_interpreters_lock() -> None:
    body = (b"some text of  a line \r\n" * 100 + b"\r\n") * 1000
    assert relaxed([body]) == reference.relaxed_body(body)


def test_error_of_the_hash_is_passed_on() -> None:
    def refuse(block: bytes) -> None:
        raise RuntimeError(f"{len(block)} octets")

    body = RelaxedBody(refuse)
    body.feed(b"a")
    with pytest.raises(RuntimeError, match="3 octets"):
        body.finish()


# --- fields


@given(header=HEADERS, oversigned=st.integers(min_value=0, max_value=4))
def test_fields_are_those_that_the_twin_finds(header: bytes, oversigned: int) -> None:
    fields = Fields(header)
    assert fields.count == len(reference.fields(header))
    assert fields.signed(NAMES, oversigned) == reference.signed(header, NAMES, oversigned)
    for name in NAMES:
        for most in (0, 1, 100):
            assert fields.values(name, most) == reference.values(header, name)[:most]


def test_fields_are_relaxed_as_in_the_example_of_the_rfc() -> None:
    header = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n"  # RFC 6376 §3.4.5
    assert Fields(header).signed((b"a", b"b"), 0) == (b"a:b", b"a:X\r\nb:Y Z\r\n")


def test_of_several_fields_of_a_name_the_lowest_comes_first() -> None:
    header = b"To: 1\r\nX: 2\r\nto: 3\r\nTO: 4\r\n"
    assert Fields(header).signed((b"To", b"x"), 1) == (b"To:To:To:To:x", b"to:4\r\nto:3\r\nto:1\r\nx:2\r\n")
    assert Fields(header).values(b"tO", 2) == [b" 1\r\n", b" 3\r\n"]


def test_missing_fields_are_named_if_none_may_be_added() -> None:
    assert Fields(b"To: 1\r\n").signed((b"From", b"Cc", b"Sender"), 2) == (b"From:Cc", b"")
    assert Fields(b"").signed((b"From",), 1) == (b"From", b"")
    assert Fields(b"").values(b"From", 1) == []


def test_field_without_line_end_is_a_field() -> None:
    assert Fields(b"A:b").signed((b"A",), 0) == (b"A", b"a:b\r\n")
    assert Fields(b"A:").signed((b"A",), 0) == (b"A", b"a:\r\n")


def test_what_is_no_field_is_passed_over_with_its_continuation() -> None:
    header = b"From me Mon\r\n To: not\r\nTo: a\r\nnonsense\r\n b\r\n\r\nSubject: c"
    assert Fields(header).signed((b"From", b"To", b"Subject"), 0) == (b"To:Subject", b"to:a\r\nsubject:c\r\n")


def many(count: int) -> tuple[bytes, bytes]:
    """Fields of one name; and all of them as they are signed."""
    header = b"".join(b"To: %d\r\n" % number for number in range(count))
    return header, b"".join(b"to:%d\r\n" % number for number in reversed(range(count)))


def test_no_more_than_sixteen_of_a_name_are_signed_where_some_may_be_added() -> None:
    header, _ = many(17)
    assert Fields(header).signed((b"To",), 0) == (b":".join([b"To"] * 16), many(17)[1][: -len(b"to:0\r\n")])


@pytest.mark.parametrize("count", [16, 17, 64])
def test_all_of_a_name_are_signed_where_none_may_be_added(count: int) -> None:
    header, relaxed = many(count)
    assert Fields(header).signed((b"To",), 1) == (b":".join([b"To"] * (count + 1)), relaxed)


def test_too_many_of_a_name_are_refused_where_none_may_be_added() -> None:
    header, _ = many(65)
    with pytest.raises(ValueError, match=r"^more than 64 fields To$"):
        Fields(header).signed((b"To", b"From"), 2)
    assert Fields(header).signed((b"From", b"To"), 1)[0].count(b"To") == 16


def test_large_header_is_taken() -> None:
    header = b"a:\n" * 300_000 + b"From: b\r\n"
    fields = Fields(header)
    assert (fields.count, fields.signed((b"From",), 1)) == (300_001, (b"From:From", b"from:b\r\n"))


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"A:\r\n b\r\n\t c \r\n", b"a:b c\r\n"),
        (b"A \t: b", b"a:b\r\n"),
        (b"A:b\rc\r\n", b"a:b\rc\r\n"),
        (b"A:b\n c\n", b"a:b c\r\n"),
    ],
)
def test_one_field_is_relaxed(field: bytes, expected: bytes) -> None:
    assert relaxed_field(field) == expected


@pytest.mark.parametrize("field", [b"", b"A", b" A: b", b"A: b\r\nB: c", b"A: b\r\nnonsense\r\n", b"\r\nA: b"])
def test_anything_but_one_field_is_refused(field: bytes) -> None:
    with pytest.raises(ValueError, match="not one field"):
        relaxed_field(field)
