"""What a scenario with a `run` of its own has seen so far, and the result that comes of it.

Promise: an error that is raised in the block makes the result void, and loses nothing of what was seen before; nor does
Ctrl-C, which leaves the block with the turns until then, if there are any.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from postroika.bench.bench import Bench
from postroika.bench.results import Contender, Figure, Figures, ScenarioResult, Turn, Unit, turns_text
from postroika.bench.scenario import Bar, Scenario
from postroika.errors import PostroikaError


class Record:
    """Of one run; also the block in which it is run.

    Args:
        unit: what the scenario counts.

    `contenders`, `turns`: to be added to as they come.
    """

    def __init__(self, scenario: Scenario, bench: Bench, unit: Unit = "messages") -> None:
        self.contenders: list[Contender] = []
        self.turns: list[Turn] = []
        self._scenario = scenario
        self._bench = bench
        self._unit = unit
        self._began = time.monotonic()
        self._void = self._interrupted = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if isinstance(error, PostroikaError):
            self._void = str(error)
            return True
        if isinstance(error, KeyboardInterrupt) and self.turns:
            self._interrupted = f"after {turns_text(self.turns)}"
            return True
        return False

    def figures(self) -> Figures:
        """What the turns tell."""
        return Figures(self.turns, self._unit)

    def result(
        self, bars: Iterable[Bar], *, figures: Iterable[Figure] = (), remarks: Iterable[str] = ()
    ) -> ScenarioResult:
        """For the report."""
        told = self.figures()
        return ScenarioResult(
            name=self._scenario.name,
            about=self._scenario.about,
            size=self._bench.size,
            unit=self._unit,
            took_s=time.monotonic() - self._began,
            contenders=tuple(self.contenders),
            turns=tuple(self.turns),
            figures=tuple(figures),
            bars=tuple(bar.against(told) for bar in bars),
            remarks=tuple(remarks),
            void=self._void,
            interrupted=self._interrupted,
        )
