"""What running programs cost: CPU time, memory, and what the rest of the machine did meanwhile.

Promise: CPU is user and system time of all processes of a program, those that have ended included. Where a control
group can be made (version 2, see cgroups(7)) the kernel keeps that account to the microsecond, and nothing escapes it.
Elsewhere it is added up from /proc: each living process, and what the ended ones left with the parents that waited for
them; a child whose parent ignores SIGCHLD is lost there. `Processes.cpu_method` says which of the two it was.

Memory comes from /proc and is added up over processes: resident, which counts a page that processes share once for each
of them, and private, which is without the pages of files and those that are shared on purpose.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from postroika.bench import control_group

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
_LOOK_EVERY_S = 0.25
_QUIET_FOR_S = 0.5
_QUIET_CPU_S = 0.01
_numbers = itertools.count(1)


class Processes(Protocol):
    """A program, as far as it costs something."""

    @property
    def cpu_method(self) -> str:
        """Where `cpu_s` comes from: "cgroup" or "/proc"."""

    def pids(self) -> set[int]:
        """All its processes that run now."""

    def cpu_s(self) -> float:
        """User and system time since it was first started, in seconds."""


class Memory(NamedTuple):
    """Memory of a program, its processes added up."""

    resident_bytes: int
    private_bytes: int


class ProcessTree:
    """A process and all below it, by /proc.

    Args:
        root: its process id.
        with_root: False: the root only looks after the program, and what it costs itself does not count.
    """

    cpu_method = "/proc"

    def __init__(self, root: int, *, with_root: bool = True) -> None:
        self._root = root
        self._with_root = with_root

    def pids(self) -> set[int]:
        """Empty once the root has ended."""
        found = [self._root]
        for pid in found:
            try:
                tasks = list(Path(f"/proc/{pid}/task").iterdir())
                found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
            except OSError:
                continue  # it has just ended; its parent has its time
        return set(found if self._with_root else found[1:])

    def cpu_s(self) -> float:
        """Of what runs, and of what has been waited for."""
        own_s, reaped_s = _cpu_of_process_s(self._root)
        return (
            reaped_s
            + (own_s if self._with_root else 0.0)
            + sum(sum(_cpu_of_process_s(pid)) for pid in self.pids() - {self._root})
        )


def _cpu_of_process_s(pid: int) -> tuple[float, float]:
    """Its own time, and that of the children it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        exact_ns = sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0.0, 0.0
    user, system, reaped_user, reaped_system = (int(field) / _TICKS_PER_S for field in fields[11:15])
    # Both are too low by something: the first is cut to whole ticks, which counts with a hundred small processes; the
    # second knows nothing of threads that have ended.
    return max(user + system, exact_ns / 1e9), reaped_user + reaped_system


class Cgroup:
    """A control group for one program; `make` makes it, `remove` removes it."""

    cpu_method = "cgroup"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def make(cls) -> Self | None:
        """A new one below that of this process; None where that is not possible."""
        try:
            parent = control_group.own_group()
            if parent is None:
                return None
            path = parent / f"postroika-bench-{os.getpid()}-{next(_numbers)}"
            path.mkdir()
        except OSError:
            return None
        group = cls(path)
        try:
            group.cpu_s()
        except OSError:
            group.remove()
            return None
        return group

    @property
    def procs_file(self) -> Path:
        """A process that writes "0" here belongs to the group from then on, with all that it starts."""
        return self._path / "cgroup.procs"

    def pids(self) -> set[int]:
        """All that belong to the group."""
        try:
            return set(map(int, self.procs_file.read_text().split()))
        except OSError:
            return set()

    def cpu_s(self) -> float:
        """All that was ever used in the group."""
        for line in (self._path / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) / 1e6
        raise OSError(f"{self._path} keeps no account of CPU time")

    def remove(self) -> None:
        """When its processes are gone; what cannot be removed is left, empty, and costs nothing."""
        control_group.remove(self._path)


def memory(pids: Iterable[int]) -> Memory:
    """What processes hold now, added up."""
    resident = shared = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
        except OSError:
            continue
        resident += int(fields[1])
        shared += int(fields[2])
    return Memory(resident * _PAGE_BYTES, (resident - shared) * _PAGE_BYTES)


class Meter:
    """A context: what a program costs in it. It looks at the memory four times a second.

    Attributes:
        samples: (seconds since it began, resident bytes, private bytes).
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)
        self._began_at = 0.0
        self._cpu_before_s = 0.0
        self.samples: list[tuple[float, int, int]] = []

    def __enter__(self) -> Self:
        self._began_at = time.monotonic()
        self._cpu_before_s = self._processes.cpu_s()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    @property
    def cpu_method(self) -> str:
        """Where the figures of CPU time come from."""
        return self._processes.cpu_method

    def cpu_s(self) -> float:
        """User and system time of all processes since it began, until now."""
        return self._processes.cpu_s() - self._cpu_before_s

    @property
    def peak(self) -> Memory:
        """The largest figures so far, not necessarily of one moment."""
        return Memory(
            max((resident for _, resident, _ in self.samples), default=0),
            max((private for _, _, private in self.samples), default=0),
        )

    def _watch(self) -> None:
        while True:
            self._look()
            if self._done.wait(_LOOK_EVERY_S):
                return

    def _look(self) -> None:
        now = memory(self._processes.pids())
        self.samples.append((round(time.monotonic() - self._began_at, 3), now.resident_bytes, now.private_bytes))


def wait_until_quiet(processes: Processes, within_s: float = 30.0) -> None:
    """Return when a program has used hardly any CPU for half a second: what it still had to tidy up is done.

    Raises:
        TimeoutError: it does not come to rest.
    """
    give_up_at = time.monotonic() + within_s
    while True:
        before_s = processes.cpu_s()
        time.sleep(_QUIET_FOR_S)
        if processes.cpu_s() - before_s < _QUIET_CPU_S:
            return
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"it is still busy after {within_s:g} s")


class Bystanders:
    """How much CPU all others used meanwhile: neither the programs named nor we nor children that we have waited for.

    The kernel's own threads are among the others, so a little is normal.
    """

    def __init__(self, *programs: Processes) -> None:
        self._programs = programs
        self._began_at = time.monotonic()
        self._before_s = self._others_s()

    def share(self) -> float:
        """The others' part of all cores since this object was made, 0 to 1; time the hypervisor took away included."""
        cores = os.cpu_count() or 1
        used_s = self._others_s() - self._before_s
        return max(0.0, used_s / cores / max(time.monotonic() - self._began_at, 1e-6))

    def _others_s(self) -> float:
        # user nice system idle iowait irq softirq steal: proc_stat(5)
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, steal = (int(field) / _TICKS_PER_S for field in fields)
        ours = 0.0
        for program in self._programs:
            with contextlib.suppress(OSError):
                ours += program.cpu_s()
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        return user + nice + system + irq + softirq + steal - ours
