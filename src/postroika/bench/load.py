"""The load generator: sends messages as fast as asked for, and tells what became of each.

Promise: every message that is counted as acknowledged got 2xx to its final dot, and every message that should have been
sent is counted once: acknowledged, failed or unsent. It ends, whatever the server does: sessions that hear nothing are
given up, one that takes no connection is tried for a bounded time, and a deadline can be set. It takes less CPU for a
message than smtp-source, so that the server is what is measured.

How: one thread, one epoll set (`pump`), one `load_session.Session` for each connection, all on one plan of messages.
Nothing is done in Python for a message as long as all goes well: see `kernels.bench_load`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from postroika.bench.histogram import Histogram
from postroika.bench.load_session import Session
from postroika.bench.load_settings import LoadResult, LoadSettings, LoadStatus
from postroika.bench.messages import templates
from postroika.bench.pump import READ, Pump, Timer
from postroika.config import split_host_port
from postroika.errors import PostroikaError
from postroika.kernels.bench_load import Alarm, Plan

if TYPE_CHECKING:
    import ssl

__all__ = ["Load", "LoadResult", "LoadSettings", "LoadStatus"]

TICK_S = 0.25
# Connections that wait for their greeting; more at once would only overflow the server's backlog.
_MOST_CONNECTING = 128
_QUIT_TIMEOUT_S = 5.0
_SPARE_FILES = 32


class Load:
    """One load, to be run once.

    Args:
        settings: what to send.
        on_tick: called every TICK_S with how far it is.

    Raises:
        PostroikaError: it cannot be done like that.
    """

    def __init__(self, settings: LoadSettings, on_tick: Callable[[LoadStatus], None] | None = None) -> None:
        settings.check()
        self.settings = settings
        self.run_id = settings.run or os.urandom(4).hex()
        self.latency = Histogram()
        self.plan = self._make_plan()
        self.family, self.address = _resolve(settings.target)
        self.tls = None if settings.tls == "none" else _unverified()
        self.tls_first = settings.tls == "implicit"
        self.pump = Pump(self._take_signal)
        self._on_tick = on_tick
        self._alarm = Alarm()
        self._alarm_set = False
        self._idle = [Session(self, silent=True) for _ in range(settings.idle_sessions)]
        self._talking = [Session(self) for _ in range(settings.sessions)]
        self._open: set[Session] = {*self._idle, *self._talking}
        self._waiting_to_connect: deque[Session] = deque()
        self._connecting: set[Session] = set()
        self._greeted = 0
        self._greeted_idle = 0
        self._idle_at_end = 0
        self._quit_timer: Timer | None = None
        self._connections = self._connect_failures = self._disconnects = 0
        self._started_at = self._last_greeted_at = self._cpu_s = 0.0
        self._timeline: list[tuple[float, int]] = []
        self._ended_by = ""

    def run(self) -> LoadResult:
        """Send everything.

        Raises:
            PostroikaError: the server lacks an extension that the settings need.
        """
        _raise_file_limit(len(self._open) + _SPARE_FILES)
        gc.disable()  # what a load makes, it keeps; there are no cycles to look for
        cpu_s = time.process_time()
        self._started_at = self._last_greeted_at = time.monotonic()
        for session in (*self._idle, *self._talking):
            self.wants_connection(session)
        self.pump.add(self._alarm, self._wake, READ)
        self.pump.call_at(self._started_at + TICK_S, self._tick)
        self.pump.call_at(self._started_at + self._look_every_s, self._look_for_silence)
        if self.settings.deadline_s:
            self.pump.call_at(self._started_at + self.settings.deadline_s, self._break_off)
        if not self._talking:
            self._hold_when_all_are_there()
        try:
            self.pump.run()
        finally:
            self._abandon("broken off")
            self.pump.close()
            self._alarm.close()
            self._cpu_s = time.process_time() - cpu_s
            gc.enable()
        if self.plan.fatal is not None:
            raise PostroikaError(f"{self.settings.target}: {self.plan.fatal}")
        return self._result()

    def status(self) -> LoadStatus:
        """How far it is."""
        plan = self.plan
        return LoadStatus(
            messages=plan.acknowledged,
            recipients=plan.recipients,
            failed=plan.failed,
            in_flight=plan.in_flight,
            bytes=plan.octets,
            elapsed_s=round(time.monotonic() - self._started_at, 6),
            open_sessions=self._greeted - self._greeted_idle,
            idle_sessions=self._greeted_idle,
        )

    # What sessions tell: see load_session.Owner.

    def wants_connection(self, session: Session) -> None:
        """Now, or when others have got theirs."""
        if len(self._connecting) < _MOST_CONNECTING:
            self._connecting.add(session)
            session.connect()
        else:
            self._waiting_to_connect.append(session)

    def came_to(self, session: Session) -> None:
        """A connection is through its greetings."""
        self._connections += 1
        self._greeted += 1
        self._greeted_idle += session.silent
        self._last_greeted_at = time.monotonic()
        self._no_longer_connecting(session)

    def lost(self, session: Session, *, greeted: bool) -> bool:
        """A connection failed. True: another one is worth trying."""
        plan = self.plan
        if greeted:
            self._disconnects += 1
        else:
            self._connect_failures += 1
            self._no_longer_connecting(session)
        if plan.fatal is not None:
            self.pump.stop()
            return False
        plan.wake()  # what it had to give back may go to one that waits
        self.waits()
        return time.monotonic() - self._last_greeted_at < self.settings.patience_s

    def waits(self) -> None:
        """Be woken when the next message is due."""
        if not self._alarm_set and (due_ns := self.plan.due_ns):
            self._alarm_set = True
            self._alarm.set(due_ns)

    def closed(self, session: Session) -> None:
        """A connection that was through its greetings is closed, for whatever reason."""
        self._greeted -= 1
        self._greeted_idle -= session.silent

    def over(self, session: Session) -> None:
        """A session has ended."""
        self._open.discard(session)
        if not self._open:
            self.pump.stop()
        elif self._quit_timer is None and self.plan.exhausted and not self.plan.in_flight:
            # All that is left are farewells, and connections that nobody needs any more.
            self._quit_timer = self.pump.call_at(time.monotonic() + _QUIT_TIMEOUT_S, self.pump.stop)
            self._let_go()

    # What happens by the clock.

    def _wake(self, events: int) -> None:
        self._alarm.clear()
        self._alarm_set = False
        self.plan.wake()
        self.waits()

    def _tick(self) -> None:
        status = self.status()
        self._timeline.append((status.elapsed_s, status.messages))
        if self._on_tick is not None:
            self._on_tick(status)
        self.pump.call_at(time.monotonic() + TICK_S, self._tick)

    @property
    def _look_every_s(self) -> float:
        return min(5.0, self.settings.reply_timeout_s / 4)

    def _look_for_silence(self) -> None:
        silent_since_ns = time.monotonic_ns() - int(self.settings.reply_timeout_s * 1e9)
        for session in tuple(self._open):
            conversation = session.conversation
            if conversation.active_ns < silent_since_ns and not conversation.closed and not conversation.idle:
                session.give_up("no reply for too long")
        self.pump.call_at(time.monotonic() + self._look_every_s, self._look_for_silence)

    def _hold_when_all_are_there(self) -> None:
        """Only idle sessions: their time runs from when all are there that will be."""
        if self._greeted_idle < len(self._open):
            self.pump.call_at(time.monotonic() + TICK_S, self._hold_when_all_are_there)
        else:
            self.pump.call_at(time.monotonic() + self.settings.duration_s, self._end_hold)

    def _end_hold(self) -> None:
        self.plan.stop()
        self._quit_timer = self.pump.call_at(time.monotonic() + _QUIT_TIMEOUT_S, self.pump.stop)
        self._let_go()

    def _let_go(self) -> None:
        """Idle sessions may go, and those that only try to connect."""
        self._idle_at_end = self._greeted_idle
        self._waiting_to_connect.clear()
        for session in tuple(self._open):
            if session.conversation.idle:
                session.conversation.quit()
            elif not session.greeted:
                session.abandon("")  # nobody needs it any more
                self.over(session)

    def _take_signal(self, number: int) -> None:
        self._ended_by = signal.Signals(number).name
        self.pump.stop()

    def _break_off(self) -> None:
        self._ended_by = "deadline"
        self.pump.stop()

    # Parts.

    def _no_longer_connecting(self, session: Session) -> None:
        self._connecting.discard(session)
        if self._waiting_to_connect and len(self._connecting) < _MOST_CONNECTING:
            self.wants_connection(self._waiting_to_connect.popleft())

    def _abandon(self, reason: str) -> None:
        self.plan.stop()
        self._idle_at_end = self._idle_at_end or self._greeted_idle
        for session in self._open:
            session.abandon(self._ended_by or reason)

    def _make_plan(self) -> Plan:
        settings = self.settings
        each, order = templates(
            settings.size,
            run=int(self.run_id, 16),
            sender=settings.sender,
            date=time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime()),
            stuffed=not settings.bdat,
        )
        domain_head, numbered, domain_tail = settings.domain.partition("{}")
        return Plan(
            templates=each,
            order=order,
            mail=f"MAIL FROM:<{settings.sender}>\r\n".encode(),
            helo=settings.helo.encode(),
            recipients=settings.recipients,
            domains=settings.domains,
            domain_head=domain_head.encode(),
            domain_tail=domain_tail.encode(),
            domain_numbered=bool(numbered),
            pipelining=settings.pipelining,
            across=settings.across,
            bdat=settings.bdat,
            starttls=settings.tls == "starttls",
            messages=settings.messages,
            messages_per_connection=settings.messages_per_connection,
            rate_per_s=settings.rate_per_s,
            duration_ns=int(settings.duration_s * 1e9),
            counts=self.latency.counts,
            totals=self.latency.totals,
        )

    def _result(self) -> LoadResult:
        plan, settings = self.plan, self.settings
        wanted = settings.messages if settings.sessions else 0
        if settings.rate_per_s and settings.duration_s:
            due = int(settings.rate_per_s * settings.duration_s)
            wanted = min(wanted, due) if wanted else due
        last_at = plan.last_ns / 1e9 if plan.last_ns else None
        elapsed_s = (last_at if last_at is not None else time.monotonic()) - self._started_at
        if not self._timeline or self._timeline[-1][0] < elapsed_s:
            self._timeline.append((round(elapsed_s, 6), plan.acknowledged))
        return LoadResult(
            run=self.run_id,
            messages=plan.acknowledged,
            recipients=plan.recipients,
            refused_recipients=plan.refused,
            failed=plan.failed,
            in_doubt=plan.in_doubt,
            unsent=max(wanted - plan.acknowledged - plan.failed, 0),
            retried=plan.retried,
            bytes=plan.octets,
            elapsed_s=round(elapsed_s, 6),
            cpu_s=round(self._cpu_s, 6),
            started_at=self._started_at,
            first_at=plan.first_ns / 1e9 if plan.first_ns else None,
            last_at=last_at,
            connections=self._connections,
            connect_failures=self._connect_failures,
            disconnects=self._disconnects,
            idle_sessions=self._idle_at_end,
            latency_ms=self.latency.to_json(),
            timeline=self._timeline,
            errors=plan.errors,
            ended_by=self._ended_by,
        )


def write_atomically(path: Path, value: object) -> None:
    """Replace the file by one with `value` as JSON, so that readers find the old one or the new one whole."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(msgspec.json.encode(value))
    new.replace(path)


def _resolve(target: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    host, port = split_host_port(target)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise PostroikaError(f"{host}: {error.strerror}") from None
    return family, (str(address[0]), port)


def _unverified() -> ssl.SSLContext:
    """Any certificate will do: a load generator has no secrets."""
    import ssl  # takes longer than a small load

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _raise_file_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard) if hard >= 0 else needed, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        raise PostroikaError(f"{needed} open files are needed, and only {soft} are allowed (ulimit -n)")
