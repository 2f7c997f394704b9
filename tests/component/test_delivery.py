"""Delivery against scripted peers on loopback sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
import trio.testing

from postroika.mail.envelope import BodyType, Notify, Recipient
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply, reply
from postroika.routing.router import Host, NoRoute, Route
from postroika.spool.reader import Loaded
from tests.component.delivery_world import PATIENT_S, TAKEN, World, on, once, world
from tests.component.outbound_fakes import BODY, FakeLane, loaded
from tests.component.scripted_peer import CHUNKED, FULL, ScriptedPeer, refused_port
from tests.reference.smtp_server import DROP, HANG, Decide

LATE_S = 1.5  # the pump looks at deadlines a few times a second


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


def letters(size: int) -> bytes:
    line = b".abcdefghijklmnopqrstuvwxyz\r\n"
    return line * (size // len(line))


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


# --- routes and hosts


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


# --- connections that are lost


@pytest.mark.parametrize("offers", [FULL, CHUNKED, ()])
async def test_answer_to_the_message_lost_is_in_doubt_and_never_tried_elsewhere(offers: tuple[str, ...]) -> None:
    first, second = ScriptedPeer(offers, on({".": DROP})), ScriptedPeer()
    async with world(first, second) as w:
        lane = await w.deliver(loaded(1))
    ((_, attempt),) = lane.attempts
    (result,) = attempt.results
    assert (result.outcome, result.stage, result.remote) == (Outcome.DEFERRED, Stage.FINAL_DOT, False)
    assert result.reply.text.endswith("it may have been delivered")
    assert second.sessions == []


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_connection_lost_before_the_dot_is_tried_at_the_next_host(verb: str) -> None:
    first, second = ScriptedPeer(decide=on({verb: DROP})), ScriptedPeer(host="mx2.y.test")
    async with world(first, second) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert len(second.messages) == 1


async def test_pipelined_successor_of_a_lost_message_goes_on_uncounted() -> None:
    peer = ScriptedPeer(decide=once(".", DROP))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    outcomes = {address: (outcome, stage) for address, (outcome, _, stage) in lane.outcomes.items()}
    assert outcomes == {
        "r1@y.test": (Outcome.DEFERRED, Stage.FINAL_DOT),
        "r2@y.test": (Outcome.DELIVERED, Stage.FINAL_DOT),
    }
    assert len(peer.sessions) == 2


@pytest.mark.parametrize("answer", [DROP, "421 4.3.2 enough for now"])
@pytest.mark.parametrize("offers", [FULL, CHUNKED, ()])
async def test_reused_connection_closed_instead_of_answering_mail_is_no_attempt(
    answer: str, offers: tuple[str, ...]
) -> None:
    mails = 0

    def decide(verb: str, _rest: str) -> str | None:
        nonlocal mails
        mails += verb == "MAIL"
        return answer if verb == "MAIL" and mails == 3 else None

    peer = ScriptedPeer(offers, decide)
    async with world(peer) as w:
        lane = await w.deliver(*[loaded(n) for n in range(1, 6)])
    if answer == DROP and offers == CHUNKED:
        # Its last chunk was sent: whether it was read is unknowable.
        in_doubt = [
            a for a, (outcome, _, stage) in lane.outcomes.items() if (outcome, stage) == (Outcome.DEFERRED, "final_dot")
        ]
        assert in_doubt in (["r3@y.test"], ["r3@y.test", "r4@y.test"])
    else:
        assert lane.outcomes == {f"r{n}@y.test": TAKEN for n in range(1, 6)}
        assert sorted(m.recipients for m in peer.messages) == [(f"TO:<r{n}@y.test>",) for n in range(1, 6)]
    assert lane.down == []


async def test_recipients_that_are_tried_again_keep_their_own_verdicts() -> None:
    peer = ScriptedPeer((*FULL, "LIMITS RCPTMAX=2"))
    mails = 0

    def decide(verb: str, rest: str) -> str | None:
        nonlocal mails
        mails += verb == "MAIL"
        if verb == "MAIL" and mails == 2:
            peer.offers = FULL  # The next connection may take all three, of which the last was not begun with.
            return DROP
        return "550 5.1.1 no" if rest == "TO:<c@y.test>" else None

    peer.decide = decide
    async with world(peer) as w:
        lane = await w.deliver(loaded(1), loaded(2, "a@y.test", "b@y.test", "c@y.test"))
    assert len(peer.sessions) == 2
    assert {address: outcome for address, (outcome, _, _) in lane.outcomes.items()} == {
        "r1@y.test": Outcome.DELIVERED,
        "a@y.test": Outcome.DELIVERED,
        "b@y.test": Outcome.DELIVERED,
        "c@y.test": Outcome.FAILED,
    }


async def test_connection_closed_while_idle_is_no_attempt() -> None:
    peer = ScriptedPeer(CHUNKED)
    async with world(peer, connection_idle_s=PATIENT_S) as w:
        lane = FakeLane(loaded(1))
        w.nursery.start_soon(w.run, lane)
        await lane.idle.wait()
        lane.idle = trio.Event()
        await peer.close_connections()
        lane.put(loaded(2))
        with trio.fail_after(PATIENT_S):
            await lane.idle.wait()
        assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
        assert len(peer.sessions) == 2


async def test_421_on_a_fresh_connection_is_the_outcome() -> None:
    peer = ScriptedPeer(decide=on({"MAIL": "421 4.7.0 not you"}))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    assert lane.outcomes == {"r1@y.test": (Outcome.DEFERRED, "421 4.7.0 not you", Stage.MAIL)}
    assert lane.down == [(Reply(421, "4.7.0", ("not you",)), "mx.y.test")]


BEHIND_EHLO = "250-mx.y.test\r\n250 PIPELINING\r\n"


@pytest.mark.parametrize(
    ("unasked", "told"),
    [
        ("421 4.7.0 not you", "421 4.7.0 not you"),
        ("250 2.0.0 ok", "451 4.5.0 mx.y.test [127.0.0.1]:{port} does not speak SMTP properly: a reply to nothing:"),
        ("250 ok\r\n" * 100 + "250 ok", "451 4.5.0 mx.y.test [127.0.0.1]:{port} does not speak SMTP properly: a reply"),
    ],
)
async def test_host_that_speaks_unasked_is_called_once(unasked: str, told: str) -> None:
    """Not again and again, with an attempt that never ends."""
    peer = ScriptedPeer(decide=on({"EHLO": BEHIND_EHLO + unasked}))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1))
    ((outcome, text, _),) = lane.outcomes.values()
    assert outcome is Outcome.DEFERRED
    assert text.startswith(told.format(port=peer.port))
    assert len(peer.sessions) == 1
    assert len(lane.down) == 1


async def test_next_host_is_tried_if_the_first_speaks_unasked() -> None:
    first = ScriptedPeer(decide=on({"EHLO": BEHIND_EHLO + "421 4.7.0 not you"}), host="mx1.y.test")
    second = ScriptedPeer(host="mx2.y.test")
    async with world(first, second) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
    assert (len(first.sessions), len(second.sessions), lane.down) == (1, 1, [])


async def test_421_to_a_recipient_defers_those_without_a_verdict() -> None:
    peer = ScriptedPeer(decide=on({"RCPT TO:<a": "550 5.1.1 no", "RCPT TO:<b": "421 4.3.2 bye"}))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1, "a@y.test", "b@y.test", "c@y.test"), loaded(2))
    closing = (Outcome.DEFERRED, "421 4.3.2 bye", Stage.RCPT)
    assert lane.outcomes == {
        "a@y.test": (Outcome.FAILED, "550 5.1.1 no", Stage.RCPT),
        "b@y.test": closing,
        "c@y.test": closing,
        "r2@y.test": TAKEN,
    }


async def test_peer_that_talks_nonsense_is_deferred() -> None:
    peer = ScriptedPeer(decide=on({"RCPT": "what?"}))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1))
    (outcome, text, stage) = lane.outcomes["r1@y.test"]
    assert (outcome, text[:9], stage) == (Outcome.DEFERRED, "451 4.5.0", Stage.RCPT)


# --- deadlines


@pytest.mark.parametrize(
    ("verb", "timeout", "stage", "words"),
    [
        ("", "greeting_timeout_s", Stage.GREETING, "its greeting"),
        ("EHLO", "ehlo_timeout_s", Stage.EHLO, "the answer to EHLO"),
        ("MAIL", "mail_timeout_s", Stage.MAIL, "the answer to MAIL FROM"),
        ("RCPT", "rcpt_timeout_s", Stage.RCPT, "the answer to RCPT TO"),
        ("DATA", "data_timeout_s", Stage.DATA, "the answer to DATA"),
        (".", "final_dot_timeout_s", Stage.FINAL_DOT, "it may have been delivered"),
    ],
)
async def test_peer_that_falls_silent_is_left_after_the_timeout_of_the_stage(
    autojump_clock: trio.testing.MockClock, verb: str, timeout: str, stage: Stage, words: str
) -> None:
    autojump_clock.autojump_threshold = 0.05
    peer = ScriptedPeer(decide=lambda asked, _rest: HANG if asked == verb else None)
    async with world(peer, **{timeout: 7.0}) as w:
        begun_at = trio.current_time()
        lane = FakeLane(loaded(1))
        await w.run(lane)
        assert 7.0 <= trio.current_time() - begun_at < 7.0 + LATE_S
    outcome, text, at = lane.outcomes["r1@y.test"]
    assert (outcome, at) == (Outcome.DEFERRED, stage)
    assert words in text


async def test_peer_that_stops_reading_is_left_after_the_body_timeout(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    body = letters(8_000_000)
    peer = ScriptedPeer(deaf_in_data=True)
    async with world(peer, body_timeout_s=5.0) as w:
        begun_at = trio.current_time()
        lane = FakeLane(loaded(1, body=body, size_bytes=len(body), chunks=130))
        await w.run(lane)
        assert 5.0 <= trio.current_time() - begun_at < 5.0 + LATE_S
    outcome, text, stage = lane.outcomes["r1@y.test"]
    assert (outcome, stage) == (Outcome.DEFERRED, Stage.DATA)
    assert text.endswith("stopped taking the message")
    assert w.in_flight.marks == {1: "begun"}


async def test_connection_that_does_not_open_is_left_after_the_connect_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.05
    full = trio.socket.socket()
    async with world(Host("full.y.test", ("127.0.0.1",), 0), connect_timeout_s=4.0) as w:
        with full:
            # A listener whose backlog is full lets further connections wait.
            await full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            held = [trio.socket.socket() for _ in range(2)]
            await held[0].connect(("127.0.0.1", port))
            w.nursery.start_soon(_connect_quietly, held[1], port)
            await trio.testing.wait_all_tasks_blocked()
            w.router.hosts = (Host("full.y.test", ("127.0.0.1",), port),)
            begun_at = trio.current_time()
            lane = FakeLane(loaded(1))
            await w.run(lane)
            assert 4.0 <= trio.current_time() - begun_at < 4.0 + LATE_S
            for sock in held:
                sock.close()
    text = f"451 4.4.1 connecting to full.y.test [127.0.0.1]:{port} timed out"
    assert lane.outcomes == {"r1@y.test": (Outcome.DEFERRED, text, Stage.CONNECT)}
    assert lane.down == [(Reply(451, "4.4.1", (text[10:],)), "")]


async def _connect_quietly(sock: trio.socket.SocketType, port: int) -> None:
    try:
        await sock.connect(("127.0.0.1", port))
    except (OSError, trio.ClosedResourceError):
        return


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


async def test_connection_that_is_idle_too_long_is_taken_leave_of(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    peer = ScriptedPeer()
    async with world(peer, connection_idle_s=3.0) as w:
        begun_at = trio.current_time()
        await w.deliver(loaded(1))
        assert 3.0 <= trio.current_time() - begun_at < 3.0 + LATE_S
    assert peer.sessions[0].commands[-1] == "QUIT"


# --- being stopped


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
