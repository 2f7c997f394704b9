"""Several real processes on one event log: no line is lost, none is torn, through rotation and kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WRITERS = 4
APPENDS = 300
_WRITER = """
import json, random, sys
from pathlib import Path
from postroika.outcome.sinks import LogFile

path, name, appends, lines_max, rotate_bytes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
rng = random.Random(name)
log = LogFile(Path(path), rotate_bytes=rotate_bytes, keep=100_000)
number = 0
for _ in range(appends):
    lines = []
    for _ in range(rng.randint(1, lines_max)):
        lines.append(json.dumps({"id": f"{name}-{number}", "text": "x" * rng.randint(0, 700)}))
        number += 1
    log.append(("\\n".join(lines) + "\\n").encode())
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
log.close()
"""


Start = Callable[[Path, str, int, int, int], "subprocess.Popen[str]"]


@pytest.fixture
def start_writer() -> Iterator[Start]:
    """Starts a process that appends; none of them outlives the test."""
    with contextlib.ExitStack() as stack:

        def start(path: Path, name: str, appends: int, lines_max: int, rotate_bytes: int) -> subprocess.Popen[str]:
            arguments = (str(path), name, str(appends), str(lines_max), str(rotate_bytes))
            command = [sys.executable, "-c", _WRITER, *arguments]
            writer = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(writer.kill)
            return writer

        yield start


def said(writer: subprocess.Popen[str]) -> int:
    """How many lines the writer had appended when it last said so."""
    out, _ = writer.communicate(timeout=120)
    return int(([0, *out.split()])[-1])


def lines_of(path: Path) -> list[str]:
    """All lines of the log, the oldest file first; every line has to be whole."""
    rotated = [p for p in path.parent.glob(f"{path.name}.*") if p.name.rpartition(".")[2].isdigit()]
    ordered = sorted(rotated, key=lambda p: -int(p.name.rpartition(".")[2]))
    text = b"".join(p.read_bytes() for p in [*ordered, path])
    assert text.endswith(b"\n")
    return [json.loads(line)["id"] for line in text.splitlines()]


def test_concurrent_writers_lose_no_line_through_rotation(tmp_path: Path, start_writer: Start) -> None:
    path = tmp_path / "log/events.jsonl"
    names = [f"w{n}" for n in range(WRITERS)]
    writers = [start_writer(path, name, APPENDS, 20, 100_000) for name in names]
    counts = [said(writer) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    ids = lines_of(path)
    for name, count in zip(names, counts, strict=True):
        assert [i for i in ids if i.startswith(f"{name}-")] == [f"{name}-{n}" for n in range(count)]
    assert len(ids) == sum(counts)
    sizes = [p.stat().st_size for p in path.parent.glob("events.jsonl*") if p.suffix != ".lock"]
    assert len(sizes) >= sum(sizes) // 100_000
    assert max(sizes) <= 100_000


def test_log_moved_away_under_writers_loses_no_line(tmp_path: Path, start_writer: Start) -> None:
    path = tmp_path / "events.jsonl"
    writers = [start_writer(path, f"w{n}", APPENDS, 20, 1 << 30) for n in range(2)]
    moved = 0
    while any(writer.poll() is None for writer in writers):
        if path.exists() and path.stat().st_size > 50_000:
            moved += 1
            path.rename(tmp_path / f"events.jsonl.{10_000 - moved}")
        else:
            os.sched_yield()
    counts = [said(writer) for writer in writers]
    if not path.exists():
        path.write_bytes(b"")
        ids = lines_of_moved(path)
    else:
        ids = lines_of(path)
    assert moved >= 1
    assert sorted(ids) == sorted(f"w{w}-{n}" for w, count in enumerate(counts) for n in range(count))


def lines_of_moved(path: Path) -> list[str]:
    newest = min(path.parent.glob("events.jsonl.[0-9]*"), key=lambda p: int(p.name.rpartition(".")[2]))
    newest.rename(path)
    return lines_of(path)


def test_killed_writers_leave_whole_lines(tmp_path: Path, start_writer: Start) -> None:
    path = tmp_path / "events.jsonl"
    rng = random.Random(5)
    told: Counter[str] = Counter()
    survivor = start_writer(path, "survivor", 4 * APPENDS, 20, 10_000_000)
    for round_number in range(12):
        name = f"victim{round_number}"
        # Appends of some megabytes, so that the signal meets a write under way.
        victim = start_writer(path, name, 1_000_000, 8_000, 10_000_000)
        assert victim.stdout is not None
        first = victim.stdout.readline()
        deadline = time.monotonic() + rng.uniform(0, 0.1)
        while time.monotonic() < deadline:
            os.sched_yield()
        victim.send_signal(signal.SIGKILL)
        told[name] = max(int(first), said(victim))
    count = said(survivor)
    final = start_writer(path, "final", 1, 1, 10_000_000)
    assert (said(final), survivor.returncode, final.returncode) == (1, 0, 0)
    ids = lines_of(path)
    assert [i for i in ids if i.startswith("survivor-")] == [f"survivor-{n}" for n in range(count)]
    for name, at_least in told.items():
        seen = [i for i in ids if i.startswith(f"{name}-")]
        assert seen == [f"{name}-{n}" for n in range(len(seen))]
        assert len(seen) >= at_least
