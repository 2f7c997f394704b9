"""What the fuzzer feeds: for each kernel a function that takes any octets, and asserts that the kernel finds in them
what its plain twin finds; and the same for plain modules that read what strangers have written.

The first octets are choices (which flags, which variant, where the stream is cut), the rest is the stream. Kernels that
walk in wide registers get tidy text around it, as much as the fuzzer says, so that what is odd comes to lie at all
places of a register. They are fed whole, cut as the fuzzer says, and cut in two at each octet of what is not tidy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

from postroika.errors import RemoteProtocolError
from postroika.inbound.proxy_header import read_proxy_header
from postroika.kernels import command, datastream, stuff
from postroika.kernels.datastream import DataScanner
from postroika.kernels.dkim import Fields, RelaxedBody
from postroika.kernels.headers import HeaderScanner
from postroika.kernels.replies import ReplyParser
from postroika.kernels.stuff import Stuffer
from postroika.policy.relay import canonical_ip
from postroika.smtp.grammar import Refusal
from postroika.smtp.server_settings import ServerSettings
from postroika.smtp.xclient import ATTRIBUTES, parse_xclient
from postroika.sts.policy import parse_policy
from postroika.sts.record import read_records
from tests.reference import command as command_twin
from tests.reference import datastream as datastream_twin
from tests.reference import dkim as dkim_twin
from tests.reference import headers as headers_twin
from tests.reference import proxy_header as proxy_twin
from tests.reference import replies as replies_twin
from tests.reference import sts as sts_twin
from tests.reference import stuff as stuff_twin
from tests.reference.server_session import ALL, ServerSession

_TIDY_OCTETS = 256
_MOST_CUTS = 6
_SERVER_SETTINGS = tuple(
    ServerSettings(
        hostname="mx.test", max_message_bytes=60, max_recipients=2, max_bad_commands=3, max_junk_commands=5,
        max_received=1, max_header_bytes=40, bare_newlines=newlines, tls=tls, auth=tls == "offered",
    )
    for tls in ("none", "offered")
    for newlines in ("refuse", "normalise")
)  # fmt: skip

Choice = TypeVar("Choice")


class _Choices:
    """Takes choices off the front of the octets; where there are none left, each is 0."""

    def __init__(self, octets: bytes) -> None:
        self.rest = octets

    def number(self) -> int:
        number = self.rest[0] if self.rest else 0
        self.rest = self.rest[1:]
        return number

    def one_of(self, what: tuple[Choice, ...]) -> Choice:
        return what[self.number() % len(what)]


def _cut(stream: bytes, at: list[int]) -> list[bytes]:
    return [stream[a:b] for a, b in itertools.pairwise([0, *sorted(c % (len(stream) + 1) for c in at), len(stream)])]


def _ways(choices: _Choices, *, amid_tidy_text: bool) -> Iterator[tuple[bytes, list[bytes]]]:
    """The stream and its pieces, in all the ways in which it is to be fed."""
    lead = tail = b""
    if amid_tidy_text:
        pair = b"x" * choices.number() + b"\r\n" + b"x" * choices.number() + b"\r\n"
        lines = pair * (_TIDY_OCTETS // len(pair) + 1)
        lead = lines[len(lines) - choices.number() :]
        tail = lines[: choices.number()]
    cuts = [choices.number() + choices.number() * 256 for _ in range(choices.number() % _MOST_CUTS)]
    stream = lead + choices.rest + tail
    yield stream, [stream]
    yield stream, _cut(stream, cuts)
    for at in range(len(lead), min(len(lead) + len(choices.rest), len(lead) + 40) + 1):
        yield stream, [stream[:at], stream[at:]]


def unstuff(octets: bytes) -> None:
    choices = _Choices(octets)
    datastream.use_variant(choices.one_of(datastream.variants()))
    dotted, normalise = choices.one_of(((True, False), (False, False), (True, True), (False, True)))
    expected = None
    for stream, pieces in _ways(choices, amid_tidy_text=True):
        if expected is None:
            expected = datastream_twin.scan(stream, dotted=dotted, normalise=normalise)
        scanner = DataScanner(dotted=dotted, normalise=normalise)
        content, consumed = b"", 0
        for piece in pieces:
            found, behind = scanner.feed(piece, 0, len(piece))
            content += found
            consumed += behind
            if scanner.ended:
                break
        assert scanner.size == len(content)
        assert expected == datastream_twin.Scan(
            content,
            scanner.ended,
            consumed,
            scanner.bare_cr,
            scanner.bare_lf,
            scanner.nul,
            scanner.eight_bit,
            scanner.longest_line,
        )


def dot_stuff(octets: bytes) -> None:
    choices = _Choices(octets)
    stuff.use_variant(choices.one_of(stuff.variants()))
    expected = None
    for stream, pieces in _ways(choices, amid_tidy_text=True):
        if expected is None:
            expected = stuff_twin.stuffed(stream), stuff_twin.has_bare_newline(stream)
        stuffer, scanner = Stuffer(), Stuffer()
        wire = b"".join([stuffer.feed(piece) for piece in pieces]) + stuffer.finish()
        assert (wire, stuffer.bare_newline) == expected
        for piece in pieces:
            scanner.scan(piece)
        scanner.finish()
        assert scanner.bare_newline == expected[1]


def _outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except ValueError:
        return ValueError


def _path(argument: bytes, keyword: bytes) -> object:
    path = command.parse_path(argument, keyword)
    return None if path is None else (path.local, path.domain, path.routed, path.utf8, path.end)


def commands(octets: bytes) -> None:
    choices = _Choices(octets)
    lf_ends, keyword = choices.one_of(((False, b"TO:"), (True, b"FROM:")))
    start = choices.number()
    stream = choices.rest
    start = min(start, len(stream))
    assert command.scan_command(stream, start, lf_ends) == command_twin.scan_command(stream, start, lf_ends)
    assert command.find_line_end(stream, start) == command_twin.find_line_end(stream, start)
    for argument in (stream, keyword + b"<" + stream, keyword + b"<a@" + stream):
        assert _outcome(lambda: _path(argument, keyword)) == _outcome(  # noqa: B023
            lambda: command_twin.parse_path(argument, keyword)  # noqa: B023
        )
    assert _outcome(lambda: command.parse_parameters(stream, start)) == _outcome(
        lambda: command_twin.parse_parameters(stream, start)
    )


def replies(octets: bytes) -> None:
    choices = _Choices(octets)
    max_line_bytes, max_lines = choices.one_of(((2048, 128), (12, 2), (5, 3)))
    expected: object = None
    for stream, pieces in _ways(choices, amid_tidy_text=False):
        if expected is None:
            try:
                expected = replies_twin.parse(stream, max_line_bytes, max_lines)
            except RemoteProtocolError:
                expected = RemoteProtocolError
        parser = ReplyParser(max_line_bytes, max_lines)
        found: object
        try:
            found = []
            for piece in pieces:
                parser.feed(piece)
                found += iter(parser.next, None)
        except RemoteProtocolError:
            found = RemoteProtocolError
        assert found == expected


def headers(octets: bytes) -> None:
    expected = None
    for stream, pieces in _ways(_Choices(octets), amid_tidy_text=False):
        if expected is None:
            expected = headers_twin.scan(stream)
        scanner = HeaderScanner()
        for piece in pieces:
            assert scanner.feed(piece) == scanner.ended
        assert expected == headers_twin.Header(scanner.ended, scanner.size, scanner.received, scanner.eight_bit)


def relax(octets: bytes) -> None:
    choices = _Choices(octets)
    oversigned = choices.number() % 4
    names = (b"From", b"To", b"X")
    expected = None
    for stream, pieces in _ways(choices, amid_tidy_text=True):
        if expected is None:
            expected = dkim_twin.relaxed_body(stream)
            fields = Fields(stream)
            assert fields.count == len(dkim_twin.fields(stream))
            try:
                signed = dkim_twin.signed(stream, names, oversigned)
            except ValueError:
                signed = None
            try:
                assert fields.signed(names, oversigned) == signed
            except ValueError:
                assert signed is None
            assert fields.values(b"x", 3) == dkim_twin.values(stream, b"x")[:3]
        blocks: list[bytes] = []
        body = RelaxedBody(blocks.append)
        for piece in pieces:
            body.feed(piece)
        body.finish()
        assert b"".join(blocks) == expected


def proxy_headers(octets: bytes) -> None:
    choices = _Choices(octets)
    head = choices.one_of((b"", b"PROXY TCP4 ", b"PROXY TCP6 ", proxy_twin.SIGNATURE, b"whole"))
    stream = head + choices.rest
    if head == b"whole":
        fixed, block = choices.rest[:2], choices.rest[2:]
        if choices.number() % 2:  # nobody finds a checksum by trying
            block += b"\3\0\4" + bytes(4)
        stream = proxy_twin.SIGNATURE + fixed + len(block).to_bytes(2, "big") + block
        if block.endswith(b"\3\0\4\0\0\0\0"):
            stream = stream[:-4] + proxy_twin.crc32c(stream).to_bytes(4, "big")
    for at in {*range(min(len(stream), 40)), len(stream)}:
        assert _outcome(lambda: read_proxy_header(stream[:at])) == proxy_twin.read(stream[:at])  # noqa: B023


def xclient(octets: bytes) -> None:
    """It has no twin: what comes out has to be harmless, and to mean the same when it is said once more."""
    try:
        told = parse_xclient(octets, ATTRIBUTES)
    except Refusal:
        return
    said = []
    for name in ATTRIBUTES:
        value = getattr(told, name.lower())
        if value is None:
            continue
        if isinstance(value, int):
            assert 0 <= value <= 65535
        else:
            assert value.isprintable()
        if name.endswith("ADDR") and value:
            assert canonical_ip(value) == value
            value = f"IPV6:{value}" if ":" in value else value
        if name == "NAME":
            assert value.isascii()
            assert " " not in value
        text = str(value).encode() or b"[UNAVAILABLE]"
        said.append(b"%s=%s" % (name.encode(), b"".join(b"+%02X" % octet for octet in text)))
    assert parse_xclient(b" ".join(said), ATTRIBUTES) == told


def server_lane(octets: bytes) -> None:
    choices = _Choices(octets)
    settings = choices.one_of(_SERVER_SETTINGS)
    unasked = choices.one_of((ALL, frozenset({"mail", "data"}), frozenset({"rcpt"})))
    room = choices.number() % 3
    # A dialogue costs more than a scan: whole, cut in some places, octet by octet.
    whole, cut = itertools.islice(_ways(choices, amid_tidy_text=False), 2)
    for pieces in (whole[1], cut[1], [bytes([octet]) for octet in whole[0]]):
        sessions = (ServerSession(settings, None, room), ServerSession(settings, unasked, room))
        expected, heard = (session.hold([b"EHLO c\r\n", *pieces]) for session in sessions)
        assert heard == expected


def sts_policy(octets: bytes) -> None:
    assert _outcome(lambda: tuple(parse_policy(octets))) == _outcome(lambda: sts_twin.policy(octets))


def sts_record(octets: bytes) -> None:
    texts = octets.split(b"\n")
    assert _outcome(lambda: read_records(texts)) == _outcome(lambda: sts_twin.record_id(texts))


# By the name of the kernel, or of the parser.
TARGETS: dict[str, Callable[[bytes], None]] = {
    "command": commands,
    "datastream": unstuff,
    "dkim": relax,
    "headers": headers,
    "proxy_header": proxy_headers,
    "replies": replies,
    "server_lane": server_lane,
    "sts_policy": sts_policy,
    "sts_record": sts_record,
    "stuff": dot_stuff,
    "xclient": xclient,
}
