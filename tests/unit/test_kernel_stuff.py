"""kernels.stuff against its plain twin, whole and cut everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.kernels import stuff
from postroika.kernels.stuff import Stuffer
from tests.reference import stuff as reference

BODIES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"word", b"\0", b"\xff", b"x" * 130])).map(
    b"".join
)
CUTS = st.lists(st.integers(min_value=0, max_value=60))

# Text that is tidy for longer than any register, with lines that end at all kinds of places.
TIDY = b"".join(b"x" * length + b"\r\n" for length in (0, 76, 3, 76, 61, 62, 1, 0, 130, 40))


@pytest.fixture(scope="module", params=stuff.variants(), autouse=True)
def _every_variant(request: pytest.FixtureRequest) -> Iterator[None]:
    before = stuff.variant()
    stuff.use_variant(request.param)
    yield
    stuff.use_variant(before)


def feed(pieces: list[bytes]) -> tuple[bytes, bool]:
    stuffer = Stuffer()
    out = b"".join([stuffer.feed(piece) for piece in pieces]) + stuffer.finish()
    return out, stuffer.bare_newline


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(body), *(c for c in cuts if c < len(body))})
    return [body[a:b] for a, b in itertools.pairwise(at)]


@given(body=BODIES, cuts=CUTS)
def test_any_cut_gives_what_the_twin_gives(body: bytes, cuts: list[int]) -> None:
    assert feed(cut(body, cuts)) == (reference.stuffed(body), reference.has_bare_newline(body))


@pytest.mark.parametrize(
    "odd", [b"\r\n.", b"\n.", b"\n..", b"\r\n.\r\n.\r\n.", b"\n", b"\r", b"\r.", b"\r\r\n", b".", b"\0"]
)
def test_what_is_odd_is_found_at_any_place(odd: bytes) -> None:
    for at in range(len(TIDY) + 1):
        body = TIDY[:at] + odd + TIDY[at:]
        expected = reference.stuffed(body), reference.has_bare_newline(body)
        assert feed([body]) == expected
        assert feed([body[:70], body[70:]]) == expected


@pytest.mark.parametrize("line", [b"\n.", b".\r\n", b"." * 40 + b"\r\n"])
def test_body_of_nothing_but_dots_is_stuffed(line: bytes) -> None:
    for count in (1, 31, 1000):
        assert feed([line * count]) == (reference.stuffed(line * count), reference.has_bare_newline(line * count))


def test_very_large_piece_is_walked_over_without_the_interpreters_lock() -> None:
    body = (b"x" * 76 + b"\r\n") * 15_000 + b".\r\n" * 70_000 + (b"y" * 76 + b"\r\n") * 15_000
    assert feed([body]) == (body.replace(b"\n.", b"\n..") + b".\r\n", False)
    stuffer = Stuffer()
    stuffer.scan(body + b"\n")
    assert stuffer.bare_newline


@given(body=BODIES, cuts=CUTS)
def test_scan_finds_the_same_bare_newlines_without_stuffing(body: bytes, cuts: list[int]) -> None:
    stuffer = Stuffer()
    for piece in cut(body, cuts):
        stuffer.scan(piece)
    stuffer.finish()
    assert stuffer.bare_newline == reference.has_bare_newline(body)


@pytest.mark.parametrize(
    ("body", "wire"),
    [
        (b"", b".\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"no end", b"no end\r\n.\r\n"),
        (b"a\r\n.\r\nMAIL FROM:<>\r\n", b"a\r\n..\r\nMAIL FROM:<>\r\n.\r\n"),
        (b"..\r\n.x\r\nx.\r\n", b"...\r\n..x\r\nx.\r\n.\r\n"),
    ],
)
def test_body_split_at_every_octet_is_stuffed_the_same(body: bytes, wire: bytes) -> None:
    assert feed([body]) == (wire, False)
    assert feed([body[i : i + 1] for i in range(len(body))]) == (wire, False)
    for i in range(len(body)):
        assert feed([body[:i], body[i:]]) == (wire, False)


@pytest.mark.parametrize(
    "body", [b"a\n.\r\n", b"a\r.\r\n", b"a\r\r\n", b"a\n\r\n", b"a\r", b"\n", b"\r\n\n", b"a\r\n.\r"]
)
def test_bare_newline_is_found_wherever_the_body_is_cut(body: bytes) -> None:
    for i in range(len(body) + 1):
        assert feed([body[:i], body[i:]])[1] is True


def test_piece_without_leading_dots_is_not_copied() -> None:
    piece = b"Subject: x\r\n\r\nA sentence. Another.\r\n" * 100
    assert Stuffer().feed(piece) is piece


def test_carriage_return_at_the_end_of_a_piece_is_judged_by_what_follows() -> None:
    stuffer = Stuffer()
    stuffer.feed(b"a\r")
    assert not stuffer.bare_newline
    stuffer.feed(b"")
    stuffer.feed(b"\n")
    assert not stuffer.bare_newline
    stuffer.feed(b"b\r")
    stuffer.feed(b"c")
    assert stuffer.bare_newline
