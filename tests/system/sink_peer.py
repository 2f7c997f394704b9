"""`postroika sink` as a peer: the one next hop that keeps what it takes octet for octet, and fails on request."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from postroika.bench import maildir
from tests.system.process import Process, free_port, wait_until


class OurSink:
    """A sink process."""

    def __init__(self, process: Process, host: str, port: int, directory: Path | None) -> None:
        self.process = process
        self.host = host
        self.port = port
        self._directory = directory

    @property
    def address(self) -> str:
        """ "host:port"."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def messages(self) -> list[maildir.Stored]:
        """All messages that it keeps; needs `store=True`."""
        assert self._directory is not None, "the sink keeps nothing: start it with store=True"
        return list(maildir.read(self._directory))

    def wait_for(self, count: int, within_s: float = 30.0) -> list[maildir.Stored]:
        """The messages, as soon as there are `count`."""
        assert self._directory is not None, "the sink keeps nothing: start it with store=True"
        new = self._directory / "new"
        wait_until(lambda: sum(1 for _ in new.iterdir()) >= count, f"{count} messages in the sink", within_s)
        return self.messages()

    def end(self, number: signal.Signals = signal.SIGTERM) -> dict[str, Any]:
        """Stop it, and return its counts without those that depend on time."""
        self.process.signal(number)
        assert self.process.wait() == 0, self.process.output()
        counts = json.loads("{" + self.process.output().partition("\n{")[2])
        assert isinstance(counts, dict)
        return {name: value for name, value in counts.items() if not name.endswith("_at")}


def start_our_sink(
    directory: Path,
    *options: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    more: tuple[str, ...] = (),
    store: bool = False,
) -> OurSink:
    """Start `postroika sink --json` with options. The caller stops its process.

    Args:
        directory: where its files go.
        host, port: where it listens; a free port without one.
        more: other hosts to listen at, on the same port.
        store: keep all messages.
    """
    port = free_port(host) if port is None else port
    command = [sys.executable, "-m", "postroika", "sink", "--json", *options]
    for one in (host, *more):
        command += ["--listen", f"[{one}]:{port}" if ":" in one else f"{one}:{port}"]
    kept = directory / f"sink-{host}-{port}" if store else None
    if kept is not None:
        command += ["--store", str(kept)]
    process = Process(command, log=directory / f"sink-{host}-{port}.log")
    try:
        process.wait_accepting(host, port)
    except BaseException:
        process.kill()
        raise
    return OurSink(process, host, port, kept)


StartOurSink = Callable[..., OurSink]


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[StartOurSink]:
    """`sink(*options, host=…, port=…, more=(), store=False)`: see `start_our_sink`."""
    with ExitStack() as stack:

        def start(*options: str, **how: Any) -> OurSink:
            running = start_our_sink(tmp_path, *options, **how)
            stack.enter_context(running.process)
            return running

        yield start
