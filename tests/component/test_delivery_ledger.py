"""Two hosts that misbehave at random, and the books afterwards: nothing lost, nothing doubled without doubt."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio

from postroika.config import Config, Delivery, Server
from postroika.mail.outcome import Outcome, Stage
from postroika.outbound.delivery import Deliverer
from postroika.pump import Pump, open_pump
from postroika.spool.reader import Loaded
from tests.component.outbound_fakes import FakeBodies, FakeInFlight, FakeLane, FakeRouter, in_strand, loaded
from tests.component.scripted_peer import CHUNKED, FULL, ScriptedPeer
from tests.reference.smtp_server import DROP, Decide

BATCHES = 40
ANSWERS = {
    "": ["421 busy", "554 no", DROP],
    "EHLO": ["421 busy", "500 what", DROP],
    "RSET": ["421 bye", DROP],
    "MAIL": ["450 4.7.1 a", "550 5.7.1 b", "421 c", DROP],
    "RCPT": ["450 4.7.1 d", "550 5.1.1 e", "452 4.5.3 f", "421 g", "452 4.2.2 h", DROP],
    "DATA": ["451 i", "554 j", "354 go", "421 k", DROP, "250 nonsense"],
    "BDAT": ["452 l", "421 m", DROP],
    ".": ["451 n", "554 o", "421 p", DROP],
}


def moody(rng: random.Random, share: float) -> Decide:
    """Misbehaves in that share of commands."""
    return lambda verb, _rest: rng.choice(ANSWERS[verb]) if verb in ANSWERS and rng.random() < share else None


def message(number: int, rng: random.Random, bodies: FakeBodies) -> Loaded:
    body = f"Subject: {number}\r\n\r\n".encode() + b".line\r\n" * rng.choice([1, 1, 1, 100, 100, 100, 100, 45_000])
    addresses = [f"r{number}.{i}@y.test" for i in range(rng.choice([1, 1, 2, 5]))]
    bodies.chunks[number] = [body[i : i + 65536] for i in range(0, len(body), 65536)]
    kept = body if rng.random() < 0.5 else None
    return loaded(number, *addresses, body=kept, size_bytes=len(body), chunks=len(bodies.chunks[number]))


@pytest.mark.parametrize("seed", range(24))
async def test_books_balance_whatever_the_hosts_do(seed: int) -> None:
    rng = random.Random(seed)
    offers = rng.choice([FULL, CHUNKED, (), ("CHUNKING",), (*FULL, "LIMITS RCPTMAX=2 MAILMAX=7")])
    share = rng.choice([0.02, 0.1, 0.3])
    hosts = [ScriptedPeer(offers, moody(rng, share), host=f"mx{i}.y.test") for i in range(rng.choice([1, 2, 3]))]
    bodies = FakeBodies()
    batches = [message(number, rng, bodies) for number in range(1, BATCHES + 1)]
    lanes = [FakeLane(*batches[i::3]) for i in range(3)]
    config = Config(
        server=Server(hostname="me.test"),
        delivery=Delivery(connection_idle_s=0.01, max_connections_per_site=2, max_messages_per_connection=9),
    )
    router = FakeRouter(*(host.as_host for host in hosts))
    deliverer = Deliverer(config, router, bodies, FakeInFlight())

    async def work(pump: Pump, lane: FakeLane) -> None:
        while lane.waiting:  # Until the queue would find nothing more to do, whatever was unreachable or given back.
            await in_strand(pump, deliverer.deliver, lane)
            lane.waiting.extend(lane.given_back)
            lane.given_back.clear()

    with trio.fail_after(60):
        async with trio.open_nursery() as running, open_pump() as pump:
            for host in hosts:
                running.start_soon(host.run)
            async with trio.open_nursery() as working:
                for lane in lanes:
                    working.start_soon(work, pump, lane)
            running.cancel_scope.cancel()

    assert max(host.most_open for host in hosts) <= 2
    assert [violation for host in hosts for violation in host.violations] == []
    reported = Counter(batch.key for lane in lanes for batch, _ in lane.attempts)
    assert reported == Counter(batch.key for batch in batches)
    accepted = Counter(r for host in hosts for m in host.messages for r in m.recipients)
    assert [recipient for recipient, times in accepted.items() if times > 1] == []
    delivered = {
        f"TO:<{address}>"
        for lane in lanes
        for address, (outcome, _, _) in lane.outcomes.items()
        if outcome is Outcome.DELIVERED
    }
    in_doubt = {
        f"TO:<{batch.batch.recipients[result.index].address}>"
        for lane in lanes
        for batch, attempt in lane.attempts
        for result in attempt.results
        if result.stage is Stage.FINAL_DOT and not result.remote
    }
    assert delivered <= set(accepted)
    assert set(accepted) - delivered <= in_doubt
    texts = {b"".join(chunks) for chunks in bodies.chunks.values()}
    assert {m.body for host in hosts for m in host.messages} <= texts
