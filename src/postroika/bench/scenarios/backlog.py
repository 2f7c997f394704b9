"""`backlog`: a next hop that was dead for long: what waits costs disk alone, and all of it goes out when it is back.

Mail for 20 destinations comes in while nothing listens at the next hop. The memory is looked at as the queue grows.
Then the server is killed and started again with a next hop that is back: what counts is the time from the start of the
process to the first message there, and the rate at which the rest comes, beside the rate of the same load with an empty
queue.
"""

from __future__ import annotations

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
_LOAD = LoadSettings(target="", sessions=50, size="4096", domains=20)
_STEPS = 5
_GROWTH_RESIDENT, _GROWTH_PRIVATE = "resident bytes a queued message", "private bytes a queued message"
_RESTART_S = "seconds from the start to the first delivery"
# Fewer are within the window of messages that is kept in memory whatever waits behind it.
_TELLING = 200_000
# The last probe of a destination must not be long ago when the next hop comes back.
_SETUP = Setup(peer=OURS, extra={"retry": {"delays_s": [1], "down_delays_s": [1]}})


class _Size(NamedTuple):
    """How many messages go through an empty queue, and how many are queued."""

    empty: int
    queued: int


_QUICK, _FULL = _Size(6_000, 20_000), _Size(50_000, 1_000_000)


def _of_drain(figure: str, least: int = 0) -> bars.Measure:
    """The figure, if there were at least so many messages."""
    return bars.largest(_DRAIN, OWN_DRIVER, lambda turn: turn.figures[figure] if turn.messages >= least else None)


class _Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """See `scenario.Scenario`."""

    name: str = "backlog"
    about: str = "a queue of 4 KB messages for a dead next hop: memory, restart after kill -9, drain"
    drivers: tuple[str, ...] = (OWN_DRIVER,)
    headline: bool = False
    bars: tuple[Bar, ...] = (
        Bar("RSS growth per queued message", "at most", 100, 16, "B", _of_drain(_GROWTH_RESIDENT, _TELLING)),
        Bar("restart to first delivery", "at most", 3, 1, "s", _of_drain(_RESTART_S)),
        Bar("drain ÷ empty queue", "at least", 0.7, 0.95, "×", bars.speed(_DRAIN, _EMPTY, OWN_DRIVER)),
    )

    def estimate_s(self, scope: Scope) -> float:
        """How long it takes, roughly; it has no rounds."""
        return 50 if scope.quick else 1500

    def run(self, bench: Bench) -> ScenarioResult:
        """Once."""
        record = Record(self, bench)
        size = _QUICK if bench.quick else _FULL
        remarks: list[str] = []
        case, load = Case(label=_DRAIN, setup=_SETUP), msgspec.structs.replace(_LOAD, messages=size.queued)
        with record, bench.server(case.setup) as server:
            record.contenders.append(bench.contender(case, server, load))
            record.turns.append(_empty_turn(bench, server, size))
            loads, grown = _fill(bench, server, size)
            remarks += _steps_told(grown)
            record.turns.append(_drain(bench, server, loads, grown))
        if bench.quick:
            remarks.append(
                f"{size.queued:,} messages are too few to tell a growth of some bytes for each: see the full size"
            )
        return record.result(self.bars, figures=_told(record.turns), remarks=remarks)


def _empty_turn(bench: Bench, server: Server, size: _Size) -> Turn:
    """The same load through an empty queue; a short one goes before it."""
    turn: Turn | None = None
    for number, messages in enumerate((size.empty // 5, size.empty)):
        bench.teller.step(f"backlog: {messages} messages with an empty queue")
        load = msgspec.structs.replace(_LOAD, messages=messages)
        turn = take_turn(bench, server, OWN_DRIVER, load, SinkSettings(), label=_EMPTY, number=number)
    assert turn is not None
    bench.teller.tell_turn("backlog", turn, "messages")
    return turn


def _fill(bench: Bench, server: Server, size: _Size) -> tuple[list[LoadResult], list[tuple[int, Memory]]]:
    """Queue the messages in steps; returns the loads, and the memory when so many were queued."""
    driver = bench.drivers[OWN_DRIVER]
    loads: list[LoadResult] = []
    grown: list[tuple[int, Memory]] = []
    for number in range(1, _STEPS + 1):
        bench.teller.step(f"backlog: {size.queued * number // _STEPS} messages for a dead next hop")
        load = msgspec.structs.replace(_LOAD, target=server.target, messages=size.queued // _STEPS)
        loads.append(driver.load(load))
        grown.append((Sent.of(*loads).messages, server.memory()))
    queued = server.running.queued()
    if queued != grown[-1][0]:
        raise Void(f"{grown[-1][0]} messages were acknowledged, {queued} are queued")
    return loads, grown


def _drain(bench: Bench, server: Server, loads: list[LoadResult], grown: list[tuple[int, Memory]]) -> Turn:
    """Kill it, let the next hop come back, start it again, and wait for everything.

    Raises:
        Void: mail was lost, doubled or damaged.
    """
    sent = Sent.of(*loads)
    server.running.kill()
    bench.teller.step(f"backlog: {sent.messages} messages go out")
    with bench.drivers[OWN_DRIVER].sink(SinkSettings(), server.hop_port) as sink:
        began_at = time.monotonic()
        server.running.restart()
        with measure(server, sink) as measured:
            with bench.teller.watch(lambda: sink.status()["messages"], sent.messages):
                wait_for_arrivals(sink, sent)
            measured.work_is_done()
        counts = sink.stop()
        check_arrivals(counts, sent)
    (first_count, first), (last_count, last) = grown[0], grown[-1]
    more = last_count - first_count
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
            _GROWTH_RESIDENT: (last.resident_bytes - first.resident_bytes) / more,
            _GROWTH_PRIVATE: (last.private_bytes - first.private_bytes) / more,
            _RESTART_S: counts["first_at"] - began_at,
        },
        **measured.figures(),
    )
    bench.teller.tell_turn("backlog", turn, "messages")
    return turn


def _steps_told(grown: list[tuple[int, Memory]]) -> list[str]:
    steps = ", ".join(
        f"{memory.resident_bytes / 1e6:,.0f} ({memory.private_bytes / 1e6:,.0f}) with {count:,}"
        for count, memory in grown
    )
    return [f"resident (private) MB: {steps} messages queued"]


def _told(turns: list[Turn]) -> list[Figure]:
    return [
        Figure(what=what, value=value, unit="s" if what == _RESTART_S else "B")
        for turn in turns
        for what, value in turn.figures.items()
        if turn.contender == _DRAIN
    ]


SCENARIO = _Backlog()
