"""The driver that we did not write: smtp-source and smtp-sink of Postfix.

They know no latencies, and count messages alone: that nothing was lost or doubled is known by the number only, and the
recipients that a message came for are not known at all. smtp-source never pipelines, whatever is asked for.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from postroika.bench.driver_process import HOST, SinkProcess, run_to_end
from postroika.bench.drivers import POSTFIX, RunningSink
from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.peers.packages import Unpacked
from postroika.bench.peers.ports import accepts, free_port
from postroika.bench.sink_settings import SinkSettings
from postroika.errors import PostroikaError

_SEARCH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_PATIENCE_S = 3600.0
_LOOK_EVERY_S = 0.01
_TIMELINE_EVERY_S = 0.25
_TAIL_BYTES = 200
_COUNTERS = re.compile(rb"sess=(\d+) quit=(\d+) mesg=(\d+)[\r\n]")
# smtp-sink keeps a listen queue of that length; the kernel cuts it to net.core.somaxconn.
_BACKLOG = 4096


class PostfixDriver:
    """smtp-source and smtp-sink.

    Args:
        root: where Postfix is unpacked if it is not installed; None for the usual place.
    """

    name = POSTFIX

    def __init__(self, root: Path | None = None) -> None:
        self._package = Unpacked(root, "postfix")

    def missing(self) -> str | None:
        """See `Driver`."""
        if self._package.version is not None or all(_installed(name) for name in ("smtp-source", "smtp-sink")):
            return None
        return "smtp-source and smtp-sink are not here: postroika bench run --install"

    def load(self, settings: LoadSettings) -> LoadResult:
        """See `Driver`."""
        settings.check()
        program, environment = self._program("smtp-source")
        command = [program, *_source_arguments(settings), settings.target]
        patience_s = settings.deadline_s or _PATIENCE_S
        started_at = time.monotonic()
        ended = run_to_end(command, environment, patience_s)
        last_at = time.monotonic()
        if ended.returncode != 0:
            raise PostroikaError(f"{' '.join(command)} failed:\n{ended.output[-2000:]}")
        return LoadResult(
            run="",
            messages=settings.messages,
            recipients=settings.messages * settings.recipients,
            refused_recipients=0,
            failed=0,
            in_doubt=0,
            unsent=0,
            retried=0,
            bytes=settings.messages * int(settings.size),
            elapsed_s=last_at - started_at,
            cpu_s=ended.cpu_s,
            started_at=started_at,
            first_at=None,
            last_at=last_at,
            connections=settings.messages if settings.messages_per_connection == 1 else settings.sessions,
            connect_failures=0,
            disconnects=0,
            idle_sessions=0,
            latency_ms={
                "count": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None, "histogram": [],
            },
            timeline=[],
            errors={},
            ended_by="",
        )  # fmt: skip

    def sink(self, settings: SinkSettings, port: int = 0) -> RunningSink:
        """See `Driver`."""
        program, environment = self._program("smtp-sink")
        return _SmtpSink([program, *_sink_arguments(settings)], environment, port or free_port())

    def _program(self, name: str) -> tuple[str, dict[str, str]]:
        environment = dict(os.environ)
        installed = _installed(name)
        if installed is not None:
            return installed, environment
        if self._package.version is None:
            raise PostroikaError(f"{self.missing()}")
        libraries = self._package.path / "usr" / "lib"
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            str(path) for path in (libraries / "postfix", *libraries.glob("*-linux-gnu*"))
        )
        return str(self._package.path / "usr" / "sbin" / name), environment


class _SmtpSink(SinkProcess):
    """smtp-sink with its running counters (-c), which it writes with each message.

    A thread looks at what it has written a hundred times a second. The moment of the last change is that of the file.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], port: int) -> None:
        self._state = _SinkState()
        super().__init__([*command, f"{HOST}:{port}", str(_BACKLOG)], environment, port)
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="smtp-sink", daemon=True)
        self._watcher.start()

    def _ready(self) -> bool:
        return accepts(HOST, self.port)

    def _count(self) -> dict[str, Any]:
        return {"at": time.monotonic(), **self._state.told()}

    def _last_count(self) -> dict[str, Any]:
        self._done.set()
        self._watcher.join()
        self._look()
        return self._count()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        with self._log.open("rb") as log:
            stat = os.fstat(log.fileno())
            if stat.st_mtime_ns == self._state.changed_ns:
                return
            log.seek(max(0, stat.st_size - _TAIL_BYTES))
            found = _COUNTERS.findall(log.read())
        if found:
            sessions, ended, messages = map(int, found[-1])
            now = time.monotonic()
            # The file's time is of another clock, which both steps and is coarser.
            changed_at = min(now, now - (time.time_ns() - stat.st_mtime_ns) / 1e9)
            self._state = self._state.after(stat.st_mtime_ns, changed_at, sessions, ended, messages)


@dataclasses.dataclass(frozen=True)
class _SinkState:
    """What smtp-sink had told at a moment; replaced as a whole, for it is read by other threads."""

    changed_ns: int = 0
    sessions: int = 0
    open_sessions: int = 0
    messages: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    timeline: tuple[tuple[float, int], ...] = ()

    def after(self, changed_ns: int, at: float, sessions: int, ended: int, messages: int) -> _SinkState:
        """The next one."""
        more = messages > self.messages
        timeline = self.timeline
        if more and (not timeline or at - timeline[-1][0] >= _TIMELINE_EVERY_S):
            timeline = (*timeline, (at, messages))
        return _SinkState(
            changed_ns=changed_ns,
            sessions=sessions,
            open_sessions=sessions - ended,
            messages=messages,
            first_at=self.first_at or (at if more else 0.0),
            last_at=at if more else self.last_at,
            timeline=timeline,
        )

    def told(self) -> dict[str, Any]:
        """As the sink tells."""
        timeline = list(self.timeline)
        if timeline and self.last_at > timeline[-1][0]:
            timeline.append((self.last_at, self.messages))
        return {
            "messages": self.messages,
            # One was to see whether it is there; it did not say QUIT.
            "sessions": max(0, self.sessions - 1),
            "open_sessions": max(0, self.open_sessions - 1),
            "first_at": self.first_at,
            "last_at": self.last_at,
            "latency_ms": None,
            "timeline": timeline,
        }


def _sink_arguments(settings: SinkSettings) -> list[str]:
    """What smtp-sink can do of it."""
    plain = SinkSettings(hostname=settings.hostname)
    for field in msgspec.structs.fields(settings):
        if getattr(settings, field.name) != getattr(plain, field.name):
            raise PostroikaError(f"smtp-sink cannot do {field.name}={getattr(settings, field.name)!r}")
    sessions = os.sysconf("SC_OPEN_MAX") - 50
    arguments = ["-c", "-m", str(sessions), "-h", settings.hostname]
    if os.geteuid() == 0:
        # Required of root (smtp-sink(1)).
        arguments += ["-u", pwd.getpwuid(0).pw_name]
    return arguments


def _source_arguments(settings: LoadSettings) -> list[str]:
    """What smtp-source can do of it."""
    plain = LoadSettings(target=settings.target)
    settable = {
        "target", "sessions", "messages", "messages_per_connection", "size", "recipients", "domain", "sender", "helo",
        "pipelining", "across", "deadline_s", "reply_timeout_s", "patience_s", "run",
    }  # fmt: skip
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in settable and value != getattr(plain, field.name):
            raise PostroikaError(f"smtp-source cannot do {field.name}={value!r}")
    if settings.messages_per_connection not in {0, 1} or not settings.size.isdigit() or not settings.messages:
        raise PostroikaError("smtp-source sends a number of messages of one size, over one connection or one each")
    arguments = [] if settings.messages_per_connection == 1 else ["-d"]
    arguments += ["-s", str(settings.sessions), "-m", str(settings.messages), "-l", settings.size]
    arguments += ["-r", str(settings.recipients), "-f", settings.sender, "-M", settings.helo]
    return [*arguments, "-t", f"rcpt@{settings.domain.replace('{}', '0', 1)}"]


def _installed(name: str) -> str | None:
    return shutil.which(name, path=_SEARCH)
