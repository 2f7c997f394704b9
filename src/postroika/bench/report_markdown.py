"""A report as Markdown, to be kept with the source."""

from __future__ import annotations

from postroika.bench import tables
from postroika.bench.results import Report


def markdown(report: Report) -> str:
    """The whole page. Bars come first: they are what people look for."""
    parts = [
        f"# Benchmark of {report.at[:10]}",
        f"Measured {report.at}, in {report.took_s:.0f} s. Method and bias: [benchmarks/README.md](../README.md).",
    ]
    if report.void:
        parts.append(f"**VOID: {_plain(', '.join(report.void))}.** Their figures count for nothing.")
    if any(result.bars for result in report.scenarios):
        parts += ["## Bars", _table(tables.bar_table(report.scenarios))]
    for result in report.scenarios:
        parts += [f"## {result.name}", _plain(result.about) + "."]
        if result.void:
            parts.append(f"**VOID: {_plain(result.void)}**")
        if result.turns:
            parts.append(_table(tables.scenario_table(result)))
        if result.figures:
            parts.append(_table(tables.figure_table(result)))
        loads = dict.fromkeys(one.load for one in result.contenders if one.load)
        parts += [_list([f"load: {load}" for load in loads] + tables.remarks(result))]
    parts += ["## Machine and settings", _list(tables.machine_lines(report))]
    if report.missing:
        parts.append(_list([f"{peer} was left out: {why}" for peer, why in report.missing.items()]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: tables.Table) -> str:
    rule = ["---:" if number in table.right else "---" for number in range(len(table.columns))]
    rows = [[_plain(cell) for cell in row] for row in (table.columns, *table.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: str) -> str:
    """As text that Markdown leaves alone, on one line."""
    for special in "\\`*_[]<>|":
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())
