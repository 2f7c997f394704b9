"""Deliveries in a test: a deliverer with its neighbours faked, and peers on loopback sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from postroika.config import Config, Delivery, Route, Server
from postroika.mail.outcome import Outcome, Stage
from postroika.outbound.delivery import Deliverer
from postroika.pump import Pump, open_pump
from postroika.routing.router import Host
from postroika.spool.reader import Loaded
from tests.component.outbound_fakes import FakeBodies, FakeInFlight, FakeLane, FakeRouter, in_strand
from tests.component.scripted_peer import ScriptedPeer
from tests.reference.smtp_server import Decide

TAKEN = (Outcome.DELIVERED, "250 2.0.0 taken", Stage.FINAL_DOT)
PATIENT_S = 30.0


class World:
    """A deliverer, its fakes, and peers that run as long as the block."""

    def __init__(
        self,
        nursery: trio.Nursery,
        pump: Pump,
        *hosts: ScriptedPeer | Host,
        route: Route | None = None,
        **options: object,
    ) -> None:
        self.nursery = nursery
        self.pump = pump
        self.peers = [host for host in hosts if isinstance(host, ScriptedPeer)]
        self.router = FakeRouter(*(host.as_host if isinstance(host, ScriptedPeer) else host for host in hosts))
        self.bodies = FakeBodies()
        self.in_flight = FakeInFlight()
        settings = {"connection_idle_s": 0.0, **options}
        config = Config(
            server=Server(hostname="me.test"),
            delivery=Delivery(**settings),  # type: ignore[arg-type]
            route=(route,) if route is not None else (),
        )
        if route is not None:
            self.router.auth, self.router.auth_without_tls = route.auth, route.auth_without_tls
        self.deliverer = Deliverer(config, self.router, self.bodies, self.in_flight)
        for peer in self.peers:
            nursery.start_soon(peer.run)

    async def deliver(self, *batches: Loaded) -> FakeLane:
        lane = FakeLane(*batches)
        with trio.fail_after(PATIENT_S):
            await self.run(lane)
        assert not lane.is_connected
        assert [v for peer in self.peers for v in peer.violations] == []
        return lane

    async def run(self, lane: FakeLane) -> None:
        """Until the lane has no more, or, when cancelled, has been stopped."""
        await in_strand(self.pump, self.deliverer.deliver, lane)


@asynccontextmanager
async def world(*hosts: ScriptedPeer | Host, route: Route | None = None, **options: object) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery, open_pump() as pump:
        yield World(nursery, pump, *hosts, route=route, **options)
        nursery.cancel_scope.cancel()


def once(verb: str, answer: str, then: Decide = lambda _verb, _rest: None) -> Decide:
    """Answer the first `verb` so, and everything else as `then` says."""
    used = False

    def decide(asked: str, rest: str) -> str | None:
        nonlocal used
        if asked == verb and not used:
            used = True
            return answer
        return then(asked, rest)

    return decide


def on(table: dict[str, str]) -> Decide:
    return lambda verb, rest: next((a for key, a in table.items() if f"{verb} {rest}".startswith(key)), None)
