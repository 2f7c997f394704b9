"""inbound.header_copy: the header and nothing else, however the message was cut."""

from __future__ import annotations

import pytest

from postroika.inbound.header_copy import HeaderCopy


def copied(pieces: list[bytes], most_bytes: int = 1000) -> bytes:
    copy = HeaderCopy(most_bytes)
    for piece in pieces:
        copy.feed(piece)
    return copy.header


@pytest.mark.parametrize(
    ("message", "header"),
    [
        (b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore", b"A: b\r\nC: d\r\n"),
        (b"\r\nbody\r\n\r\nmore", b""),
        (b"A: b\r\n\r\n", b"A: b\r\n"),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"", b""),
        (b"no header, no empty line", b"no header, no empty line"),
    ],
)
def test_header_of_a_message_cut_anywhere(message: bytes, header: bytes) -> None:
    assert copied([message]) == header
    assert copied([message[i : i + 1] for i in range(len(message))]) == header
    for cut in range(len(message)):
        assert copied([message[:cut], message[cut:]]) == header
    assert copied([message, b"\r\n\r\n", b"trailing"]) in {header, header + b"\r\n", message + b"\r\n"}


@pytest.mark.parametrize("size", [1, 7, 100])
def test_memory_is_bounded(size: int) -> None:
    assert copied([b"x" * size] * 200, most_bytes=50) == b"x" * 50
    assert copied([b"x" * 60 + b"\r\n\r\n"], most_bytes=50) == b"x" * 50
