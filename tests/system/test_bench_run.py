"""`postroika bench run`, end to end: real servers, real loads, one short round."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from postroika.bench.results import FLOOR, Report, decode
from tests.system.process import wait_until

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


def test_an_interpreter_is_measured_beside_the_own(tmp_path: Path, disk: Path) -> None:
    options = ("--peers", "postroika", "--driver", "own", "--interpreter", f"the same={sys.executable}")
    report, shown = run(tmp_path / "out", disk, "accept", *options)
    (result,) = report.scenarios
    assert [one.label for one in result.contenders] == ["Postroika", "Postroika, the same"]
    assert result.contenders[0].settings.splitlines()[0] == result.contenders[1].settings.splitlines()[0]
    assert list(report.machine["peers"]) == ["Postroika"]
    assert report.machine["interpreters"]["the same"].startswith(f"{report.machine['python']}, ")
    assert "interpreter the same: CPython" in shown
    assert "÷ Postroika" in shown
    assert result.bystanders is not None


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (
            ["--interpreter", "/no/python"],
            1,
            "postroika: there is no interpreter /no/python: No such file or directory",
        ),
        (["--interpreter", "/bin/true"], 1, "postroika: /bin/true cannot run Postroika: it does not say why"),
        (["--peers", "postroika,qmail"], 1, "postroika: there is no server 'qmail'; there are postroika, postfix, "),
        (["relais"], 1, "postroika: there is no scenario 'relais'; there are relay, "),
        (["--out", "/proc/reports"], 1, "postroika: no report can be written to /proc/reports: "),
        (["--directory", "/proc"], 1, "Error: no queue can be kept in /proc: "),
        (["--peers", "postfix", "--interpreter", "/bin/true"], 2, "Error: --interpreter is about Postroika: "),
    ],
)
def test_what_cannot_be_is_told_in_one_line_before_anything_runs(
    tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    done = bench("run", "--quick", "--out", str(tmp_path / "out"), *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(told)
    assert "round 1" not in done.stderr
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_report_and_nothing_else(tmp_path: Path, disk: Path, number: signal.Signals) -> None:
    options = ("--peers", "postroika", "--driver", "own", "--rounds", "500")
    command = [*_COMMAND, "run", "sessions", "relay", "--quick", *options, "--out", str(tmp_path), "--directory"]
    process = subprocess.Popen([*command, str(disk)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        while "round 1, our load: Postroika" not in (line := process.stderr.readline()):
            assert line
        started = children(process.pid)
        process.send_signal(number)
        process.send_signal(number)  # people do that; it ends no sooner, and leaves nothing either
        shown, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert "Interrupted during relay, in round " in said
    assert said.rstrip().endswith("; not run: sessions")
    (result,) = decode(next(tmp_path.glob("*.json")).read_bytes()).scenarios
    assert (result.name, result.void, len(result.turns) > 0) == ("relay", "", True)
    assert result.interrupted.startswith("in round ")
    assert "! interrupted in round " in shown
    # What it had started is gone with it; `disk` sees to the queues.
    assert started
    wait_until(lambda: not any(map(runs, started)), "the end of all that it had started", within_s=60)


def runs(pid: int) -> bool:
    """Whether a process still does something: one that has ended stays in the list until somebody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """All processes below one."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found[1:]


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
        "relay-tls",
        "relay-signed",
        "accept",
        "sessions",
        "list",
        "fanout",
        "slow",
        "mixed",
        "cores",
        "kernels",
        "big",
        "idle",
        "backlog",
        "all",
    ]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kernels.json"
    file.write_text(json.dumps({"kernels": {}}))
    done = bench("report", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"postroika: {file} is no report of the harness: ")
