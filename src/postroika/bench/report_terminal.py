"""A report for the terminal: what rich makes of its tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from postroika.bench import tables
from postroika.bench.results import Report, ScenarioResult

_VERDICT_STYLES = {"stretch": "green", "met": "green", "VOID": "bold red", "not measured": "dim"}


def print_report(report: Report, console: Console) -> None:
    """All of it; the bars come last, where they are seen."""
    for line in tables.machine_lines(report):
        console.print(Text(line, style="dim"))
    for peer, why in report.missing.items():
        console.print(Text(f"! {peer} is left out: {why}", style="yellow"))
    for result in report.scenarios:
        print_scenario(result, console)
    if any(result.bars for result in report.scenarios):
        console.print()
        _print(tables.bar_table(report.scenarios), console, verdicts=True)
    if report.void:
        console.print(Text(f"VOID: {', '.join(report.void)}. Their figures count for nothing.", style="bold red"))


def print_scenario(result: ScenarioResult, console: Console) -> None:
    """One scenario: its turns, its own figures, what has to be known about them."""
    console.print()
    console.print(Text(f"{result.name}: {result.about} ({result.size}, {result.took_s:.0f} s)", style="bold"))
    if result.void:
        console.print(Text(f"VOID: {result.void}", style="bold red"))
    if result.turns:
        _print(tables.scenario_table(result), console)
    if result.figures:
        _print(tables.figure_table(result), console)
    for remark in tables.remarks(result):
        console.print(Text(f"! {remark}", style="yellow"))


def _print(table: tables.Table, console: Console, *, verdicts: bool = False) -> None:
    shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(table.columns):
        shown.add_column(
            name, justify="right" if number in table.right else "left", no_wrap=number == 0, overflow="fold"
        )
    for row in table.rows:
        style = (_VERDICT_STYLES.get(row[-1], "red") if verdicts else "") or ""
        shown.add_row(
            *(Text(cell, style=style if verdicts and at == len(row) - 1 else "") for at, cell in enumerate(row))
        )
    console.print(shown)
