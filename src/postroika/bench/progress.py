"""What people see while the harness works: on a terminal a live line with what goes on, elsewhere one line a turn.

Promise: everything here goes to stderr, so that stdout has the report alone; nothing here costs the measured programs
more than a look at a file four times a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from postroika.bench.charts import number_text
from postroika.bench.pace import Pace, duration_text
from postroika.bench.results import Figures, Turn, Unit
from postroika.bench.tables import driver_title

_LOOK_EVERY_S = 0.25


class Teller:
    """Tells how far it is. A context manager.

    Args:
        console: on stderr.

    Attributes:
        pace: of the run, when there is one: what is left of it stands in the live line.
    """

    def __init__(self, console: Console) -> None:
        self.pace: Pace | None = None
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[now]}", markup=False),
            _Left(self),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def say(self, line: str, style: str = "") -> None:
        """A line that stays."""
        self._console.print(Text(line, style=style), soft_wrap=True)

    def step(self, what: str) -> None:
        """What is being done now."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=None, now="")

    def tell_turn(self, scenario: str, turn: Turn, unit: Unit) -> None:
        """What a turn has shown, as a line that stays."""
        figures = Figures([turn], unit)
        rate, cpu_ms = figures.rate(turn), figures.cpu_ms(turn)
        told = [f"{number_text(rate or 0.0)} {unit}/s"]
        if cpu_ms is not None:
            told.append(f"{number_text(cpu_ms)} ms CPU each")
        who = f"{scenario}: round {turn.round}, {driver_title(turn.driver)}: {turn.contender}"
        self.say(f"{who}: {', '.join(told)}", style="dim")

    @contextmanager
    def watch(self, count: Callable[[], int], total: int | None) -> Iterator[None]:
        """Show a count that grows to `total` while the context is open; `count` is called from another thread."""
        if not self._console.is_terminal:
            yield
            return
        done = threading.Event()
        watcher = threading.Thread(target=self._look, args=(count, total, done), name="teller")
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _look(self, count: Callable[[], int], total: int | None, done: threading.Event) -> None:
        last, last_at = count(), time.monotonic()
        while not done.wait(_LOOK_EVERY_S):
            now, now_at = count(), time.monotonic()
            rate = max(0.0, (now - last) / (now_at - last_at))
            last, last_at = now, now_at
            if self._task is not None:
                self._bars.update(
                    self._task, total=total, completed=now, now=f"{now:,} messages, {number_text(rate)}/s"
                )


class _Left(ProgressColumn):
    """How long the whole run still takes."""

    def __init__(self, teller: Teller) -> None:
        super().__init__()
        self._teller = teller

    def render(self, task: Task) -> Text:
        """For a step; all show the same."""
        pace = self._teller.pace
        return Text("" if pace is None else f"about {duration_text(pace.left_s())} left")
