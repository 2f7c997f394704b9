"""Delivery to peers that hang up, say what nobody asked for, or fall silent."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postroika.mail.outcome import Outcome, Stage
from postroika.mail.reply import Reply
from postroika.routing.router import Host
from tests.component.delivery_world import PATIENT_S, TAKEN, on, once, world
from tests.component.outbound_fakes import FakeLane, letters, loaded
from tests.component.scripted_peer import CHUNKED, FULL, ScriptedPeer
from tests.reference.smtp_server import DROP, HANG

LATE_S = 1.5  # the pump looks at deadlines a few times a second


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


async def test_connection_that_is_idle_too_long_is_taken_leave_of(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    peer = ScriptedPeer()
    async with world(peer, connection_idle_s=3.0) as w:
        begun_at = trio.current_time()
        await w.deliver(loaded(1))
        assert 3.0 <= trio.current_time() - begun_at < 3.0 + LATE_S
    assert peer.sessions[0].commands[-1] == "QUIT"
