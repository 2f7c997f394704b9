"""What goes out signed, and what does not go out, against scripted peers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from postroika.config import Config, Delivery, Server
from postroika.errors import SigningError
from postroika.mail.outcome import Outcome, Stage
from postroika.outbound.delivery import Deliverer
from postroika.pump import Pump, Wake, open_pump
from postroika.spool.reader import Loaded
from tests.component.outbound_fakes import BODY, FakeBodies, FakeInFlight, FakeLane, FakeRouter, in_strand, loaded
from tests.component.scripted_peer import CHUNKED, FULL, ScriptedPeer
from tests.reference.smtp_server import Decide

PATIENT_S = 30.0
TAKEN = (Outcome.DELIVERED, "250 2.0.0 taken", Stage.FINAL_DOT)
UNSIGNED = (Outcome.DEFERRED, "451 4.7.5 the message cannot be signed: no key", Stage.QUEUE)


class FakeSigner:
    """Signs message N with a field that says so, as soon as it is let."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.refused: set[int] = set()
        self.prepared: list[int] = []
        self.ahead: list[int] = []
        self.asked_for = trio.Event()
        self.signed: set[int] = set()
        self._wakes: dict[int, list[Wake]] = {}

    def field(self, number: int) -> bytes:
        return b"DKIM-Signature: of %d\r\n" % number

    def prepare(self, loaded: Loaded, *, ahead: bool = False) -> None:
        (self.ahead if ahead else self.prepared).append(loaded.batch.envelope.message)

    def signature(self, loaded: Loaded) -> bytes | None:
        number = loaded.batch.envelope.message
        if number not in self.signed:
            return None
        if number in self.refused:
            raise SigningError("no key")
        return self.field(number)

    async def wait(self, loaded: Loaded) -> None:
        number = loaded.batch.envelope.message
        if self.at_once:
            self.signed.add(number)
            return
        wake = Wake()
        self._wakes.setdefault(number, []).append(wake)
        self.asked_for.set()
        await wake.wait()

    def sign(self, number: int) -> None:
        self.signed.add(number)
        for wake in self._wakes.pop(number, ()):
            wake.set()


class World:
    def __init__(
        self, nursery: trio.Nursery, pump: Pump, signer: FakeSigner, *peers: ScriptedPeer, **options: object
    ) -> None:
        self.pump = pump
        self.bodies = FakeBodies()
        settings = {"connection_idle_s": 0.0, **options}
        config = Config(server=Server(hostname="me.test"), delivery=Delivery(**settings))  # type: ignore[arg-type]
        router = FakeRouter(*(peer.as_host for peer in peers))
        self.deliverer = Deliverer(config, router, self.bodies, FakeInFlight(), signer)
        self.nursery = nursery
        for peer in peers:
            nursery.start_soon(peer.run)

    async def deliver(self, *batches: Loaded) -> FakeLane:
        lane = FakeLane(*batches)
        with trio.fail_after(PATIENT_S):
            await in_strand(self.pump, self.deliverer.deliver, lane)
        return lane


@asynccontextmanager
async def world(signer: FakeSigner, *peers: ScriptedPeer, **options: object) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery, open_pump() as pump:
        yield World(nursery, pump, signer, *peers, **options)
        nursery.cancel_scope.cancel()


def mails(peer: ScriptedPeer) -> list[str]:
    return [command for session in peer.sessions for command in session.commands if command.startswith("MAIL")]


@pytest.mark.parametrize("offers", [FULL, CHUNKED, (), ("CHUNKING",)])
async def test_each_message_goes_with_its_own_field(offers: tuple[str, ...]) -> None:
    peer, signer = ScriptedPeer(offers), FakeSigner()
    async with world(signer, peer) as w:
        lane = await w.deliver(*[loaded(n) for n in range(1, 11)])
    assert lane.outcomes == {f"r{n}@y.test": TAKEN for n in range(1, 11)}
    assert [message.body for message in peer.messages] == [signer.field(n) + BODY for n in range(1, 11)]
    assert signer.prepared == list(range(1, 11))
    assert signer.ahead == list(range(3, 11))  # this lane knows what comes after the next
    assert peer.violations == []


async def test_size_tells_of_the_field_too() -> None:
    peer, signer = ScriptedPeer(), FakeSigner()
    async with world(signer, peer) as w:
        await w.deliver(loaded(1))
    assert f"SIZE={len(BODY) + len(signer.field(1))}" in mails(peer)[0].split()


@pytest.mark.parametrize("offers", [FULL, CHUNKED])
@pytest.mark.parametrize("in_memory", [True, False])
async def test_large_body_goes_behind_its_field_in_pieces(offers: tuple[str, ...], in_memory: bool) -> None:
    peer, signer = ScriptedPeer(offers), FakeSigner()
    body = b"".join(b"%d line\r\n" % number for number in range(150_000))
    async with world(signer, peer) as w:
        w.bodies.chunks[1] = [body[i : i + 65536] for i in range(0, len(body), 65536)]
        chunks = len(w.bodies.chunks[1])
        await w.deliver(loaded(1, body=body if in_memory else None, size_bytes=len(body), chunks=chunks))
    assert [message.body for message in peer.messages] == [signer.field(1) + body]


async def test_small_body_from_the_spool_goes_behind_its_field() -> None:
    peer, signer = ScriptedPeer(), FakeSigner()
    async with world(signer, peer) as w:
        w.bodies.chunks[1] = [BODY]
        await w.deliver(loaded(1, body=None))
    assert [message.body for message in peer.messages] == [signer.field(1) + BODY]


@pytest.mark.parametrize("hosts", [1, 2])
async def test_message_that_cannot_be_signed_is_deferred_and_nothing_of_it_is_sent(hosts: int) -> None:
    peers, signer = [ScriptedPeer(host=f"mx{number}.y.test") for number in range(hosts)], FakeSigner()
    signer.refused = {2, 4, 5}
    async with world(signer, *peers) as w:
        lane = await w.deliver(loaded(1), loaded(2, "a@y.test", "b@y.test"), loaded(3), loaded(4), loaded(5))
    assert lane.outcomes == {
        "r1@y.test": TAKEN,
        "a@y.test": UNSIGNED,
        "b@y.test": UNSIGNED,
        "r3@y.test": TAKEN,
        "r4@y.test": UNSIGNED,
        "r5@y.test": UNSIGNED,
    }
    assert [mail for peer in peers for mail in mails(peer) if "s1@" not in mail and "s3@" not in mail] == []
    assert lane.given_back == []
    assert [v for peer in peers for v in peer.violations] == []


async def test_only_message_that_cannot_be_signed_is_deferred() -> None:
    peer, signer = ScriptedPeer(), FakeSigner()
    signer.refused = {1}
    async with world(signer, peer) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": UNSIGNED}
    assert mails(peer) == []


async def test_message_waits_for_its_signature() -> None:
    peer, signer = ScriptedPeer(), FakeSigner(at_once=False)
    async with world(signer, peer) as w:
        lane = FakeLane(loaded(1))

        async def run() -> None:
            await in_strand(w.pump, w.deliverer.deliver, lane)

        w.nursery.start_soon(run)
        with trio.fail_after(PATIENT_S):
            await signer.asked_for.wait()
            assert mails(peer) == []
            signer.sign(1)
            await lane.reported.wait()
    assert lane.outcomes == {"r1@y.test": TAKEN}


async def test_peer_that_closes_while_a_message_is_signed_gets_it_on_another_connection() -> None:
    peer, signer = ScriptedPeer(), FakeSigner(at_once=False)
    async with world(signer, peer) as w:
        lane = FakeLane(loaded(1))

        async def run() -> None:
            await in_strand(w.pump, w.deliverer.deliver, lane)

        w.nursery.start_soon(run)
        with trio.fail_after(PATIENT_S):
            await signer.asked_for.wait()
            await peer.close_connections()
            await trio.testing.wait_all_tasks_blocked()
            signer.sign(1)
            await lane.reported.wait()
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert len(peer.sessions) == 2


async def test_interrupted_while_it_is_signed_the_batch_is_given_back() -> None:
    peer, signer = ScriptedPeer(), FakeSigner(at_once=False)
    batch = loaded(1)
    lane = FakeLane(batch)
    async with world(signer, peer) as w, trio.open_nursery() as nursery:

        async def run() -> None:
            await in_strand(w.pump, w.deliverer.deliver, lane)

        nursery.start_soon(run)
        with trio.fail_after(PATIENT_S):
            await signer.asked_for.wait()
        nursery.cancel_scope.cancel()
    assert lane.given_back == [batch]
    assert mails(peer) == []


async def test_recipients_beyond_the_limit_of_the_peer_get_the_same_field() -> None:
    peer, signer = ScriptedPeer((*FULL, "LIMITS RCPTMAX=2")), FakeSigner()
    async with world(signer, peer) as w:
        lane = await w.deliver(loaded(1, *[f"r{i}@y.test" for i in range(5)]))
    assert set(lane.outcomes.values()) == {TAKEN}
    assert [message.body for message in peer.messages] == [signer.field(1) + BODY] * 3


def on(prefix: str, answer: str) -> Decide:
    return lambda verb, rest: answer if f"{verb} {rest}".startswith(prefix) else None


async def test_next_host_gets_the_field_too() -> None:
    first, second, signer = ScriptedPeer(decide=on("MAIL", "451 4.3.0 later")), ScriptedPeer(), FakeSigner()
    async with world(signer, first, second) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert [message.body for message in second.messages] == [signer.field(1) + BODY]
