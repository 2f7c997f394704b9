"""Loads and sinks as processes: what drivers share."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from postroika.bench.peers.program import Program

HOST = "127.0.0.1"
_START_WITHIN_S = 20.0


class SinkProcess:
    """A sink: a program, and the directory with what it writes; see `drivers.RunningSink` for what its methods promise.

    Args:
        command, environment: of the program; "{directory}" in the command stands for its directory.
        port: that it listens on.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], port: int) -> None:
        self.port = port
        self._directory = Path(tempfile.mkdtemp(prefix="postroika-sink-"))
        self._log = self._directory / "sink.log"
        self._program = Program(
            [part.replace("{directory}", str(self._directory)) for part in command],
            log=self._log,
            directory=self._directory,
            environment=environment,
        )
        self._counts: dict[str, Any] | None = None
        self._ended_cpu_s: float | None = None
        try:
            self._program.start()
            self._program.wait_for(self._ready, f"a sink on {HOST}:{port}", _START_WITHIN_S)
            self._start_cpu_s = self._program.cpu_s()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def cpu_method(self) -> str:
        return self._program.cpu_method

    def pids(self) -> set[int]:
        return self._program.pids()

    def cpu_s(self) -> float:
        return self._program.cpu_s() if self._ended_cpu_s is None else self._ended_cpu_s

    def status(self) -> dict[str, Any]:
        if self._counts is not None:
            return self._counts
        # What it took to start is no part of what it takes to receive mail.
        return {**self._count(), "cpu_s": round(self.cpu_s() - self._start_cpu_s, 6)}

    def stop(self) -> dict[str, Any]:
        if self._counts is None:
            self._ended_cpu_s = self._program.cpu_s()
            try:
                counts = self._last_count()
                self._counts = {**counts, "cpu_s": round(self._ended_cpu_s - self._start_cpu_s, 6)}
            finally:
                self._end()
        return self._counts

    def _ready(self) -> bool:
        """Whether it accepts connections."""
        raise NotImplementedError

    def _count(self) -> dict[str, Any]:
        """What it has seen so far, without cpu_s."""
        raise NotImplementedError

    def _last_count(self) -> dict[str, Any]:
        """All that it has seen; nothing more comes."""
        raise NotImplementedError

    def _end(self) -> None:
        self._program.end()
        shutil.rmtree(self._directory, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a program ended, what it used, and what it wrote."""

    returncode: int
    cpu_s: float
    output: str


def run_to_end(command: Sequence[str], environment: Mapping[str, str], within_s: float) -> Ended:
    """Run a program to its end; it is killed after `within_s`."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        killer = threading.Timer(within_s, process.kill)
        killer.daemon = True
        killer.start()
        try:
            # wait4 and not Popen.wait: it tells what the process used.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            killer.cancel()
        output.seek(0)
        text = output.read().decode(errors="replace")
    return Ended(process.returncode, usage.ru_utime + usage.ru_stime, text)
