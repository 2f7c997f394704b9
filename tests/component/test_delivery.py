"""Delivery against scripted peers on loopback sockets: what is sent, over which connections, and what is told of it."""

from __future__ import annotations

import pytest
import trio

from postroika.mail.envelope import BodyType, Notify, Recipient
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply
from tests.component.delivery_world import PATIENT_S, TAKEN, on, world
from tests.component.outbound_fakes import BODY, FakeLane, letters, loaded
from tests.component.scripted_peer import CHUNKED, FULL, ScriptedPeer

# --- the usual


@pytest.mark.parametrize("offers", [FULL, CHUNKED, (), ("CHUNKING",)])
async def test_batches_go_over_one_connection_in_order(offers: tuple[str, ...]) -> None:
    peer = ScriptedPeer(offers)
    async with world(peer) as w:
        lane = await w.deliver(*[loaded(n) for n in range(1, 31)])
    assert [m.recipients for m in peer.messages] == [(f"TO:<r{n}@y.test>",) for n in range(1, 31)]
    assert {m.body for m in peer.messages} == {BODY}
    assert lane.outcomes == {f"r{n}@y.test": TAKEN for n in range(1, 31)}
    assert len(peer.sessions) == 1
    assert peer.sessions[0].commands[-1] == "QUIT"
    assert w.in_flight.marks == dict.fromkeys(range(1, 31), "dot sent")


async def test_report_names_host_site_and_replies() -> None:
    peer = ScriptedPeer(decide=on({"RCPT TO:<b": "550 5.1.1 no"}))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1, "a@y.test", "b@y.test"))
    (attempt,) = [attempt for _, attempt in lane.attempts]
    assert attempt == Attempt(
        (
            RecipientResult(0, Outcome.DELIVERED, Reply(250, "2.0.0", ("taken",)), Stage.FINAL_DOT),
            RecipientResult(1, Outcome.FAILED, Reply(550, "5.1.1", ("no",)), Stage.RCPT),
        ),
        peer=peer.peer,
        site="site",
    )


async def test_connection_is_kept_for_work_that_comes_while_it_is_idle() -> None:
    peer = ScriptedPeer()
    async with world(peer, connection_idle_s=PATIENT_S) as w:
        lane = FakeLane(loaded(1))
        w.nursery.start_soon(w.run, lane)
        await lane.idle.wait()
        lane.idle = trio.Event()
        lane.put(loaded(2))
        with trio.fail_after(PATIENT_S):
            await lane.idle.wait()
        assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
        assert len(peer.sessions) == 1


async def test_connection_is_replaced_after_its_share_of_messages() -> None:
    peer = ScriptedPeer()
    async with world(peer, max_messages_per_connection=4) as w:
        await w.deliver(*[loaded(n) for n in range(1, 11)])
    assert [len(session.messages) for session in peer.sessions] == [4, 4, 2]


async def test_mailmax_is_kept() -> None:
    peer = ScriptedPeer((*FULL, "LIMITS MAILMAX=3"))
    async with world(peer) as w:
        await w.deliver(*[loaded(n) for n in range(1, 8)])
    assert [len(session.messages) for session in peer.sessions] == [3, 3, 1]


async def test_rcptmax_splits_a_batch_into_transactions() -> None:
    peer = ScriptedPeer((*FULL, "LIMITS RCPTMAX=2"))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1, *[f"{c}@y.test" for c in "abcde"]))
    assert [m.recipients for m in peer.messages] == [
        ("TO:<a@y.test>", "TO:<b@y.test>"),
        ("TO:<c@y.test>", "TO:<d@y.test>"),
        ("TO:<e@y.test>",),
    ]
    assert lane.outcomes == {f"{c}@y.test": TAKEN for c in "abcde"}
    assert len(lane.attempts) == 1


@pytest.mark.parametrize("refusal", ["452 4.5.3 too many", "452 too many recipients", "552 5.5.3 too many"])
@pytest.mark.parametrize("offers", [FULL, CHUNKED, ()])
async def test_recipients_beyond_the_peers_limit_follow_at_once(refusal: str, offers: tuple[str, ...]) -> None:
    count = 0

    def decide(verb: str, _rest: str) -> str | None:
        nonlocal count
        count = 0 if verb == "MAIL" else count + (verb == "RCPT")
        return refusal if verb == "RCPT" and count > 2 else None

    peer = ScriptedPeer(offers, decide)
    async with world(peer) as w:
        lane = await w.deliver(loaded(1, *[f"{c}@y.test" for c in "abcde"]), loaded(2))
    assert lane.outcomes == {f"{c}@y.test": TAKEN for c in ["a", "b", "c", "d", "e", "r2"]}
    assert sorted(r for m in peer.messages for r in m.recipients) == sorted(
        f"TO:<{c}@y.test>" for c in [*"abcde", "r2"]
    )
    assert len(peer.sessions) == 1


async def test_452_without_any_recipient_taken_is_a_plain_deferral() -> None:
    peer = ScriptedPeer(decide=on({"RCPT": "452 4.5.3 too many"}))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1, "a@y.test", "b@y.test"))
    assert lane.outcomes == dict.fromkeys(
        ("a@y.test", "b@y.test"), (Outcome.DEFERRED, "452 4.5.3 too many", Stage.RCPT)
    )


async def test_success_notice_is_ours_to_send_if_the_peer_does_not_speak_dsn() -> None:
    recipients = (Recipient("a@y.test", Notify.SUCCESS), Recipient("b@y.test", Notify.FAILURE, number=1))
    silent, speaking = ScriptedPeer(["PIPELINING"]), ScriptedPeer(FULL)
    told = []
    for peer in (silent, speaking):
        async with world(peer) as w:
            lane = await w.deliver(loaded(1, recipients=recipients))
        told.append([result.relayed_without_dsn for result in lane.attempts[0][1].results])
    assert told == [[True, False], [False, False]]
    assert speaking.sessions[0].commands[2:4] == [
        "RCPT TO:<a@y.test> NOTIFY=SUCCESS",
        "RCPT TO:<b@y.test> NOTIFY=FAILURE",
    ]


# --- bodies


@pytest.mark.parametrize("offers", [FULL, CHUNKED, ()])
@pytest.mark.parametrize("in_memory", [True, False])
async def test_large_body_is_read_piece_by_piece_and_arrives_whole(offers: tuple[str, ...], in_memory: bool) -> None:
    body = letters(3_000_000)
    peer = ScriptedPeer(offers)
    async with world(peer) as w:
        w.bodies.chunks[1] = [body[i : i + 65536] for i in range(0, len(body), 65536)]
        chunks = len(w.bodies.chunks[1])
        big = loaded(1, body=body if in_memory else None, size_bytes=len(body), chunks=chunks)
        lane = await w.deliver(big, loaded(2))
    assert [m.body for m in peer.messages] == [body, BODY]
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
    assert w.bodies.reads == ([] if in_memory else [(1, i) for i in range(chunks)])


@pytest.mark.parametrize("chunks", [1, 3])
async def test_small_body_is_read_at_once(chunks: int) -> None:
    peer = ScriptedPeer(CHUNKED)
    body = letters(1000)
    step = -(-len(body) // chunks)
    async with world(peer) as w:
        w.bodies.chunks[1] = [body[i : i + step] for i in range(0, len(body), step)]
        await w.deliver(loaded(1, body=None, size_bytes=len(body), chunks=chunks))
    assert peer.messages[0].body == body
    assert f"BDAT {len(body)} LAST" in peer.sessions[0].commands


async def test_peer_that_takes_little_at_a_time_gets_all_of_a_large_body() -> None:
    body = letters(2_000_000)
    peer = ScriptedPeer(read_bytes=3000)
    async with world(peer) as w:
        await w.deliver(loaded(1, body=body, size_bytes=len(body), chunks=31))
    assert peer.messages[0].body == body


async def test_message_that_the_peer_cannot_take_fails_without_being_sent() -> None:
    peer = ScriptedPeer(["PIPELINING", "SIZE 100"])
    async with world(peer) as w:
        lane = await w.deliver(
            loaded(1, size_bytes=101), loaded(2, body_type=BodyType.EIGHT_BIT, eight_bit=True), loaded(3)
        )
    outcomes = {address: (outcome, text.split()[1]) for address, (outcome, text, _) in lane.outcomes.items()}
    assert outcomes == {
        "r1@y.test": (Outcome.FAILED, "5.3.4"),
        "r2@y.test": (Outcome.FAILED, "5.6.3"),
        "r3@y.test": (Outcome.DELIVERED, "2.0.0"),
    }
    assert [m.recipients for m in peer.messages] == [("TO:<r3@y.test>",)]
    assert w.in_flight.marks == {1: "begun", 2: "begun", 3: "dot sent"}


# --- places of a site


async def test_site_limit_is_kept_and_the_connection_goes_to_who_waits() -> None:
    peer = ScriptedPeer()
    async with world(peer, max_connections_per_site=1, connection_idle_s=PATIENT_S) as w:
        lanes = [FakeLane(loaded(n), destination=f"d{n}.test") for n in range(1, 21)]
        with trio.fail_after(PATIENT_S):
            async with trio.open_nursery() as nursery:
                for lane in lanes:
                    nursery.start_soon(w.run, lane)
                for lane in lanes:
                    await lane.reported.wait()
                nursery.cancel_scope.cancel()
        assert [lane.outcomes for lane in lanes] == [{f"r{n}@y.test": TAKEN} for n in range(1, 21)]
        assert len(peer.sessions) == 1
        assert len(peer.messages) == 20


async def test_leftovers_for_the_next_host_keep_their_place_while_others_wait() -> None:
    first = ScriptedPeer(decide=on({"RCPT": "451 4.7.1 later"}), host="mx1.y.test")
    second = ScriptedPeer(host="mx2.y.test")
    async with world(first, second, max_connections_per_site=1) as w:
        lanes = [FakeLane(*[loaded(100 * n + i) for i in range(3)]) for n in range(1, 4)]
        with trio.fail_after(PATIENT_S):
            async with trio.open_nursery() as nursery:
                for lane in lanes:
                    nursery.start_soon(w.run, lane)
    assert all(lane.outcomes == {f"r{100 * n + i}@y.test": TAKEN for i in range(3)} for n, lane in enumerate(lanes, 1))
    assert first.most_open == second.most_open == 1


async def test_many_destinations_of_a_site_use_no_more_places_than_allowed() -> None:
    peer = ScriptedPeer()
    async with world(peer, max_connections_per_site=3) as w:
        lanes = [FakeLane(*[loaded(100 * n + i) for i in range(5)]) for n in range(1, 13)]
        with trio.fail_after(PATIENT_S):
            async with trio.open_nursery() as nursery:
                for lane in lanes:
                    nursery.start_soon(w.run, lane)
    assert len(peer.messages) == 60
    assert peer.most_open <= 3


class GivenWorkWhenHurried(FakeLane):
    """Work comes in the moment in which somebody else wants the connection."""

    def hurry(self) -> None:
        super().hurry()
        self.put(loaded(3))


@pytest.mark.parametrize("kind", [FakeLane, GivenWorkWhenHurried])
@pytest.mark.parametrize(("places", "sessions"), [(1, 1), (2, 2)])
async def test_idle_lane_that_is_wanted_and_gets_work_at_once_loses_nothing(
    kind: type[FakeLane], places: int, sessions: int
) -> None:
    peer = ScriptedPeer()
    async with world(peer, max_connections_per_site=places, connection_idle_s=PATIENT_S) as w:
        first, second = kind(loaded(1)), FakeLane(loaded(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, first)
            await first.idle.wait()
            first.reported = trio.Event()
            nursery.start_soon(w.run, second)
            if kind is FakeLane:
                first.put(loaded(3))
            with trio.fail_after(PATIENT_S):
                await second.reported.wait()
                await first.reported.wait()
            nursery.cancel_scope.cancel()
    assert first.outcomes == {"r1@y.test": TAKEN, "r3@y.test": TAKEN}
    assert second.outcomes == {"r2@y.test": TAKEN}
    assert 1 <= len(peer.sessions) <= sessions


async def test_peer_of_a_warm_connection_is_the_one_reported() -> None:
    peer = ScriptedPeer()
    async with world(peer, max_connections_per_site=1, connection_idle_s=PATIENT_S) as w:
        first, second = FakeLane(loaded(1)), FakeLane(loaded(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, first)
            await first.idle.wait()
            nursery.start_soon(w.run, second)
            with trio.fail_after(PATIENT_S):
                await second.idle.wait()
            nursery.cancel_scope.cancel()
    assert [attempt.peer for _, attempt in second.attempts] == [Peer("mx.y.test", "127.0.0.1", peer.port)]
    assert len(peer.sessions) == 1
