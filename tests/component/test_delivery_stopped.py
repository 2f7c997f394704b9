"""Delivery that is stopped, wherever it is: what is given back, and what is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from postroika.mail.outcome import Outcome
from postroika.routing.router import Route
from postroika.spool.reader import Loaded
from tests.component.delivery_world import PATIENT_S, TAKEN, World, world
from tests.component.outbound_fakes import FakeLane, loaded
from tests.component.scripted_peer import FULL, ScriptedPeer
from tests.reference.smtp_server import HANG, Decide


async def stopped_at(
    decide: Decide,
    *batches: Loaded,
    until: Callable[[World, FakeLane], Awaitable[None]],
    offers: tuple[str, ...] = FULL,
) -> tuple[FakeLane, World]:
    peer = ScriptedPeer(offers, decide)
    async with world(peer) as w:
        lane = FakeLane(*batches)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, lane)
            await until(w, lane)
            nursery.cancel_scope.cancel()
        assert peer.violations == []
        return lane, w


async def test_stopped_before_the_dot_gives_back() -> None:
    reached = trio.Event()

    def decide(verb: str, _rest: str) -> str | None:
        if verb == "DATA":
            reached.set()
            return HANG
        return None

    batch = loaded(1)
    lane, w = await stopped_at(decide, batch, until=lambda _w, _lane: reached.wait())
    assert lane.given_back == [batch]
    assert lane.attempts == []
    assert w.in_flight.marks == {1: "begun"}


async def test_stopped_after_the_dot_reports_nothing_but_gives_back_the_successor() -> None:
    reached = trio.Event()

    def decide(verb: str, _rest: str) -> str | None:
        if verb == ".":
            reached.set()
            return HANG
        return None

    first, second = loaded(1), loaded(2)
    lane, w = await stopped_at(decide, first, second, until=lambda _w, _lane: reached.wait())
    assert lane.given_back == [second]
    assert lane.attempts == []
    assert w.in_flight.marks == {1: "dot sent", 2: "begun"}


async def test_stopped_with_some_recipients_delivered_reports_them() -> None:
    reached = trio.Event()
    mails = 0

    def decide(verb: str, _rest: str) -> str | None:
        nonlocal mails
        mails += verb == "MAIL"
        if mails == 2 and verb == "MAIL":
            reached.set()
            return HANG
        return None

    batch = loaded(1, "a@y.test", "b@y.test")
    lane, _ = await stopped_at(decide, batch, until=lambda _w, _lane: reached.wait(), offers=("LIMITS RCPTMAX=1",))
    assert lane.given_back == []
    outcomes = {a: (outcome, text.split()[1]) for a, (outcome, text, _) in lane.outcomes.items()}
    assert outcomes == {"a@y.test": (Outcome.DELIVERED, "2.0.0"), "b@y.test": (Outcome.DEFERRED, "4.3.2")}


async def test_stopped_while_idle_leaves_its_place_at_once() -> None:
    peer = ScriptedPeer()
    async with world(peer, max_connections_per_site=1, connection_idle_s=PATIENT_S) as w:
        first, second = FakeLane(loaded(1)), FakeLane(loaded(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, first)
            await first.idle.wait()
            nursery.cancel_scope.cancel()
        w.nursery.start_soon(w.run, second)
        with trio.fail_after(PATIENT_S):
            await second.idle.wait()
        assert (first.outcomes, second.outcomes) == ({"r1@y.test": TAKEN}, {"r2@y.test": TAKEN})
        assert len(peer.sessions) == 2


async def test_stopped_while_it_waits_for_a_place_gives_nothing_back_as_it_has_taken_nothing() -> None:
    reached = trio.Event()

    def decide(verb: str, _rest: str) -> str | None:
        if verb == "DATA":
            reached.set()
            return HANG
        return None

    peer = ScriptedPeer(decide=decide)
    async with world(peer, max_connections_per_site=1) as w:
        first, second = FakeLane(loaded(1)), FakeLane(loaded(2), loaded(3))
        w.nursery.start_soon(w.run, first)
        await reached.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, second)
            await trio.testing.wait_all_tasks_blocked()
            assert second.pauses == 1
            nursery.cancel_scope.cancel()
        assert (second.given_back, second.attempts, len(second.waiting)) == ([], [], 2)
        assert not w.deliverer.pool.wanted("site")


@pytest.mark.parametrize("verb", ["", "EHLO", "QUIT"])
async def test_stopped_while_there_is_no_session(verb: str) -> None:
    reached = trio.Event()

    def decide(asked: str, _rest: str) -> str | None:
        if asked == verb:
            reached.set()
            return HANG
        return None

    batch = loaded(1)
    lane, w = await stopped_at(decide, batch, until=lambda _w, _lane: reached.wait())
    assert (lane.given_back, len(lane.attempts)) == (([], 1) if verb == "QUIT" else ([batch], 0))
    assert w.in_flight.marks == ({1: "dot sent"} if verb == "QUIT" else {})


async def test_stopped_while_the_route_is_looked_up() -> None:
    looking, ended = trio.Event(), trio.Event()

    async def route(destination: str) -> Route:
        looking.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    async with world() as w:
        w.router.route = route  # type: ignore[method-assign]
        lane = FakeLane(loaded(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, lane)
            await looking.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()
        assert (lane.given_back, lane.attempts, len(lane.waiting)) == ([], [], 1)
