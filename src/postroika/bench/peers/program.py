"""A server as a program: started below a launcher, with an account of its CPU time, and surely ended.

Promise: after `stop` or `kill`, and also after the death of this process, no process of the program is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from postroika.bench.cpu_limit import CpuLimit
from postroika.bench.meter import Cgroup, ProcessTree
from postroika.errors import PostroikaError

_LAUNCHER = Path(__file__).with_name("launcher.py")
_GRACE_S = 5.0
_KILL_WITHIN_S = 20.0
_COMMAND_S = 600.0
_TAIL_BYTES = 4000
_LOOK_EVERY_S = 0.01


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a program sees in place of parts of the file system; nobody else does. Without any it needs no root.

    Args:
        overlays: (folders, target): what is in the folders appears in the target, with what was there; read-only.
        binds: (source, target): the target is the source.
        hidden: these directories are empty, and kept in memory.
    """

    overlays: tuple[tuple[tuple[Path, ...], Path], ...] = ()
    binds: tuple[tuple[Path, Path], ...] = ()
    hidden: tuple[Path, ...] = ()


class Program:
    """A command that can be started, ended and started again.

    Args:
        command, directory, environment: of its first process; it must stay in the foreground.
        log: a file that its stdout and stderr are appended to.
        cpu_cores: what it may use of them, where the system can bound it; 0 = all there are.

    Attributes:
        bounded: whether the system does.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        directory: Path,
        room: Room | None = None,
        environment: Mapping[str, str] | None = None,
        cpu_cores: float = 0.0,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self._room = room or Room()
        self._directory = directory
        self._environment = dict(os.environ if environment is None else environment)
        self._launcher: subprocess.Popen[bytes] | None = None
        self._tree: ProcessTree | None = None
        self._cgroup = Cgroup.make()
        own = self._cgroup.procs_file.parent if self._cgroup else None
        self._limit = CpuLimit.make(cpu_cores, within=own) if cpu_cores else None
        self.bounded = self._limit is not None
        self._ended_cpu_s = 0.0
        self._status: int | None = None

    @property
    def cpu_method(self) -> str:
        """ "cgroup" or "/proc"."""
        return (self._cgroup or ProcessTree).cpu_method

    def start(self) -> None:
        """Start it; it does not run."""
        wanted = {
            "command": self.command,
            "log": str(self.log),
            "environment": self._environment,
            "directory": str(self._directory),
            "cgroups": sorted({str(group.procs_file) for group in (self._cgroup, self._limit) if group}),
            "grace_s": _GRACE_S,
            "overlays": [[list(map(str, folders)), str(target)] for folders, target in self._room.overlays],
            "binds": [list(map(str, pair)) for pair in self._room.binds],
            "hidden": [str(target) for target in self._room.hidden],
        }
        with self.log.open("ab") as errors:
            self._launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", _LAUNCHER, json.dumps(wanted)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._tree = ProcessTree(self._launcher.pid, with_root=False)

    @property
    def running(self) -> bool:
        """Whether anything of it is left."""
        return self._launcher is not None and self._launcher.poll() is None

    def pids(self) -> set[int]:
        """All processes of the program, without the launcher."""
        if self._cgroup:
            return self._cgroup.pids()
        return self._tree.pids() if self._tree else set()

    def cpu_s(self) -> float:
        """Of all starts."""
        if self._cgroup:
            return self._cgroup.cpu_s()
        return self._ended_cpu_s + (self._tree.cpu_s() if self._tree else 0.0)

    def run(self, command: Sequence[str | Path], *, group: int | None = None) -> str:
        """Run another command in the same room and on the same account, to its end; returns what it wrote.

        Args:
            group: the group id to run it with.

        Raises:
            PostroikaError: it failed.
        """
        if self._room != Room() and self._launcher is not None:
            command = ["nsenter", f"--target={self._launcher.pid}", "--mount", "--", *command]
        if self._cgroup:
            command = ["sh", "-c", 'echo 0 >"$0" && exec "$@"', self._cgroup.procs_file, *command]
        return run(command, environment=self._environment, group=group)

    def stop(self, within_s: float) -> None:
        """SIGTERM to its first process; SIGKILL to all that is left after `within_s` or a little after the first."""
        self._say(b"t")
        self.wait(within_s)

    def wait(self, within_s: float) -> int | None:
        """Let it end by itself, and the others with it. Returns how its first process ended, as a return code."""
        if self._launcher is not None:
            try:
                self._launcher.wait(within_s)
            except subprocess.TimeoutExpired:
                self._say(b"k")
        self._wait()
        return self._status

    def kill(self) -> None:
        """SIGKILL to all of it."""
        self._say(b"k")
        self._wait()

    def end(self) -> None:
        """When it is stopped for good."""
        self.kill()
        for group in (self._cgroup, self._limit):
            if group:
                group.remove()

    def output(self) -> str:
        """The end of what it has written."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for(self, ready: Callable[[], bool], what: str, within_s: float) -> None:
        """Return as soon as `ready()`.

        Raises:
            PostroikaError: it has ended, or takes too long.
        """
        give_up_at = time.monotonic() + within_s
        while not ready():
            if not self.running:
                raise PostroikaError(f"{what} ended at once:\n{self.output()}")
            if time.monotonic() > give_up_at:
                raise PostroikaError(f"{what} is not there after {within_s:g} s:\n{self.output()}")
            time.sleep(_LOOK_EVERY_S)

    def _say(self, letter: bytes) -> None:
        if self._launcher is not None and self._launcher.stdin is not None and self.running:
            try:
                self._launcher.stdin.write(letter)
                self._launcher.stdin.flush()
            except BrokenPipeError:
                pass  # it is just ending

    def _wait(self) -> None:
        launcher = self._launcher
        if launcher is None:
            return
        try:
            told, _ = launcher.communicate(timeout=_KILL_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise PostroikaError(f"{self.command[0]} cannot be killed: {sorted(self.pids())}") from None
        self._launcher = self._tree = None
        self._status = None
        if told:
            result = json.loads(told)
            self._status = result["status"]
            self._ended_cpu_s += result["cpu_s"]


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    group: int | None = None,
    within_s: float = _COMMAND_S,
) -> str:
    """Run a command to its end; returns what it wrote.

    Raises:
        PostroikaError: it failed, took too long, or is not there.
    """
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            group=group,
            timeout=within_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PostroikaError(f"{words[0]}: {error}") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        how = f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"code {done.returncode}"
        raise PostroikaError(f"{' '.join(words)} ended with {how}:\n{text[-_TAIL_BYTES:]}")
    return text
