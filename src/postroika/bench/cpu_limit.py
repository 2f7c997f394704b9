"""A bound on the CPU time of a program, so that it, and not what sends to it, is what a measurement measures.

The kernel keeps it with control groups (see cgroups(7)): version 2 where the controller "cpu" is given to ours, else
version 1. A program that has used up its part of a period waits for the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import Self

from postroika.bench import control_group

_PERIOD_US = 10_000  # a tenth of the kernel's own: what waits, waits for as short as a slice of the scheduler
_numbers = itertools.count(1)


class CpuLimit:
    """A control group with a quota; `make` makes it, `remove` removes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def make(cls, cores: float, *, within: Path | None) -> Self | None:
        """A bound of so many cores; None where there can be none.

        Args:
            within: the group of version 2 that the program belongs to anyway, if there is one: it cannot be in two.
        """
        quota_us = int(cores * _PERIOD_US)
        if within is not None:
            with contextlib.suppress(OSError):
                (within / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
                return cls(within)
        parent = control_group.own_group("cpu")
        if parent is None:
            return None
        path = parent / f"postroika-bench-limit-{os.getpid()}-{next(_numbers)}"
        try:
            path.mkdir()
        except OSError:
            return None
        limit = cls(path)
        try:
            (path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (path / "cpu.cfs_quota_us").write_text(str(quota_us))
        except OSError:
            limit.remove()
            return None
        return limit

    @property
    def procs_file(self) -> Path:
        """A process that writes "0" here is bounded from then on, with all that it starts."""
        return self._path / "cgroup.procs"

    def remove(self) -> None:
        """When its processes are gone. May be called twice."""
        control_group.remove(self._path)
