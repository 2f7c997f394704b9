"""Loads in turns: the scenario kind that most are, and the one turn that others use too.

Promise: rounds are interleaved (ours, theirs, …, the floor; ours, theirs, …); each turn has a sink of its own, so that
what it counts belongs to that turn alone; a turn ends when its mail is where it had to be and the server has come to
rest, and its books are balanced then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from postroika.bench.bench import (
    Bench,
    Sent,
    Server,
    check_arrivals,
    describe_sink,
    latency,
    measure,
    wait_for_arrivals,
)
from postroika.bench.left_out import REGULARS, LeftOut
from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.meter import Bystanders
from postroika.bench.plan import Plan
from postroika.bench.results import FLOOR, Contender, Figures, ScenarioResult, Turn, Unit, turns_text
from postroika.bench.scenario import OWN_DRIVER, Bar, Case, Size, Void
from postroika.bench.sink_settings import SinkSettings
from postroika.errors import PostroikaError

if TYPE_CHECKING:
    from postroika.bench.drivers import RunningSink
    from postroika.bench.scope import Scope

RESIDENT_ABOVE_IDLE = "resident bytes above idle"

# For estimates. What a server takes to start, to warm up and to stop; a turn to start its sink and its load, and the
# server to come to rest. Then how many times `turn_s` a server's turn takes, and one without a server: more in a quick
# run, since the warm-up shows the speed of one driver alone; less in a full one, where the fast are through before.
_SERVER_S = 2.0
_AROUND_TURN_S = 1.3
_QUICK_TURN = (1.2, 0.5)
_FULL_TURN = (0.75, 0.15)

Until = Literal["delivered", "accepted"]


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """A load in turns; see `scenario.Scenario`.

    Args:
        until: what stops the clock: the last message is in the sink, or has its 250 (delivery is suspended then).
        load, sink: of each turn, but for what a case changes.
        cases: those that the scenario says something about; ours and Postfix.
        others: whether other servers can take part, with no settings but those that all have.
        headline: whether they do so when they are not asked for.
        by_driver: fields of LoadSettings that differ with a driver.
        sinks: drivers that take the sink of another one.
        floor: whether to measure the load straight into the sink, which says nothing where the sink is slow on purpose.
    """

    name: str
    about: str
    unit: Unit
    load: LoadSettings
    cases: tuple[Case, ...]
    quick: Size
    full: Size
    drivers: tuple[str, ...] = (OWN_DRIVER,)
    by_driver: Mapping[str, Mapping[str, Any]] = {}
    sinks: Mapping[str, str] = {}
    until: Until = "delivered"
    sink: SinkSettings = SinkSettings()
    others: bool = True
    headline: bool = False
    floor: bool = True
    bars: tuple[Bar, ...] = ()

    def estimate_s(self, scope: Scope) -> float:
        """How long it takes, roughly: its servers, their warm-up, and all turns."""
        size = self.quick if scope.quick else self.full
        rounds = scope.rounds or size.rounds
        cases = scope.cases(self.cases, others=self.others, headline=self.headline)
        if size.estimate_s:
            return size.estimate_s * rounds / size.rounds * len(cases) / len(self.cases)
        drivers = [name for name in self.drivers if name in scope.driver_names]
        turns = sum(
            _rounds_of(case, rounds, quick=scope.quick)
            for case in cases
            for driver in drivers
            if case.drivers is None or driver in case.drivers
        )
        of_turn, of_floor = _QUICK_TURN if scope.quick else _FULL_TURN
        floors = rounds * len(drivers) * self.floor
        return (
            _SERVER_S * len(cases)
            + _AROUND_TURN_S * (len(cases) + turns + floors)
            + size.turn_s * (turns * of_turn + floors * of_floor)
        )

    def run(self, bench: Bench) -> ScenarioResult:
        """All rounds."""
        return _Run(self, bench).run()

    def before_round(self, bench: Bench) -> None:
        """For scenarios that measure something beside their turns."""


class _Run:
    """One run of such a scenario."""

    def __init__(self, scenario: Turns, bench: Bench) -> None:
        self._scenario = scenario
        self._bench = bench
        self._size = scenario.quick if bench.quick else scenario.full
        self._rounds = bench.rounds or self._size.rounds
        self._plan = Plan(self._size)
        self._turns: list[Turn] = []
        self._contenders: list[Contender] = []
        self._left_out = LeftOut(bench.teller, self._turns)
        self._drivers = [name for name in scenario.drivers if name in bench.driver_names]
        cases = bench.cases(scenario.cases, others=scenario.others, headline=scenario.headline)
        self._cases = [case for case in cases if self._drivers_of(case)]

    def run(self) -> ScenarioResult:
        """Start the servers, warm up, take turns."""
        began, void, interrupted = time.monotonic(), "", ""
        scenario, bench = self._scenario, self._bench
        try:
            with bench.servers(case.setup for case in self._cases) as servers:
                pairs = list(zip(self._cases, servers, strict=True))
                self._contenders = [bench.contender(case, server, self._load(case)) for case, server in pairs]
                for case, server in pairs:
                    with self._left_out.unless_it_fails(case, server):
                        self._warm_up(case, server)
                for number in range(1, self._rounds + 1):
                    scenario.before_round(bench)
                    for driver in self._drivers:
                        self._round(number, driver, pairs)
        except PostroikaError as error:
            void = str(error)
        except KeyboardInterrupt:
            if not self._turns:
                raise
            interrupted = f"in round {self._turns[-1].round} of {self._rounds}, after {turns_text(self._turns)}"
        figures = Figures(self._turns, scenario.unit)
        return ScenarioResult(
            name=scenario.name,
            about=scenario.about,
            size=bench.size,
            unit=scenario.unit,
            took_s=time.monotonic() - began,
            contenders=tuple(self._contenders),
            turns=tuple(self._turns),
            bars=tuple(bar.against(figures) for bar in scenario.bars),
            remarks=tuple(self._remarks()),
            void=void,
            interrupted=interrupted,
        )

    def _load(self, case: Case | None, driver: str = "", messages: int | None = None) -> LoadSettings:
        changes = {**self._size.load, **(case.load if case is not None else {})}
        changes |= self._scenario.by_driver.get(driver, {})
        changes["messages"] = self._size.messages if messages is None else messages
        return msgspec.structs.replace(self._scenario.load, **changes)

    def _drivers_of(self, case: Case) -> list[str]:
        return [name for name in self._drivers if case.drivers is None or name in case.drivers]

    def _rounds_of(self, case: Case) -> int:
        return _rounds_of(case, self._rounds, quick=self._bench.quick)

    def _warm_up(self, case: Case, server: Server) -> None:
        if not self._size.warm_up:
            return
        first = self._drivers_of(case)[0]
        self._bench.teller.step(f"{self._scenario.name}: warming up {case.label}")
        messages = self._size.warm_up if case.setup.peer in REGULARS else math.ceil(self._size.warm_up / 4)
        turn = self._turn(case, server, first, 0, messages)
        for driver in self._drivers:
            self._plan.warmed_up(case.label, driver, turn.messages, turn.elapsed_s)

    def _round(self, number: int, driver: str, pairs: list[tuple[Case, Server]]) -> None:
        """Every contender, and the floor."""
        turns: list[tuple[Case | None, Server | None]] = [
            pair
            for pair in pairs
            if driver in self._drivers_of(pair[0])
            and number <= self._rounds_of(pair[0])
            and pair[0].label not in self._left_out
        ]
        if self._scenario.floor:
            turns.append((None, None))
        for case, server in turns:
            label = case.label if case is not None else FLOOR
            self._bench.teller.step(f"{self._scenario.name}: round {number} of {self._rounds}, {driver}: {label}")
            load = self._load(case)
            with self._left_out.unless_it_fails(case, server):
                turn = self._turn(case, server, driver, number, self._plan.messages(label, driver, 2 * load.sessions))
                self._plan.moved(label, driver, turn.messages, turn.elapsed_s)
                self._turns.append(turn)
                self._bench.teller.tell_turn(self._scenario.name, turn, self._scenario.unit)

    def _turn(self, case: Case | None, server: Server | None, driver: str, number: int, messages: int) -> Turn:
        return take_turn(
            self._bench,
            server,
            driver,
            self._load(case, driver, messages),
            self._scenario.sink,
            sink_driver=self._scenario.sinks.get(driver, driver),
            label=case.label if case is not None else FLOOR,
            number=number,
            until=self._scenario.until if server is not None else "delivered",
        )

    def _remarks(self) -> list[str]:
        said = [f"the sink: {told}"] if (told := describe_sink(self._scenario.sink)) else []
        said += self._left_out.remarks()
        counts = {turn.messages for turn in self._turns if turn.contender != FLOOR}
        if len(counts) > 1 and self._size.turn_s:
            said.append(
                f"a turn has up to {self._size.messages} messages; a server that cannot move them in "
                f"{self._size.turn_s:g} s gets as many as it can"
            )
        return said


def _rounds_of(case: Case, rounds: int, *, quick: bool) -> int:
    """Of a quick run, further servers see the first round only: each of them costs as much time as Postfix."""
    return min(1, rounds) if quick and case.setup.peer not in REGULARS else rounds


def take_turn(
    bench: Bench,
    server: Server | None,
    driver: str,
    load: LoadSettings,
    sink: SinkSettings,
    *,
    label: str,
    number: int,
    sink_driver: str = "",
    until: Until = "delivered",
) -> Turn:
    """One load through one server, or without any straight into the sink.

    Args:
        load: its target does not matter.
        sink_driver: whose sink it is; "" is that of the same driver.

    Raises:
        Void: the books do not balance, or it does not come to an end.
    """
    with ExitStack() as stack:
        try:
            if until == "accepted" and server is not None:
                return _accept_turn(bench, server, driver, load, label, number)
            sinks = bench.drivers[sink_driver or driver]
            running_sink = stack.enter_context(sinks.sink(sink, server.hop_port if server is not None else 0))
            began_at = time.monotonic()
            if server is None:
                bystanders = Bystanders(running_sink)
                sent = _send(bench, driver, running_sink, f"127.0.0.1:{running_sink.port}", load)
                used: dict[str, Any] = {"bystanders": bystanders.share()}
            else:
                with measure(server, running_sink) as measured:
                    sent = _send(bench, driver, running_sink, server.target, load)
                    measured.work_is_done()
                used = measured.figures()
            counts = running_sink.stop()
            check_arrivals(counts, Sent.of(sent))
        except PostroikaError as error:
            raise Void(f"{label}, round {number}, driver {driver}: {error}") from None
    figures = {}
    if server is not None:
        figures[RESIDENT_ABOVE_IDLE] = float(used["resident_bytes"] - server.idle_resident_bytes)
    return Turn(
        contender=label,
        driver=driver,
        round=number,
        messages=sent.messages,
        recipients=sent.recipients,
        bytes=sent.bytes,
        elapsed_s=counts["last_at"] - sent.started_at,
        accepted_s=sent.elapsed_s,
        load_cpu_s=sent.cpu_s,
        sink_cpu_s=counts.get("cpu_s"),
        timeline=tuple((round(at - began_at, 3), count) for at, count in counts.get("timeline", ())),
        accept_latency_ms=latency(sent.latency_ms),
        delivery_latency_ms=latency(counts.get("latency_ms")),
        figures=figures,
        **used,
    )


def _accept_turn(bench: Bench, server: Server, driver: str, load: LoadSettings, label: str, number: int) -> Turn:
    """The same without a sink: what was acknowledged has to be queued."""
    queued_before = server.running.queued()
    with measure(server) as measured:
        sent = bench.drivers[driver].load(msgspec.structs.replace(load, target=server.target))
        acknowledged = Sent.of(sent)
        measured.work_is_done()
    queued = server.running.queued() - queued_before
    if queued != acknowledged.messages:
        raise Void(f"{sent.messages} messages were acknowledged, {queued} are queued")
    return Turn(
        contender=label,
        driver=driver,
        round=number,
        messages=sent.messages,
        recipients=sent.recipients,
        bytes=sent.bytes,
        elapsed_s=sent.elapsed_s,
        accepted_s=sent.elapsed_s,
        load_cpu_s=sent.cpu_s,
        timeline=tuple(sent.timeline),
        accept_latency_ms=latency(sent.latency_ms),
        **measured.figures(),
    )


def _send(bench: Bench, driver: str, sink: RunningSink, target: str, load: LoadSettings) -> LoadResult:
    """Send a load, and wait until the sink has it."""
    total = load.messages if load.recipients == 1 else None
    with bench.teller.watch(lambda: int(sink.status()["messages"]), total):
        sent = bench.drivers[driver].load(msgspec.structs.replace(load, target=target))
        wait_for_arrivals(sink, Sent.of(sent))
    return sent
