"""`kernels`: dots added and taken off, beside `memcpy` of the same bytes.

In CPU time of the thread, turn by turn of a hundredth of a second, as in `python -m benchmarks kernels`, which has all
kernels and what plain Python has for the same work. A piece is as much as a session reads at once of a large message; a
small message comes whole, with its end. No server takes part.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from postroika.bench.bench import Bench
from postroika.bench.meter import Bystanders
from postroika.bench.results import BarResult, Figure, ScenarioResult
from postroika.bench.scenario import OWN_DRIVER, POSTFIX_DRIVER
from postroika.bench.scope import Scope
from postroika.bench.stuffing import DOTTED_EVERY, MESSAGE_BYTES, PIECE_BYTES, memcpy, stuffed, text
from postroika.bench.timing import Timing, time_in_turns
from postroika.kernels.datastream import DataScanner
from postroika.kernels.stuff import Stuffer

_TURNS, _QUICK_TURNS = 101, 25
_BAR, _STRETCH = 0.25, 0.5


class _Case(NamedTuple):
    """A kernel, and the bytes that `memcpy` moves beside it."""

    what: str
    octets: bytes
    kernel: Callable[[], object]


class _Kernels(msgspec.Struct, frozen=True, kw_only=True):
    """See `scenario.Scenario`."""

    name: str = "kernels"
    about: str = f"dots added and taken off beside memcpy of the same bytes: mail, 1 line in {DOTTED_EVERY} dotted"
    drivers: tuple[str, ...] = (OWN_DRIVER, POSTFIX_DRIVER)
    headline: bool = False

    def estimate_s(self, scope: Scope) -> float:
        """How long it takes, roughly; it has no rounds."""
        return 4 if scope.quick else 10

    def run(self, bench: Bench) -> ScenarioResult:
        """All of them."""
        began, bystanders = time.monotonic(), Bystanders()
        turns = _QUICK_TURNS if bench.quick else _TURNS
        figures: list[Figure] = []
        bars: list[BarResult] = []
        for case in _cases():
            bench.teller.step(f"{self.name}: {case.what}")
            timings = time_in_turns({"kernel": case.kernel, "memcpy": memcpy(case.octets)}, turns)
            kernel, copy = timings["kernel"], timings["memcpy"]
            figures += [_speed(case.what, kernel, case.octets), _speed(f"memcpy beside {case.what}", copy, case.octets)]
            bars.append(_bar(case.what, copy.ratio_to(kernel)))
        return ScenarioResult(
            name=self.name,
            about=self.about,
            size=bench.size,
            unit="MB",
            took_s=time.monotonic() - began,
            figures=tuple(figures),
            bars=tuple(bars),
            bystanders=bystanders.share(),
        )


def _cases() -> Iterator[_Case]:
    piece, message = text(PIECE_BYTES, DOTTED_EVERY), text(MESSAGE_BYTES, DOTTED_EVERY)
    yield _Case("stuff a piece of 64 KB", piece, partial(Stuffer().feed, piece))
    wire = stuffed(piece)
    yield _Case("unstuff a piece of 64 KB", wire, partial(DataScanner(dotted=True).feed, wire, 0, len(wire)))
    yield _Case("stuff a message of 4 KB", message, partial(_stuff, message))
    wire = stuffed(message) + b".\r\n"
    yield _Case("unstuff a message of 4 KB", wire, partial(_unstuff, wire))


def _stuff(message: bytes) -> None:
    Stuffer().feed(message)


def _unstuff(wire: bytes) -> None:
    scanner = DataScanner(dotted=True)
    scanner.feed(wire, 0, len(wire))
    assert scanner.ended


def _bar(what: str, ratio: float) -> BarResult:
    return BarResult(what=f"{what} ÷ memcpy", sense="at least", bar=_BAR, stretch=_STRETCH, unit="", measured=ratio)


def _speed(what: str, timing: Timing, octets: bytes) -> Figure:
    rounds = tuple(len(octets) / 1e9 / turn_s for turn_s in timing.turns_s)
    return Figure(what=what, value=statistics.median(rounds), unit="GB/s", rounds=rounds)


SCENARIO = _Kernels()
