"""What running programs cost: CPU time, memory, and what the rest of the machine did meanwhile. All from /proc.

A program is its first process with everything below it: for Postfix master(8) and its daemons, for Postroika the
supervisor and its workers. Processes that came and went are counted through the parent that reaped them.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_LOOK_EVERY_S = 0.25


def processes(root: int) -> list[int]:
    """A process and all below it that run now."""
    found = [root]
    for pid in found:
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it has just ended; its parent has its time
    return found


def cpu_s(root: int) -> float:
    """User and system time of a program since it started, in seconds."""
    return sum(map(_cpu_of_process_s, processes(root)))


def _cpu_of_process_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        exact_ns = sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0.0
    user, system, reaped_user, reaped_system = (int(field) / _TICKS_PER_S for field in fields[11:15])
    # Both are too low by something: the first is cut to whole ticks, which counts with a hundred small processes; the
    # second knows nothing of threads that have ended.
    return max(user + system, exact_ns / 1e9) + reaped_user + reaped_system


@dataclass(frozen=True)
class Memory:
    """Resident memory of a program, in bytes. `private_bytes` is without pages of files, which programs share."""

    resident_bytes: int
    private_bytes: int


def memory(root: int) -> Memory:
    """What a program holds now, its processes added up."""
    resident = shared = 0
    for pid in processes(root):
        try:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
        except OSError:
            continue
        resident += int(fields[1])
        shared += int(fields[2])
    return Memory(resident * _PAGE_BYTES, (resident - shared) * _PAGE_BYTES)


class PeakMemory:
    """Looks at a program's memory while it works, and keeps the largest figures."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._resident_bytes = self._private_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak(self) -> Memory:
        """The largest figures so far, not necessarily of one moment."""
        return Memory(self._resident_bytes, self._private_bytes)

    def _watch(self) -> None:
        while True:
            now = memory(self._root)
            self._resident_bytes = max(self._resident_bytes, now.resident_bytes)
            self._private_bytes = max(self._private_bytes, now.private_bytes)
            if self._done.wait(_LOOK_EVERY_S):
                return


def wait_until_quiet(root: int, within_s: float = 30.0) -> None:
    """Return when the program has used hardly any CPU for half a second: what it still had to tidy up is done.

    Raises:
        TimeoutError: it does not come to rest.
    """
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        before = cpu_s(root)
        time.sleep(0.5)
        if cpu_s(root) - before < 0.01:
            return
    raise TimeoutError(f"process {root} is still busy after {within_s:g} s")


class Bystanders:
    """How much CPU all others used meanwhile: neither the programs named nor we nor children that we have reaped.

    The kernel's own threads are among the others, so a little is normal.
    """

    def __init__(self, *roots: int) -> None:
        self._roots = roots
        self._began_at = time.monotonic()
        self._before_s = self._others_s()

    def share(self) -> float:
        """The others' part of all cores since this object was made, 0 to 1; time the hypervisor took away included."""
        cores = os.cpu_count() or 1
        used_s = self._others_s() - self._before_s
        return max(0.0, used_s / cores / (time.monotonic() - self._began_at))

    def _others_s(self) -> float:
        # user nice system idle iowait irq softirq steal: proc_stat(5)
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, steal = (int(field) / _TICKS_PER_S for field in fields)
        ours = sum(cpu_s(root) for root in self._roots)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        return user + nice + system + irq + softirq + steal - ours
