"""Control groups of the kernel (cgroups(7)): which one is ours, and how one is removed."""

from __future__ import annotations

import time
from pathlib import Path

_REMOVE_WITHIN_S = 5.0


def own_group(controller: str = "") -> Path | None:
    """The directory of this process's group; None where there is none.

    Args:
        controller: the one of version 1 whose hierarchy is wanted; "" for that of version 2.
    """
    own = ""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            own = path
    if not own:
        return None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        wanted = controller in fields[3].split(",") if controller else True
        if fields[2] == ("cgroup" if controller else "cgroup2") and wanted:
            # In a container the root of what is mounted may be our own group.
            for group in (Path(fields[1]) / own.lstrip("/"), Path(fields[1])):
                if group.is_dir():
                    return group
    return None


def remove(path: Path) -> None:
    """When its processes are gone; what cannot be removed is left, empty, and costs nothing. May be called twice."""
    give_up_at = time.monotonic() + _REMOVE_WITHIN_S
    while time.monotonic() < give_up_at:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)  # a process stays in its group until it has been waited for
        else:
            return
