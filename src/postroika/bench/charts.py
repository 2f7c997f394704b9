"""Small charts as inline SVG, for the report's page: no script, no network, no library.

Promise: every text is escaped; every figure that is drawn can also be read, as a label or as the tooltip of its mark;
the colours come from the page's style sheet (`STYLE`), so that they follow its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

_WIDTH = 760
_LABEL_WIDTH = 250
_VALUE_WIDTH = 90
_ROW_HEIGHT = 26
_BAR_HEIGHT = 14
_PLOT_HEIGHT = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 28, 10, 40
_COLOURS = 8
_POINTS = 200  # of one line; more cannot be seen

STYLE = """\
:root { --c0: #0b6e99; --c1: #c4540a; --c2: #3c7d22; --c3: #8b3fa0; --c4: #a08000; --c5: #b0254b; --c6: #4a5ab8;
  --c7: #5f6b73; --text: #1c2024; --faint: #68727b; --grid: #dfe3e6; --paper: #ffffff; --shade: #f4f6f7; }
@media (prefers-color-scheme: dark) { :root { --c0: #4db5e0; --c1: #f0904e; --c2: #7cc45c; --c3: #c98ae0; --c4: #d6b62e;
  --c5: #ef6b8e; --c6: #8f9df0; --c7: #9aa6ae; --text: #e6e9eb; --faint: #98a2aa; --grid: #343b40; --paper: #15191c;
  --shade: #1e2327; } }
svg { max-width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
svg text { fill: var(--text); } svg .faint { fill: var(--faint); }
svg .grid { stroke: var(--grid); stroke-width: 1; } svg .dot { fill: var(--text); fill-opacity: .55; }
svg .line { fill: none; stroke-width: 2; } svg .dashed { stroke-dasharray: 5 3; }
""" + "".join(f".f{n} {{ fill: var(--c{n}); }} .s{n} {{ stroke: var(--c{n}); }}\n" for n in range(_COLOURS))


class Bar(NamedTuple):
    """One bar. `points`: the single rounds. Bars of one `colour` belong together."""

    label: str
    value: float
    points: Sequence[float]
    colour: int


class Line(NamedTuple):
    """One line, from (x, y) to (x, y). Lines of one `colour` belong together; `dashed` tells them apart."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


def bars(rows: Sequence[Bar], unit: str) -> str:
    """Horizontal bars that begin at zero, with their medians as text and their rounds as dots."""
    most = max((max([row.value, *row.points]) for row in rows), default=0.0) or 1.0
    plot = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    parts = []
    for number, row in enumerate(rows):
        middle = number * _ROW_HEIGHT + _ROW_HEIGHT / 2
        width = plot * row.value / most
        parts.append(
            f'<text x="{_LABEL_WIDTH - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(row.label)}</text>'
            f'<rect class="f{row.colour % _COLOURS}" x="{_LABEL_WIDTH}" y="{middle - _BAR_HEIGHT / 2:.0f}" '
            f'width="{width:.1f}" height="{_BAR_HEIGHT}">'
            f"<title>{escape(f'{row.label}: {number_text(row.value)} {unit}')}</title></rect>"
        )
        furthest = width
        for point in row.points:
            at = plot * point / most
            furthest = max(furthest, at)
            parts.append(
                f'<circle class="dot" cx="{_LABEL_WIDTH + at:.1f}" cy="{middle:.0f}" r="2.5">'
                f"<title>{escape(f'one round: {number_text(point)} {unit}')}</title></circle>"
            )
        parts.append(
            f'<text x="{_LABEL_WIDTH + furthest + 7:.1f}" y="{middle + 4:.0f}">{escape(number_text(row.value))}</text>'
        )
    return _svg(len(rows) * _ROW_HEIGHT + 4, parts, f"bars, {unit}")


def lines(series: Sequence[Line], x_label: str, y_label: str, *, log_x: bool = False) -> str:
    """Lines over a common grid with a legend. With `log_x`, points at or below zero are left out."""
    shown = [line._replace(points=_thinned([p for p in line.points if p[0] > 0 or not log_x])) for line in series]
    shown = [line for line in shown if line.points]
    if not shown:
        return ""
    xs = [x for line in shown for x, _ in line.points]
    low, high = min(xs), max(xs)
    x_ticks: Sequence[float]
    if log_x:
        x_ticks = _decades(low, high)
        low, high = x_ticks[0], x_ticks[-1]
    else:
        x_ticks = _ticks(high)
        low, high = 0.0, max(x_ticks[-1], high)
    y_ticks = _ticks(max(y for line in shown for _, y in line.points))
    to_x, to_y = _scale(low, high, log_x=log_x), _y_scale(y_ticks[-1])
    parts = _grid(x_ticks, y_ticks, to_x, to_y, x_label, y_label)
    for line in shown:
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in line.points)
        parts.append(
            f'<polyline class="{_line_class(line)}" points="{path}"><title>{escape(line.label)}</title></polyline>'
        )
    height = _PLOT_HEIGHT + _TOP + _BOTTOM
    legend, legend_height = _legend(shown, height)
    return _svg(height + legend_height, parts + legend, f"{y_label} over {x_label}")


def number_text(value: float) -> str:
    """Three digits that count, never in powers of ten."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or size == 0 else f"{value:.4f}"


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    inner = "\n".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">\n{inner}\n</svg>'


def _grid(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    x_label: str,
    y_label: str,
) -> list[str]:
    bottom, right = _TOP + _PLOT_HEIGHT, _WIDTH - _RIGHT
    parts = []
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="faint" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick_text(tick)}</text>'
        )
    for tick in x_ticks:
        x = to_x(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="faint" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick_text(tick)}</text>'
        )
    parts.append(
        f'<text class="faint" x="{right}" y="{bottom + 32}" text-anchor="end">{escape(x_label)}</text>'
        f'<text class="faint" x="{_LEFT}" y="{bottom + 32}">↑ {escape(y_label)}</text>'
    )
    return parts


def _legend(series: Sequence[Line], top: float) -> tuple[list[str], float]:
    parts, columns = [], 2
    for number, line in enumerate(series):
        x = _LEFT + (number % columns) * (_WIDTH - _LEFT) / columns
        y = top + (number // columns) * 18 + 10
        parts.append(
            f'<path class="{_line_class(line)}" d="M{x:.0f},{y - 4:.0f}h22"/>'
            f'<text x="{x + 28:.0f}" y="{y:.0f}">{escape(line.label)}</text>'
        )
    return parts, math.ceil(len(series) / columns) * 18 + 4


def _line_class(line: Line) -> str:
    return f"line s{line.colour % _COLOURS}{' dashed' if line.dashed else ''}"


def _scale(low: float, high: float, *, log_x: bool) -> Callable[[float], float]:
    width = _WIDTH - _LEFT - _RIGHT
    if log_x:
        begin, span = math.log10(low), (math.log10(high) - math.log10(low)) or 1.0
        return lambda x: _LEFT + width * (math.log10(x) - begin) / span
    span = (high - low) or 1.0
    return lambda x: _LEFT + width * (x - low) / span


def _y_scale(most: float) -> Callable[[float], float]:
    return lambda y: _TOP + _PLOT_HEIGHT * (1 - y / most)


def _ticks(most: float) -> list[float]:
    """From 0 to at least `most` in four to ten round steps."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [step * number for number in range(math.ceil(most / step * 0.999) + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _tick_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.6g}"


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Evenly chosen ones, the last among them."""
    if len(points) <= _POINTS:
        return list(points)
    step = (len(points) - 1) / (_POINTS - 1)
    return [points[round(number * step)] for number in range(_POINTS)]
