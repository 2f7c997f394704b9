"""The table that `make bench` prints, and the file with the raw figures."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One comparison, or with nothing beside it one figure.

    Above 1, `ratio` is by how much we are better than what stands beside us, whichever way the unit counts.
    """

    what: str
    unit: str
    better: Literal["more", "less"]
    ours: float
    other: str = ""
    theirs: float | None = None
    ratio: float | None = None


def print_table(rows: Iterable[Row], console: Console) -> None:
    """All comparisons, one a line."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("what")
    table.add_column("unit, better is")
    table.add_column("Postroika", justify="right")
    table.add_column("beside", justify="right")
    table.add_column("")
    table.add_column("ratio", justify="right")
    last = ""
    for row in rows:
        table.add_row(
            row.what if row.what != last else "",
            f"{row.unit}, {row.better}",
            _figure(row.ours),
            "" if row.theirs is None else _figure(row.theirs),
            row.other,
            "" if row.ratio is None else f"{_figure(row.ratio)} ×",
        )
        last = row.what
    console.print(table)


def write_raw(figures: dict[str, Any]) -> Path:
    """Write the raw figures as JSON; returns the file, named by the moment."""
    now = datetime.datetime.now(datetime.UTC)
    file = _RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    _RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps({"at": now.isoformat(timespec="seconds"), **figures}, indent=1) + "\n")
    return file


def last_raw(part: str) -> Any:
    """The raw figures of that part of the newest run that had it; None if there is none."""
    for file in sorted(_RESULTS.glob("*.json"), reverse=True):
        figures = json.loads(file.read_text()).get(part)
        if figures is not None:
            return figures
    return None


def _figure(value: float) -> str:
    """Three digits that count, never in powers of ten."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"
