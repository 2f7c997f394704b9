"""kernels.headers against its plain twin, whole and cut everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.kernels.headers import HeaderScanner
from tests.reference import headers as reference

ATOMS = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"Received:", b"RECEIVED", b"received :", b"Received2:",
    b"Subject: x\r\n",
    b"From ", b"From", b"a", b"\xc3\xa4", b"\0", b"X-Y: z\r\n", b" folded\r\n",
]  # fmt: skip
CONTENT = st.lists(st.sampled_from(ATOMS), max_size=15).map(b"".join)


def feed(pieces: list[bytes]) -> reference.Header:
    scanner = HeaderScanner()
    for piece in pieces:
        assert scanner.feed(piece) == scanner.ended
    return reference.Header(scanner.ended, scanner.size, scanner.received, scanner.eight_bit)


@given(content=CONTENT, at=st.integers(min_value=0, max_value=100))
def test_any_cut_gives_what_the_twin_gives(content: bytes, at: int) -> None:
    expected = reference.scan(content)
    assert feed([content]) == expected
    assert feed([content[:at], content[at:]]) == expected
    assert feed([content[i : i + 1] for i in range(len(content))]) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\r\nReceived: x\r\n", (True, 2, 0, False)),
        (b"Received: a\r\n\tb\r\nreceived \t: c\r\nX-Received: d\r\n\r\nReceived: e\r\n", (True, 49, 2, False)),
        (b"Subject: \xc3\xa4\r\n\r\n", (True, 15, 0, True)),
        (b"Subject: a\r\n\r\n\xc3\xa4", (True, 14, 0, False)),
        (b"no header at all\r\nReceived: x\r\n", (True, 0, 0, False)),
        (b"From me Mon\r\nReceived: x\r\n\r\n", (True, 28, 1, False)),
        (b"A: b\r\nFrom me Mon\r\nReceived: x\r\n\r\n", (True, 6, 0, False)),
        (b" folded first\r\n", (True, 0, 0, False)),
        (b"Rec\xc3\xa4ived: x\r\n", (True, 0, 0, False)),
        (b"A: " + b"b" * 5000, (False, 5003, 0, False)),
    ],
)
def test_header_is_found(content: bytes, expected: tuple[bool, int, int, bool]) -> None:
    assert feed([content]) == reference.Header(*expected) == reference.scan(content)
