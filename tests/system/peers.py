"""Real SMTP peers as fixtures: Postfix's smtp-sink and smtp-source, and swaks. Postfix itself is in `postfix_peer`.

`smtp_sink(...)` starts a sink and returns a `SmtpSink`; `smtp_source(...)` and `swaks(...)` run to their end. All that
a test started is stopped at its end. `start_sink` and `run_source` are the same without pytest around
them.
"""

from __future__ import annotations

import email
import email.policy
import itertools
import os
import pwd
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.system.process import Process, free_port, program, run


@dataclass(frozen=True)
class Received:
    """One message that a sink took.

    `content` begins with the sink's own Received: field and has LF line ends; dots are unstuffed.
    """

    client: str
    proto: str
    helo: str
    mail_args: str
    rcpt_args: tuple[str, ...]
    content: bytes

    @property
    def sender(self) -> str:
        """The reverse-path without brackets and parameters."""
        return _path(self.mail_args)

    @property
    def recipients(self) -> tuple[str, ...]:
        """The recipients without brackets and parameters, in the order of the RCPT commands."""
        return tuple(map(_path, self.rcpt_args))

    def parsed(self) -> EmailMessage:
        """The message as the standard library reads it."""
        return email.message_from_bytes(self.content, policy=email.policy.default)


def _path(argument: str) -> str:
    match = re.match(r"<((?:\"(?:[^\"\\]|\\.)*\"|[^>])*)>", argument)
    assert match is not None, argument
    return match[1]


def _read_dump(dump: bytes) -> Received:
    fields: dict[str, list[str]] = {}
    rest = dump
    while rest.startswith(b"X-"):
        line, _, rest = rest.partition(b"\n")
        name, _, value = line.decode(errors="surrogateescape").partition(": ")
        fields.setdefault(name, []).append(value)
    return Received(
        client=fields["X-Client-Addr"][0],
        proto=fields["X-Client-Proto"][0],
        helo=fields["X-Helo-Args"][0],
        mail_args=fields["X-Mail-Args"][0],
        rcpt_args=tuple(fields["X-Rcpt-Args"]),
        # The sink ends every dump with an empty line of its own.
        content=rest.removesuffix(b"\n"),
    )


class SmtpSink:
    """A running smtp-sink."""

    def __init__(self, process: Process, host: str, port: int, dump: Path | None) -> None:
        self.process = process
        self.host = host
        self.port = port
        self._dump = dump

    @property
    def address(self) -> str:
        """ "host:port"."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def messages(self) -> list[Received]:
        """All messages of transactions that are complete, oldest first; needs `dump=True`."""
        assert self._dump is not None, "the sink keeps nothing: start it with dump=True"
        files = sorted(self._dump.glob("m.*"), key=lambda file: file.stat().st_mtime_ns)
        dumps = [file.read_bytes() for file in files]
        # A file appears with MAIL; it is complete with the empty line that follows the final dot.
        return [_read_dump(dump) for dump in dumps if b"\nReceived: from " in dump and dump.endswith(b"\n\n")]

    def wait_for(self, count: int, within_s: float = 30.0) -> list[Received]:
        """The messages, as soon as there are `count`; fails the test when there are not within `within_s`."""
        assert self._dump is not None, "the sink keeps nothing: start it with dump=True"
        give_up_at = time.monotonic() + within_s
        while True:
            # Count file names first: reading thousands of files at every look would slow the sink itself.
            found = self.messages() if sum(1 for _ in self._dump.iterdir()) >= count else []
            if len(found) >= count:
                return found
            if time.monotonic() > give_up_at:
                pytest.fail(f"the sink has {len(self.messages())} messages of {count} after {within_s:g} s")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it; connections break."""
        self.process.stop()


StartSink = Callable[..., SmtpSink]


def start_sink(
    directory: Path,
    *options: str,
    dump: bool = False,
    host: str = "127.0.0.1",
    port: int | None = None,
    sessions: int = 1000,
) -> SmtpSink:
    """Start a sink on a free port, with its files in `directory`, which is made. The caller stops it.

    `options` are those of smtp-sink(1), as "-r", "RCPT". With `dump` it keeps every message as a file.
    """
    directory.mkdir()
    port = free_port(host) if port is None else port
    command = [program("smtp-sink", "postfix"), "-m", str(sessions), *options]
    if os.geteuid() == 0:
        # Required of root (smtp-sink(1)); it has to reach a directory that is open to nobody else.
        command += ["-u", pwd.getpwuid(0).pw_name]
    if dump:
        command += ["-d", f"{directory}/m."]
    command += [f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "1000"]
    process = Process(command, log=directory.with_suffix(".log"))
    sink = SmtpSink(process, host, port, directory if dump else None)
    try:
        process.wait_accepting(host, port)
    except BaseException:
        process.kill()
        raise
    return sink


@pytest.fixture
def smtp_sink(tmp_path: Path) -> Iterator[StartSink]:
    """`smtp_sink(*options, dump=False, host=…, port=…, sessions=1000)`: see `start_sink`."""
    with ExitStack() as stack:
        numbers = itertools.count(1)

        def start(*options: str, **how: Any) -> SmtpSink:
            sink = start_sink(tmp_path / f"smtp-sink-{next(numbers)}", *options, **how)
            stack.callback(sink.stop)
            return sink

        yield start


@dataclass(frozen=True)
class Sent:
    """What a run of smtp-source did."""

    seconds: float
    output: str


RunSource = Callable[..., Sent]


def run_source(
    address: str,
    *options: str,
    messages: int = 1,
    sessions: int = 1,
    size_bytes: int = 1024,
    recipients: int = 1,
    sender: str = "sender@source.test",
    recipient: str = "rcpt@sink.test",
    keep_open: bool = True,
    within_s: float = 120.0,
    check: bool = True,
) -> Sent:
    """Send with smtp-source(1); returns when all is accepted.

    smtp-source ends with an error when any reply is not 2xx or 3xx; the test fails then, unless `check` is False.
    Every message has a Message-Id of its own.
    """
    command = [program("smtp-source", "postfix"), *(["-d"] if keep_open else [])]
    command += ["-s", str(sessions), "-m", str(messages), "-l", str(size_bytes), "-r", str(recipients)]
    command += ["-f", sender, "-t", recipient, *options, address]
    begin = time.monotonic()
    result = run(command, within_s=within_s)
    if check and result.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}")
    return Sent(time.monotonic() - begin, result.stdout)


@pytest.fixture
def smtp_source() -> RunSource:
    """`smtp_source(address, messages=…, sessions=…, …)`: see `run_source`."""
    return run_source


@dataclass(frozen=True)
class Transcript:
    """What swaks said and heard."""

    returncode: int
    text: str

    @property
    def replies(self) -> list[str]:
        """The reply lines of the server, in order, without swaks' marks."""
        return [line[4:] for line in self.text.splitlines() if line.startswith(("<-  ", "<** ", "<~  ", "<~* "))]


RunSwaks = Callable[..., Transcript]


@pytest.fixture
def swaks() -> RunSwaks:
    """`swaks(address, *options, to=…, sender=…)` runs one SMTP dialogue with swaks(1) and returns its transcript."""

    def converse(
        address: str,
        *options: str,
        to: str = "rcpt@sink.test",
        sender: str = "sender@swaks.test",
        within_s: float = 60.0,
    ) -> Transcript:
        command = [program("swaks", "swaks"), "--server", address, "--from", sender, "--to", to, *options]
        result = run(command, within_s=within_s)
        return Transcript(result.returncode, result.stdout)

    return converse
