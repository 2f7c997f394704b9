"""The tables of a report, as plain cells; `report_terminal`, `report_markdown` and `report_html` only set them.

Promise: the same words and figures everywhere. A column that has nothing to say is left out; so is a figure that was
not measured, which is told from one that is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from postroika.bench.charts import number_text
from postroika.bench.results import FLOOR, BarResult, Figures, Latency, Report, ScenarioResult, Turn, median

REFERENCE_PEER = "postfix"
"""The server that ratios are to, where nothing else is said."""

_MB = 1e6
_DRIVER_TITLES = {"own": "our load", "postfix": "smtp-source"}
_UNIT_NAMES = {"messages": "message", "recipients": "recipient", "MB": "MB"}
# More than the kernel's own threads use for the disk and the network.
_NOISE = 0.15


class Table(NamedTuple):
    """Cells as text; the columns in `right` are figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int]


def scenario_table(result: ScenarioResult) -> Table:
    """One row for each contender and driver."""
    figures = Figures(result.turns, result.unit)
    unit = _UNIT_NAMES[result.unit]
    reference = next((one.label for one in result.contenders if one.peer == REFERENCE_PEER), None)
    main, interpreted = _interpreters(result)
    drivers = figures.drivers()
    rows = []
    for contender, driver in figures.pairs():
        turns = figures.turns(contender, driver)
        compare = contender not in {reference, FLOOR}
        rows.append(
            (
                contender,
                driver_title(driver) if len(drivers) > 1 else "",
                _text(figures.median(contender, driver, figures.rate)),
                _times(figures.ratio(contender, reference, driver, figures.rate) if reference and compare else None),
                _times(figures.ratio(contender, main, driver, figures.rate) if contender in interpreted else None),
                _share(figures.ratio(contender, FLOOR, driver, figures.rate) if contender != FLOOR else None),
                _text(figures.median(contender, driver, figures.cpu_ms)),
                _times(figures.ratio(contender, reference, driver, figures.cpu_ms) if reference and compare else None),
                _times(figures.ratio(contender, main, driver, figures.cpu_ms) if contender in interpreted else None),
                _latency(one.accept_latency_ms for one in turns),
                _latency(one.delivery_latency_ms for one in turns),
                _megabytes(turns),
                _amounts([figures.amount(one) for one in turns]),
            )
        )
    columns = (
        "server",
        "load",
        f"{result.unit}/s",
        f"÷ {reference}",
        f"÷ {main}",
        "of the floor",
        f"CPU ms per {unit}",
        f"CPU ÷ {reference}",
        f"CPU ÷ {main}",
        "accepted p50 / p99 ms",
        "delivered p50 / p99 ms",
        "private / resident MB",
        f"{result.unit} × rounds",
    )
    return _without_empty(Table(columns, tuple(rows), frozenset(range(2, len(columns)))))


def _interpreters(result: ScenarioResult) -> tuple[str, frozenset[str]]:
    """Our contender that others differ from by their interpreter alone, and those others."""
    interpreted = {one.label: one.peer for one in result.contenders if one.interpreter}
    peers = set(interpreted.values())
    main = next((one.label for one in result.contenders if one.peer in peers and not one.interpreter), "")
    return main, frozenset(interpreted)


def driver_title(driver: str) -> str:
    """As it stands in tables and charts: Postfix's tools are not Postfix."""
    return _DRIVER_TITLES.get(driver, driver)


def figure_table(result: ScenarioResult) -> Table:
    """What the scenario measured beside its turns."""
    rows = tuple((one.what, number_text(one.value), one.unit) for one in result.figures)
    return Table(("figure", "value", "unit"), rows, frozenset({1}))


def bar_table(scenarios: Iterable[ScenarioResult]) -> Table:
    """Every bar with what was measured."""
    rows = []
    for result in scenarios:
        for one in result.bars:
            sign = "≥" if one.sense == "at least" else "≤"
            rows.append(
                (
                    result.name,
                    one.what,
                    f"{sign} {_with_unit(one.bar, one.unit)}",
                    "" if one.stretch is None else f"{sign} {_with_unit(one.stretch, one.unit)}",
                    "–" if one.measured is None or result.void else _with_unit(one.measured, one.unit),
                    "VOID" if result.void else _verdict(one),
                )
            )
    columns = ("scenario", "what", "bar", "stretch", "measured", "")
    return Table(columns, tuple(rows), frozenset({2, 3, 4}))


def machine_lines(report: Report) -> list[str]:
    """Where and with what it was measured, in a few lines."""
    facts = {name: value for name, value in report.machine.items() if value is not None and value not in ("", {})}
    interpreters = facts.pop("interpreters", {})
    lines = [f"{name.replace('_', ' ')}: {_fact(value)}" for name, value in facts.items()]
    lines += [f"interpreter {label}: {told}" for label, told in interpreters.items()]
    return [*lines, *(f"{name.replace('_', ' ')}: {value}" for name, value in report.settings.items())]


def remarks(result: ScenarioResult) -> list[str]:
    """What has to be known about these figures, beside what the scenario says itself."""
    said = list(result.remarks)
    if result.interrupted:
        said.insert(0, f"interrupted {result.interrupted}: these are the figures until then")
    if result.bystanders is not None:
        noise = f"other programs used up to {result.bystanders:.0%} of the machine meanwhile"
        trust = ": trust the ratios more than the figures, and neither much" if result.bystanders > _NOISE else ""
        said.append(noise + trust)
    return said


def merged_latency(latencies: Iterable[Latency | None]) -> list[tuple[float, float]]:
    """(ms, share of messages that took no longer) at the edge of each class, over several turns."""
    counts: dict[float, int] = {}
    for one in latencies:
        for upper_ms, count in one.histogram if one is not None else ():
            counts[upper_ms] = counts.get(upper_ms, 0) + count
    total, so_far, points = sum(counts.values()), 0, []
    for upper_ms, count in sorted(counts.items()):
        so_far += count
        points.append((upper_ms, so_far / total))
    return points


def _verdict(one: BarResult) -> str:
    """With by how much a bar is missed."""
    if one.verdict != "missed":
        return one.verdict
    assert one.measured is not None
    return f"missed by {abs(one.measured - one.bar) / one.bar:.0%}" if one.bar else "missed"


def _without_empty(table: Table) -> Table:
    kept = [number for number, _ in enumerate(table.columns) if any(row[number] for row in table.rows)]
    return Table(
        tuple(table.columns[number] for number in kept),
        tuple(tuple(row[number] for number in kept) for row in table.rows),
        frozenset(new for new, old in enumerate(kept) if old in table.right),
    )


def _amounts(amounts: Sequence[float]) -> str:
    middle = median(amounts)
    return f"{middle:,.0f} × {len(amounts)}" if middle else ""


def _text(value: float | None) -> str:
    return "" if value is None else number_text(value)


def _times(value: float | None) -> str:
    return "" if value is None else f"{number_text(value)} ×"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _with_unit(value: float, unit: str) -> str:
    text = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def _megabytes(turns: Sequence[Turn]) -> str:
    private, resident = median(one.private_bytes for one in turns), median(one.resident_bytes for one in turns)
    return "" if private is None or resident is None else f"{private / _MB:,.0f} / {resident / _MB:,.0f}"


def _latency(latencies: Iterable[Latency | None]) -> str:
    there = [one for one in latencies if one is not None]
    if not there:
        return ""
    p50, p99 = median(one.p50 for one in there), median(one.p99 for one in there)
    return f"{_text(p50)} / {_text(p99)}"


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text}" for name, text in value.items())
    if isinstance(value, float):
        return number_text(value)
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
