"""Delivery: which hosts are tried, in which order, and when the next one is not."""

from __future__ import annotations

import msgspec
import pytest

from postroika.mail.outcome import Outcome, Stage
from postroika.mail.reply import Reply, reply
from postroika.routing.router import NoRoute
from tests.component.delivery_world import TAKEN, on, world
from tests.component.outbound_fakes import loaded
from tests.component.scripted_peer import ScriptedPeer, refused_port
from tests.reference.smtp_server import DROP


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NoRoute(True, reply(550, "5.1.2", "no such domain")), Outcome.FAILED),
        (NoRoute(False, reply(451, "4.4.3", "DNS is down")), Outcome.DEFERRED),
    ],
)
async def test_routing_failure_is_the_outcome(error: NoRoute, outcome: Outcome) -> None:
    async with world() as w:
        w.router.error = error
        lane = await w.deliver(loaded(1, "a@y.test", "b@y.test"), loaded(2))
    failed = (outcome, str(error.reply), Stage.ROUTING)
    if error.permanent:
        assert lane.outcomes == {"a@y.test": failed, "b@y.test": failed, "r2@y.test": failed}
        assert lane.down == []
    else:
        assert lane.outcomes == {"a@y.test": failed, "b@y.test": failed}
        assert lane.down == [(error.reply, "")]


@pytest.mark.parametrize(
    "table", [{" ": "554 go away"}, {" ": "421 busy"}, {"EHLO": "421 busy"}, {" ": DROP}, {"EHLO": DROP}, {" ": "junk"}]
)
async def test_next_host_is_tried_if_the_first_wants_no_session(table: dict[str, str]) -> None:
    first, second = ScriptedPeer(decide=on(table), host="mx1.y.test"), ScriptedPeer(host="mx2.y.test")
    async with world(first, second) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
    assert [attempt.peer for _, attempt in lane.attempts] == [second.peer, second.peer]
    assert lane.down == []


async def test_next_host_is_tried_if_the_first_refuses_the_connection() -> None:
    second = ScriptedPeer()
    async with world(refused_port(), second) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}


async def test_destination_is_unreachable_if_no_host_answers() -> None:
    dead, refusing = refused_port(), ScriptedPeer(decide=on({" ": "554 5.7.1 no"}))
    async with world(dead, refusing) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    assert lane.outcomes == {"r1@y.test": (Outcome.DEFERRED, "554 5.7.1 no", Stage.GREETING)}
    assert [attempt.peer for _, attempt in lane.attempts] == [refusing.peer]
    assert lane.down == [(Reply(554, "5.7.1", ("no",)), "mx.y.test")]
    assert [batch.batch.envelope.message for batch in lane.waiting] == [2]


async def test_refused_connection_is_told_in_plain_words() -> None:
    dead = refused_port()
    async with world(dead) as w:
        lane = await w.deliver(loaded(1))
    text = f"451 4.4.1 down.y.test [127.0.0.1]:{dead.port} refused the connection"
    assert lane.outcomes == {"r1@y.test": (Outcome.DEFERRED, text, Stage.CONNECT)}
    assert lane.attempts[0][1].results[0].remote is False


async def test_number_of_hosts_and_addresses_is_bounded() -> None:
    last = ScriptedPeer()
    dead = [msgspec.structs.replace(refused_port(), name=f"mx{i}.y.test") for i in range(5)]
    async with world(*dead, last) as w:
        lane = await w.deliver(loaded(1))
    assert lane.attempts[0][1].peer.host == "mx4.y.test"
    assert last.sessions == []


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "."])
async def test_what_the_first_host_defers_the_next_one_gets(verb: str) -> None:
    first = ScriptedPeer(decide=on({verb: "451 4.7.1 later"}), host="mx1.y.test")
    second = ScriptedPeer(host="mx2.y.test")
    async with world(first, second) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
    assert [m.mail.split()[0] for m in second.messages] == ["FROM:<s1@x.test>", "FROM:<s2@x.test>"]
    assert len(first.sessions) == len(second.sessions) == 1


async def test_only_deferred_recipients_go_to_the_next_host_and_each_result_names_its_own() -> None:
    first = ScriptedPeer(
        decide=on(
            {"RCPT TO:<grey": "451 4.7.1 later", "RCPT TO:<gone": "550 5.1.1 no", "RCPT TO:<full": "452 4.2.2 full"}
        ),
        host="mx1.y.test",
    )
    second = ScriptedPeer(decide=on({"RCPT TO:<grey2": "450 4.7.1 still"}), host="mx2.y.test")
    async with world(first, second) as w:
        lane = await w.deliver(loaded(1, "ok@y.test", "grey@y.test", "gone@y.test", "full@y.test", "grey2@y.test"))
    assert [m.recipients for m in first.messages] == [("TO:<ok@y.test>",)]
    assert [m.recipients for m in second.messages] == [("TO:<grey@y.test>",)]
    ((_, attempt),) = lane.attempts
    assert attempt.peer == second.peer
    assert [(r.outcome, r.reply.enhanced, r.peer) for r in attempt.results] == [
        (Outcome.DELIVERED, "2.0.0", first.peer),
        (Outcome.DELIVERED, "2.0.0", None),
        (Outcome.FAILED, "5.1.1", first.peer),
        (Outcome.DEFERRED, "4.2.2", first.peer),
        (Outcome.DEFERRED, "4.7.1", None),
    ]


async def test_deferral_stands_if_the_next_host_is_dead() -> None:
    first = ScriptedPeer(decide=on({"RCPT": "451 4.7.1 later"}))
    async with world(first, refused_port()) as w:
        lane = await w.deliver(loaded(1))
    ((_, attempt),) = lane.attempts
    assert [(str(r.reply), r.peer) for r in attempt.results] == [("451 4.7.1 later", first.peer)]
    assert lane.down == []


async def test_refused_recipient_is_not_tried_elsewhere() -> None:
    first, second = ScriptedPeer(decide=on({"MAIL": "550 5.7.1 no"})), ScriptedPeer()
    async with world(first, second) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": (Outcome.FAILED, "550 5.7.1 no", Stage.MAIL)}
    assert second.sessions == []


async def test_other_addresses_of_the_same_host_do_not_get_what_it_deferred() -> None:
    first = ScriptedPeer(decide=on({"RCPT": "451 4.7.1 later"}))
    host = msgspec.structs.replace(first.as_host, addresses=("127.0.0.1", "127.0.0.2"))
    async with world(host) as w:
        w.nursery.start_soon(first.run)
        lane = await w.deliver(loaded(1))
    assert len(first.sessions) == 1
    assert lane.outcomes["r1@y.test"][0] is Outcome.DEFERRED


async def test_configured_source_address_is_used_and_told() -> None:
    peer = ScriptedPeer()
    async with world(peer, source_address="127.0.0.3") as w:
        lane = await w.deliver(loaded(1))
    assert lane.attempts[0][1].source == "127.0.0.3"
    assert peer.clients == ["127.0.0.3"]


async def test_source_address_that_is_not_ours_defers() -> None:
    async with world(ScriptedPeer(), source_address="192.0.2.77") as w:
        lane = await w.deliver(loaded(1))
    outcome, text, stage = lane.outcomes["r1@y.test"]
    assert (outcome, text[:9], stage) == (Outcome.DEFERRED, "451 4.3.0", Stage.CONNECT)
