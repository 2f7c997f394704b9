"""What a scenario works with: running servers, stretches of time that are measured, and the books on every message.

Promise: servers and sinks end with the context that started them; what is done to a server is done through its adaptor
(`peers`) alone; a message that is lost, doubled or damaged raises `Void`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from postroika.bench.histogram import LatencyJson
from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.meter import Bystanders, Memory, Meter, memory
from postroika.bench.peers import Peer, PeerOptions, Running, free_port
from postroika.bench.progress import Teller
from postroika.bench.results import Contender, Latency
from postroika.bench.scenario import Case, Setup, Void
from postroika.bench.scope import Scope
from postroika.bench.sink_settings import SinkSettings

if TYPE_CHECKING:
    from postroika.bench.drivers import Driver, RunningSink

# A next hop that a server has given up on for a while would come back after minutes: that is not what is measured.
_STANDSTILL_S = 45.0
_IDLE_WITHIN_S = 120.0
_LOOK_EVERY_S = 0.02
_SHOWN_ERRORS = 3


class Server:
    """A running server of a scenario.

    Attributes:
        hop_port: the port that it delivers to; the sink of each turn listens there.
        idle_resident_bytes: what it held when it had just started.
    """

    def __init__(self, setup: Setup, running: Running, hop_port: int) -> None:
        self.setup = setup
        self.running = running
        self.hop_port = hop_port
        self.idle_resident_bytes = self.memory().resident_bytes

    def memory(self) -> Memory:
        """What all of its processes hold now."""
        return memory(self.running.pids())

    @property
    def target(self) -> str:
        """ "host:port" to send to."""
        return f"{self.running.host}:{self.running.port}"


class Bench(Scope):
    """What `postroika bench run` was asked for, and what there is to do it with.

    Args:
        directory: on a disk; queues are made below it.
        drivers: those that there are, by name.
        driver_names: those that were asked for; None: all.
        scope: the rest; see `Scope`.
    """

    def __init__(
        self,
        directory: Path,
        peers: Mapping[str, Peer],
        drivers: Mapping[str, Driver],
        teller: Teller,
        *,
        driver_names: Sequence[str] | None = None,
        **scope: Any,
    ) -> None:
        super().__init__(peers, driver_names=tuple(drivers if driver_names is None else driver_names), **scope)
        self.drivers = drivers
        self.teller = teller
        self._directory = directory

    @contextmanager
    def servers(self, setups: Iterable[Setup]) -> Iterator[list[Server]]:
        """A server for each of these setups, in their order; equal ones share one."""
        with ExitStack() as stack:
            started: list[Server] = []
            servers: list[Server] = []
            for setup in setups:
                server = next((one for one in started if one.setup == setup), None)
                if server is None:
                    server = stack.enter_context(self.server(setup))
                    started.append(server)
                servers.append(server)
            yield servers

    @contextmanager
    def server(self, setup: Setup) -> Iterator[Server]:
        """One server, in a directory of its own that vanishes with it."""
        peer = self.interpreters[setup.interpreter] if setup.interpreter else self.peers[setup.peer]
        self.teller.step(f"starting {peer.title}")
        directory = Path(mkdtemp(prefix=f"{setup.peer}-", dir=self._directory))
        directory.chmod(0o755)  # servers with users of their own have to enter it
        hop_port = free_port()
        options = PeerOptions(
            directory=directory,
            next_hop=("127.0.0.1", hop_port),
            suspended=setup.suspended,
            workers=setup.workers,
            connections=setup.connections,
            processes=setup.processes,
            cpu_cores=setup.cpu_cores,
            tls=setup.tls,
            signed=setup.signed,
            extra=setup.extra,
        )
        try:
            with peer.start(options) as running:
                yield Server(setup, running, hop_port)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def contender(self, case: Case, server: Server, load: LoadSettings) -> Contender:
        """As it stands in the report."""
        return Contender(
            label=case.label,
            peer=case.setup.peer,
            interpreter=case.setup.interpreter,
            version=server.running.version,
            settings=server.running.settings,
            load=describe_load(load),
            cpu_method=server.running.cpu_method,
        )


class Measured:
    """What a server used while the context was open; see `measure`."""

    def __init__(self, server: Server, meter: Meter, bystanders: Bystanders) -> None:
        self._server = server
        self._meter = meter
        self._bystanders = bystanders
        self._bystanders_share: float | None = None
        self._began_at = time.monotonic()

    def work_is_done(self) -> None:
        """The mail is where it had to be. From now on only what the server still tidies up matters."""
        self._bystanders_share = self._bystanders.share()

    def elapsed_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began_at

    def samples(self) -> list[tuple[float, int, int]]:
        """(seconds since it began, resident bytes, private bytes), so far."""
        return list(self._meter.samples)

    def figures(self) -> dict[str, Any]:
        """Fields of a Turn."""
        peak = self._meter.peak
        return {
            "cpu_s": self._meter.cpu_s(),
            "resident_bytes": peak.resident_bytes,
            "private_bytes": peak.private_bytes,
            "memory": tuple(self._meter.samples),
            "bystanders": self._bystanders_share,
        }


@contextmanager
def measure(server: Server, *sinks: RunningSink) -> Iterator[Measured]:
    """Watch what a server uses; the sinks are not counted among the bystanders. Ends when the server is at rest.

    Raises:
        Void: it does not come to rest.
    """
    bystanders = Bystanders(server.running, *sinks)
    with Meter(server.running) as meter:
        measured = Measured(server, meter, bystanders)
        yield measured
        try:
            server.running.wait_idle(_IDLE_WITHIN_S)
        except TimeoutError as error:
            raise Void(f"{server.setup.peer} does not come to rest: {error}") from None


class Sent(NamedTuple):
    """What was acknowledged, of one load or several."""

    messages: int
    recipients: int

    @classmethod
    def of(cls, *loads: LoadResult) -> Self:
        """All of these.

        Raises:
            Void: a server did not take all it was given.
        """
        for one in loads:
            if not one.complete:
                errors = "; ".join(f"{count} × {text}" for text, count in list(one.errors.items())[:_SHOWN_ERRORS])
                raise Void(
                    f"{one.failed} messages and {one.refused_recipients} recipients were refused, {one.unsent} "
                    f"messages not sent: {errors or one.ended_by or 'no reason was given'}"
                )
        return cls(sum(one.messages for one in loads), sum(one.recipients for one in loads))

    def compare(self, counts: Mapping[str, Any]) -> tuple[int, int]:
        """How many came, and how many should: recipients, or messages where the sink does not count more."""
        if counts.get("unique"):
            return counts["unique"], self.recipients
        if "recipients" in counts:
            return counts["recipients"], self.recipients
        return counts["messages"], self.messages


def wait_for_arrivals(sink: RunningSink, sent: Sent) -> None:
    """Return when a sink has all that was acknowledged.

    Raises:
        Void: it has fewer, and no more have come for a while.
    """
    last, last_at = -1, time.monotonic()
    while True:
        came, expected = sent.compare(sink.status())
        if came >= expected:
            return
        now = time.monotonic()
        if came != last:
            last, last_at = came, now
        elif now - last_at > _STANDSTILL_S:
            raise Void(f"of {expected} acknowledged {came} came, and no more within {_STANDSTILL_S:g} s")
        time.sleep(_LOOK_EVERY_S)


def check_arrivals(counts: Mapping[str, Any], sent: Sent) -> None:
    """Whether a sink got all that was acknowledged, once and whole.

    Raises:
        Void: it did not.
    """
    came, expected = sent.compare(counts)
    wrong = [f"{counts[what]} {what}" for what in ("doubled", "damaged") if counts.get(what)]
    if came < expected:
        wrong.insert(0, f"{expected - came} lost")
    elif came > expected:
        wrong.append(f"{came - expected} more than were sent")
    if wrong:
        raise Void(f"of {expected} acknowledged: {', '.join(wrong)}")


def latency(told: LatencyJson | None) -> Latency | None:
    """As it is kept in a turn; None where nothing was counted."""
    if told is None or told["p50"] is None:
        return None
    return msgspec.convert(told, Latency)


def describe_load(load: LoadSettings) -> str:
    """The load as one would give it by hand."""
    return "postroika bench load " + " ".join(load.to_arguments()[1:])


def describe_sink(sink: SinkSettings) -> str:
    """What is not the default of a sink."""
    told = msgspec.to_builtins(sink)
    plain = msgspec.to_builtins(SinkSettings())
    return ", ".join(f"{name}={value}" for name, value in told.items() if value != plain[name])
