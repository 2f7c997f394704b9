"""Where and with what the figures were taken."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from postroika import __version__
from tests.system.process import program

_ROOT = Path(__file__).parent.parent
_LIBRARIES = ("trio", "lmdb", "msgspec", "Cython")
_SYNCS = 50
_SYNC_BYTES = 4096
_LOOPS = 9
_LOOP_TURNS = 20_000
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def describe(directory: Path) -> dict[str, Any]:
    """Hardware, system and versions; `directory` is where the queues are."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "kernel": platform.release(),
        "file_system": file_system(directory),
        "sync_ms": round(sync_ms(directory), 3),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "python_loop_ns": round(python_loop_ns(), 1),
        "postroika": f"{__version__} ({_commit()})",
        **{name.lower(): importlib.metadata.version(name) for name in _LIBRARIES},
    }


def postfix_version() -> str:
    """As "3.7.11"."""
    command = [program("postconf", "postfix"), "-d", "-h", "mail_version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on."""
    where = directory.resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [(point, kind) for point, kind in mounts if where.is_relative_to(point)]
    # A later mount hides an earlier one on the same point.
    return max(enumerate(holding), key=lambda pair: (len(pair[1][0]), pair[0]))[1][1]


def is_disk(directory: Path) -> bool:
    """Whether a sync there means anything."""
    return file_system(directory) not in _MEMORY_FILE_SYSTEMS


def sync_ms(directory: Path) -> float:
    """The median time to append 4 KiB to a file and fdatasync it."""
    took = []
    file = directory / "sync"
    with file.open("wb", buffering=0) as output:
        for _ in range(_SYNCS):
            output.write(os.urandom(_SYNC_BYTES))
            begin = time.perf_counter()
            os.fdatasync(output.fileno())
            took.append(time.perf_counter() - begin)
    file.unlink()
    return 1000 * statistics.median(took)


def python_loop_ns() -> float:
    """CPU time of one turn of a loop that squares and adds.

    It tells builds of the same Python apart (with and without profile-guided optimisation, static and shared), which no
    version does, and quiet machines from busy ones.
    """
    took_s = []
    for _ in range(_LOOPS):
        total = 0
        begin = time.thread_time()
        for number in range(_LOOP_TURNS):
            total += number * number
        took_s.append(time.thread_time() - begin)
    return statistics.median(took_s) / _LOOP_TURNS * 1e9


def _commit() -> str:
    """The commit of the source, "+" if it was changed since; empty outside a checkout."""
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
