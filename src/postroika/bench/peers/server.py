"""What all adaptors share: a server that runs, its room with private users, and the checks before a start."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from postroika.bench import machine, meter
from postroika.bench.peers.adaptor import PeerOptions
from postroika.bench.peers.ports import accepts
from postroika.bench.peers.program import Program
from postroika.errors import PostroikaError

HOST = "127.0.0.1"
_START_WITHIN_S = 60.0
_STOP_WITHIN_S = 30.0
_NEEDS_ROOT = "needs root, to run parts of itself as other users: run the benchmark as root"
_NEEDS_UNSHARE = "needs nsenter of util-linux: sudo apt-get install util-linux"


class Server:
    """A server that runs; see `adaptor.Running` for what its methods promise. Adaptors add `queued` and `release`."""

    host = HOST

    def __init__(self, *, title: str, version: str, settings: str, port: int, program: Program) -> None:
        self.version = version
        self.settings = settings
        self.port = port
        self._title = title
        self._program = program

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
        return self._program.cpu_s()

    def output(self) -> str:
        return self._program.output()

    def queued(self) -> int:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def wait_idle(self, timeout_s: float) -> None:
        meter.wait_until_quiet(self, timeout_s)

    def start(self) -> None:
        """Start it; it does not run. Returns when it accepts connections."""
        self._program.start()
        try:
            self._program.wait_for(self._ready, f"{self._title} on {HOST}:{self.port}", _START_WITHIN_S)
        except BaseException:
            self._program.kill()
            raise

    def kill(self) -> None:
        self._program.kill()

    def restart(self) -> None:
        self._program.stop(_STOP_WITHIN_S)
        self.start()

    def stop(self) -> None:
        self._program.stop(_STOP_WITHIN_S)
        self._program.end()

    def _ready(self) -> bool:
        return accepts(HOST, self.port)


def start(server: Server) -> Server:
    """Start it for the first time; leaves nothing behind if that fails."""
    try:
        server.start()
    except BaseException:
        server.stop()
        raise
    return server


def prepare_directory(directory: Path) -> None:
    """Make a server's directory.

    Raises:
        PostroikaError: a sync would mean nothing there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not machine.is_disk(directory):
        raise PostroikaError(f"{directory} is in memory, where a sync costs nothing: it has to be on a disk")
    if not directory.is_absolute():
        raise PostroikaError(f"{directory} is not absolute")


def check_hop(options: PeerOptions) -> tuple[str, int]:
    """Where mail goes; of a suspended server without any, to a port where nobody listens.

    Raises:
        PostroikaError: it has none and is not suspended.
    """
    if options.next_hop is not None:
        return options.next_hop
    if not options.suspended:
        raise PostroikaError("without a next hop a server can only run suspended")
    return HOST, 9


def missing_rights() -> str | None:
    """Why this process cannot start a server that runs as several users in a room of its own."""
    if os.geteuid() != 0:
        return _NEEDS_ROOT
    if shutil.which("nsenter") is None:
        return _NEEDS_UNSHARE
    return None


def write_private_etc(etc: Path, users: Mapping[str, int], home: str) -> dict[str, int]:
    """Make a folder that can lie over /etc: with the system's users and groups, and those of `users` it does not have.

    Args:
        users: name and number, of a user and of its group.

    Returns:
        The numbers of the groups.
    """
    etc.mkdir(exist_ok=True)
    etc.chmod(0o755)
    groups = {}
    passwd = Path("/etc/passwd").read_text().rstrip("\n").splitlines()
    group = Path("/etc/group").read_text().rstrip("\n").splitlines()
    for name, number in users.items():
        known = _number_of(group, name)
        groups[name] = number if known is None else known
        if known is None:
            group.append(f"{name}:x:{number}:")
        if _number_of(passwd, name) is None:
            passwd.append(f"{name}:x:{number}:{groups[name]}::{home}:/usr/sbin/nologin")
    for name, lines in (("passwd", passwd), ("group", group)):
        file = etc / name
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o644)
    return groups


def user_number(etc: Path, name: str) -> int:
    """Of a user in a folder that `write_private_etc` made."""
    number = _number_of((etc / "passwd").read_text().splitlines(), name)
    assert number is not None
    return number


def _number_of(lines: list[str], name: str) -> int | None:
    for line in lines:
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2])
    return None


def count_files(directory: Path, suffix: str = "") -> int:
    """Files below a directory that changes meanwhile."""
    count = 0
    with contextlib.suppress(FileNotFoundError):
        for _, _, files in os.walk(directory):
            count += sum(name.endswith(suffix) for name in files) if suffix else len(files)
    return count
