"""A server, a load and a sink that exist in memory alone, for the tests of the runner.

A message takes a known time and costs a known CPU. What goes wrong is told beforehand: `lose`, `double`, `damage`,
`refuse` messages of each load.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from postroika.bench.bench import Bench
from postroika.bench.histogram import Histogram
from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.peers import PeerOptions
from postroika.bench.progress import Teller
from postroika.bench.results import Latency, Turn
from postroika.bench.sink_settings import SinkSettings


@dataclasses.dataclass
class World:
    """What all of them share. `log`: what happened, in its order."""

    log: list[str] = dataclasses.field(default_factory=list)
    servers: dict[int, FakeRunning] = dataclasses.field(default_factory=dict)
    sinks: dict[int, FakeSink] = dataclasses.field(default_factory=dict)
    loads: list[tuple[str, LoadSettings]] = dataclasses.field(default_factory=list)
    lose: int = 0
    double: int = 0
    damage: int = 0
    refuse: int = 0
    clock_s: float = 1000.0


class FakeRunning:
    """A server. Each message takes it `message_s`, and twice that of CPU."""

    host = "127.0.0.1"
    version = "1.2"
    settings = "durable = yes"
    cpu_method = "/proc"

    def __init__(self, world: World, name: str, options: PeerOptions, message_s: float) -> None:
        self.world = world
        self.name = name
        self.options = options
        self.message_s = message_s
        self.port = 100 + len(world.servers)
        self.kept = 0
        self.used_s = 5.0
        world.servers[self.port] = self
        world.log.append(f"start {name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.world.log.append(f"stop {self.name}")

    def pids(self) -> set[int]:
        return set()

    def cpu_s(self) -> float:
        return self.used_s

    def queued(self) -> int:
        return self.kept

    def kill(self) -> None:
        self.world.log.append(f"kill {self.name}")

    def wait_idle(self, timeout_s: float) -> None:
        self.world.log.append(f"rest {self.name}")


class FakePeer:
    """An adaptor."""

    def __init__(self, world: World, name: str, message_s: float) -> None:
        self.world = world
        self.name = name
        self.title = name.title()
        self.load_needs: dict[str, Any] = {}
        self.message_s = message_s

    def missing(self) -> str | None:
        return None

    def install(self) -> None:
        raise AssertionError

    def start(self, options: PeerOptions) -> Any:
        return FakeRunning(self.world, self.name, options, self.message_s)


class FakeSink:
    """A sink. By marks it counts what is unique, unless it is that of smtp-sink."""

    cpu_method = "/proc"

    def __init__(self, world: World, port: int, *, marks: bool) -> None:
        self.world = world
        self.port = port
        self.marks = marks
        self.counts: dict[str, Any] = {"messages": 0, "first_at": 0.0, "last_at": 0.0, "cpu_s": 0.5, "timeline": []}
        if marks:
            self.counts |= {"recipients": 0, "unique": 0, "doubled": 0, "damaged": 0, "latency_ms": None}
            self.counts["runs"] = {"0000000a": None}
        world.sinks[port] = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def pids(self) -> set[int]:
        return set()

    def cpu_s(self) -> float:
        return 0.5

    def status(self) -> dict[str, Any]:
        return self.counts

    def stop(self) -> dict[str, Any]:
        self.world.sinks.pop(self.port, None)
        return self.counts

    def take(self, settings: LoadSettings, took_s: float) -> None:
        world, counts = self.world, self.counts
        came = settings.messages - world.lose
        counts["messages"] += came + world.double
        counts["last_at"] = world.clock_s + took_s
        counts["timeline"].append((counts["last_at"], counts["messages"]))
        if self.marks:
            counts["recipients"] += (came + world.double) * settings.recipients
            counts["unique"] += came * settings.recipients
            counts["doubled"] += world.double
            counts["damaged"] += world.damage


class FakeDriver:
    """Sends to the fakes. Without a server a message takes a tenth of a millisecond."""

    def __init__(self, world: World, name: str, *, marks: bool) -> None:
        self.world = world
        self.name = name
        self.marks = marks

    def missing(self) -> str | None:
        return None

    def load(self, settings: LoadSettings) -> LoadResult:
        world = self.world
        port = int(settings.target.rpartition(":")[2])
        world.loads.append((self.name, settings))
        server = world.servers.get(port)
        took_s = settings.messages * (server.message_s if server is not None else 0.0001)
        world.log.append(f"load {server.name if server is not None else 'sink'} {settings.messages}")
        if server is not None:
            server.used_s += 2 * took_s
            server.kept += settings.messages - world.lose if server.options.suspended else 0
        if server is None or not server.options.suspended:
            hop = server.options.next_hop[1] if server is not None and server.options.next_hop is not None else port
            world.sinks[hop].take(settings, took_s)
        return self._result(settings, took_s)

    def sink(self, settings: SinkSettings, port: int = 0) -> FakeSink:
        del settings
        return FakeSink(self.world, port or 99, marks=self.marks)

    def _result(self, settings: LoadSettings, took_s: float) -> LoadResult:
        delays = Histogram()
        for _ in range(settings.messages):
            delays.record(round(took_s * 1e9 / settings.messages))
        return LoadResult(
            run="0000000a",
            messages=settings.messages - self.world.refuse,
            recipients=(settings.messages - self.world.refuse) * settings.recipients,
            refused_recipients=0,
            failed=self.world.refuse,
            in_doubt=0,
            unsent=0,
            retried=0,
            bytes=settings.messages * int(settings.size),
            elapsed_s=took_s / 2,
            cpu_s=0.25,
            started_at=self.world.clock_s,
            first_at=self.world.clock_s,
            last_at=self.world.clock_s + took_s / 2,
            connections=settings.sessions,
            connect_failures=0,
            disconnects=0,
            idle_sessions=0,
            latency_ms=delays.to_json(),
            timeline=[(0.25, settings.messages)],
            errors={"451 4.3.0 later": self.world.refuse} if self.world.refuse else {},
            ended_by="",
        )


def make_bench(
    world: World, directory: Path, message_s: Mapping[str, float], *, quick: bool = True, **how: Any
) -> tuple[Bench, io.StringIO]:
    """A bench of fakes, and what it tells. `message_s`: what a message takes each server, by the server's name."""
    told = io.StringIO()
    peers = {name: FakePeer(world, name, seconds) for name, seconds in message_s.items()}
    drivers = {"own": FakeDriver(world, "own", marks=True), "postfix": FakeDriver(world, "postfix", marks=False)}
    teller = Teller(Console(file=told, width=200))
    return Bench(directory, peers, how.pop("drivers", drivers), teller, quick=quick, **how), told


def turn(contender: str, number: int, elapsed_s: float, cpu_s: float | None, driver: str = "own") -> Turn:
    latency = Latency(p50=2.0, p95=4.0, p99=8.0, max=9.5, histogram=((2.0, 60), (4.0, 30), (10.0, 10)))
    return Turn(
        contender=contender,
        driver=driver,
        round=number,
        messages=100,
        recipients=200,
        bytes=4_000_000,
        elapsed_s=elapsed_s,
        accepted_s=elapsed_s / 2,
        cpu_s=cpu_s,
        private_bytes=20_000_000 if cpu_s else None,
        resident_bytes=50_000_000 if cpu_s else None,
        memory=((0.0, 30_000_000, 10_000_000), (0.5, 50_000_000, 20_000_000)) if cpu_s else (),
        timeline=((0.25, 40), (0.5, 100)),
        accept_latency_ms=latency,
        delivery_latency_ms=latency,
        bystanders=0.3 if contender == "Postfix" and number == 2 else 0.01,
    )
