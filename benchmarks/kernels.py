"""The kernels beside what plain Python has for the same work.

The twins in tests/reference find out as much as the kernels do. `bytes.replace` only moves the bytes and checks
nothing; a copy of the bytes is the floor below which no stuffing can get.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.report import Row
from benchmarks.timing import time_in_turns
from postroika.kernels.command import parse_parameters, parse_path, scan_command
from postroika.kernels.datastream import DataScanner
from postroika.kernels.headers import HeaderScanner
from postroika.kernels.replies import ReplyParser
from postroika.kernels.stuff import Stuffer
from tests.reference import command as command_twin
from tests.reference import datastream as datastream_twin
from tests.reference import headers as headers_twin
from tests.reference import replies as replies_twin
from tests.reference import stuff as stuff_twin

_TURNS = 15
_PIECE_BYTES = 65_536  # as much as a session reads at once
_LINE = 76  # RFC 2045 §6.7, §6.8: what encoders make
_DOTTED_EVERY = 20

_MAIL = b"MAIL FROM:<bounce-81723@news.shop.example> SIZE=4096 BODY=8BITMIME\r\n"
_RCPT = b"RCPT TO:<jane.doe@mail.example>\r\n"
_REPLY = b"250 2.1.5 <jane.doe@mail.example> recipient ok\r\n"


@dataclass(frozen=True)
class _Case:
    """One kernel and what stands beside it; all do the same `amount` of work in a call."""

    what: str
    unit: str
    amount: float
    kernel: Callable[[], object]
    others: dict[str, Callable[[], object]]


def measure() -> tuple[list[Row], dict[str, Any]]:
    """All cases: rows of the table, and the raw CPU seconds per call."""
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    for case in _cases():
        timings = time_in_turns({"kernel": case.kernel, **case.others}, _TURNS)
        raw[case.what] = {name: timing.turns_s for name, timing in timings.items()}
        kernel = timings["kernel"]
        for name in case.others:
            other = timings[name]
            # The ratio of the times is how many times as good we are, whichever way the unit counts.
            times_as_good = other.ratio_to(kernel)
            if case.unit == "GB/s":
                ours, theirs = (case.amount / 1e9 / timing.median_s for timing in (kernel, other))
                rows.append(Row(case.what, case.unit, "more", ours, name, theirs, times_as_good))
            else:
                ours, theirs = (timing.median_s * 1e9 / case.amount for timing in (kernel, other))
                rows.append(Row(case.what, case.unit, "less", ours, name, theirs, times_as_good))
    return rows, raw


def _cases() -> list[_Case]:
    cases = []
    for words, dotted_every in (("no dots", 0), (f"1 line in {_DOTTED_EVERY} dotted", _DOTTED_EVERY)):
        body = _text(dotted_every)
        stuffed = body.replace(b"\r\n.", b"\r\n..")
        cases += [_unstuff(words, stuffed), _stuff(words, body)]
    return [*cases, _commands(), _reply(), _header()]


def _text(dotted_every: int) -> bytes:
    rng = random.Random(1)
    lines = ["".join(rng.choices(string.ascii_letters + " ", k=_LINE)) for _ in range(_PIECE_BYTES // (_LINE + 2))]
    if dotted_every:
        lines[::dotted_every] = ["." + line[1:] for line in lines[::dotted_every]]
    # The first line is never dotted: `replace` has no way to see that it begins one.
    lines[0] = "x" + lines[0][1:]
    return "".join(line + "\r\n" for line in lines).encode()


def _copy(octets: bytes) -> Callable[[], object]:
    view = memoryview(octets)
    return lambda: bytes(view)


def _unstuff(words: str, stuffed: bytes) -> _Case:
    scanner = DataScanner(dotted=True)
    size = len(stuffed)
    return _Case(
        f"unstuff, {words}",
        "GB/s",
        size,
        lambda: scanner.feed(stuffed, 0, size),
        {
            "copy": _copy(stuffed),
            "bytes.replace": lambda: stuffed.replace(b"\r\n..", b"\r\n."),
            "plain twin": lambda: datastream_twin.scan(stuffed, dotted=True, normalise=False),
        },
    )


def _stuff(words: str, body: bytes) -> _Case:
    stuffer = Stuffer()
    return _Case(
        f"stuff, {words}",
        "GB/s",
        len(body),
        lambda: stuffer.feed(body),
        {
            "copy": _copy(body),
            "bytes.replace": lambda: body.replace(b"\r\n.", b"\r\n.."),
            "plain twin": lambda: (stuff_twin.stuffed(body), stuff_twin.has_bare_newline(body)),
        },
    )


def _commands() -> _Case:
    def kernel() -> None:
        for line, keyword in ((_MAIL, b"FROM:"), (_RCPT, b"TO:")):
            _, argument, _ = scan_command(line, 0, False)
            path = parse_path(argument, keyword)
            assert path is not None
            parse_parameters(argument, path.end)

    def twin() -> None:
        for line, keyword in ((_MAIL, b"FROM:"), (_RCPT, b"TO:")):
            _, argument, _ = command_twin.scan_command(line, 0, False)
            path = command_twin.parse_path(argument, keyword)
            assert path is not None
            command_twin.parse_parameters(argument, path[4])

    return _Case("parse MAIL, RCPT", "ns/command", 2, kernel, {"plain twin": twin})


def _reply() -> _Case:
    parser = ReplyParser()

    def kernel() -> None:
        parser.feed(_REPLY)
        parser.next()

    return _Case("parse a reply", "ns/reply", 1, kernel, {"plain twin": lambda: replies_twin.parse(_REPLY)})


def _header() -> _Case:
    fields = [f"X-Field-{number}: {'value ' * 10}\r\n" for number in range(12)]
    header = ("Received: from a.example by b.example\r\n" + "".join(fields) + "Subject: hello\r\n\r\n").encode()
    return _Case(
        "look at a header",
        "ns/header",
        1,
        lambda: HeaderScanner().feed(header),
        {"plain twin": lambda: headers_twin.scan(header)},
    )
