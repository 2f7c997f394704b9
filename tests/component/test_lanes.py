"""Lanes as strands: work, hurry and the end, each in the moment in which it is least convenient."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from postroika.config import Config, Delivery, Server
from postroika.mail.outcome import Attempt, Outcome, RecipientResult, Stage
from postroika.metrics import OUTBOUND_CONNECTIONS_OPEN
from postroika.outbound.delivery import Deliverer
from postroika.outbound.pool import SitePool
from postroika.pump import Wake, in_task
from postroika.queue.lane import Lane
from postroika.routing.router import Route
from postroika.spool.inflight import InFlight
from postroika.spool.reader import Loaded
from postroika.spool.schema import batch_key
from tests.component.scripted_peer import ScriptedPeer
from tests.component.world import OK, PEER, Clock, World, world
from tests.reference.smtp_server import HANG

IDLE_S = 5.0


def delivered(loaded: Loaded) -> Attempt:
    return Attempt((RecipientResult(0, Outcome.DELIVERED, OK, Stage.FINAL_DOT),), PEER)


class Idler:
    """Delivers at once, and is idle in between. `taken`: what each `take` gave, by recipient."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.taken: list[str | None] = []

    async def deliver(self, lane: Lane) -> None:
        self.lanes.append(lane)
        loaded = lane.take_nowait()
        while loaded is not None:
            self.taken.append(loaded.batch.recipients[0].address)
            lane.connected()
            lane.report(loaded, delivered(loaded))
            loaded = await lane.take(IDLE_S)
        self.taken.append(None)
        lane.disconnected()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; it takes sockets or threads only."""
    for _ in range(400):
        if condition():
            return
        await trio.testing.wait_all_tasks_blocked(0.005)
    raise AssertionError


# --- idle


async def test_hurried_lane_waits_no_longer(tmp_path: Path, mock_clock: object) -> None:
    idler = Idler()
    async with world(tmp_path) as w:
        w.deliver = idler.deliver
        await w.accept("a@one.test")
        await w._quiet()
        assert (idler.taken, w.scheduler.snapshot()["idle_lanes"]) == (["a@one.test"], 1)
        idler.lanes[0].hurry()
        await w._quiet()
        assert idler.taken == ["a@one.test", None]
        assert (w.scheduler.snapshot()["idle_lanes"], w.scheduler.lanes) == (0, 0)


@pytest.mark.parametrize("order", ["hurried first", "given work first"])
async def test_hurried_lane_that_gets_work_in_that_moment_takes_it(
    tmp_path: Path, mock_clock: object, order: str
) -> None:
    idler = Idler()
    async with world(tmp_path) as w:
        w.deliver = idler.deliver
        await w.accept("a@one.test")
        await w._quiet()

        def fresh(batches: list[Loaded]) -> None:
            if order == "hurried first":
                idler.lanes[0].hurry()
            w.scheduler.fresh(batches)
            idler.lanes[0].hurry()

        w.intake._fresh = fresh
        await w.accept("b@one.test")
        await w._quiet()
        # It is no longer hurried then: whoever hurried it was told of the work, and asks again.
        assert (idler.taken, w.scheduler.lanes) == (["a@one.test", "b@one.test"], 1)
        w.intake._fresh = w.scheduler.fresh
        await w.accept("c@one.test")
        await w._quiet()
        assert idler.taken == ["a@one.test", "b@one.test", "c@one.test"]
        assert len(idler.lanes) == 1
        await w.settle_down()
        assert (idler.taken[3:], w.scheduler.lanes, w.queued()) == ([None], 0, [])


async def test_work_that_comes_while_a_hurried_lane_closes_gets_another(tmp_path: Path, mock_clock: object) -> None:
    closing, idler = Wake(), Idler()

    async def deliver(lane: Lane) -> None:
        await idler.deliver(lane)
        await closing.wait()  # as for the reply to QUIT

    async with world(tmp_path) as w:
        w.deliver = deliver
        await w.accept("a@one.test")
        await w._quiet()
        idler.lanes[0].hurry()
        await w._quiet()
        await w.accept("b@one.test")
        await w._quiet()
        assert idler.taken == ["a@one.test", None, "b@one.test"]
        closing.set()
        await w.settle_down()
        assert (len(idler.lanes), w.scheduler.lanes, w.queued()) == (2, 0, [])


async def test_work_in_the_moment_in_which_a_lane_has_waited_long_enough_is_not_left_behind(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    idler = Idler()
    async with world(tmp_path) as w:
        w.deliver = idler.deliver
        await w.accept("a@one.test")
        await w._quiet()
        for number in range(20):  # at whatever time the deadlines are looked at, relative to when the mail comes
            mock_clock.jump(IDLE_S + number / 80)
            await w.accept(f"b{number}@one.test")
        await w.settle_down()
        assert [taken for taken in idler.taken if taken] == ["a@one.test", *(f"b{n}@one.test" for n in range(20))]
        assert (w.scheduler.lanes, w.queued()) == (0, [])


class Worker:
    """Delivers one batch after another on each connection, each when `gate` is opened; `taken`: by lane."""

    def __init__(self) -> None:
        self.taken: dict[Lane, list[str]] = {}
        self.gate: trio.Event | None = None

    def all_taken(self) -> list[str]:
        return sorted(address for taken in self.taken.values() for address in taken)

    async def deliver(self, lane: Lane) -> None:
        taken = self.taken[lane] = []
        loaded = lane.take_nowait()
        lane.connected()
        while loaded is not None:
            taken.append(loaded.batch.recipients[0].address)
            if self.gate is not None:
                await in_task(self.gate.wait)
            lane.report(loaded, delivered(loaded))
            loaded = await lane.take(IDLE_S)
        lane.disconnected()


async def idle_lanes(w: World, worker: Worker, count: int) -> None:
    """Have so many lanes, which have found their destination quick and have nothing to do."""
    worker.gate = trio.Event()
    for number in range(count):
        await w.accept(f"first{number}@one.test")
    await w._quiet()
    worker.gate.set()
    await w._quiet()
    for number in range(40):
        await w.accept(f"quick{number}@one.test")
    await w._quiet()
    assert w.scheduler.snapshot()["idle_lanes"] == count
    for taken in worker.taken.values():
        taken.clear()


async def committed(w: World, count: int) -> list[Loaded]:
    """So many messages, to be handed to the queue together, as after a group commit."""
    fresh: list[Loaded] = []
    w.intake._fresh = fresh.extend
    for number in range(count):
        await w.accept(f"r{number}@one.test")
    w.intake._fresh = w.scheduler.fresh
    return fresh


@contextmanager
def no_commit_ends(w: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The end of a commit has lanes called for what waits, and when it comes is up to the thread that commits."""
    may_end, apply = threading.Event(), w.store.apply

    def held(*arguments: Any) -> None:
        may_end.wait(20)
        apply(*arguments)

    monkeypatch.setattr(w.store, "apply", held)
    try:
        yield
    finally:
        may_end.set()


async def test_a_quick_destination_gets_several_messages_in_a_row_on_one_connection(
    tmp_path: Path, mock_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    async with world(tmp_path) as w:
        w.deliver = worker.deliver
        await idle_lanes(w, worker, 3)
        fresh = await committed(w, 10)
        with no_commit_ends(w, monkeypatch):
            w.scheduler.fresh(fresh)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(len(taken) for taken in worker.taken.values()) == [0, 5, 5]
        assert worker.all_taken() == [f"r{number}@one.test" for number in range(10)]
        await w.settle_down()
        assert (w.scheduler.lanes, w.queued()) == (0, [])


async def test_messages_do_not_wait_behind_one_that_takes_long_after_all(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    worker = Worker()
    async with world(tmp_path) as w:
        w.deliver = worker.deliver
        await idle_lanes(w, worker, 3)
        worker.gate = trio.Event()
        w.scheduler.fresh(await committed(w, 3))
        await w._quiet()
        assert worker.all_taken() == ["r0@one.test"]
        await w.sleep(2)
        assert worker.all_taken() == [f"r{number}@one.test" for number in range(3)]
        worker.gate.set()
        await w.settle_down()
        assert (w.scheduler.lanes, w.queued()) == (0, [])


# --- the end


async def test_stop_before_a_lane_has_begun(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        await w.accept("a@one.test")  # opens a lane, which takes its first step later
        assert w.scheduler.lanes == 1
        await w.scheduler.stop()
        assert (w.hops.attempts, w.scheduler.lanes, w.scheduler.snapshot()["in_memory"]) == ([], 0, 1)
        assert w.queued() == [("one.test", ("a@one.test",))]


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_lanes_that_end_with_the_scheduler_make_no_room_for_others(
    tmp_path: Path, mock_clock: object, how: str
) -> None:
    """Neither for the batches that they give back, nor for destinations that have waited for a connection."""
    lanes: list[str] = []

    async def deliver(lane: Lane) -> None:
        lanes.append(lane.destination)
        loaded = lane.take_nowait()
        assert loaded is not None
        try:
            await Wake().wait()
        except BaseException:
            lane.give_back(loaded)
            raise

    clock = Clock()
    async with world(tmp_path, clock, max_connections=2) as w:
        w.deliver = deliver
        for number in range(5):
            await w.accept(f"r@d{number}.test")
        await w._quiet()
        assert lanes == ["d0.test", "d1.test"]
        if how == "stop":
            await w.scheduler.stop()
    assert lanes == ["d0.test", "d1.test"]
    assert (w.scheduler.lanes, w.scheduler._lanes.strands) == (0, {})
    async with world(tmp_path, clock) as w:
        await w.settle_down()
        assert sorted(name for name, _, _ in w.hops.delivered) == [f"d{number}.test" for number in range(5)]
        assert w.happened("deferred") == []


async def test_a_lane_that_fails_ends_all_loudly(tmp_path: Path, mock_clock: object) -> None:
    ended: list[str] = []

    async def deliver(lane: Lane) -> None:
        lane.take_nowait()
        if lane.destination == "bug.test":
            raise ZeroDivisionError
        try:
            await Wake().wait()
        finally:
            ended.append(lane.destination)

    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):  # of the world, and of the pump
        async with world(tmp_path) as w:
            w.deliver = deliver
            await w.accept("a@one.test")
            await w._quiet()
            await w.accept("a@bug.test")
            await trio.sleep_forever()
    assert ended == ["one.test"]


@pytest.mark.parametrize("how", ["stop", "cancel"])
@pytest.mark.parametrize("then", ["in line", "granted in that moment"])
async def test_the_end_of_a_lane_that_waits_for_a_place_or_a_connection(
    tmp_path: Path, mock_clock: object, how: str, then: str
) -> None:
    """The one lane holds the place of the site, another waits for it, a third has the other connection."""
    pool, begun = SitePool(1), list[str]()
    leave = Wake()

    async def deliver(lane: Lane) -> None:
        site = "big" if lane.destination.startswith("hosted") else lane.destination
        if pool.is_full(site):
            lane.pause()
        await pool.acquire(site)
        try:
            await lane.resume()
            begun.append(lane.destination)
            await leave.wait() if lane.destination == "hosted0.test" else await Wake().wait()
        finally:
            pool.release(site)

    async with world(tmp_path, max_connections=2) as w:
        w.deliver = deliver
        await w.accept("r@hosted0.test")
        await w._quiet()
        await w.accept("r@hosted1.test")
        await w._quiet()
        await w.accept("r@fine.test")
        await w.accept("r@hungry.test")
        await w._quiet()
        # hosted1 gave back its connection, which fine has now.
        assert (begun, w.scheduler.lanes) == (["hosted0.test", "fine.test"], 2)
        assert w.scheduler.snapshot()["waiting_for_connection"] == 1
        if then == "granted in that moment":
            leave.set()
        if how == "stop":
            await w.scheduler.stop()
    if how == "stop" or then == "in line":
        assert "hungry.test" not in begun
    assert (w.scheduler.lanes, w.scheduler._lanes.strands) == (0, {})
    assert pool._sites == {}


async def test_a_lane_that_gets_its_place_while_all_connections_are_taken_is_next(
    tmp_path: Path, mock_clock: object
) -> None:
    pool, begun = SitePool(1), list[str]()
    leave = {name: Wake() for name in ("hosted0.test", "hosted1.test", "fine.test", "hungry0.test", "hungry1.test")}

    async def deliver(lane: Lane) -> None:
        site = "big" if lane.destination.startswith("hosted") else lane.destination
        if pool.is_full(site):
            lane.pause()
        await pool.acquire(site)
        try:
            await lane.resume()
            loaded = lane.take_nowait()
            assert loaded is not None
            begun.append(lane.destination)
            await leave[lane.destination].wait()
            lane.report(loaded, delivered(loaded))
        finally:
            pool.release(site)

    async with world(tmp_path, max_connections=2) as w:
        w.deliver = deliver
        await w.accept("r@hosted0.test")
        await w._quiet()
        await w.accept("r@hosted1.test")
        await w._quiet()
        for name in ("fine", "hungry0", "hungry1"):
            await w.accept(f"r@{name}.test")
        await w._quiet()
        assert begun == ["hosted0.test", "fine.test"]
        leave["hosted0.test"].set()
        await w._quiet()
        # Its connection was free before hosted1 knew that it has a place now.
        assert begun == ["hosted0.test", "fine.test", "hungry0.test"]
        leave["fine.test"].set()
        await w._quiet()
        assert begun == ["hosted0.test", "fine.test", "hungry0.test", "hosted1.test"]
        for wake in leave.values():
            wake.set()
        await w.settle_down()
        assert begun[4:] == ["hungry1.test"]
        assert (w.scheduler.lanes, w.queued()) == (0, [])


# --- the real deliverer


class Routes:
    """To each destination its own peer; the route to lookup.test is looked up for ever."""

    def __init__(self, peers: dict[str, ScriptedPeer], sites: dict[str, str]) -> None:
        self.peers = peers
        self.sites = sites
        self.looked_up: set[str] = set()

    def known(self, destination: str) -> Route | None:
        return None

    async def route(self, destination: str) -> Route:
        self.looked_up.add(destination)
        if destination == "lookup.test":
            await trio.sleep_forever()
        return Route(self.sites.get(destination, destination), (self.peers[destination].as_host,))


def hangs_at(verb: str) -> ScriptedPeer:
    return ScriptedPeer(decide=lambda asked, _rest: HANG if asked == verb else None)


def deliverer(w: World, routes: Routes) -> Callable[[Lane], Awaitable[None]]:
    delivery = Delivery(connection_idle_s=IDLE_S, max_connections_per_site=1, initial_connections_per_site=1)
    return Deliverer(Config(server=Server(hostname="me.test"), delivery=delivery), routes, w.store, w.inflight).deliver


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_the_end_of_lanes_in_every_state(tmp_path: Path, mock_clock: object, how: str) -> None:
    """What was not sent stays queued, uncounted; what may have been is in doubt; nothing is left open."""
    hung = {"greeting": "", "ehlo": "EHLO", "mail": "MAIL", "data": "DATA", "dot": ".", "quit": "QUIT"}
    peers = {f"{name}.test": hangs_at(verb) for name, verb in hung.items()}
    peers |= {"idle.test": ScriptedPeer(), "place.test": peers["data.test"], "lookup.test": ScriptedPeer()}
    sites = {"place.test": "data.test"}
    clock, routes = Clock(), Routes(peers, sites)
    open_before = OUTBOUND_CONNECTIONS_OPEN.value
    ids: dict[str, int] = {}

    def asked(name: str) -> bool:
        commands = [command for session in peers[name].sessions for command in session.commands]
        return any(session.hung for session in peers[name].sessions) or commands[-1:] == ["QUIT"]

    async with trio.open_nursery() as nursery:
        for peer in set(peers.values()):
            nursery.start_soon(peer.run)
        async with world(tmp_path, clock) as w:
            w.deliver = deliverer(w, routes)
            for name in peers:
                ids[name] = await w.accept(f"r@{name}", sender="")
            await until(lambda: all(asked(f"{name}.test") for name in ("greeting", "ehlo", "mail", "data", "dot")))
            await until(
                lambda: sorted(w.happened("delivered")) == [("delivered", f"r@{n}.test") for n in ("idle", "quit")]
            )
            await until(lambda: w.scheduler.snapshot()["idle_lanes"] == 2)
            for lane in w.scheduler._lanes.strands:
                if lane.destination == "quit.test":
                    lane.hurry()
            await until(lambda: asked("quit.test"))
            assert {"lookup.test", "place.test"} <= routes.looked_up
            if how == "stop":
                nursery.start_soon(w.scheduler.stop)  # noqa: ASYNC111 - it returns while w is there, or fails
                # Those with a session go on with the batch that they have.
                await until(lambda: len(w.scheduler._lanes.strands) == 3)
                assert sorted(lane.destination for lane in w.scheduler._lanes.strands) == [
                    "data.test", "dot.test", "mail.test"
                ]  # fmt: skip
                assert peers["idle.test"].sessions[0].commands[-1] == "QUIT"
        assert (w.scheduler.lanes, w.scheduler._lanes.strands) == (0, {})
        assert OUTBOUND_CONNECTIONS_OPEN.value == open_before
        assert InFlight(w.store.path / "inflight", 64).recovered == [batch_key(ids["dot.test"], 0)]
        async with world(tmp_path, clock) as w:
            await w.settle_down()
            assert w.happened("deferred") == []
            assert sorted(r for _, r, _ in w.hops.delivered) == sorted(
                f"r@{name}" for name in peers if name not in {"idle.test", "quit.test"}
            )
            assert [key for key, _ in w.store.doubts(10)] == [batch_key(ids["dot.test"], 0)]
        assert [len(peers[name].messages) for name in ("idle.test", "quit.test", "dot.test")] == [1, 1, 0]
        nursery.cancel_scope.cancel()


async def test_a_lane_that_looks_up_its_route_is_not_in_the_way_of_others(tmp_path: Path, mock_clock: object) -> None:
    looking = trio.Event()

    async def deliver(lane: Lane) -> None:
        if lane.destination == "slow.test":
            await in_task(looking.wait)
        loaded = lane.take_nowait()
        if loaded is not None:
            lane.report(loaded, delivered(loaded))

    async with world(tmp_path) as w:
        w.deliver = deliver
        await w.accept("a@slow.test")
        await w.accept("b@fine.test")
        await w._quiet()
        assert w.happened("delivered") == [("delivered", "b@fine.test")]
        looking.set()
        await w._quiet()
        assert w.happened("delivered") == [("delivered", "b@fine.test"), ("delivered", "a@slow.test")]
