"""A report as one HTML page that needs nothing else: no script, no network, charts as inline SVG.

Promise: whatever text is in the report, a server's banner for instance, stands on the page as text; the page's content
security policy forbids everything but its own style.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from postroika.bench import charts, tables
from postroika.bench.results import FLOOR, Contender, Figures, Report, ScenarioResult

_STYLE = """\
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--paper); }
h1 { margin-bottom: 0; } h2 { margin: 2.5rem 0 .25rem; border-top: 1px solid var(--grid); padding-top: 1rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; } p { margin: .25rem 0 1rem; }
nav a { margin-right: 1rem; } a { color: var(--c0); }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px; }
th, td { padding: .25rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th { color: var(--faint); font-weight: 600; } .right { text-align: right; font-variant-numeric: tabular-nums; }
tr:hover td { background: var(--shade); } ul { color: var(--faint); padding-left: 1.2rem; }
.void, .missed { color: #c22; font-weight: 600; } .met, .stretch { color: #2a8a3a; font-weight: 600; }
pre { background: var(--shade); padding: .6rem; overflow-x: auto; font-size: 12px; } .faint { color: var(--faint); }
@media (prefers-color-scheme: dark) { .void, .missed { color: #ff7b72; } .met, .stretch { color: #6fce7f; } }
"""
_NOTE = "Ratios are medians of the ratios of each round; dots are single rounds."
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: Report) -> str:
    """The whole page."""
    title = f"Postroika benchmark, {report.at[:10]}"
    links = "".join(f'<a href="#{escape(one.name)}">{escape(one.name)}</a>' for one in report.scenarios)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{charts.STYLE}{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p class=faint>{escape(report.at)}, took {report.took_s:.0f} s. {_NOTE}</p>",
        f"<nav>{links}</nav>",
        *([f"<p class=void>VOID: {escape(', '.join(report.void))}</p>"] if report.void else []),
        "<h2>Bars</h2>",
        _table(tables.bar_table(report.scenarios), verdicts=True),
        *(_scenario(one) for one in report.scenarios),
        "<h2>Machine and settings</h2>",
        _list(tables.machine_lines(report)),
        _list(f"{peer} was left out: {why}" for peer, why in report.missing.items()),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _scenario(result: ScenarioResult) -> str:
    parts = [
        f'<h2 id="{escape(result.name)}">{escape(result.name)}</h2>',
        f"<p>{escape(result.about)} <span class=faint>({escape(result.size)}, {result.took_s:.0f} s)</span></p>",
    ]
    if result.void:
        parts.append(f"<p class=void>VOID: {escape(result.void)}</p>")
    if result.turns:
        parts.append(_table(tables.scenario_table(result)))
        parts += _charts(result)
    if result.figures:
        parts.append(_table(tables.figure_table(result)))
    parts.append(_list(tables.remarks(result)))
    parts += [_settings(one) for one in result.contenders]
    return "\n".join(part for part in parts if part)


def _charts(result: ScenarioResult) -> list[str]:
    figures = Figures(result.turns, result.unit)
    colours = {label: number for number, label in enumerate(dict.fromkeys(label for label, _ in figures.pairs()))}
    drivers = figures.drivers()
    speed: list[charts.Bar] = []
    cpu: list[charts.Bar] = []
    accept: list[charts.Line] = []
    delivery: list[charts.Line] = []
    memory: list[charts.Line] = []
    arrivals: list[charts.Line] = []
    for contender, driver in figures.pairs():
        turns = figures.turns(contender, driver)
        label = f"{contender}, by {tables.driver_title(driver)}" if len(drivers) > 1 else contender
        colour, dashed = colours[contender], drivers.index(driver) > 0
        # The floor is many times as fast as a server: beside its bar the others could not be told apart.
        for rows, figure in ((speed, figures.rate), (cpu, figures.cpu_ms)):
            rounds = [value for value in map(figure, turns) if value is not None]
            middle = figures.median(contender, driver, figure)
            if middle is not None and contender != FLOOR:
                rows.append(charts.Bar(label, middle, rounds, colour))
        for lines, latencies in (
            (accept, [one.accept_latency_ms for one in turns]),
            (delivery, [one.delivery_latency_ms for one in turns]),
        ):
            points = [(ms, 100 * share) for ms, share in tables.merged_latency(latencies)]
            lines.append(charts.Line(label, points, colour, dashed))
        last = turns[-1]
        if contender != FLOOR:
            memory.append(charts.Line(label, [(at, private / 1e6) for at, _, private in last.memory], colour, dashed))
        arrivals.append(charts.Line(label, list(last.timeline), colour, dashed))
    drawn = [
        (f"Throughput, {result.unit}/s", charts.bars(speed, f"{result.unit}/s") if speed else ""),
        (f"CPU of the server, ms per {result.unit.rstrip('s')}", charts.bars(cpu, "ms") if cpu else ""),
        ("Time until accepted", charts.lines(accept, "ms", "% of messages", log_x=True)),
        ("Time until delivered", charts.lines(delivery, "ms", "% of messages", log_x=True)),
        ("Private memory in the last round", charts.lines(memory, "s", "MB")),
        ("Arrivals in the last round", charts.lines(arrivals, "s", "messages")),
    ]
    return [f"<h3>{escape(title)}</h3>\n{drawing}" for title, drawing in drawn if drawing]


def _settings(contender: Contender) -> str:
    lines = [contender.load, contender.settings]
    summary = f"{contender.label}: version {contender.version}, settings"
    text = "\n\n".join(line.strip() for line in lines if line.strip())
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>" if text else ""


def _table(table: tables.Table, *, verdicts: bool = False) -> str:
    head = "".join(f"<th{_right(table, number)}>{escape(name)}</th>" for number, name in enumerate(table.columns))
    body = []
    for row in table.rows:
        cells = [f"<td{_right(table, number)}>{escape(cell)}</td>" for number, cell in enumerate(row[:-1])]
        kind = f" class={_verdict_class(row[-1])}" if verdicts else _right(table, len(row) - 1)
        body.append(f"<tr>{''.join(cells)}<td{kind}>{escape(row[-1])}</td></tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>"


def _right(table: tables.Table, column: int) -> str:
    return " class=right" if column in table.right else ""


def _verdict_class(verdict: str) -> str:
    return {"VOID": "void", "met": "met", "stretch": "stretch", "not measured": "faint"}.get(verdict, "missed")


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
