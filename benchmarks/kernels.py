"""The kernels beside what plain Python has for the same work.

The twins in tests/reference find out as much as the kernels do. `bytes.replace` only moves the bytes and checks
nothing. `memcpy` moves the same bytes to a place that is there already, `copy` to new bytes, as a kernel must that
leaves something out: below these no stuffing can get, unless it has nothing to change and hands on what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from benchmarks.report import Row
from postroika.bench.stuffing import DOTTED_EVERY, MESSAGE_BYTES, PIECE_BYTES, memcpy, stuffed, text
from postroika.bench.timing import time_in_turns
from postroika.kernels import datastream, stuff
from postroika.kernels.command import parse_parameters, parse_path, scan_command
from postroika.kernels.datastream import DataScanner
from postroika.kernels.dkim import Fields, RelaxedBody
from postroika.kernels.headers import HeaderScanner
from postroika.kernels.replies import ReplyParser
from postroika.kernels.stuff import Stuffer
from tests.reference import command as command_twin
from tests.reference import datastream as datastream_twin
from tests.reference import dkim as dkim_twin
from tests.reference import headers as headers_twin
from tests.reference import replies as replies_twin
from tests.reference import stuff as stuff_twin

_TURNS = 15

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
    around: Callable[[], AbstractContextManager[None]] = nullcontext


def measure() -> tuple[list[Row], dict[str, Any]]:
    """All cases: rows of the table, and the raw CPU seconds per call."""
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    for case in _cases():
        with case.around():
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


def _cases() -> Iterator[_Case]:
    plain, dotted = text(PIECE_BYTES), text(PIECE_BYTES, DOTTED_EVERY)
    some = f"1 line in {DOTTED_EVERY} dotted"
    yield _unstuff("64 KB, no dots", plain)
    yield _unstuff("64 KB amid other octets, no dots", plain, amid=True)
    yield _unstuff(f"64 KB, {some}", stuffed(dotted))
    yield _unstuff_message(f"4 KB with its end, {some}", stuffed(dotted[:MESSAGE_BYTES]))
    yield _stuff("64 KB, no dots", plain)
    yield _stuff(f"64 KB, {some}", dotted)
    yield _stuff(f"4 KB, {some}", dotted[:MESSAGE_BYTES])
    for name in datastream.variants()[1:]:
        yield _unstuff(f"64 KB, {some}, as with {name}", stuffed(dotted), variant=name)
        yield _stuff(f"64 KB, {some}, as with {name}", dotted, variant=name)
    yield _command("MAIL", _MAIL, b"FROM:")
    yield _command("RCPT", _RCPT, b"TO:")
    yield _reply()
    yield _header()
    yield _relaxed_body(
        "10 KB of prose", (b"The quick brown fox jumps over the lazy dog, as it  does. \r\n" * 170)[:10_240]
    )
    yield _relaxed_fields()


def _moved(octets: bytes) -> dict[str, Callable[[], object]]:
    """The two ways to copy."""
    view = memoryview(octets)
    return {"memcpy": memcpy(octets), "copy": lambda: bytes(view)}


@contextmanager
def _using(module: ModuleType, variant: str) -> Iterator[None]:
    best = module.variant()
    module.use_variant(variant)
    yield
    module.use_variant(best)


def _unstuff(words: str, stuffed: bytes, *, amid: bool = False, variant: str | None = None) -> _Case:
    scanner = DataScanner(dotted=True)
    size = len(stuffed)
    others = _moved(stuffed)
    start, buffer = (1, b"\n" + stuffed) if amid else (0, stuffed)
    if variant is None and not amid:
        others["bytes.replace"] = lambda: stuffed.replace(b"\r\n..", b"\r\n.")
        others["plain twin"] = lambda: datastream_twin.scan(stuffed, dotted=True, normalise=False)
    around = nullcontext if variant is None else partial(_using, datastream, variant)
    return _Case(f"unstuff {words}", "GB/s", size, lambda: scanner.feed(buffer, start, start + size), others, around)


def _unstuff_message(words: str, stuffed: bytes) -> _Case:
    wire = stuffed.removesuffix(b"\r\n") + b"\r\n.\r\n"
    size = len(wire)

    def kernel() -> None:
        scanner = DataScanner(dotted=True)
        scanner.feed(wire, 0, size)
        assert scanner.ended

    others = _moved(wire) | {"plain twin": lambda: datastream_twin.scan(wire, dotted=True, normalise=False)}
    return _Case(f"unstuff {words}", "GB/s", size, kernel, others)


def _stuff(words: str, body: bytes, *, variant: str | None = None) -> _Case:
    stuffer = Stuffer()
    others = _moved(body)
    if variant is None:
        others["bytes.replace"] = lambda: body.replace(b"\r\n.", b"\r\n..")
        others["plain twin"] = lambda: (stuff_twin.stuffed(body), stuff_twin.has_bare_newline(body))
    around = nullcontext if variant is None else partial(_using, stuff, variant)
    return _Case(f"stuff {words}", "GB/s", len(body), lambda: stuffer.feed(body), others, around)


def _command(verb: str, line: bytes, keyword: bytes) -> _Case:
    """A command line taken from the buffer, its path and its parameters."""

    def kernel() -> None:
        _, argument, _ = scan_command(line, 0, False)
        path = parse_path(argument, keyword)
        assert path is not None
        parse_parameters(argument, path.end)

    def twin() -> None:
        _, argument, _ = command_twin.scan_command(line, 0, False)
        path = command_twin.parse_path(argument, keyword)
        assert path is not None
        command_twin.parse_parameters(argument, path[4])

    return _Case(f"parse {verb}", "ns/command", 1, kernel, {"plain twin": twin})


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


def _relaxed_body(words: str, body: bytes) -> _Case:
    """As it is hashed to be signed, without the hash."""

    def kernel() -> None:
        relaxed = RelaxedBody(len)
        relaxed.feed(body)
        relaxed.finish()

    others: dict[str, Callable[[], object]] = {"plain twin": lambda: dkim_twin.relaxed_body(body)}
    return _Case(f"relax {words}", "GB/s", len(body), kernel, {**_moved(body), **others})


def _relaxed_fields() -> _Case:
    names = (b"From", b"To", b"Subject", b"Date", b"Cc", b"Message-ID", b"MIME-Version", b"Content-Type", b"List-Id")
    fields = [f"{name.decode()}: {'value ' * 8}\r\n\tfolded\r\n" for name in names]
    header = ("Received: from a.example by b.example\r\n" * 3 + "".join(fields)).encode()
    return _Case(
        "relax what is signed of a header",
        "ns/header",
        1,
        lambda: Fields(header).signed(names, 8),
        {"plain twin": lambda: dkim_twin.signed(header, names, 8)},
    )
