"""A sink as a program: runs until it is told to stop or has enough, and tells what it sees meanwhile and at the end.

Promise: the status file is whole whenever it is read, and never older than a quarter of a second and a bit; the JSON
file holds the same, once, from the end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import msgspec

from postroika.bench.histogram import LatencyJson
from postroika.bench.pump import Pump
from postroika.bench.sink import Sink, listen
from postroika.bench.sink_settings import Message, SinkSettings
from postroika.bench.sink_tally import Tally
from postroika.errors import PostroikaError

_TICK_S = 0.25
_TICKS_A_LINE = 2


class Status(TypedDict):
    """What the sink tells of itself: `sink_settings.Counts`, and

    Args:
        at: when this was so. Like all times, in seconds of CLOCK_MONOTONIC.
        cpu_s: user and system time of the process, from its start.
        latency_ms: of marked messages, from when they were sent to when they were accepted.
        runs: the same for each load, by the run that its messages bear; empty where there is only one.
        timeline: [time, messages until then], each 0.25 s in which there came any.
    """

    at: float
    messages: int
    recipients: int
    unique: int
    doubled: int
    damaged: int
    unmarked: int
    refused: int
    deferred: int
    disconnects: int
    turned_away: int
    sessions: int
    open_sessions: int
    bytes: int
    first_at: float
    last_at: float
    cpu_s: float
    latency_ms: LatencyJson
    runs: dict[str, LatencyJson]
    timeline: list[tuple[float, int]]


def status(tally: Tally) -> Status:
    """What there is to tell now."""
    return {
        "at": round(time.monotonic(), 6),
        **msgspec.structs.asdict(tally.counts),  # type: ignore[typeddict-item]
        "cpu_s": round(time.process_time(), 6),
        "latency_ms": tally.latency.to_json(),
        "runs": _by_run(tally),
        "timeline": tally.timeline,
    }


def _by_run(tally: Tally) -> dict[str, LatencyJson]:
    if len(tally.latencies) < 2:
        return {}
    return {"others" if run is None else f"{run:08x}": latency.to_json() for run, latency in tally.latencies.items()}


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink tells, and when it ends.

    Args:
        status_file: rewritten each 0.25 s; "" writes none.
        json_file: written at the end; "" writes none.
        live: one line about the state on stderr, written over and over.
        stop_after: end when so many messages have been accepted; 0: do not.
        stop_idle_s: end when the last message was so long ago; 0: do not.
    """

    status_file: str = ""
    json_file: str = ""
    live: bool = False
    stop_after: int = 0
    stop_idle_s: float = 0.0


def run(
    settings: SinkSettings,
    addresses: Sequence[str],
    telling: Telling,
    *,
    on_message: Callable[[Message], None] | None = None,
    on_listening: Callable[[str], None] | None = None,
) -> Tally:
    """Take mail at `addresses` until SIGINT, SIGTERM, or `telling` says it is enough. Returns what was seen.

    Args:
        on_message: called with each message before it is answered.
        on_listening: called with each "address:port" once it listens.

    Raises:
        PostroikaError: cannot listen, store or write.
    """
    with Pump(lambda number: pump.stop()) as pump:
        sink = Sink(settings, pump, on_message, stop_after=telling.stop_after)
        listeners = listen(addresses)
        sink.serve(listeners)
        for listener in listeners:
            host, port = listener.getsockname()[:2]
            if on_listening is not None:
                on_listening(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        teller = _Teller(sink, pump, telling)
        # What is there by now stays: no need to look through it again and again for garbage.
        gc.collect()
        gc.freeze()
        try:
            teller.tick()
            pump.run()
        finally:
            gc.unfreeze()
            sink.stop()
            teller.end()
    return sink.tally


class _Teller:
    """Does what `Telling` asks for."""

    def __init__(self, sink: Sink, pump: Pump, telling: Telling) -> None:
        self._sink = sink
        self._pump = pump
        self._telling = telling
        self._ticks = 0
        self._next_at = time.monotonic()
        self._shown: tuple[float, int] = (self._next_at, 0)

    def tick(self) -> None:
        telling, tally = self._telling, self._sink.tally
        now = time.monotonic()
        self._next_at = max(self._next_at + _TICK_S, now)
        self._pump.call_at(self._next_at, self.tick)
        tally.note_time()
        if telling.status_file:
            write(telling.status_file, status(tally))
        if telling.live and self._ticks % _TICKS_A_LINE == 0:
            self._show(now)
        self._ticks += 1
        if telling.stop_idle_s and tally.counts.messages and now - tally.counts.last_at >= telling.stop_idle_s:
            self._pump.stop()

    def end(self) -> None:
        telling, tally = self._telling, self._sink.tally
        tally.note_time()
        if telling.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        for path in filter(None, (telling.status_file, telling.json_file)):
            write(path, status(tally))

    def _show(self, now: float) -> None:
        counts = self._sink.counts
        then, before = self._shown
        self._shown = (now, counts.messages)
        rate = (counts.messages - before) / (now - then) if now > then else 0.0
        p50, p99 = (self._sink.tally.latency.quantile(share) for share in (0.5, 0.99))
        late = f", p50 {p50 / 1e6:.1f} ms, p99 {p99 / 1e6:.1f} ms" if p50 is not None and p99 is not None else ""
        wrong = "".join(
            f", {number} {what}"
            for what, number in (
                ("doubled", counts.doubled),
                ("damaged", counts.damaged),
                ("refused", counts.refused),
                ("deferred", counts.deferred),
            )
            if number
        )
        sys.stderr.write(
            f"\r\x1b[K{counts.messages} messages, {rate:.0f}/s, {counts.open_sessions} sessions open{late}{wrong}"
        )
        sys.stderr.flush()


def write(path: str, told: Status) -> None:
    """Put it into a file at once, so that no reader sees half of it.

    Raises:
        PostroikaError: it cannot be written.
    """
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        part.write_bytes(msgspec.json.encode(told) + b"\n")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise PostroikaError(f"cannot write {path}: {error.strerror}") from None
