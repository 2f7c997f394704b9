"""`python -m benchmarks`: the micro-benchmarks. Measures, prints one table, and keeps the raw figures as JSON.

What whole servers do is measured by `postroika bench run`. Method and bias of both are in benchmarks/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from benchmarks import kernels, steps
from benchmarks.report import Row, last_raw, print_table, write_raw
from postroika.bench import machine

_KERNELS = "kernels"
_STEPS = "steps"
_PARTS = (_KERNELS, _STEPS)


@click.command()
@click.argument("what", nargs=-1, type=click.Choice(_PARTS))
def main(what: tuple[str, ...]) -> None:
    """Measure the kernels and the steps, or the one that is named."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    progress = Console(stderr=True, highlight=False)
    chosen = what or _PARTS
    rows: list[Row] = []
    facts = machine.describe(Path.cwd())
    raw: dict[str, Any] = {"machine": facts}
    if _KERNELS in chosen:
        progress.print("kernels")
        more, raw[_KERNELS] = kernels.measure()
        rows += more
    if _STEPS in chosen:
        progress.print("steps")
        more, raw[_STEPS] = steps.measure(last_raw(_STEPS) or {})
        rows += more
    raw["table"] = msgspec.to_builtins(rows)
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, load average {facts['load_average_before']:.1f}, Postroika "
        f"{facts['postroika']}, {facts['python']} (a turn of a bare loop takes {facts['python_loop_ns']:.0f} ns)\n"
        "ratio: how many times as good as what stands beside it; above 1 Postroika is the better\n"
    )
    print_table(rows, console)
    console.print(f"raw figures: {write_raw(raw)}")


if __name__ == "__main__":
    main()
