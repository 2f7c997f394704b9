"""What a run of the harness found out: the records of its JSON file, and how figures are got from them.

Promise: a report is made from these records alone, so that the table, the pages and the bars can be made again from the
file, and every figure in them can be followed down to single turns.

A **turn** is one load through one **contender** (a server with its settings), a **round** is one turn of each. Ratios
are made round by round, and what is told is their median: a slow quarter of a minute strikes both sides of a ratio.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sized
from typing import Any, Literal

import msgspec

Unit = Literal["messages", "recipients", "MB"]
"""What the speed of a scenario counts."""

FLOOR = "no server between"
"""The contender that is none: from the load straight to the sink."""

FORMAT = 1


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long messages took, in ms. `histogram`: the upper edge of each class that is not empty, and its count."""

    p50: float
    p95: float
    p99: float
    max: float
    histogram: tuple[tuple[float, int], ...] = ()


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One load through one contender.

    Args:
        driver: whose load and sink these were.
        elapsed_s: what the speed is about; from the first connection until the last message was where it had to be.
        accepted_s: until the last message was accepted.
        cpu_s: of all processes of the server, until it had come to rest.
        resident_bytes, private_bytes: the peaks; private is without pages of files and those that processes share.
        memory: [seconds since the turn began, resident bytes, private bytes].
        timeline: [seconds since the turn began, messages that had arrived by then].
        bystanders: the share of all cores that other programs used meanwhile.
        figures: what only this scenario measures.
    """

    contender: str
    driver: str
    round: int
    messages: int
    recipients: int
    bytes: int
    elapsed_s: float
    accepted_s: float
    cpu_s: float | None = None
    load_cpu_s: float | None = None
    sink_cpu_s: float | None = None
    resident_bytes: int | None = None
    private_bytes: int | None = None
    memory: tuple[tuple[float, int, int], ...] = ()
    timeline: tuple[tuple[float, int], ...] = ()
    accept_latency_ms: Latency | None = None
    delivery_latency_ms: Latency | None = None
    bystanders: float | None = None
    figures: dict[str, float] = {}


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A server as it was set up for one scenario.

    Args:
        settings: what it was configured with, as text.
        load: what it was sent, as a command.
        cpu_method: where its CPU time was read.
        interpreter: the label of that which ran it; "" is the one that ran the harness, or none.
    """

    label: str
    peer: str
    version: str
    settings: str
    load: str
    cpu_method: str = ""
    interpreter: str = ""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that a scenario measured beside its turns. `rounds`: if it is the median of several, these."""

    what: str
    value: float
    unit: str
    rounds: tuple[float, ...] = ()


class BarResult(msgspec.Struct, frozen=True, kw_only=True):
    """A bar, and what was measured. `sense` says which side of the bar is the good one; None was not measured."""

    what: str
    sense: Literal["at least", "at most"]
    bar: float
    stretch: float | None
    unit: str
    measured: float | None

    @property
    def verdict(self) -> Literal["stretch", "met", "missed", "not measured"]:
        """How it went."""
        if self.measured is None:
            return "not measured"
        if self.stretch is not None and self._holds(self.stretch):
            return "stretch"
        return "met" if self._holds(self.bar) else "missed"

    def _holds(self, limit: float) -> bool:
        assert self.measured is not None
        return self.measured >= limit if self.sense == "at least" else self.measured <= limit


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario.

    Args:
        size: "quick" or "full".
        void: why nothing of it counts: mail was lost, doubled or damaged, or it could not be run to its end.
        interrupted: where it was broken off by hand; the turns until then count.
        bystanders: the largest share of all cores that other programs used during a turn; None: nobody looked.
    """

    name: str
    about: str
    size: str
    unit: Unit
    took_s: float
    contenders: tuple[Contender, ...] = ()
    turns: tuple[Turn, ...] = ()
    figures: tuple[Figure, ...] = ()
    bars: tuple[BarResult, ...] = ()
    remarks: tuple[str, ...] = ()
    void: str = ""
    interrupted: str = ""
    bystanders: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the harness. `missing`: servers that were left out, and why."""

    at: str
    took_s: float
    machine: dict[str, Any]
    settings: dict[str, Any]
    missing: dict[str, str]
    scenarios: tuple[ScenarioResult, ...]
    format: int = FORMAT

    @property
    def void(self) -> tuple[str, ...]:
        """The names of scenarios that are void."""
        return tuple(one.name for one in self.scenarios if one.void)


TurnFigure = Callable[[Turn], float | None]


class Figures:
    """Answers questions about a scenario's turns. None: there are no turns that could tell."""

    def __init__(self, turns: Iterable[Turn], unit: Unit) -> None:
        self._turns = sorted(turns, key=lambda turn: turn.round)
        self._unit = unit

    def amount(self, turn: Turn) -> float:
        """How much went through, in the scenario's unit."""
        match self._unit:
            case "messages":
                return turn.messages
            case "recipients":
                return turn.recipients
            case "MB":
                return turn.bytes / 1e6

    def rate(self, turn: Turn) -> float | None:
        """Per second; None where nothing was to go through."""
        amount = self.amount(turn)
        return amount / turn.elapsed_s if amount and turn.elapsed_s > 0 else None

    def cpu_ms(self, turn: Turn) -> float | None:
        """CPU of the server for each unit, in ms."""
        amount = self.amount(turn)
        return None if turn.cpu_s is None or not amount else 1000 * turn.cpu_s / amount

    def pairs(self) -> list[tuple[str, str]]:
        """Every contender and driver, in the order of their first turns; FLOOR comes last."""
        seen = list(dict.fromkeys((turn.contender, turn.driver) for turn in self._turns))
        return sorted(seen, key=lambda pair: pair[0] == FLOOR)

    def drivers(self) -> list[str]:
        """All drivers, in the order of their first turns."""
        return list(dict.fromkeys(turn.driver for turn in self._turns))

    def turns(self, contender: str, driver: str) -> list[Turn]:
        """Round by round."""
        return [turn for turn in self._turns if (turn.contender, turn.driver) == (contender, driver)]

    def median(self, contender: str, driver: str, figure: TurnFigure) -> float | None:
        """Over the rounds."""
        return median(figure(turn) for turn in self.turns(contender, driver))

    def ratio(
        self, ours: str, theirs: str, driver: str, figure: TurnFigure, *, their_driver: str | None = None
    ) -> float | None:
        """The median of the ratios in each round that both took part in."""
        others = {turn.round: figure(turn) for turn in self.turns(theirs, their_driver or driver)}
        ratios = []
        for turn in self.turns(ours, driver):
            mine, other = figure(turn), others.get(turn.round)
            if mine is not None and other:
                ratios.append(mine / other)
        return median(ratios)


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def turns_text(turns: Sized) -> str:
    """How many there are."""
    return f"{len(turns)} turn{'s' if len(turns) != 1 else ''}"


def encode(report: Report) -> bytes:
    """As the JSON file."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def decode(raw: bytes) -> Report:
    """A report from its file.

    Raises:
        msgspec.DecodeError: it is not one.
    """
    return msgspec.json.decode(raw, type=Report)
