"""The steps that every message goes through, in the kernels, the sans-IO protocol and the records, beside the last run.

A step is a name, the octets that one call works on (0 where they do not matter), and the call. Inputs are made once,
outside of what is measured. Content is ordinary: lines of 76 octets, one in fifty begins with a dot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from benchmarks.report import Row
from postroika.bench.timing import time_in_turns
from postroika.kernels.command import parse_parameters, parse_path, scan_command
from postroika.kernels.datastream import DataScanner
from postroika.kernels.headers import HeaderScanner
from postroika.kernels.replies import ReplyParser
from postroika.kernels.stuff import Stuffer
from postroika.mail.envelope import Batch, Envelope, Recipient
from postroika.smtp.server import Server
from postroika.smtp.server_events import BodyEnd, BodyRefused, DataBegin, Helo, Mail, Rcpt, Refused
from postroika.smtp.server_settings import ServerSettings

_TURNS = 15
_SIZES = ((4 * 1024, "4 KB"), (100 * 1024, "100 KB"))


class Step(NamedTuple):
    """One thing to measure."""

    name: str
    octets: int
    call: Callable[[], object]


def measure(before_us: dict[str, float]) -> tuple[list[Row], dict[str, float]]:
    """All steps: rows of the table, and µs a call by the step's name. `before_us` is the latter of an earlier run."""
    every = list(steps())
    timings = time_in_turns({step.name: step.call for step in every}, _TURNS)
    rows: list[Row] = []
    raw: dict[str, float] = {}
    for step in every:
        raw[step.name] = us = timings[step.name].median_s * 1e6
        before = before_us.get(step.name)
        rows.append(Row(step.name, "µs", "less", us, "last run" if before else "", before, before and before / us))
        if step.octets:
            rows.append(Row(step.name, "MB/s", "more", step.octets / us))
    return rows, raw


def content(octets: int) -> bytes:
    """A message of about that size, unstuffed."""
    header = b"".join(b"X-Field-%d: some text that goes on for a while, as fields do\r\n" % i for i in range(12))
    lines = [b"." + b"x" * 73 + b"\r\n" if i % 50 == 49 else b"x" * 74 + b"\r\n" for i in range(octets // 76)]
    return header + b"\r\n" + b"".join(lines)


def stuffed(body: bytes) -> bytes:
    """The same as it goes over the wire, with the final dot."""
    return body.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def steps() -> Iterator[Step]:
    """All of them."""
    yield from _kernel_steps()
    yield from _server_steps()
    yield from _record_steps()


def _kernel_steps() -> Iterator[Step]:
    mail = b"MAIL FROM:<newsletter-2024@shop.example> SIZE=4096 BODY=8BITMIME\r\n"
    yield Step("command: find the line and its verb", 0, lambda: scan_command(mail, 0, False))
    argument = b"FROM:<newsletter-2024@shop.example> SIZE=4096 BODY=8BITMIME"
    yield Step("command: parse a path", 0, lambda: parse_path(argument, b"FROM:"))
    end = argument.index(b">") + 1
    yield Step("command: parse two parameters", 0, lambda: parse_parameters(argument, end))
    replies = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
    parser = ReplyParser()

    def read_replies() -> None:
        parser.feed(replies)
        while parser.next() is not None:
            pass

    yield Step("replies: read three", 0, read_replies)
    for octets, label in _SIZES:
        body = content(octets)
        wire = stuffed(body)
        yield Step(f"data: take a message of {label} off the wire", len(wire), partial(_scan, wire))
        yield Step(f"header: look through {label}", len(body), partial(_look, body))
        yield Step(f"stuff: put {label} on the wire", len(body), partial(_stuff, body))


def _scan(wire: bytes) -> bytes:
    return DataScanner(dotted=True).feed(wire, 0, len(wire))[0]


def _look(body: bytes) -> bool:
    return HeaderScanner().feed(body)


def _stuff(body: bytes) -> bytes:
    return Stuffer().feed(body)


def _server_steps() -> Iterator[Step]:
    settings = ServerSettings(hostname="mx.shop.example")
    for octets, label in _SIZES:
        body = content(octets)
        commands = b"MAIL FROM:<a@shop.example> SIZE=%d\r\nRCPT TO:<b@list.example>\r\nDATA\r\n" % len(body)
        session = _Session(settings)
        wire = stuffed(body)
        yield Step(
            f"server: one pipelined transaction with {label}",
            len(body),
            partial(session.transaction, commands, wire),
        )


class _Session:
    """Accepts everything, as a session without policy or spool."""

    def __init__(self, settings: ServerSettings) -> None:
        self._server = Server(settings)
        self._feed(b"EHLO client.example\r\n")

    def transaction(self, commands: bytes, wire: bytes) -> bytes:
        return self._feed(commands) + self._feed(wire)

    def _feed(self, chunk: bytes) -> bytes:
        server = self._server
        server.receive(chunk)
        while (event := server.next_event()) is not None:
            if isinstance(event, Helo | Mail | Rcpt | DataBegin | BodyEnd):
                server.answer(None)
            elif isinstance(event, BodyRefused | Refused):
                raise AssertionError(event)
        return server.take_output()


def _record_steps() -> Iterator[Step]:
    batch = Batch(
        envelope=Envelope(
            message=1 << 60,
            reverse_path="bounces+12345@shop.example",
            received_at=1_700_000_000.25,
            size_bytes=4096,
            chunks=1,
            client_ip="192.0.2.1",
            client_helo="app1.shop.example",
        ),
        number=0,
        destination="list.example",
        recipients=(Recipient("reader@list.example"),),
        class_id=0,
        due_ms=1_700_000_000_250,
    )
    encoded = msgspec.msgpack.encode(batch)
    decoder = msgspec.msgpack.Decoder(Batch)
    yield Step("spool: encode a batch", 0, lambda: msgspec.msgpack.encode(batch))
    yield Step("spool: decode a batch", 0, lambda: decoder.decode(encoded))
