"""A Postroika of a test: its own directory, its own ports, the real command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from postroika.control.client import Client
from postroika.control.records import FlushRequest
from tests.system.process import Process, free_port, wait_until
from tests.system.public_python import python_for

_ENV = {**os.environ, "PYTHONUNBUFFERED": "1"}


class Postroika:
    """`postroika serve` with a config of the test's own.

    Args:
        path: an empty directory.
        config: TOML for everything but [server], [process], [[listener]] and [log].
        hostname, workers: of [server].
        user: whom root is to start it as.
        port: to listen on; 0 for a free one.
        env: more for its environment.
        prefix: a program that starts it, with its arguments.
    """

    def __init__(
        self,
        path: Path,
        config: str = "",
        *,
        hostname: str = "mx.postroika.test",
        workers: int = 2,
        user: str = "root",
        port: int = 0,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.port = port or free_port()
        self.config_file = path / "postroika.toml"
        self.spool = path / "spool"
        self.event_log = path / "events.jsonl"
        self.log = path / "server.log"
        process = f'[process]\nuser = "{user}"\n' if os.geteuid() == 0 else ""
        self.config_file.write_text(
            f'[server]\nhostname = "{hostname}"\nworkers = {workers}\nspool = "spool"\ncontrol = "control.sock"\n'
            f'{process}[[listener]]\naddress = "127.0.0.1:{self.port}"\n[log]\nevents = "events.jsonl"\n{config}\n'
        )
        self._prefix = prefix
        self._python = python_for(user) if process and user not in {"", "root"} else sys.executable
        self._env = {**_ENV, **(env or {})}
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.stop(within_s=20)

    def start(self, within_s: float = 30.0) -> None:
        """Start it and wait for "Ready."."""
        said = self.log.read_text() if self.log.exists() else ""
        command = [*self._prefix, self._python, "-m", "postroika", "serve", "--config", str(self.config_file)]
        process = Process(command, log=self.log, env=self._env, cwd=self.path)
        self._process = process

        def ready() -> bool:
            if process.returncode is not None:
                pytest.fail(f"postroika ended with {process.returncode}:\n{self.output()[-4000:]}")
            return "\nReady.\n" in self.output()[len(said) :]

        wait_until(ready, "postroika serve", within_s)

    @property
    def process(self) -> Process:
        """The supervisor."""
        assert self._process is not None
        return self._process

    def output(self) -> str:
        """What it has written to its terminal, over all starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self) -> int:
        """SIGTERM, and wait. Returns the exit code."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL to the supervisor; its workers follow it by themselves."""
        self.process.signal(signal.SIGKILL)
        self.process.wait(10)

    def worker_pids(self) -> list[int]:
        """Its worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if _is_worker(int(pid))]

    def run(self, *arguments: str, check: bool = True) -> str:
        """A postroika command with this config; returns its stdout."""
        command = [self._python, "-m", "postroika", *arguments]
        if "--config" not in arguments:
            command += ["--config", str(self.config_file)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.path, env=_ENV, timeout=120, check=False
        )
        if check and done.returncode:
            pytest.fail(f"postroika {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def events(self) -> list[dict[str, Any]]:
        """What is in the event log, rotated files included, each event once."""
        return list({event["id"]: event for event in _read_events(self.event_log)}.values())

    def events_of(self, *types: str) -> list[dict[str, Any]]:
        """Events of these types."""
        return [event for event in self.events() if event["type"] in types]

    def wait_for_events(self, count: int, *types: str, within_s: float = 60.0) -> list[dict[str, Any]]:
        """Wait until there are at least `count` events of these types, and return them."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found[:] = self.events_of(*types)
            return len(found) >= count

        wait_until(enough, f"{count} events {types}", within_s)
        return found

    def rss_bytes(self) -> int:
        """Resident memory of the supervisor and its workers."""
        total = 0
        for pid in [self.process.pid, *self.worker_pids()]:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total

    def queued_batches(self) -> int:
        """How much is in the queue, as the running server says."""
        with Client(str(self.path / "control.sock")) as control:
            return control.stats().batches

    def metrics(self) -> dict[str, float]:
        """The figures of all workers, by name with labels, summed."""
        with Client(str(self.path / "control.sock")) as control:
            lines = [line for line in control.metrics().splitlines() if not line.startswith("#")]
        sums: dict[str, float] = {}
        for name, _, value in (line.rpartition(" ") for line in lines):
            sums[name] = sums.get(name, 0) + float(value)
        return sums

    def flush(self, *destinations: str) -> None:
        """Make the mail to some destinations due now, or all."""
        with Client(str(self.path / "control.sock")) as control:
            control.flush(FlushRequest(destinations=list(destinations)))

    def wait_until_drained(self, within_s: float = 60.0) -> None:
        """Wait until the queue is empty."""
        wait_until(lambda: self.queued_batches() == 0, "the queue to be empty", within_s)

    def dialogue(self, helo: str = "dialogue.test") -> Dialogue:
        """A raw connection, greeting read and EHLO said (not with an empty `helo`)."""
        return Dialogue(self.port, helo)


class Dialogue:
    """A client that says exactly what it is told to. `ehlo` is the reply to EHLO.

    Args:
        helo: said at once, if it is not empty.
        host, port: of the server.
        source: the address to connect from; "" for whatever the system takes.
    """

    def __init__(self, port: int, helo: str = "", *, host: str = "127.0.0.1", source: str = "") -> None:
        self.sock = socket.create_connection((host, port), timeout=30, source_address=(source, 0) if source else None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self.sock.makefile("rb")
        self.greeting = self.reply()
        self.ehlo = self.say(f"EHLO {helo}") if helo and self.greeting.startswith("220") else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._lines.close()
        self.sock.close()

    def reply(self) -> str:
        """The next reply, its lines joined by "\\n"; "" if the connection is closed."""
        lines = []
        while True:
            line = self._lines.readline().decode().rstrip("\r\n")
            lines.append(line)
            if len(line) < 4 or line[3] != "-":
                return "\n".join(lines)

    def say(self, line: str | bytes) -> str:
        """Send a command (without CRLF), return the reply."""
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return self.reply()

    def send(self, octets: bytes) -> None:
        """Send octets as they are."""
        self.sock.sendall(octets)

    def message(self, sender: str, recipients: list[str], content: bytes) -> str:
        """One transaction with DATA; content has CRLF line ends and is dot-stuffed here. Returns the last reply."""
        assert self.say(f"MAIL FROM:<{sender}>").startswith("250")
        for recipient in recipients:
            assert self.say(f"RCPT TO:<{recipient}>").startswith("250")
        assert self.say("DATA").startswith("354")
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        self.send((b"." if stuffed.startswith(b".") else b"") + stuffed)
        return self.say(b".")


def _is_worker(pid: int) -> bool:
    try:
        return b"postroika.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _read_events(path: Path) -> Iterator[dict[str, Any]]:
    rotated = sorted(path.parent.glob(path.name + ".[0-9]*"), key=lambda p: -int(p.suffix[1:]))
    for file in [*rotated, path]:
        if file.exists():
            for line in file.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)
