"""A worker's spool and queue in one process, with a scripted next hop: the real parts, but for the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import trio
import trio.testing

from postroika.config import Delivery, Retry
from postroika.mail.envelope import Envelope, Recipient
from postroika.mail.ids import IdSource
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply
from postroika.outcome.event_record import Event, decode
from postroika.outcome.events import EventWriter
from postroika.outcome.settle import Settler
from postroika.pump import breathe, in_task
from postroika.queue.janitor import Janitor
from postroika.queue.lane import Lane
from postroika.queue.lanes import Deliver
from postroika.queue.operator import Operator
from postroika.queue.scheduler import Scheduler
from postroika.spool.committer import Committer
from postroika.spool.inflight import InFlight
from postroika.spool.reader import Loaded
from postroika.spool.recovery import recover
from postroika.spool.store import Store
from postroika.spool.writer import Intake, MessageWriter

OK = Reply(250, "2.0.0", ("Ok",))
GREYLISTED = Reply(451, "4.7.1", ("come back later",))
NO_SUCH_USER = Reply(550, "5.1.1", ("no such user",))
REFUSED = Reply(451, "4.4.1", ("connection refused",))
PEER = Peer("mx.shop.test", "192.0.2.1", 25)

Verdict = Callable[[str, Recipient], Reply]


class Clock:
    """Epoch seconds that stand still until they are moved; trio's clock is the tests' MockClock."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class NextHops:
    """Delivers by asking `verdict` for each recipient; destinations in `unreachable` refuse connections.

    `delivered` holds (destination, recipient, body) in order; `gate`, if set, is waited for before each attempt, in a
    task. All lanes have their turn before each attempt.
    """

    def __init__(self, read_body: Callable[[Loaded], bytes]) -> None:
        self.verdict: Verdict = lambda destination, recipient: OK
        self.unreachable: set[str] = set()
        self.delivered: list[tuple[str, str, bytes]] = []
        self.attempts: list[str] = []
        self.open_lanes = 0
        self.most_lanes = 0
        self.gate: trio.Event | None = None
        self._read_body = read_body

    async def deliver(self, lane: Lane) -> None:
        self.open_lanes += 1
        self.most_lanes = max(self.most_lanes, self.open_lanes)
        try:
            await self._deliver(lane)
        finally:
            self.open_lanes -= 1

    async def _deliver(self, lane: Lane) -> None:
        connected = False
        while (loaded := await lane.take(5.0)) is not None:
            self.attempts.append(lane.destination)
            await breathe()
            if self.gate is not None:
                await in_task(self.gate.wait)
            if lane.destination in self.unreachable:
                lane.report(loaded, self._all(loaded, REFUSED, Stage.CONNECT, remote=False))
                lane.unreachable(REFUSED, "")
                return
            if not connected:
                connected = True
                lane.connected()
            results = []
            for index, recipient in enumerate(loaded.batch.recipients):
                reply = self.verdict(lane.destination, recipient)
                if reply.kind == 2:
                    self.delivered.append((lane.destination, recipient.address, self._read_body(loaded)))
                results.append(RecipientResult(index, _outcome(reply), reply, Stage.RCPT))
            lane.report(loaded, Attempt(tuple(results), PEER, site="mx.shop.test"))

    def _all(self, loaded: Loaded, reply: Reply, stage: Stage, *, remote: bool) -> Attempt:
        results = tuple(
            RecipientResult(index, _outcome(reply), reply, stage, remote)
            for index in range(len(loaded.batch.recipients))
        )
        return Attempt(results, PEER)


async def write(writer: MessageWriter, piece: bytes) -> None:
    """Have it take the next piece, and wait until it has."""
    wait = writer.write(piece)
    if wait is not None:
        await wait


def _outcome(reply: Reply) -> Outcome:
    return {2: Outcome.DELIVERED, 4: Outcome.DEFERRED, 5: Outcome.FAILED}[reply.kind]


class World:
    """One shard with all that works on it."""

    def __init__(self, path: Path, clock: Clock, *, shard: int = 0, delivery: Delivery, retry: Retry) -> None:
        self.clock = clock
        self.retry = retry
        self.store = Store.create_or_open(path, shard, max_bytes=1 << 30)
        self.inflight = InFlight(self.store.path / "inflight", 64)
        self.store.apply([recover(self.store, self.inflight).changes])
        self.inflight.take_over()
        self.ids = IdSource(shard, after=self.store.last_id(), clock=clock)
        self.committer = Committer(self.store, self.ids, low_water_bytes=1)
        self.events = EventWriter(self.ids, clock)
        self.hops = NextHops(self._body)
        self.deliver: Deliver = self.hops.deliver  # may be replaced, also later
        self.settler = Settler(
            self.store,
            self.committer,
            self.inflight,
            self.ids,
            self.events,
            hostname="mx.sender.test",
            expire_after_s=retry.expire_after_s,
            clock=clock,
        )
        self.scheduler = Scheduler(
            self.store,
            self.committer,
            self.settler,
            self._deliver,
            delivery=delivery,
            retry=retry,
            rng=Random(7),
            clock=clock,
        )
        self.janitor = Janitor(self.store, self.scheduler, self.settler, retry, clock)
        self.operator = Operator(self.store, self.scheduler, self.settler, clock)
        self.intake = Intake(
            self.store,
            self.committer,
            self.ids,
            max_recipients_per_batch=delivery.max_recipients_per_batch,
            commit_timeout_s=10,
            fresh=self.scheduler.fresh,
            clock=clock,
        )

    async def _deliver(self, lane: Lane) -> None:
        await self.deliver(lane)

    def _body(self, loaded: Loaded) -> bytes:
        if loaded.body is not None:
            return loaded.body
        envelope = loaded.batch.envelope
        return b"".join(self.store.read_body(envelope.message, chunk) for chunk in range(envelope.chunks))

    async def accept(
        self,
        *recipients: str,
        sender: str = "sender@news.test",
        body: bytes = b"Subject: hello\r\n\r\nhello\r\n",
        **more: object,
    ) -> int:
        """Take a message in. Returns its id."""
        writer = self.intake.begin()
        await write(writer, body)
        numbered = [
            r if isinstance(r, Recipient) else Recipient(r, number=number) for number, r in enumerate(recipients)
        ]
        await writer.finish(reverse_path=sender, recipients=numbered, received=self.events.received, **more)  # type: ignore[arg-type]
        return writer.message

    def logged_lines(self) -> list[bytes]:
        """All lines in the outbox, oldest first."""
        return b"".join(value for _, value in self.store.outbox_read(0, 1 << 30)).splitlines()

    def logged(self) -> list[Event]:
        """All events in the outbox, oldest first."""
        return [decode(line) for line in self.logged_lines()]

    def happened(self, *types: str) -> list[tuple[str, str]]:
        """(type, recipient) of the events, of these types only if any are named."""
        return [(e.type, e.recipient) for e in self.logged() if not types or e.type in types]

    def queued(self) -> list[tuple[str, tuple[str, ...]]]:
        """(destination, recipients) of the open batches, oldest first."""
        return [
            (loaded.batch.destination, tuple(r.address for r in loaded.batch.recipients))
            for loaded in self.store.batches_from(b"", 10_000)
        ]

    def envelopes(self) -> list[Envelope]:
        """Of the open batches."""
        return [loaded.batch.envelope for loaded in self.store.batches_from(b"", 10_000)]

    async def settle_down(self) -> None:
        """Wait until nothing is under way, and the connections that are idle have closed."""
        await self._quiet()
        await self.sleep(6)

    async def _quiet(self) -> None:
        """Every task waits for something other than the commit thread, and goes on doing so."""
        calm = 0
        while calm < 2:
            await trio.testing.wait_all_tasks_blocked(0.001)
            calm = calm + 1 if self.committer.idle else 0

    async def sleep(self, seconds: float) -> None:
        """Let trio's clock go on, by steps; the clock of the world stands still."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        for _ in range(int(seconds)):
            clock.jump(1)
            await self._quiet()

    async def pass_time(self, seconds: float) -> None:
        """Move the clock of the world and let the scheduler look at it."""
        self.clock.at += seconds
        self.scheduler.kick()
        await self.settle_down()


@asynccontextmanager
async def world(path: Path, clock: Clock | None = None, *, janitor: bool = False, shard: int = 0, **settings: object):
    """A running World; `settings` are those of Delivery and Retry."""
    known = {field.name for field in msgspec.structs.fields(Retry)}
    retry = Retry(**{"jitter": 0.0, **{k: v for k, v in settings.items() if k in known}})  # type: ignore[arg-type]
    delivery = Delivery(**{k: v for k, v in settings.items() if k not in known})  # type: ignore[arg-type]
    built = World(path, clock or Clock(), shard=shard, delivery=delivery, retry=retry)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(built.committer.run)
        await nursery.start(built.scheduler.run)
        if janitor:
            nursery.start_soon(built.janitor.run)
        try:
            yield built
        finally:
            nursery.cancel_scope.cancel()
    built.inflight.close()
    built.store.close()


NARROW = {"loaded_batches": 20, "max_connections_per_site": 2, "initial_connections_per_site": 2}
"""Settings with which a backlog is soon more than is held in memory."""


async def old_mail(path: Path, count: int) -> Clock:
    """Leave so many messages to one.test in the spool, to be delivered by the next world that gets the clock."""
    clock = Clock()
    async with world(path, clock, enabled=False) as w:
        for number in range(count):
            await w.accept(f"old{number}@one.test", sender="")
    return clock
