"""The servers that are compared, each with its queue below one directory, and the sink that they deliver to."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scenario import Scenario
from tests.system.peers import SmtpSink, start_sink
from tests.system.postfix_peer import run_postfix
from tests.system.server import Postroika

_TAIL_BYTES = 200
_COUNTER = re.compile(rb"mesg=(\d+)[\r\n]")
_LOOK_EVERY_S = 0.002


@dataclass(frozen=True)
class Server:
    """A running server. `queued` tells how many messages it holds."""

    name: str
    address: str
    pid: int
    queued: Callable[[], int]


class CountingSink:
    """smtp-sink with its running counters on (smtp-sink(1), -c)."""

    def __init__(self, sink: SmtpSink) -> None:
        self.address = sink.address
        self.pid = sink.process.pid
        self._log = sink.process.log

    def count(self) -> int:
        """Messages whose final dot it has seen, since its start."""
        with self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            found = _COUNTER.findall(log.read())
        return int(found[-1]) if found else 0

    def wait_for(self, count: int, within_s: float) -> None:
        """Return as soon as it has `count` messages.

        Raises:
            TimeoutError: it has fewer.
        """
        give_up_at = time.monotonic() + within_s
        while (has := self.count()) < count:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"the sink has {has} messages of {count} after {within_s:g} s")
            time.sleep(_LOOK_EVERY_S)


@contextmanager
def run_counting_sink(directory: Path) -> Iterator[CountingSink]:
    """A sink whose log is below `directory`."""
    sink = start_sink(directory / "sink", "-c")
    try:
        yield CountingSink(sink)
    finally:
        sink.stop()


@contextmanager
def run_servers(directory: Path, scenario: Scenario, sink: CountingSink) -> Iterator[list[Server]]:
    """Ours and Postfix, both with all mail routed to the sink; they end with the context."""
    with ExitStack() as stack:
        yield [_start_postroika(stack, directory, scenario, sink), _start_postfix(stack, directory, scenario, sink)]


def _start_postroika(stack: ExitStack, directory: Path, scenario: Scenario, sink: CountingSink) -> Server:
    workers = len(os.sched_getaffinity(0))
    sections = dict(scenario.postroika)
    # Its limits are those of each worker.
    connections = max(1, scenario.connections // workers)
    sections["delivery"] = {"max_connections_per_site": connections, **sections.get("delivery", {})}
    config = [f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{sink.address}"']
    for section, keys in sections.items():
        # JSON writes these values as TOML does.
        config += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    path = directory / "postroika"
    path.mkdir()
    server = stack.enter_context(Postroika(path, "\n".join(config), workers=workers))
    return Server("Postroika", f"127.0.0.1:{server.port}", server.process.pid, server.queued_batches)


def _start_postfix(stack: ExitStack, directory: Path, scenario: Scenario, sink: CountingSink) -> Server:
    path = directory / "postfix"
    path.mkdir()
    settings = {"default_destination_concurrency_limit": str(scenario.connections), **scenario.postfix}
    postfix = stack.enter_context(run_postfix(path, relayhost=sink.address, settings=settings))
    return Server("Postfix", postfix.address, postfix.process.pid, postfix.queue_length)
