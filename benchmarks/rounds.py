"""Runs a scenario: the floor, ours, Postfix, and again, so that good and bad moments of the machine strike all of them.

Both servers run all the time, and the one whose turn it is not is idle. Every round is checked: all messages came, none
came twice, and nothing is left in a queue that should be empty.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.meter import Bystanders, PeakMemory, cpu_s, wait_until_quiet
from benchmarks.report import Row
from benchmarks.scenario import Load, Scenario
from benchmarks.servers import CountingSink, Server, run_counting_sink, run_servers
from tests.system.peers import run_source

_PATIENCE_S = 120.0


class WrongCountError(Exception):
    """A message was lost or doubled: such a round has no figures."""


@dataclass(frozen=True)
class Round:
    """One load through one server. `bystanders` is the share of all cores that others used meanwhile."""

    seconds: float
    accepted_s: float
    cpu_s: float
    resident_bytes: int
    private_bytes: int
    bystanders: float


@dataclass(frozen=True)
class Results:
    """Rows of the table, all rounds by server, and the worst of the bystanders."""

    rows: list[Row]
    raw: dict[str, Any]
    bystanders: float


def run(name: str, scenario: Scenario, directory: Path, tell: Callable[[str], None]) -> Results:
    """Run a scenario with its queues below an empty directory that every user may enter.

    Raises:
        WrongCountError: messages were lost or doubled.
        TimeoutError: they did not come through in time.
    """
    rounds: dict[str, list[Round]] = {}
    floor: list[float] = []
    load = scenario.load
    with run_counting_sink(directory) as sink, run_servers(directory, scenario, sink) as servers:
        for server in servers:
            tell(f"{name}: warming up {server.name}")
            _send(server, sink, scenario, load.warm_up)
        for number in range(1, scenario.rounds + 1):
            floor.append(_floor_s(sink, load))
            for server in servers:
                done = _send(server, sink, scenario, load.messages)
                rounds.setdefault(server.name, []).append(done)
                tell(f"{name}: round {number}, {server.name}: {load.messages / done.seconds:,.0f} messages/s")
    bystanders = max(one.bystanders for some in rounds.values() for one in some)
    raw = {
        "messages": load.messages,
        "floor_s": floor,
        **{server: [asdict(one) for one in some] for server, some in rounds.items()},
    }
    return Results(_rows(name, load.messages, floor, **rounds), raw, bystanders)


def _send(server: Server, sink: CountingSink, scenario: Scenario, messages: int) -> Round:
    delivers = scenario.until == "delivered"
    sink_before, queued_before = sink.count(), server.queued()
    cpu_before_s = cpu_s(server.pid)
    bystanders = Bystanders(server.pid, sink.pid)
    with PeakMemory(server.pid) as memory:
        begin = time.monotonic()
        _source(server.address, scenario.load, messages)
        accepted = time.monotonic()
        if delivers:
            sink.wait_for(sink_before + messages, _PATIENCE_S)
        end = time.monotonic()
        share = bystanders.share()
        # What is still to do belongs to these messages: removing them from the queue, writing the log.
        wait_until_quiet(server.pid)
    came, kept = sink.count() - sink_before, server.queued() - queued_before
    expected = (messages, 0) if delivers else (0, messages)
    if (came, kept) != expected:
        raise WrongCountError(f"{server.name}: of {messages} messages {came} came to the sink, {kept} are queued")
    peak = memory.peak
    return Round(
        seconds=end - begin,
        accepted_s=accepted - begin,
        cpu_s=cpu_s(server.pid) - cpu_before_s,
        resident_bytes=peak.resident_bytes,
        private_bytes=peak.private_bytes,
        bystanders=share,
    )


def _floor_s(sink: CountingSink, load: Load) -> float:
    before = sink.count()
    begin = time.monotonic()
    _source(sink.address, load, load.messages)
    sink.wait_for(before + load.messages, _PATIENCE_S)
    return time.monotonic() - begin


def _source(address: str, load: Load, messages: int) -> None:
    run_source(
        address,
        messages=messages,
        sessions=load.sessions,
        size_bytes=load.size_bytes,
        within_s=_PATIENCE_S,
    )


def _rows(name: str, messages: int, floor: list[float], Postroika: list[Round], Postfix: list[Round]) -> list[Row]:  # noqa: N803
    pairs = list(zip(Postroika, Postfix, strict=True))

    def less_is_better(what: str, unit: str, figure: Callable[[Round], float]) -> Row:
        ours, theirs = statistics.median(map(figure, Postroika)), statistics.median(map(figure, Postfix))
        ratio = statistics.median(figure(b) / figure(a) for a, b in pairs)
        return Row(f"{name}: {what}", unit, "less", ours, "Postfix", theirs, ratio)

    rate = messages / statistics.median(one.seconds for one in Postroika)
    return [
        Row(
            f"{name}: speed",
            "messages/s",
            "more",
            rate,
            "Postfix",
            messages / statistics.median(one.seconds for one in Postfix),
            statistics.median(b.seconds / a.seconds for a, b in pairs),
        ),
        Row(
            f"{name}: speed",
            "messages/s",
            "more",
            rate,
            "no server between",
            messages / statistics.median(floor),
            statistics.median(bare_s / one.seconds for bare_s, one in zip(floor, Postroika, strict=True)),
        ),
        less_is_better("CPU", "ms/message", lambda one: 1000 * one.cpu_s / messages),
        less_is_better("peak memory, private", "MB", lambda one: one.private_bytes / 1e6),
        less_is_better("peak memory, resident", "MB", lambda one: one.resident_bytes / 1e6),
    ]
