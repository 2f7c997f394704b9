"""Fakes of delivery's neighbours: a lane, a router, bodies, the in-flight table; and a strand to use them in."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar, TypeVarTuple

import trio

from postroika.mail.envelope import Batch, BodyType, Envelope, Recipient
from postroika.mail.outcome import Attempt, Outcome, Stage
from postroika.mail.reply import Reply
from postroika.pump import Pump, Wake, breathe, current
from postroika.routing.router import Host, NoRoute, Route
from postroika.spool.reader import Loaded

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BODY = b"Received: by x.test\r\nSubject: x\r\n\r\n.dot\r\nend\r\n"


def letters(size: int) -> bytes:
    """A body of about that many octets, each line of which begins with a dot."""
    line = b".abcdefghijklmnopqrstuvwxyz\r\n"
    return line * (size // len(line))


async def in_strand(pump: Pump, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T | None:
    """Call it in a strand, and wait for its end. None if it was interrupted.

    Cancellation: the strand is interrupted, and waited for.
    """
    ended = trio.Event()
    outcome: list[T | Exception] = []

    async def call() -> None:
        try:
            outcome.append(await function(*args))
        except Exception as error:
            outcome.append(error)
        finally:
            ended.set()

    strand = pump.spawn(call())
    try:
        await ended.wait()
    except trio.Cancelled:
        strand.interrupt()
        with trio.CancelScope(shield=True):
            await ended.wait()
        raise
    if not outcome:
        return None
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def loaded(
    number: int, *addresses: str, body: bytes | None = BODY, recipients: tuple[Recipient, ...] = (), **fields: object
) -> Loaded:
    """A batch of message `number` of ours to these recipients."""
    values: dict[str, object] = {
        "size_bytes": len(body or BODY),
        "chunks": 1,
        "body_type": BodyType.SEVEN_BIT,
        "ours": True,
    }
    envelope = Envelope(number, f"s{number}@x.test", 0.0, **{**values, **fields})  # type: ignore[arg-type]
    recipients = recipients or tuple(Recipient(a, number=i) for i, a in enumerate(addresses or (f"r{number}@y.test",)))
    return Loaded(number.to_bytes(8, "big") + bytes(4), Batch(envelope, 0, "y.test", recipients, 0, 0), body)


def no_deadline_runs() -> bool:
    """For the strand that is running."""
    return current().deadline == inf


class FakeLane:
    """Gives what was put into it; remembers all that it was told. Whoever has it must have no deadline while it waits
    for the lane, nor between two connections."""

    def __init__(self, *batches: Loaded, destination: str = "y.test") -> None:
        self.destination = destination
        self.waiting = deque(batches)
        self.attempts: list[tuple[Loaded, Attempt]] = []
        self.given_back: list[Loaded] = []
        self.down: list[tuple[Reply, str]] = []
        self.idle_waits = 0
        self.is_connected = False
        self.pauses = 0
        self.connections = 0
        self._called = Wake()
        self.idle = trio.Event()
        self.reported = trio.Event()

    def put(self, batch: Loaded) -> None:
        self.waiting.append(batch)
        self._called.set()

    def take_nowait(self) -> Loaded | None:
        return self.waiting.popleft() if self.waiting else None

    def coming(self, loaded: Loaded) -> Loaded | None:
        return self.waiting[1] if len(self.waiting) > 1 else None

    async def take(self, idle_s: float) -> Loaded | None:
        assert no_deadline_runs()
        self.idle_waits += 1
        if not self.waiting and idle_s:
            self._called = Wake()
            self.idle.set()
            await self._called.wait_within(idle_s)
        return self.take_nowait()

    def hurry(self) -> None:
        self._called.set()

    def report(self, loaded: Loaded, attempt: Attempt) -> None:
        assert [result.index for result in attempt.results] == list(range(len(loaded.batch.recipients)))
        self.attempts.append((loaded, attempt))
        self.reported.set()

    def give_back(self, loaded: Loaded) -> None:
        self.given_back.append(loaded)

    def connected(self) -> None:
        assert no_deadline_runs()
        self.is_connected = True
        self.connections += 1

    def disconnected(self) -> None:
        assert no_deadline_runs()
        self.is_connected = False

    def pause(self) -> None:
        self.pauses += 1

    async def resume(self) -> None:
        assert no_deadline_runs()
        await breathe()

    def unreachable(self, reply: Reply, host: str) -> None:
        assert self.attempts, "unreachable before the batch that found it out was reported"
        self.down.append((reply, host))

    @property
    def outcomes(self) -> dict[str, tuple[Outcome, str, Stage]]:
        """Recipient to outcome, reply and stage."""
        return {
            loaded.batch.recipients[result.index].address: (result.outcome, str(result.reply), result.stage)
            for loaded, attempt in self.attempts
            for result in attempt.results
        }


class FakeRouter:
    """One route for all, or an error. It has to be looked up the first time."""

    def __init__(self, *hosts: Host, error: NoRoute | None = None, site: str = "site") -> None:
        self.hosts = hosts
        self.error = error
        self.site = site
        self.auth = ""
        self.auth_without_tls = False
        self.published = False
        self.looked_up: set[str] = set()
        self.asked = 0

    def _route(self) -> Route:
        return Route(self.site, self.hosts, self.auth, self.auth_without_tls, published=self.published)

    def known(self, destination: str) -> Route | None:
        self.asked += 1
        return self._route() if destination in self.looked_up else None

    async def route(self, destination: str) -> Route:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.looked_up.add(destination)
        return self._route()


class FakeBodies:
    """Bodies by message number, in chunks."""

    def __init__(self) -> None:
        self.chunks: dict[int, list[bytes]] = {}
        self.reads: list[tuple[int, int]] = []

    def read_body(self, message: int, chunk: int, count: int) -> bytes:
        numbers = range(chunk, chunk + count)
        self.reads += [(message, number) for number in numbers]
        return b"".join(self.chunks[message][number] for number in numbers)


class FakeInFlight:
    """Remembers the marks by message number."""

    def __init__(self) -> None:
        self.marks: dict[int, str] = {}

    def begin(self, key: bytes) -> None:
        self.marks[int.from_bytes(key[:8], "big")] = "begun"

    def dot_sent(self, key: bytes) -> None:
        self.marks[int.from_bytes(key[:8], "big")] = "dot sent"
