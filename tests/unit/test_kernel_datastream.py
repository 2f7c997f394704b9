"""kernels.datastream against its plain twin: whole, cut everywhere, with trailing bytes."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroika.kernels import datastream
from postroika.kernels.datastream import DataScanner
from tests.reference import datastream as reference

ATOMS = [b"\r\n", b"\r\n.\r\n", b"\r\n.", b"\r", b"\n", b".", b"..", b"a", b"word", b"\0", b"\xff", b"x" * 130]
WIRE = st.lists(st.sampled_from(ATOMS), max_size=20).map(b"".join)
CUTS = st.lists(st.integers(min_value=0, max_value=80), max_size=10)

# Text that is tidy for longer than any register, with lines that end at all kinds of places.
TIDY = b"".join(b"x" * length + b"\r\n" for length in (0, 76, 3, 76, 61, 62, 1, 0, 130, 40))


@pytest.fixture(scope="module", params=datastream.variants(), autouse=True)
def _every_variant(request: pytest.FixtureRequest) -> Iterator[None]:
    before = datastream.variant()
    datastream.use_variant(request.param)
    yield
    datastream.use_variant(before)


def feed(pieces: list[bytes], *, dotted: bool, normalise: bool) -> reference.Scan:
    scanner = DataScanner(dotted=dotted, normalise=normalise)
    content, consumed = b"", 0
    for piece in pieces:
        found, behind = scanner.feed(b"<" + piece + b">", 1, 1 + len(piece))
        content += found
        consumed += behind - 1
        if scanner.ended:
            break
    assert scanner.size == len(content)
    return reference.Scan(
        content,
        scanner.ended,
        consumed,
        scanner.bare_cr,
        scanner.bare_lf,
        scanner.nul,
        scanner.eight_bit,
        scanner.longest_line,
    )


def cut(octets: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(octets), *(c for c in cuts if c < len(octets))})
    return [octets[a:b] for a, b in itertools.pairwise(at)]


@given(wire=WIRE, cuts=CUTS, dotted=st.booleans(), normalise=st.booleans())
@example(wire=b".\r", cuts=[1], dotted=True, normalise=True)
@example(wire=b"\n.\r", cuts=[], dotted=True, normalise=True)
def test_any_cut_gives_what_the_twin_gives(wire: bytes, cuts: list[int], dotted: bool, normalise: bool) -> None:
    expected = reference.scan(wire, dotted=dotted, normalise=normalise)
    assert feed([wire], dotted=dotted, normalise=normalise) == expected
    assert feed(cut(wire, cuts), dotted=dotted, normalise=normalise) == expected
    assert feed([wire[i : i + 1] for i in range(len(wire))], dotted=dotted, normalise=normalise) == expected


ODD = [
    b"\r\n.", b"\r\n..\r\n", b"\r\n.\r\n", b"\r\n.\rx", b"\n.", b"\n", b"\r", b"\r\r\n", b".", b"\0", b"\xff",
    b"\r\n.\xff\0",
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("dotted", [True, False])
def test_what_is_odd_is_found_at_any_place(odd: bytes, dotted: bool) -> None:
    for at in range(len(TIDY) + 1):
        wire = TIDY[:at] + odd + TIDY[at:]
        expected = reference.scan(wire, dotted=dotted, normalise=False)
        assert feed([wire], dotted=dotted, normalise=False) == expected
        assert feed([wire[:70], wire[70:]], dotted=dotted, normalise=False) == expected


@given(wire=WIRE, trailing=st.binary(max_size=20))
def test_what_follows_the_final_dot_is_not_touched(wire: bytes, trailing: bytes) -> None:
    whole = wire + b"\r\n.\r\n"
    expected = reference.scan(whole, dotted=True, normalise=False)
    assert expected.ended
    assert feed([whole + trailing], dotted=True, normalise=False) == expected


@given(wire=WIRE, normalise=st.booleans())
def test_finish_gives_what_was_held_back(wire: bytes, normalise: bool) -> None:
    scanner = DataScanner(dotted=False, normalise=normalise)
    content = scanner.feed(wire, 0, len(wire))[0] + scanner.finish()
    assert (content, scanner.finish()) == (
        wire.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n") if normalise else wire,
        b"",
    )
    lonely = wire.replace(b"\r\n", b"")
    assert (scanner.bare_cr, scanner.bare_lf) == (b"\r" in lonely, b"\n" in lonely)


CLEAN = reference.Scan(b"", True, 0, False, False, False, False, 0)
# As sent behind DATA; what comes of it as received.
ENDS: list[tuple[bytes, reference.Scan]] = [
    (b".\r\n", dataclasses.replace(CLEAN, consumed=3)),
    (b"a\r\n.\r\n", dataclasses.replace(CLEAN, content=b"a\r\n", consumed=6, longest_line=1)),
    (b"..\r\n.\r\n", dataclasses.replace(CLEAN, content=b".\r\n", consumed=7, longest_line=1)),
    (b".x.\r\n..\r\n.\r\n", dataclasses.replace(CLEAN, content=b"x.\r\n.\r\n", consumed=12, longest_line=2)),
    (b"a.\r\n.\r\n", dataclasses.replace(CLEAN, content=b"a.\r\n", consumed=7, longest_line=2)),
]
# The same, with something else than CR LF . CR LF in the place of the end: none of these may end the message.
FALSE_ENDS = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\r\r\n", b"\r\r\n.\n", b"\n\n.\r\n",
    b"\r\n.\0\r\n", b"\r\n\0.\r\n", b"\0\r\n.\n", b"\r\n. \r\n", b"\r\n .\r\n", b"\r\n..\r\n", b"\r\n.\n\r\n",
    b"\n\r.\r\n",
    b"\r\r.\r\r", b"\n.\r", b"\r\n.\x85\r\n", b"\xc2\x85.\xc2\x85", b"\r\n.\x0b\n", b"\x0c.\x0c",
]  # fmt: skip


@pytest.mark.parametrize(("wire", "expected"), ENDS)
def test_message_ends_at_its_dot_wherever_it_is_split(wire: bytes, expected: reference.Scan) -> None:
    for at in range(len(wire) + 1):
        assert feed([wire[:at], wire[at:] + b"QUIT\r\n"], dotted=True, normalise=False) == expected


@pytest.mark.parametrize("false_end", FALSE_ENDS)
@pytest.mark.parametrize("normalise", [False, True])
def test_nothing_else_ends_a_message_wherever_it_is_split(false_end: bytes, normalise: bool) -> None:
    wire = b"a" + false_end + b"b\r\n.\r\n"
    for at in range(len(wire) + 1):
        scan = feed([wire[:at], wire[at:]], dotted=True, normalise=normalise)
        assert (scan.ended, scan.consumed) == (True, len(wire))
        assert b"b\r\n" in scan.content
    for at in range(len(wire) - 5):
        assert not feed([wire[:at]], dotted=True, normalise=normalise).ended


def test_long_line_is_measured_and_costs_no_memory_of_its_own() -> None:
    scanner = DataScanner(dotted=True)
    for _ in range(100):
        assert scanner.feed(b"x" * 10_000, 0, 10_000) == (b"x" * 10_000, 10_000)
    assert scanner.feed(b"\r\n.\r\n", 0, 5) == (b"\r\n", 5)
    assert (scanner.longest_line, scanner.size, scanner.ended) == (1_000_000, 1_000_002, True)


def test_piece_that_is_content_from_end_to_end_is_not_copied() -> None:
    scanner = DataScanner(dotted=True)
    assert scanner.feed(TIDY, 0, len(TIDY))[0] is TIDY
    assert scanner.feed(TIDY[:-1], 0, len(TIDY) - 1) == (TIDY[:-1], len(TIDY) - 1)
    counted = DataScanner(dotted=False)
    dots = b".\r\n" * 100
    assert counted.feed(dots, 0, len(dots))[0] is dots
    assert counted.feed(dots, 0, 3) == (b".\r\n", 3)


@pytest.mark.parametrize("dotted", [True, False])
def test_very_large_piece_is_walked_over_without_the_interpreters_lock(dotted: bool) -> None:
    wire = (b"x" * 76 + b"\r\n") * 15_000 + b"\r\n..\r\n" + (b"y" * 76 + b"\r\n") * 15_000
    content = wire.replace(b"\r\n..", b"\r\n.") if dotted else wire
    scanner = DataScanner(dotted=dotted)
    assert scanner.feed(wire, 0, len(wire)) == (content, len(wire))
    assert (scanner.longest_line, scanner.size, scanner.bare_cr, scanner.bare_lf) == (76, len(content), False, False)


def test_variant_that_does_not_run_here_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no variant 'abacus' here, but .*portable"):
        datastream.use_variant("abacus")


def test_longest_line_is_found_wherever_it_lies() -> None:
    rng = random.Random(1)
    for _ in range(3000):
        # So short that several lie in one register.
        lengths = rng.choices(range(65), k=rng.randrange(1, 16))
        wire = b"".join(b"x" * length + b"\r\n" for length in lengths)
        scanner = DataScanner(dotted=True)
        scanner.feed(wire, 0, len(wire))
        assert scanner.longest_line == max(lengths)


def test_offsets_outside_of_the_buffer_are_refused() -> None:
    scanner = DataScanner(dotted=True)
    for start, stop in ((-1, 2), (0, 4), (3, 2)):
        with pytest.raises(IndexError):
            scanner.feed(b"abc", start, stop)
