"""`python -m benchmarks`: measures, prints one table, and keeps the raw figures as JSON in benchmarks/results/.

What is measured and how, and what the figures are biased by, is in benchmarks/README.md.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click
import msgspec
import pytest
from rich.console import Console

from benchmarks import kernels, machine, rounds, scenario, steps
from benchmarks.report import Row, last_raw, print_table, write_raw

_KERNELS = "kernels"
_STEPS = "steps"
_PARTS = (_KERNELS, _STEPS, *scenario.names())
# More than the kernel's own threads use for the disk and the network.
_NOISE = 0.15


@click.command()
@click.argument("what", nargs=-1, type=click.Choice(_PARTS))
@click.option("--rounds", "round_count", type=click.IntRange(1), help="Rounds of each scenario.")
@click.option("--messages", type=click.IntRange(1), help="Messages in each round.")
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/var/tmp"),
    show_default=True,
    help="Where the queues are kept while it runs; on a disk, or a sync costs nothing.",
)
def main(what: tuple[str, ...], round_count: int | None, messages: int | None, directory: Path) -> None:
    """Measure the kernels, the steps, and scenarios side by side with Postfix; all of them, or those named."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    progress = Console(stderr=True, highlight=False)
    chosen = what or _PARTS
    if not machine.is_disk(directory):
        raise click.UsageError(f"{directory} is in memory, where a sync costs nothing: name a --directory on a disk")
    rows: list[Row] = []
    raw: dict[str, Any] = {"machine": machine.describe(directory)}
    remarks: list[str] = []
    if _KERNELS in chosen:
        progress.print("kernels")
        more, raw[_KERNELS] = kernels.measure()
        rows += more
    if _STEPS in chosen:
        progress.print("steps")
        more, raw[_STEPS] = steps.measure(last_raw(_STEPS) or {})
        rows += more
    for name in scenario.names():
        if name in chosen:
            wanted = scenario.load(name)
            wanted = msgspec.structs.replace(wanted, rounds=round_count or wanted.rounds)
            load = msgspec.structs.replace(wanted.load, messages=messages or wanted.load.messages)
            wanted = msgspec.structs.replace(wanted, load=load)
            try:
                results = _run_scenario(name, wanted, directory, progress)
            except pytest.skip.Exception as missing:
                remarks.append(f"{name} is left out: {missing}")
                continue
            rows += results.rows
            raw[name] = results.raw
            raw["machine"]["postfix"] = machine.postfix_version()
            if results.bystanders > _NOISE:
                remarks.append(
                    f"{name}: other processes used up to {results.bystanders:.0%} of the machine meanwhile; "
                    "trust the ratios more than the figures, and neither much"
                )
    raw["remarks"] = remarks
    raw["table"] = msgspec.to_builtins(rows)
    _print_machine(console, raw["machine"])
    print_table(rows, console)
    for remark in remarks:
        console.print(f"! {remark}")
    console.print(f"raw figures: {write_raw(raw)}")


def _run_scenario(name: str, wanted: scenario.Scenario, directory: Path, progress: Console) -> rounds.Results:
    queues = Path(mkdtemp(prefix="postroika-bench-", dir=directory))
    queues.chmod(0o755)  # Postfix's own user has to enter it
    try:
        return rounds.run(name, wanted, queues, progress.print)
    except (pytest.fail.Exception, rounds.WrongCountError, TimeoutError) as error:
        raise click.ClickException(f"{name}: {error}") from error
    finally:
        shutil.rmtree(queues, ignore_errors=True)


def _print_machine(console: Console, facts: dict[str, Any]) -> None:
    console.print(
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {facts['file_system']}, "
        f"a sync takes {facts['sync_ms']:.2g} ms, load average {facts['load_average_before']:.1f}"
    )
    console.print(
        f"Postroika {facts['postroika']}, Trio {facts['trio']}, py-lmdb {facts['lmdb']}, "
        f"Python {facts['python']} (a turn of a bare loop takes {facts['python_loop_ns']:.0f} ns), "
        f"Postfix {facts.get('postfix', 'not measured')}\n"
        "ratio: how many times as good as what stands beside it; above 1 Postroika is the better\n"
    )


if __name__ == "__main__":
    main()
