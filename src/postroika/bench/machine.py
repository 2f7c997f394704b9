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
from postroika.bench import interpreter_facts
from postroika.bench.interpreters import Interpreter
from postroika.errors import PostroikaError

_SOURCE = Path(__file__).parents[3]
_LIBRARIES = ("trio", "lmdb", "msgspec")
_SYNCS = 50
_SYNC_BYTES = 4096
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def describe(
    directory: Path, peers: Mapping[str, str] = {}, interpreters: Mapping[str, Interpreter] = {}
) -> dict[str, Any]:
    """Hardware, system and versions.

    Args:
        directory: where the queues are.
        peers: versions of the servers that took part.
        interpreters: those that Postroika is measured with, beside this one, by label.
    """
    # First: what follows is load itself.
    load_average = os.getloadavg()
    python = interpreter_facts.facts()
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
        "python": python["name"],
        "python_build": python["build"],
        "python_loop_ns": python["loop_ns"],
        "postroika": f"{__version__} ({_commit(_SOURCE)})",
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "interpreters": {label: interpreter_text(one) for label, one in interpreters.items()},
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


def interpreter_text(interpreter: Interpreter) -> str:
    """In one line: how it was built, how fast it is, and which Postroika it runs."""
    return (
        f"{interpreter.name}, {interpreter.build}, {interpreter.loop_ns:.0f} ns a loop; "
        f"Postroika {interpreter.postroika} ({_commit(Path(interpreter.source))})"
    )


def _commit(source: Path) -> str:
    """The commit that a directory is of, "+" if the source was changed since."""
    command = ["git", "-C", str(source), "describe", "--always", "--dirty=+", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
