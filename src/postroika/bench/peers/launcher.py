"""The process above a server of the harness: a program of its own, run with the standard library alone.

    python -I -S launcher.py '{"command": […], "log": "…", …}'

Promise: when it has ended, no process that the server started is left, whatever became of whom: processes that detach
themselves come back to it (PR_SET_CHILD_SUBREAPER), it waits for each of them, and it ends all of them when it is told
to or when whoever started it is gone (its standard input ends). Nothing that it mounts is seen outside.

One letter on standard input: "t" sends SIGTERM to the server's first process, "k" SIGKILL to all. When the first
process has ended the others have `grace_s` to follow. The last thing it does is to print one JSON object: how the first
process ended, and the CPU time of everything it has waited for.

Keys: command; log (a file for stdout and stderr); environment; directory (to start in); cgroups (cgroup.procs files
that the server's processes go to); grace_s; overlays ([folders, target]: what is in the folders appears in the target,
with what was there before); binds ([source, target]); hidden (targets that become empty, and writable in memory).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_CLONE_NEWNS = 0x20000  # unshare(2)
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000  # mount(2)
_REMOVE_WITHIN_S = 5.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Until everything has ended."""
    wanted = json.loads(sys.argv[1])
    harness = os.getppid()
    _check(_LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")
    _mount_all(wanted)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what there is to say comes by the pipe
    first = os.fork()
    if first == 0:
        _become(wanted)
    status = _watch(first, wake, wanted["grace_s"])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.dumps({"status": status, "cpu_s": used.ru_utime + used.ru_stime})
    # Who is ending loses its files before its children, so its id may still be there.
    if os.getppid() != harness or not _tell(told):
        for group in wanted["cgroups"]:
            _remove(Path(group).parent)  # nobody else will


def _tell(what: str) -> bool:
    """Whether anybody is there to be told."""
    try:
        os.write(1, f"{what}\n".encode())
    except BrokenPipeError:
        return False
    return True


def _remove(group: Path) -> None:
    """Remove a cgroup; it may be busy for a moment after its last process."""
    give_up_at = time.monotonic() + _REMOVE_WITHIN_S
    while time.monotonic() < give_up_at:
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.01)


def _mount_all(wanted: dict[str, Any]) -> None:
    if not (wanted["overlays"] or wanted["binds"] or wanted["hidden"]):
        return
    _check(_LIBC.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _mount("none", "/", "none", _MS_REC | _MS_PRIVATE)
    for folders, target in wanted["overlays"]:
        # Without an upper layer it is read-only.
        layers = ":".join(layer.replace("\\", "\\\\").replace(":", "\\:") for layer in [*folders, target])
        _mount("overlay", target, "overlay", 0, f"lowerdir={layers}")
    for source, target in wanted["binds"]:
        _mount(source, target, "none", _MS_BIND)
    for target in wanted["hidden"]:
        _mount("tmpfs", target, "tmpfs", 0, "mode=755")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _check(
        _LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode() or None),
        f"mount {source} on {target}",
    )


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        sys.exit(f"{what}: {os.strerror(number)}")


def _become(wanted: dict[str, Any]) -> NoReturn:
    """In the child: run the server."""
    try:
        os.setsid()
        for group in wanted["cgroups"]:
            Path(group).write_text("0")
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open("/dev/null", os.O_RDONLY)
        for target, source in enumerate((null, log, log)):
            os.dup2(source, target)
        os.chdir(wanted["directory"])
        os.execvpe(wanted["command"][0], wanted["command"], wanted["environment"])  # noqa: S606
    except OSError as error:
        os.write(2, f"{wanted['command'][0]}: {error}\n".encode())
    os._exit(127)


def _watch(first: int, wake: int, grace_s: float) -> int | None:
    """Carry out what is asked and wait for all; returns how the first ended, as a return code."""
    status: int | None = None
    kill_at: float | None = None
    asked = True
    while True:
        status = _reap(first, status)
        if not _has_children():
            return status
        if status is not None and kill_at is None:
            kill_at = time.monotonic() + grace_s
        if kill_at is not None and time.monotonic() >= kill_at:
            _kill_all()
        # Killing is repeated: what is killed may just have forked.
        timeout_s = None if kill_at is None else max(0.01, kill_at - time.monotonic())
        ready = select.select([wake, *([0] if asked else [])], [], [], timeout_s)[0]
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        if 0 in ready:
            letters = os.read(0, 64)
            if b"t" in letters and status is None:
                os.kill(first, signal.SIGTERM)
            if b"k" in letters or not letters:
                asked = False
                kill_at = time.monotonic()


def _reap(first: int, status: int | None) -> int | None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, result = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == first:
                status = os.waitstatus_to_exitcode(result)
    return status


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _kill_all() -> None:
    found = [os.getpid()]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    for pid in found[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
