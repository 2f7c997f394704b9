"""What the backlog scenario makes of its looks at the memory, and the record of a scenario with a run of its own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from postroika.bench import scenario
from postroika.bench.record import Record
from postroika.bench.results import Figures, Turn
from postroika.bench.scenarios.backlog import _grows
from postroika.errors import PostroikaError
from tests.unit.bench_fakes import World, make_bench, turn

_ALLOCATED, _RESIDENT = "allocated bytes a queued message", "resident bytes a queued message"


def drained(looks: dict[str, list[tuple[int, int]]]) -> Turn:
    grown = {name: value for what, held in looks.items() for name, value in _grows(what, held).items()}
    plain = turn("Postroika, draining", 1, 1.0, 0.1)
    return msgspec.structs.replace(plain, figures={**grown, "seconds from the start to the first delivery": 0.8})


def measured(looks: dict[str, list[tuple[int, int]]]) -> list[float | None]:
    """By the bars, but for the last, which needs another turn."""
    bars = scenario.load("backlog").bars  # type: ignore[attr-defined]
    return [bar.against(Figures([drained(looks)], "messages")).measured for bar in bars[:-1]]


def test_growth_is_the_slope_of_a_line_and_says_how_sure_it_is() -> None:
    straight = [(count, 1_000_000 + 40 * count) for count in range(10_000, 45_000, 5_000)]
    sure = _grows("bytes", straight)
    assert sure == pytest.approx({"bytes": 40.0, "two standard errors of bytes": 0.0}, abs=1e-6)
    # Least squares by hand: x = 0, 1, 2, 3 and y = 0, 2, 1, 3 have the slope 0.8, residuals of 1.8 in all.
    rough = _grows("bytes", [(0, 0), (1, 2), (2, 1), (3, 3)])
    assert rough == pytest.approx({"bytes": 0.8, "two standard errors of bytes": 2 * (1.8 / 2 / 5) ** 0.5})


def test_a_growth_that_nobody_can_be_sure_of_is_not_told() -> None:
    counts = range(10_000, 45_000, 5_000)
    steady = [(count, 88_000_000 + 30 * count) for count in counts]
    # Pages of the map come and go by ten MB.
    restless = [(count, 140_000_000 + (10_000_000 if number % 2 else 0)) for number, count in enumerate(counts)]
    assert measured({_ALLOCATED: steady, _RESIDENT: restless}) == [pytest.approx(30), None, 0.8]
    assert measured({_ALLOCATED: steady, _RESIDENT: steady[:3]}) == [pytest.approx(30), None, 0.8]
    assert measured({_ALLOCATED: steady, _RESIDENT: steady}) == [pytest.approx(30), pytest.approx(30), 0.8]


def test_what_was_seen_before_an_error_or_an_interruption_is_kept(tmp_path: Path) -> None:
    bench, _ = make_bench(World(), tmp_path, {})
    backlog = scenario.load("backlog")
    one = turn("Postroika, empty queue", 1, 1.0, 0.1)
    for error, void, interrupted in (
        (PostroikaError("it does not start"), "it does not start", ""),
        (KeyboardInterrupt(), "", "after 1 turn"),
    ):
        record = Record(backlog, bench)
        with record:
            record.turns.append(one)
            raise error
        result = record.result(())
        assert (result.turns, result.void, result.interrupted) == ((one,), void, interrupted)
    with pytest.raises(KeyboardInterrupt), Record(backlog, bench):
        raise KeyboardInterrupt
