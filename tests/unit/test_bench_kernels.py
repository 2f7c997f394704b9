"""The kernels in the report of a run: timed on the same bytes as memcpy, and held against their bar."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from postroika.bench import scenario
from postroika.bench.stuffing import memcpy, stuffed, text
from tests.reference import stuff as stuff_twin
from tests.unit.bench_fakes import World, make_bench

_WHATS = [f"{what} {size}" for size in ("a piece of 64 KB", "a message of 4 KB") for what in ("stuff", "unstuff")]


def test_kernels_have_bars_without_any_server(tmp_path: Path) -> None:
    bench, _ = make_bench(World(), tmp_path, {})
    result = scenario.load("kernels").run(bench)
    assert (result.void, result.turns, result.contenders) == ("", (), ())
    assert [(one.what, one.sense, one.bar, one.stretch) for one in result.bars] == [
        (f"{what} ÷ memcpy", "at least", 0.25, 0.5) for what in _WHATS
    ]
    assert [one.what for one in result.figures] == [name for what in _WHATS for name in (what, f"memcpy beside {what}")]
    for bar, kernel, copy in zip(result.bars, result.figures[::2], result.figures[1::2], strict=True):
        assert kernel.value == statistics.median(kernel.rounds)
        ratios = [ours / theirs for ours, theirs in zip(kernel.rounds, copy.rounds, strict=True)]
        assert bar.measured == pytest.approx(statistics.median(ratios))
    assert result.bystanders is not None


def test_the_mail_that_kernels_are_timed_with() -> None:
    body = text(4096, 20)
    lines = body.split(b"\r\n")[:-1]
    assert (len(lines), {len(line) for line in lines}) == (52, {76})
    assert [number for number, line in enumerate(lines) if line.startswith(b".")] == [20, 40]
    assert stuffed(body) + b".\r\n" == stuff_twin.stuffed(body)
    assert b"." not in text(4096)


def test_memcpy_moves_bytes_and_leaves_them() -> None:
    octets = b"some octets"
    memcpy(octets)()
    assert octets == b"some octets"
