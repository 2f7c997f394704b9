"""Figures in words for people: durations, sizes, times; and text from outside made safe for a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.text import Text

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def duration(seconds: float) -> str:
    """A length of time in its two largest units: "45s", "12m", "3h05m", "2d04h"."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def moment(at: float) -> str:
    """Epoch seconds as date and time of day, local."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def size(octets: float) -> str:
    """A number of octets: "512B", "4.1K", "12M"."""
    for unit in ("B", "K", "M", "G"):
        if octets < 1000:
            return f"{octets:.1f}{unit}" if octets < 10 and unit != "B" else f"{octets:.0f}{unit}"
        octets /= 1024
    return f"{octets:.1f}T" if octets < 10 else f"{octets:.0f}T"


def count(number: int, one: str, many: str = "") -> str:
    """ "1 message", "2 messages", "10,000 messages"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def visible(text: str) -> str:
    """`text` with what could steer a terminal, or hide, written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def styled(text: str, style: str = "") -> Text:
    """Text from outside for rich: no markup is read in it."""
    from rich.text import Text

    return Text(visible(text), style=style)


def parse_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """A click callback: "90s", "30m", "2h", "3d" or "1w" in seconds; a plain number is seconds; 0 if not given."""
    text = (value or "0").strip()
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS_S else (text, "s")
    try:
        seconds = float(number) * _UNITS_S[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise click.BadParameter(f"{value!r} is not a duration such as 90s, 30m, 2h or 3d", ctx=ctx, param=param)
    return seconds
