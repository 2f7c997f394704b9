"""`postroika bench run`, end to end: real servers, real loads, one short round."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from postroika.bench.results import FLOOR, Report, decode

_COMMAND = [sys.executable, "-m", "postroika", "bench"]


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a disk that every user may enter, for the queues; empty again in the end."""
    directory = Path(mkdtemp(prefix="postroika-bench-test-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
        assert list(directory.iterdir()) == []
    finally:
        shutil.rmtree(directory)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TERM": "dumb"},
    )


def run(out: Path, disk: Path, *arguments: str) -> tuple[Report, str]:
    """One round; returns the report, and what stood in the terminal."""
    done = bench("run", *arguments, "--quick", "--rounds", "1", "--out", str(out), "--directory", str(disk))
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(out.iterdir())
    assert [file.suffix for file in files] == [".html", ".json", ".md"]
    assert done.stdout.splitlines()[-3:] == [str(out / f"{files[0].stem}.{kind}") for kind in ("json", "md", "html")]
    return decode((out / f"{files[0].stem}.json").read_bytes()), done.stdout


def test_a_scenario_is_run_and_reported(tmp_path: Path, disk: Path) -> None:
    report, shown = run(tmp_path / "out", disk, "sessions", "--peers", "postroika", "--driver", "own")
    (result,) = report.scenarios
    assert (result.name, result.size, result.void) == ("sessions", "quick", "")
    assert [(turn.contender, turn.driver) for turn in result.turns] == [("Postroika", "own"), (FLOOR, "own")]
    ours, floor = result.turns
    assert (ours.messages, ours.bytes) == (ours.recipients, 4096 * ours.messages)
    assert min(ours.accepted_s, ours.elapsed_s) > 0  # the last message may be in the sink before its 250 is read
    assert ours.cpu_s is not None
    assert ours.cpu_s > 0
    assert ours.private_bytes is not None
    assert ours.resident_bytes is not None
    assert 0 < ours.private_bytes < ours.resident_bytes
    for turn in (ours, floor):
        assert turn.delivery_latency_ms is not None
        assert sum(count for _, count in turn.delivery_latency_ms.histogram) == turn.messages
        assert turn.timeline[-1][1] == turn.messages
    (contender,) = result.contenders
    assert contender.settings.startswith("# durable: ")
    assert contender.load.startswith("postroika bench load ")
    assert report.missing == {}
    assert report.machine["peers"] == {"Postroika": contender.version}
    assert "no server between" in shown
    again = bench("report", next(str(file) for file in (tmp_path / "out").glob("*.json")))
    assert again.stdout.splitlines() == shown.splitlines()[:-3]


def test_queues_in_memory_are_refused(tmp_path: Path) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no file system in memory")
    done = bench("run", "relay", "--quick", "--directory", "/dev/shm", "--out", str(tmp_path))
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "/dev/shm is in memory, where a sync costs nothing" in done.stderr


def test_scenarios_are_listed() -> None:
    done = bench("list")
    assert [line.split()[0] for line in done.stdout.splitlines()][1:] == [
        "relay",
        "relay-100k",
        "accept",
        "sessions",
        "list",
        "fanout",
        "slow",
        "mixed",
        "cores",
        "big",
        "idle",
        "backlog",
    ]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    file.write_text(json.dumps({"kernels": {}}))
    done = bench("report", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"postroika: {file} is no report of the harness: ")
