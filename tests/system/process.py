"""Runs real programs for the system tests. Promise: none outlives its test, and none can block on a full pipe.

A process gets a session of its own, its output in a file, and SIGKILL from the kernel should the test run itself be
killed. `Process.stop` ends the whole process group. Programs that are not installed fail the test in CI and skip it
elsewhere, naming the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)
_SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# Below net.ipv4.ip_local_port_range (32768–60999), so that no outgoing connection takes a port between two binds.
_PORTS = range(10_240, 32_000)


def program(name: str, package: str) -> str:
    """The path of a program; without it the test fails in CI and is skipped elsewhere, loudly (see tests/conftest)."""
    path = shutil.which(name, path=_SEARCH)
    if path is not None:
        return path
    text = f"{name} is not installed; mend it with: sudo apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(f"missing peer: {text}", pytrace=False)
    pytest.skip(f"missing peer: {text}")


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP and UDP port that nobody uses on `host` now and that the system gives to nobody by itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.sample(_PORTS, 500):
        with socket.socket(family) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            try:
                # Without SO_REUSEADDR: a port in TIME_WAIT is left alone as well.
                tcp.bind((host, port))
                udp.bind((host, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port on {host}")


def wait_until(ready: Callable[[], object], what: str, within_s: float = 10.0) -> None:
    """Return as soon as `ready()` is true; fail the test when it is not within `within_s`."""
    give_up_at = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > give_up_at:
            pytest.fail(f"{what}: not within {within_s:g} s")
        time.sleep(0.01)  # between looks at another process, which has no other way to tell


def accepts(host: str, port: int) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class Process:
    """A running program; a context manager that stops it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        orphan_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Start `command` with stdout and stderr appended to `log`. Call it from the main thread: the kernel counts
        the thread that started a process as its parent, and kills the orphan when that thread ends.
        """
        self.command = [str(part) for part in command]
        self.log = log

        def before_exec() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, orphan_signal)
            # A shell starts background jobs with SIGINT ignored, and so would be all that these start.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(os.environ if env is None else env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=before_exec,
            )
        self.pid = self._popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.poll()

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_accepting(self, host: str, port: int, within_s: float = 10.0) -> None:
        """Return as soon as it accepts connections; fail the test when it ends before or takes too long."""

        def ready() -> bool:
            if self.returncode is not None:
                pytest.fail(f"{self.command[0]} ended with {self.returncode}:\n{self.output()}")
            return accepts(host, port)

        wait_until(ready, f"{self.command[0]} on {host}:{port}", within_s)

    def wait(self, within_s: float = 10.0) -> int:
        """Its return code, once it ends by itself; fails the test when it takes too long."""
        try:
            return self._popen.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.command[0]} did not end within {within_s:g} s:\n{self.output()[-4000:]}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, not to its children."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def stop(self, within_s: float = 5.0) -> int:
        """SIGTERM to the process, then SIGKILL to its whole group; returns when all of the group is gone."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(within_s)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to the whole process group; returns when all of it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._popen.wait()

        def gone() -> bool:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            return False

        wait_until(gone, f"the children of {self.command[0]} to end")
        return code


def run(command: Sequence[str | Path], *, within_s: float, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it wrote; killed, with its children, after `within_s`.

    Unlike subprocess.run it cannot hang on a grandchild that keeps the output open. Callable from any thread.
    """
    popen = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        start_new_session=True,
    )
    try:
        output, _ = popen.communicate(timeout=within_s)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        raise
    return subprocess.CompletedProcess(popen.args, popen.returncode, output, "")
