"""kernels.replies against its plain twin, whole and cut everywhere, and its bounds."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.errors import RemoteProtocolError
from postroika.kernels.replies import ReplyParser
from tests.reference import replies as reference

Replies = list[tuple[int, str, tuple[str, ...]]]

TOKENS = st.lists(
    st.sampled_from(
        [b"250", b"2", b"5", b"550 ", b"550-", b"5.1.1 ", b"5.1.1", b"4.7.1 x", b"-", b" ", b"\r\n", b"\n", b"\r",
         b"ok", b"\xff", "é".encode(), b"\t", b"250 2.0.0 Ok\r\n", b"250-2.1.5 a\r\n", b"0", b"1234.1.1"]
    )
).map(b"".join)  # fmt: skip


def read(pieces: list[bytes], max_line_bytes: int = 2048, max_lines: int = 128) -> Replies:
    parser = ReplyParser(max_line_bytes, max_lines)
    replies = []
    for piece in pieces:
        parser.feed(piece)
        while (reply := parser.next()) is not None:
            replies.append(reply)
    return replies


def rest_of(parser: ReplyParser) -> Replies:
    replies = []
    while (reply := parser.next()) is not None:
        replies.append(reply)
    return replies


def outcome(pieces: list[bytes], *bounds: int) -> Replies | str:
    try:
        return read(pieces, *bounds)
    except RemoteProtocolError:
        return "error"


@given(stream=TOKENS, cuts=st.lists(st.integers(min_value=0, max_value=80)), bound=st.sampled_from([3, 5, 12, 2048]))
def test_any_cut_gives_what_the_twin_gives(stream: bytes, cuts: list[int], bound: int) -> None:
    at = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(at)]
    try:
        expected: Replies | str = reference.parse(stream, bound, 2)
    except RemoteProtocolError:
        expected = "error"
    assert outcome(pieces, bound, 2) == expected
    assert outcome([stream], bound, 2) == expected
    assert outcome([stream[i : i + 1] for i in range(len(stream))], bound, 2) == expected


@given(stream=TOKENS, digits=st.text("2345", max_size=4).map(str.encode), bound=st.sampled_from([3, 5, 12, 2048]))
def test_what_is_skipped_is_what_would_have_been_read(stream: bytes, digits: bytes, bound: int) -> None:
    parser = ReplyParser(bound, 2)
    parser.feed(stream)
    if not parser.skip(digits):
        with suppress(RemoteProtocolError):
            assert rest_of(parser) == read([stream], bound, 2)
        return
    other = ReplyParser(bound, 2)
    other.feed(stream)
    replies = [other.next() for _ in digits]
    assert [(reply[0] // 100, len(reply[2])) for reply in replies if reply] == [(int(chr(d)), 1) for d in digits]
    try:
        expected = rest_of(other)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            rest_of(parser)
    else:
        assert rest_of(parser) == expected


@pytest.mark.parametrize(
    ("stream", "skipped"),
    [
        (b"250 a\r\n250 2.1.5 b\r\n354 go\r\n550 no\r\n", True),
        (b"250 a\n250 \r\n354 go\r\n", True),
        (b"250 a\r\n250 b\r\n354 go\r", False),
        (b"250 a\r\n550 b\r\n354 go\r\n", False),
        (b"250 a\r\n250-b\r\n250 b\r\n354 go\r\n", False),
        (b"250 a\r\n250\r\n354 go\r\n", False),
        (b"250 a\r\n2x0 b\r\n354 go\r\n", False),
        (b"", False),
    ],
)
def test_replies_are_skipped_all_or_none(stream: bytes, skipped: bool) -> None:
    parser = ReplyParser()
    parser.feed(stream)
    assert parser.skip(b"223") is skipped


def test_the_end_of_a_reply_under_way_is_not_skipped() -> None:
    parser = ReplyParser()
    parser.feed(b"250-a\r\n")
    assert parser.next() is None
    parser.feed(b"250 b\r\n")
    assert not parser.skip(b"2")
    assert parser.next() == (250, "", ("a", "b"))


@pytest.mark.parametrize(
    ("stream", "replies"),
    [
        (b"250 2.1.5 Ok\r\n", [(250, "2.1.5", ("Ok",))]),
        (b"250 Ok\n354 go\n", [(250, "", ("Ok",)), (354, "", ("go",))]),
        (b"250\r\n", [(250, "", ("",))]),
        (b"250 \r\n", [(250, "", ("",))]),
        (b"550 5.7.1\r\n", [(550, "5.7.1", ("",))]),
        (b"550-5.7.1 no\r\n550-5.7.1 thanks\r\n550 5.7.1\r\n", [(550, "5.7.1", ("no", "thanks", ""))]),
        (b"550-no\r\n550 5.7.1 thanks\r\n", [(550, "5.7.1", ("no", "thanks"))]),
        (b"250 5.1.1 wrong class\r\n", [(250, "", ("5.1.1 wrong class",))]),
        (b"450 4.1234.1 too long\r\n", [(450, "", ("4.1234.1 too long",))]),
        (b"450 4.1.1, comma\r\n", [(450, "", ("4.1.1, comma",))]),
        (b"250-4.0.0 a\r\n450 b\r\n", [(450, "", ("4.0.0 a", "b"))]),
        (b"299 odd\r\n", [(299, "", ("odd",))]),
        (b"550 caf\xc3\xa9 caf\xe9\r\n", [(550, "", ("café caf\\xe9",))]),
        (b"220 a\0b\x1b\r\n", [(220, "", ("a\0b\x1b",))]),
        (b"221 bye\r\n250 un", [(221, "", ("bye",))]),
    ],
)
def test_replies_are_read_whole_octet_by_octet_and_at_every_split(stream: bytes, replies: Replies) -> None:
    assert read([stream]) == replies
    assert read([stream[i : i + 1] for i in range(len(stream))]) == replies
    for i in range(len(stream)):
        assert read([stream[:i], stream[i:]]) == replies


@pytest.mark.parametrize(
    "line", [b"\r\n", b"25\r\n", b"hello\r\n", b"250Ok\r\n", b"150 x\r\n", b"600 x\r\n", b"2x0 x\r\n"]
)
def test_what_is_not_a_reply_is_an_error(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not a reply"):
        read([line])


def test_line_without_end_is_cut_off_at_the_bound() -> None:
    assert read([b"250 " + b"x" * 60 + b"\r"], 65) == []
    with pytest.raises(RemoteProtocolError, match="more than 65 octets"):
        read([b"250 " + b"x" * 62], 65)


def test_reply_without_end_is_cut_off_at_the_bound() -> None:
    assert read([b"250-x\r\n" * 7 + b"250 x\r\n"], 64, 8) == [(250, "", ("x",) * 8)]
    with pytest.raises(RemoteProtocolError, match="more than 8 lines"):
        read([b"250-x\r\n" * 9], 64, 8)


def test_unfinished_reply_shows() -> None:
    parser = ReplyParser()
    assert not parser.unfinished
    parser.feed(b"250-a\r\n")
    assert parser.next() is None
    assert parser.unfinished
    parser.feed(b"250 b\r\n")
    assert parser.next() == (250, "", ("a", "b"))
    assert not parser.unfinished
