"""`python -m benchmarks`: runs the steps, prints a table with the change since the last run, keeps the figures."""

from __future__ import annotations

import json
import platform
import subprocess
import time
import timeit
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.steps import Step, steps

_RESULTS = Path(__file__).parent / "results"
_REPEATS = 7
_REPEAT_S = 0.1


def measure(step: Step) -> float:
    """Seconds of one call: the best of several repeats of about `_REPEAT_S` each."""
    timer = timeit.Timer(step.call)
    calls = 1
    while (elapsed := timer.timeit(calls)) < _REPEAT_S / 10:
        calls *= 2
    calls = max(1, int(calls * _REPEAT_S / elapsed))
    return min(timer.repeat(_REPEATS, calls)) / calls


def main() -> None:
    before = _last_run()
    figures: dict[str, float] = {}
    table = Table("step", "µs", "MB/s", "change", box=None)
    for step in steps():
        seconds = measure(step)
        figures[step.name] = seconds * 1e6
        speed = f"{step.octets / seconds / 1e6:,.0f}" if step.octets else ""
        old = before.get(step.name)
        change = f"{seconds * 1e6 / old - 1:+.0%}" if old else ""
        table.add_row(step.name, f"{seconds * 1e6:.2f}", speed, change)
    Console(highlight=False).print(table)
    _RESULTS.mkdir(exist_ok=True)
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "microseconds": figures,
    }
    file = _RESULTS / f"steps-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")


def _last_run() -> dict[str, float]:
    files = sorted(_RESULTS.glob("steps-*.json"))
    return json.loads(files[-1].read_text())["microseconds"] if files else {}


def _commit() -> str:
    result = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return next((line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
