"""`mixed`: what a receipt waits for while a newsletter goes to the same destination.

A trickle of single messages at a fixed rate, first alone and then while a bulk load comes in as fast as the server
takes it. The sink tells the delays of the two loads apart by their marks. Latency counts from when each message was
due.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from postroika.bench.bench import Bench, Sent, Server, check_arrivals, latency, measure, wait_for_arrivals
from postroika.bench.left_out import LeftOut
from postroika.bench.load_settings import LoadSettings
from postroika.bench.record import Record
from postroika.bench.results import Figures, ScenarioResult, Turn
from postroika.bench.scenario import OURS, OWN_DRIVER, POSTFIX, Bar, Case, Setup, Void
from postroika.bench.scope import Scope
from postroika.bench.sink_settings import SinkSettings
from postroika.errors import PostroikaError

_OURS, _POSTFIX = "Postroika", "Postfix"
_ALONE, _UNDER_BULK = "alone", "under bulk"
_RATE_PER_S = 50.0
_BULK_SESSIONS = 50
_SIZE = "4096"
_CASES = (Case(label=_OURS, setup=Setup(peer=OURS)), Case(label=_POSTFIX, setup=Setup(peer=POSTFIX)))
# The bulk load runs for so long before the trickle begins, and ends after it.
_AHEAD_S = 1.0
_BULK_RATE = "bulk messages/s"


class _Mixed(msgspec.Struct, frozen=True, kw_only=True):
    """See `scenario.Scenario`."""

    name: str = "mixed"
    about: str = "4 KB messages, 50 a second, alone and during a bulk run to the same destination: how long each takes"
    drivers: tuple[str, ...] = (OWN_DRIVER,)
    headline: bool = False
    bars: tuple[Bar, ...] = (
        Bar(
            "trickle: end to end p99 under bulk ÷ alone",
            "at most",
            5,
            2,
            "×",
            lambda figures: figures.ratio(f"{_OURS}, {_UNDER_BULK}", f"{_OURS}, {_ALONE}", OWN_DRIVER, _p99_ms),
        ),
    )

    def estimate_s(self, scope: Scope) -> float:
        """How long it takes, roughly: 17 s for a server in each quick round."""
        servers = max(1, len(scope.cases(_CASES, others=True, headline=False)))
        return servers * (17 if scope.quick else 50) * (scope.rounds or _rounds(quick=scope.quick))

    def run(self, bench: Bench) -> ScenarioResult:
        """Alone and under bulk, for each server, round by round."""
        record = Record(self, bench)
        left_out = LeftOut(bench.teller, record.turns)
        trickle_s = 4.0 if bench.quick else 20.0
        cases = bench.cases(_CASES, others=True, headline=False)
        with record, bench.servers(case.setup for case in cases) as servers:
            pairs = list(zip(cases, servers, strict=True))
            record.contenders += [bench.contender(case, server, _trickle(case, trickle_s)) for case, server in pairs]
            for number in range(1, (bench.rounds or _rounds(quick=bench.quick)) + 1):
                for case, server in pairs:
                    labels = {how: f"{case.label}, {how}" for how in (_ALONE, _UNDER_BULK)}
                    if case.label in left_out:
                        continue
                    with left_out.unless_it_fails(case, server, labels.values()):
                        for how, label in labels.items():
                            bench.teller.step(f"{self.name}: round {number}: {label}")
                            bulk = _bulk(case, trickle_s) if how == _UNDER_BULK else None
                            turn = _turn(bench, server, label, number, _trickle(case, trickle_s), bulk)
                            record.turns.append(turn)
                            bench.teller.tell_turn(self.name, turn, "messages")
        return record.result(self.bars, remarks=[*left_out.remarks(), *_bulk_remark(record.figures())])


def _rounds(*, quick: bool) -> int:
    return 1 if quick else 5


def _p99_ms(turn: Turn) -> float | None:
    return turn.delivery_latency_ms.p99 if turn.delivery_latency_ms is not None else None


def _trickle(case: Case, trickle_s: float) -> LoadSettings:
    # Enough sessions that one reply which takes long does not keep the next message.
    messages = round(_RATE_PER_S * trickle_s)
    return LoadSettings(target="", sessions=10, messages=messages, size=_SIZE, rate_per_s=_RATE_PER_S, **case.load)


def _bulk(case: Case, trickle_s: float) -> LoadSettings:
    duration_s = trickle_s + 2 * _AHEAD_S
    return LoadSettings(target="", sessions=_BULK_SESSIONS, size=_SIZE, messages=0, duration_s=duration_s, **case.load)


def _turn(
    bench: Bench, server: Server, label: str, number: int, trickle: LoadSettings, bulk: LoadSettings | None
) -> Turn:
    """One trickle, beside the bulk if there is any; the figures are those of the trickle, but for CPU and memory.

    Raises:
        Void: the books do not balance.
    """
    driver = bench.drivers[OWN_DRIVER]
    try:
        with driver.sink(SinkSettings(), server.hop_port) as sink, ThreadPoolExecutor(1) as beside:
            with measure(server, sink) as measured:
                began_at = time.monotonic()
                future = None
                if bulk is not None:
                    future = beside.submit(driver.load, msgspec.structs.replace(bulk, target=server.target))
                    time.sleep(_AHEAD_S)
                sent = driver.load(msgspec.structs.replace(trickle, target=server.target))
                others = [future.result()] if future is not None else []
                wait_for_arrivals(sink, Sent.of(sent, *others))
                measured.work_is_done()
            counts = sink.stop()
            check_arrivals(counts, Sent.of(sent, *others))
    except PostroikaError as error:
        raise Void(f"{label}, round {number}: {error}") from None
    bulk_rate = sum(one.messages / (counts["last_at"] - one.started_at) for one in others)
    delays = counts["runs"][sent.run] if others else counts["latency_ms"]
    return Turn(
        contender=label,
        driver=OWN_DRIVER,
        round=number,
        messages=sent.messages,
        recipients=sent.recipients,
        bytes=sent.bytes,
        elapsed_s=sent.elapsed_s,
        accepted_s=sent.elapsed_s,
        timeline=tuple((round(at - began_at, 3), count) for at, count in counts["timeline"]),
        accept_latency_ms=latency(sent.latency_ms),
        delivery_latency_ms=latency(delays),
        figures={_BULK_RATE: bulk_rate} if others else {},
        **{**measured.figures(), "cpu_s": None},
    )


def _bulk_remark(figures: Figures) -> list[str]:
    """How much bulk there was: a server that takes little has little to overtake."""
    said = []
    for contender, driver in figures.pairs():
        rate = figures.median(contender, driver, lambda turn: turn.figures.get(_BULK_RATE))
        if rate is not None:
            said.append(f"{contender}: the bulk load went through at {rate:,.0f} messages/s")
    return said


SCENARIO = _Mixed()
