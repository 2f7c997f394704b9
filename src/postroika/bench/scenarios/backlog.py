"""`backlog`: a next hop that was dead for long: what waits costs disk alone, and all of it goes out when it is back.

Mail for several destinations comes in while nothing listens at the next hop. The memory is looked at as the queue
grows, once each worker keeps as many messages of each destination in memory as it ever will, whatever waits behind
them; a line through these looks tells what a message more takes, and how sure that is. Mapped pages of the spool come
and go by some ten MB, so that with them only a long queue can tell it; allocated memory tells it with a short one.

Then the server is killed and started again with a next hop that is back: what counts is the time from the start of the
process to the first message there, and the rate at which the rest comes, beside the rate of the same load with an empty
queue. Nothing else runs between the start and the first message but the sink.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from typing import NamedTuple

import msgspec

from postroika.bench import bars
from postroika.bench.bench import Bench, Sent, Server, check_arrivals, latency, measure, wait_for_arrivals
from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.meter import Memory
from postroika.bench.record import Record
from postroika.bench.results import Figure, ScenarioResult, Turn
from postroika.bench.scenario import OURS, OWN_DRIVER, Bar, Case, Setup, Void
from postroika.bench.scope import Scope
from postroika.bench.sink_settings import SinkSettings
from postroika.bench.turns import take_turn

_EMPTY, _DRAIN = "Postroika, empty queue", "Postroika, draining"
_LOAD = LoadSettings(target="", sessions=50, size="4096")
_GROWTH_RESIDENT, _GROWTH_PRIVATE = "resident bytes a queued message", "allocated bytes a queued message"
_SURE = "two standard errors of {}"
_READY_S = "seconds from the start until it accepts mail"
_RESTART_S = "seconds from the start to the first delivery"
_GROWTH_B, _GROWTH_STRETCH_B = 100, 16
_LEAST_LOOKS = 4
# Batches of a destination that a worker keeps in memory: `window` in postroika.queue.limits, with few destinations.
_WINDOW = 500
# The last probe of a destination must not be long ago when the next hop comes back.
_SETUP = Setup(peer=OURS, extra={"retry": {"delays_s": [1], "down_delays_s": [1]}})


class _Size(NamedTuple):
    """How much of it.

    Args:
        empty: messages that go through an empty queue.
        queued: messages that are queued.
        step: queued between two looks at the memory.
        settled: from so many on the looks count, or from as many as fill the windows of all workers.
        domains: destinations.
    """

    empty: int
    queued: int
    step: int
    settled: int
    domains: int

    def load(self, messages: int) -> LoadSettings:
        """So many for all of the destinations."""
        return msgspec.structs.replace(_LOAD, messages=messages, domains=self.domains)


_QUICK = _Size(empty=6_000, queued=40_000, step=5_000, settled=10_000, domains=4)
_FULL = _Size(empty=50_000, queued=1_000_000, step=40_000, settled=40_000, domains=20)


def _of_drain(figure: str) -> bars.Measure:
    return bars.largest(_DRAIN, OWN_DRIVER, lambda turn: turn.figures[figure])


def _windows(size: _Size) -> int:
    """Of all workers."""
    return _WINDOW * size.domains * len(os.sched_getaffinity(0))


def _growth(figure: str) -> bars.Measure:
    """Not told where it could as well be more or less by half of what the bar allows."""

    def told(turn: Turn) -> float | None:
        sure = turn.figures.get(_SURE.format(figure))
        return turn.figures[figure] if sure is not None and sure <= _GROWTH_B / 2 else None

    return bars.largest(_DRAIN, OWN_DRIVER, told)


class _Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """See `scenario.Scenario`."""

    name: str = "backlog"
    about: str = "a queue of 4 KB messages for a dead next hop: memory, restart after kill -9, drain"
    drivers: tuple[str, ...] = (OWN_DRIVER,)
    headline: bool = False
    bars: tuple[Bar, ...] = (
        Bar(
            "RSS growth per queued message: allocated",
            "at most",
            _GROWTH_B,
            _GROWTH_STRETCH_B,
            "B",
            _growth(_GROWTH_PRIVATE),
        ),
        Bar(
            "RSS growth per queued message: with the pages of the map",
            "at most",
            _GROWTH_B,
            _GROWTH_STRETCH_B,
            "B",
            _growth(_GROWTH_RESIDENT),
        ),
        Bar("restart to first delivery", "at most", 3, 1, "s", _of_drain(_RESTART_S)),
        Bar("drain ÷ empty queue", "at least", 0.7, 0.95, "×", bars.speed(_DRAIN, _EMPTY, OWN_DRIVER)),
    )

    def estimate_s(self, scope: Scope) -> float:
        """How long it takes, roughly; it has no rounds."""
        return 45 if scope.quick else 1000

    def run(self, bench: Bench) -> ScenarioResult:
        """Once."""
        record = Record(self, bench)
        size = _QUICK if bench.quick else _FULL
        remarks: list[str] = []
        case, load = Case(label=_DRAIN, setup=_SETUP), size.load(size.queued)
        with record, bench.server(case.setup) as server:
            record.contenders.append(bench.contender(case, server, load))
            record.turns.append(_empty_turn(bench, server, size))
            loads, grown = _fill(bench, server, size)
            remarks += _steps_told(grown)
            settled = [(count, memory) for count, memory in grown if count >= max(size.settled, _windows(size))]
            record.turns.append(_drain(bench, server, loads, settled))
        return record.result(self.bars, figures=_told(record.turns), remarks=remarks)


def _empty_turn(bench: Bench, server: Server, size: _Size) -> Turn:
    """The same load through an empty queue; a short one goes before it."""
    turn: Turn | None = None
    for number, messages in enumerate((size.empty // 5, size.empty)):
        bench.teller.step(f"backlog: {messages} messages with an empty queue")
        turn = take_turn(bench, server, OWN_DRIVER, size.load(messages), SinkSettings(), label=_EMPTY, number=number)
    assert turn is not None
    bench.teller.tell_turn("backlog", turn, "messages")
    return turn


def _fill(bench: Bench, server: Server, size: _Size) -> tuple[list[LoadResult], list[tuple[int, Memory]]]:
    """Queue the messages in steps; returns the loads, and the memory when so many were queued."""
    driver = bench.drivers[OWN_DRIVER]
    loads: list[LoadResult] = []
    grown: list[tuple[int, Memory]] = []
    for queued in range(size.step, size.queued + 1, size.step):
        bench.teller.step(f"backlog: {queued:,} of {size.queued:,} messages for a dead next hop")
        loads.append(driver.load(msgspec.structs.replace(size.load(size.step), target=server.target)))
        grown.append((Sent.of(*loads).messages, server.memory()))
    queued = server.running.queued()
    if queued != grown[-1][0]:
        raise Void(f"{grown[-1][0]} messages were acknowledged, {queued} are queued")
    return loads, grown


def _drain(bench: Bench, server: Server, loads: list[LoadResult], grown: list[tuple[int, Memory]]) -> Turn:
    """Kill it, let the next hop come back, start it again, and wait for everything.

    Args:
        grown: the memory while so many were queued, for the figures.

    Raises:
        Void: mail was lost, doubled or damaged.
    """
    sent = Sent.of(*loads)
    server.running.kill()
    bench.teller.step(f"backlog: {sent.messages} messages go out")
    with bench.drivers[OWN_DRIVER].sink(SinkSettings(), server.hop_port) as sink:
        began_at = time.monotonic()
        server.running.restart()
        ready_s = time.monotonic() - began_at
        with measure(server, sink) as measured:
            with bench.teller.watch(lambda: sink.status()["messages"], sent.messages):
                wait_for_arrivals(sink, sent)
            measured.work_is_done()
        counts = sink.stop()
        check_arrivals(counts, sent)
    turn = Turn(
        contender=_DRAIN,
        driver=OWN_DRIVER,
        round=1,
        messages=sent.messages,
        recipients=sent.recipients,
        bytes=counts["bytes"],
        elapsed_s=counts["last_at"] - counts["first_at"],
        accepted_s=0.0,
        sink_cpu_s=counts["cpu_s"],
        timeline=tuple((round(at - began_at, 3), count) for at, count in counts["timeline"]),
        delivery_latency_ms=latency(counts["latency_ms"]),
        figures={
            **_grows(_GROWTH_PRIVATE, [(count, memory.private_bytes) for count, memory in grown]),
            **_grows(_GROWTH_RESIDENT, [(count, memory.resident_bytes) for count, memory in grown]),
            _READY_S: ready_s,
            _RESTART_S: counts["first_at"] - began_at,
        },
        **measured.figures(),
    )
    bench.teller.tell_turn("backlog", turn, "messages")
    return turn


def _grows(what: str, looks: list[tuple[int, int]]) -> dict[str, float]:
    """The slope of the line through these looks, and twice its standard error, as figures; none if there are few."""
    if len(looks) < _LEAST_LOOKS:
        return {}
    counts, held_bytes = zip(*looks, strict=True)
    line = statistics.linear_regression(counts, held_bytes)
    off = sum((held - line.slope * count - line.intercept) ** 2 for count, held in looks)
    spread = sum((count - statistics.mean(counts)) ** 2 for count in counts)
    return {what: line.slope, _SURE.format(what): 2 * math.sqrt(off / (len(looks) - 2) / spread)}


def _steps_told(grown: list[tuple[int, Memory]]) -> list[str]:
    steps = ", ".join(
        f"{memory.resident_bytes / 1e6:,.0f} ({memory.private_bytes / 1e6:,.1f}) with {count:,}"
        for count, memory in grown
    )
    return [f"resident (allocated) MB: {steps} messages queued"]


def _told(turns: list[Turn]) -> list[Figure]:
    return [
        Figure(what=what, value=value, unit="s" if what.startswith("seconds") else "B")
        for turn in turns
        for what, value in turn.figures.items()
        if turn.contender == _DRAIN
    ]


SCENARIO = _Backlog()
