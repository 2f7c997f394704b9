"""kernels.command against its plain twin; and the odd corners, each by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroika.kernels import command
from tests.reference import command as reference

WORDS = [
    b"MAIL", b"mail", b"Rcpt", b"DATA", b"BDAT", b"EHLO", b"helo", b"RSET", b"NOOP", b"QUIT", b"VRFY", b"EXPN", b"HELP",
    b"STARTTLS", b"AUTH", b"STARTTLSX", b"GET", b"post", b"Subject:", b":", b"X", b" ", b"  ", b"\t", b"\r\n", b"\r",
    b"\n",
    b"\0", b"\x16", b"\xc3\xa4", b"FROM:", b"<a@b>",
]  # fmt: skip
LINES = st.lists(st.sampled_from(WORDS), max_size=8).map(b"".join)
PATH_WORDS = [
    b"<", b">", b"@", b",", b":", b".", b"a", b"b-c", b"-", b"_", b'"', b"\\", b" ", b"[", b"]", b"192.0.2.1",
    b"IPv6:::1",
    b"\xc3\xa4", b"\xc3", b"\x7f", b"\t", b"%", b"!", b"x" * 64, b"y" * 200, b"postmaster", b'"a b"', b"@r.example:",
]  # fmt: skip
PATHS = st.lists(st.sampled_from(PATH_WORDS), max_size=10).map(b"".join)
PARAMETER_WORDS = [
    b" ",
    b"SIZE",
    b"=",
    b"1",
    b"-",
    b"body",
    b"8BITMIME",
    b"\xc3\xa4",
    b"\xff",
    b"\x7f",
    b"+3D",
    b";",
    b"\t",
]
PARAMETERS = st.lists(st.sampled_from(PARAMETER_WORDS), max_size=8).map(b"".join)


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except ValueError:
        return ValueError


@given(buffer=LINES, start=st.integers(min_value=0, max_value=5), lf_ends=st.booleans())
@example(buffer=b"\x16\x03", start=0, lf_ends=False)
def test_lines_are_scanned_as_by_the_twin(buffer: bytes, start: int, lf_ends: bool) -> None:
    start = min(start, len(buffer))
    expected = reference.scan_command(buffer, start, lf_ends)
    assert command.scan_command(buffer, start, lf_ends) == expected


def found_path(argument: bytes) -> object:
    path = command.parse_path(argument, b"TO:")
    return None if path is None else (path.local, path.domain, path.routed, path.utf8, path.end)


@given(path=PATHS)
@example(path=b"<a@b>")
@example(path=b"<@x,@y:a@b>")
def test_paths_are_parsed_as_by_the_twin(path: bytes) -> None:
    for argument in (
        b"TO:" + path,
        b"to:<" + path + b">",
        b"To: <a@" + path + b"> X",
        b"TO:<@h:" + path + b"@b>",
        path,
    ):
        assert outcome(lambda: found_path(argument)) == outcome(lambda: reference.parse_path(argument, b"TO:"))  # noqa: B023


@given(parameters=PARAMETERS)
def test_parameters_are_parsed_as_by_the_twin(parameters: bytes) -> None:
    argument = b"<a@b>" + parameters
    found = outcome(lambda: command.parse_parameters(argument, 5))
    assert found == outcome(lambda: reference.parse_parameters(argument, 5))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"<>", ("", "", False, False)),
        (b"<postmaster>", ("postmaster", "", False, False)),
        (b"<a.b@c.example>", ("a.b", "c.example", False, False)),
        (b'<"a b"@c>', ('"a b"', "c", False, False)),
        (b'<"a\\"@\\\\>"@c>', ('"a\\"@\\\\>"', "c", False, False)),
        (b'<""@c>', ('""', "c", False, False)),
        (b"<@a,@b.c:d@e>", ("d", "e", True, False)),
        (b"<@[192.0.2.1]:d@e>", ("d", "e", True, False)),
        (b"<a@[192.0.2.1]>", ("a", "[192.0.2.1]", False, False)),
        (b"<a@[IPv6:2001:db8::1]>", ("a", "[IPv6:2001:db8::1]", False, False)),
        (b"<a%b!c/d=e@f>", ("a%b!c/d=e", "f", False, False)),
        ("<пётр@почта.рф>".encode(), ("пётр", "почта.рф", False, True)),
        (b"<a@" + b"x" * 63 + b".y>", ("a", "x" * 63 + ".y", False, False)),
        (b"<" + b"l" * 512 + b"@x>", ("l" * 512, "x", False, False)),
        (b"<a@under_score.example>", ("a", "under_score.example", False, False)),
    ],
)
def test_path_is_taken(path: bytes, expected: tuple[str, str, bool, bool]) -> None:
    assert found_path(b"TO:" + path) == (*expected, 3 + len(path))
    assert found_path(b"tO:   " + path + b" X=y") == (*expected, 6 + len(path))


@pytest.mark.parametrize(
    "path",
    [
        b"<a", b"<a@>", b"<@b>", b"<a@b", b"<a@b>c", b"<a@b>>", b"<a b@c>", b"<a@b c>", b"<.a@b>", b"<a.@b>",
        b"<a..b@c>",
        b"<a@.b>", b"<a@b.>", b"<a@b..c>", b"<a@-b>", b"<a@b->", b'<"a@b>', b'<"a"b@c>', b'<a"b"@c>', b"<a@[]>",
        b"<a@[b>",
        b"<a@[b]c>", b"<a@b@c>", b"<@a:>", b"<@a,b:c@d>", b"<@a c@d>", b"<a@b\xff>", b"<\xc3\x28@b>", b"<a\x7f@b>",
        b"<a@b/c>",
        b"<a\t@b>", b"<(c)a@b>", b"<a@" + b"x" * 64 + b">", b"<" + b"l" * 513 + b"@x>", b"<a@" + b"x.y" * 90 + b">",
        b"<<a@b>>",
        b'<"a\\\xc3\xa4"@b>',
    ],
)  # fmt: skip
def test_path_is_refused(path: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        command.parse_path(b"TO:" + path, b"TO:")


@pytest.mark.parametrize("argument", [b"", b"TO", b"TO:", b"TO: ", b"TO:a@b", b"FROM:<a@b>", b"TO <a@b>"])
def test_argument_without_path_is_told_apart(argument: bytes) -> None:
    assert command.parse_path(argument, b"TO:") is None


def test_rest_of_a_line_is_skipped_to_its_cr_lf() -> None:
    assert command.find_line_end(b"a\nb\rc\n\r\nd", 0) == (8, 2)
    assert command.find_line_end(b"a\nb\r", 0) == (-1, 1)
    assert command.find_line_end(b"\n", 0) == (-1, 1)
    assert command.find_line_end(b"ab\r\n", 2) == (4, 0)


@pytest.mark.parametrize("start", [-1, 4])
def test_offsets_outside_of_the_buffer_are_refused(start: int) -> None:
    for call in (
        lambda: command.scan_command(b"abc", start, False),
        lambda: command.find_line_end(b"abc", start),
        lambda: command.parse_parameters(b"abc", start),
    ):
        with pytest.raises(IndexError):
            call()
