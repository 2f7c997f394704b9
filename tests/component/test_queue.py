"""From an accepted message to its outcome: scheduling, retries, destinations that are down."""

from pathlib import Path

import msgspec
import trio

from postroika.mail.envelope import Recipient
from postroika.mail.ids import id_text
from postroika.mail.reply import Reply
from postroika.pump import in_task
from postroika.queue.lane import Lane
from postroika.spool.recovery import Doubt
from postroika.spool.schema import DestinationState, batch_key
from tests.component.world import GREYLISTED, OK, REFUSED, Clock, world, write

BODY = b"Subject: hello\r\n\r\nhello\r\n"


async def test_a_message_is_delivered_and_leaves_nothing_behind(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        message = await w.accept("a@one.test", "b@two.test", "c@one.test")
        await w.settle_down()
        assert sorted(w.hops.delivered) == [
            ("one.test", "a@one.test", BODY),
            ("one.test", "c@one.test", BODY),
            ("two.test", "b@two.test", BODY),
        ]
        assert sorted(w.happened()) == [
            ("delivered", "a@one.test"),
            ("delivered", "b@two.test"),
            ("delivered", "c@one.test"),
            ("received", "a@one.test"),
            ("received", "b@two.test"),
            ("received", "c@one.test"),
        ]
        assert {event.message for event in w.logged()} == {id_text(message)}
        counts = w.store.counts()
        assert {name: counts[name] for name in ("body", "batch", "ready", "wake", "partial", "doubt")} == {
            "body": 0, "batch": 0, "ready": 0, "wake": 0, "partial": 0, "doubt": 0
        }  # fmt: skip
        assert w.scheduler.snapshot()["in_memory"] == 0
        assert w.scheduler.snapshot()["body_bytes"] == 0


async def test_a_large_body_is_spilled_and_delivered_whole(tmp_path: Path, mock_clock: object) -> None:
    body = bytes(range(256)) * 10_000
    async with world(tmp_path) as w:
        writer = w.intake.begin()
        for start in range(0, len(body), 7001):
            await write(writer, body[start : start + 7001])
        assert w.store.counts()["partial"] == 1
        await writer.finish(reverse_path="", recipients=[Recipient("a@one.test")], received=w.events.received)
        await w.settle_down()
        assert w.hops.delivered == [("one.test", "a@one.test", body)]
        assert (w.store.counts()["body"], w.store.counts()["partial"]) == (0, 0)


async def test_an_abandoned_message_leaves_nothing_behind(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        writer = w.intake.begin()
        for _ in range(4):  # the last one waits for the first spill
            await write(writer, bytes(1_000_000))
        assert w.store.counts()["body"] > 0
        writer.abandon()
        writer.abandon()
        await w.settle_down()
        assert (w.store.counts()["body"], w.store.counts()["partial"], w.happened()) == (0, 0, [])


async def test_a_long_list_is_cut_into_batches(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, max_recipients_per_batch=10, enabled=False) as w:
        await w.accept(*(f"r{number}@one.test" for number in range(25)), "x@two.test")
        assert [(name, len(recipients)) for name, recipients in w.queued()] == [
            ("one.test", 10), ("one.test", 10), ("one.test", 5), ("two.test", 1)
        ]  # fmt: skip
        assert [envelope.batches for envelope in w.envelopes()] == [4, 4, 4, 4]


async def test_what_was_accepted_is_delivered_after_a_restart(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock, enabled=False) as w:
        for number in range(1000):
            await w.accept(f"r{number}@d{number % 7}.test")
    async with world(tmp_path, clock, loaded_batches=50) as w:
        await w.settle_down()
        assert sorted(w.hops.delivered) == sorted((f"d{n % 7}.test", f"r{n}@d{n % 7}.test", BODY) for n in range(1000))
        assert w.queued() == []


async def test_memory_holds_a_window_of_the_backlog(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, loaded_batches=40, max_connections_per_site=2, initial_connections_per_site=2) as w:
        w.hops.gate = trio.Event()
        for number in range(500):
            await w.accept(f"r{number}@one.test")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert 0 < w.scheduler.snapshot()["in_memory"] <= 42
        w.hops.gate.set()
        await w.settle_down()
        assert sorted(w.hops.delivered) == sorted(("one.test", f"r{number}@one.test", BODY) for number in range(500))
        assert w.queued() == []


async def test_deferred_recipients_are_tried_again_by_the_schedule(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(300, 900), expire_after_s=10_000) as w:
        answers = {"a@one.test": [OK], "b@one.test": [GREYLISTED, GREYLISTED, GREYLISTED, OK]}
        w.hops.verdict = lambda destination, recipient: answers[recipient.address].pop(0)
        started = w.clock.at
        await w.accept("a@one.test", "b@one.test")
        await w.settle_down()
        assert w.queued() == [("one.test", ("b@one.test",))]
        await w.pass_time(299)
        assert len(w.hops.attempts) == 1
        for wait in (2, 901, 901):
            await w.pass_time(wait)
        assert w.happened("delivered", "deferred") == [
            ("delivered", "a@one.test"), ("deferred", "b@one.test"), ("deferred", "b@one.test"),
            ("deferred", "b@one.test"), ("delivered", "b@one.test"),
        ]  # fmt: skip
        deferred = [event for event in w.logged() if event.type == "deferred"]
        assert [(event.attempt, event.at - started, event.next_attempt_at) for event in deferred] == [
            (1, 0, started + 300), (2, 301, started + 301 + 900), (3, 1202, started + 1202 + 900)
        ]  # fmt: skip
        assert deferred[0].reply is not None
        assert (deferred[0].reply.code, deferred[0].reply.text) == (451, "come back later")
        assert w.store.counts()["ready"] == 0


async def test_a_destination_that_is_down_is_probed_once_and_each_message_is_told(
    tmp_path: Path, mock_clock: object
) -> None:
    settings = {"down_delays_s": (30, 60), "delays_s": (300,), "loaded_batches": 30}
    async with world(tmp_path, **settings) as w:  # type: ignore[arg-type]
        w.hops.unreachable.add("dead.test")
        for number in range(700):
            await w.accept(f"r{number}@dead.test")
        await w.settle_down()
        assert 1 <= len(w.hops.attempts) <= 4  # as many as may begin before the first has failed
        assert sorted(w.happened("deferred")) == sorted(("deferred", f"r{n}@dead.test") for n in range(700))
        assert {event.reply.text for event in w.logged() if event.reply} == {"connection refused"}
        assert w.scheduler.snapshot()["active_destinations"] == 0
        state = w.store.destination_state("dead.test")
        assert state == DestinationState(1, w.clock.at, w.clock.at + 30, REFUSED, "")

        before = len(w.hops.attempts)
        await w.pass_time(31)
        assert len(w.hops.attempts) == before + 1
        state = w.store.destination_state("dead.test")
        assert state is not None
        assert (state.failures, state.down_until) == (2, w.clock.at + 60)
        await w.accept("late@dead.test")
        await w.settle_down()
        assert len(w.hops.attempts) == before + 1

        w.hops.unreachable.clear()
        await w.pass_time(61)
        await w.pass_time(300)
        assert len({recipient for _, recipient, _ in w.hops.delivered}) == len(w.hops.delivered) == 701
        assert w.store.destination_state("dead.test") is None
        assert w.queued() == []


async def test_a_destination_stays_down_over_a_restart(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock, down_delays_s=(100,)) as w:
        w.hops.unreachable.add("dead.test")
        await w.accept("a@dead.test")
        await w.settle_down()
    async with world(tmp_path, clock, down_delays_s=(100,), delays_s=(10,)) as w:
        await w.accept("b@dead.test")
        await w.pass_time(50)
        assert w.hops.attempts == []
        await w.pass_time(300)
        assert sorted(recipient for _, recipient, _ in w.hops.delivered) == ["a@dead.test", "b@dead.test"]


async def test_one_stuck_destination_does_not_hold_up_others(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, max_connections=6, max_connections_per_site=4, initial_connections_per_site=4) as w:
        stuck = trio.Event()

        async def deliver(lane: object) -> None:
            if lane.destination == "stuck.test":  # type: ignore[attr-defined]
                lane.take_nowait()  # type: ignore[attr-defined]
                await in_task(stuck.wait)
                return
            await type(w.hops).deliver(w.hops, lane)  # type: ignore[arg-type]

        w.deliver = deliver  # type: ignore[assignment]
        for number in range(50):
            await w.accept(f"r{number}@stuck.test")
        for number in range(100):
            await w.accept(f"r@fine{number}.test")
        await w.settle_down()
        assert sorted(w.hops.delivered) == sorted((f"fine{n}.test", f"r@fine{n}.test", BODY) for n in range(100))


async def test_sessions_that_stand_make_way_for_more_before_any_message_is_through(
    tmp_path: Path, mock_clock: object
) -> None:
    async with world(tmp_path, max_connections_per_site=16, initial_connections_per_site=2) as w:
        silent = trio.Event()
        sessions = 0

        async def deliver(lane: Lane) -> None:
            nonlocal sessions
            assert lane.take_nowait() is not None
            sessions += 1
            lane.connected()
            await in_task(silent.wait)

        w.deliver = deliver  # type: ignore[assignment]
        for number in range(40):
            await w.accept(f"r{number}@far.test")
        await w.settle_down()
        assert sessions == 16


async def test_connections_are_shared_when_there_are_too_few(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, max_connections=2, max_connections_per_site=2) as w:
        for number in range(200):
            await w.accept(f"r{number}@d{number % 20}.test")
        await w.settle_down()
        assert sorted(r for _, r, _ in w.hops.delivered) == sorted(f"r{n}@d{n % 20}.test" for n in range(200))
        assert 0 < w.hops.most_lanes <= 2


async def test_classes_of_a_destination_take_turns(tmp_path: Path, mock_clock: object) -> None:
    settings = {"max_connections_per_site": 1, "initial_connections_per_site": 1, "loaded_batches": 40}
    clock = Clock()
    async with world(tmp_path, clock, enabled=False, **settings) as w:  # type: ignore[arg-type]
        for number in range(300):
            await w.accept(f"news{number}@one.test", campaign="autumn")
        await w.accept("receipt@one.test")
    async with world(tmp_path, clock, **settings) as w:  # type: ignore[arg-type]
        await w.settle_down()
        order = [recipient for _, recipient, _ in w.hops.delivered]
        assert len(order) == 301
        assert order.index("receipt@one.test") <= 1


async def test_a_lost_reply_to_the_final_dot_is_listed_as_doubt(tmp_path: Path, mock_clock: object) -> None:
    from postroika.mail.outcome import Attempt, Outcome, RecipientResult, Stage

    async with world(tmp_path, delays_s=(5000,)) as w:
        lost = Reply(451, "4.4.2", ("connection lost after the final dot",))

        async def deliver(lane: object) -> None:
            while (loaded := await lane.take(1)) is not None:  # type: ignore[attr-defined]
                result = RecipientResult(0, Outcome.DEFERRED, lost, Stage.FINAL_DOT, remote=False)
                lane.report(loaded, Attempt((result,)))  # type: ignore[attr-defined]

        w.deliver = deliver  # type: ignore[assignment]
        message = await w.accept("a@one.test")
        await w.settle_down()
        ((key, record),) = w.store.doubts(10)
        assert key == batch_key(message, 0)
        doubt = msgspec.msgpack.decode(record, type=Doubt)
        assert doubt == Doubt(w.clock.at, "one.test", (Recipient("a@one.test"),))
        assert w.queued() == [("one.test", ("a@one.test",))]
