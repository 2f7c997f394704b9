"""Where and with what figures were taken."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postroika import __version__
from postroika.errors import PostroikaError

_SOURCE = Path(__file__).parents[3]
_LIBRARIES = ("trio", "lmdb", "msgspec")
_SYNCS = 50
_SYNC_BYTES = 4096
_LOOPS = 9
_LOOP_TURNS = 20_000
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def describe(directory: Path, peers: Mapping[str, str] = {}) -> dict[str, Any]:
    """Hardware, system and versions.

    Args:
        directory: where the queues are.
        peers: versions of the servers that took part.
    """
    # First: what follows is load itself.
    load_average = os.getloadavg()
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "kernel": platform.release(),
        "file_system": file_system(directory),
        "sync_ms": round(sync_ms(directory), 3),
        "load_average_before": load_average[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python_loop_ns": round(python_loop_ns(), 1),
        "postroika": f"{__version__} ({_commit()})",
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "peers": dict(peers),
    }


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on.

    Raises:
        PostroikaError: the system does not say.
    """
    where = directory.resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [(point, kind) for point, kind in mounts if where.is_relative_to(point)]
    if not holding:
        raise PostroikaError(f"no mount is known that {directory} is on")
    # A later mount hides an earlier one on the same point.
    return max(enumerate(holding), key=lambda pair: (len(pair[1][0]), pair[0]))[1][1]


def is_disk(directory: Path) -> bool:
    """Whether a sync there means anything."""
    return file_system(directory) not in _MEMORY_FILE_SYSTEMS


def sync_ms(directory: Path) -> float:
    """The median time to append 4 KiB to a file and fdatasync it."""
    took_s = []
    file = directory / f".sync-{os.getpid()}"
    try:
        with file.open("wb", buffering=0) as output:
            for _ in range(_SYNCS):
                output.write(os.urandom(_SYNC_BYTES))
                begin = time.perf_counter()
                os.fdatasync(output.fileno())
                took_s.append(time.perf_counter() - begin)
    finally:
        file.unlink(missing_ok=True)
    return 1000 * statistics.median(took_s)


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
    """The commit of the source, "+" if it was changed since."""
    command = ["git", "-C", str(_SOURCE), "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
