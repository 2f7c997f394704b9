"""What bars are measured by: functions from a scenario's turns to one figure."""

from __future__ import annotations

from collections.abc import Callable

from postroika.bench.results import FLOOR, Figures, Latency, Turn, median

Measure = Callable[[Figures], float | None]


def speed(ours: str, theirs: str, driver: str) -> Measure:
    """Our speed divided by theirs."""
    return lambda figures: figures.ratio(ours, theirs, driver, figures.rate)


def floor_share(ours: str, driver: str) -> Measure:
    """Our speed divided by that of load and sink alone."""
    return speed(ours, FLOOR, driver)


def cpu(ours: str, theirs: str, driver: str) -> Measure:
    """Our CPU for each message divided by theirs."""
    return lambda figures: figures.ratio(ours, theirs, driver, figures.cpu_ms)


def first(*measures: Measure) -> Measure:
    """Of the first of these that can tell: when a driver sat out, another one has to do."""

    def measure(figures: Figures) -> float | None:
        return next((value for one in measures if (value := one(figures)) is not None), None)

    return measure


def accept_spread(ours: str, driver: str) -> Measure:
    """p99 divided by p50 of the time until a message is accepted."""

    def measure(figures: Figures) -> float | None:
        return median(_spread(turn.accept_latency_ms) for turn in figures.turns(ours, driver))

    return measure


def largest(ours: str, driver: str, figure: Callable[[Turn], float | None]) -> Measure:
    """The largest figure of all rounds."""

    def measure(figures: Figures) -> float | None:
        there = [value for turn in figures.turns(ours, driver) if (value := figure(turn)) is not None]
        return max(there, default=None)

    return measure


def _spread(latency: Latency | None) -> float | None:
    return latency.p99 / latency.p50 if latency is not None and latency.p50 else None
