"""What operators do to the queue: flush, cancel, by message and by filter; and mail that is held."""

from pathlib import Path

import trio

from postroika.outcome.event_record import EventReply
from postroika.pump import in_task
from tests.component.world import GREYLISTED, OK, Clock, world


async def test_flush_tries_now_what_was_put_off(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,), down_delays_s=(5000,)) as w:
        w.hops.verdict = lambda destination, recipient: GREYLISTED
        w.hops.unreachable.add("dead.test")
        first = await w.accept("a@one.test")
        await w.accept("b@two.test")
        await w.accept("c@dead.test")
        await w.settle_down()
        w.hops.verdict = lambda destination, recipient: OK
        w.hops.unreachable.clear()
        assert await w.operator.flush_messages([first]) == 1
        await w.settle_down()
        assert [recipient for _, recipient, _ in w.hops.delivered] == ["a@one.test"]
        assert await w.operator.flush_all() == 2
        await w.settle_down()
        assert sorted(recipient for _, recipient, _ in w.hops.delivered) == ["a@one.test", "b@two.test", "c@dead.test"]
        assert w.queued() == []


async def test_cancelled_mail_is_not_delivered(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, max_connections_per_site=1, initial_connections_per_site=1) as w:
        w.hops.gate = trio.Event()
        under_way = await w.accept("a@one.test")
        waiting = await w.accept("b@one.test")
        await trio.testing.wait_all_tasks_blocked(0.01)
        w.hops.verdict = lambda destination, recipient: GREYLISTED
        assert await w.operator.cancel_messages([under_way, waiting]) == 1
        w.hops.gate.set()
        await w.settle_down()
        assert w.happened() == [
            ("received", "a@one.test"),
            ("received", "b@one.test"),
            ("cancelled", "b@one.test"),
            ("cancelled", "a@one.test"),
        ]
        told = [event.reply for event in w.logged() if event.type == "cancelled"]
        assert told == [
            EventReply(554, "5.7.0", "cancelled by the operator", "queue", local=True),
            EventReply(451, "4.7.1", "come back later", "rcpt"),
        ]
        assert w.hops.delivered == []
        assert w.queued() == []


async def test_mail_that_was_cancelled_while_it_was_under_way_and_comes_back_untried_is_not_delivered(
    tmp_path: Path, mock_clock: object
) -> None:
    async with world(tmp_path, max_connections_per_site=1, initial_connections_per_site=1) as w:
        original, gate, first = w.hops._deliver, trio.Event(), True

        async def deliver(lane: object) -> None:
            nonlocal first
            if first:
                first = False
                loaded = lane.take_nowait()  # type: ignore[attr-defined]
                await in_task(gate.wait)  # as for a connection, which then breaks
                lane.give_back(loaded)  # type: ignore[attr-defined]
            await original(lane)  # type: ignore[arg-type]

        w.deliver = deliver  # type: ignore[assignment]
        message = await w.accept("a@one.test")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await w.operator.cancel_messages([message]) == 0
        gate.set()
        await w.settle_down()
        assert w.happened() == [("received", "a@one.test"), ("cancelled", "a@one.test")]
        assert w.hops.delivered == []
        assert w.queued() == []


async def test_mail_is_held_until_its_time(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock) as w:
        await w.accept("first@one.test", not_before=clock.at + 100)
        await w.accept("second@one.test", not_before=clock.at + 1000)
        await w.accept("now@one.test")
        await w.settle_down()
        await w.pass_time(99)
        assert [recipient for _, recipient, _ in w.hops.delivered] == ["now@one.test"]
        await w.pass_time(2)
        assert [recipient for _, recipient, _ in w.hops.delivered] == ["now@one.test", "first@one.test"]
    async with world(tmp_path, clock) as w:
        await w.pass_time(898)
        assert w.hops.delivered == []
        await w.pass_time(2)
        assert [recipient for _, recipient, _ in w.hops.delivered] == ["second@one.test"]


async def test_mail_in_the_spool_only_is_cancelled_by_a_filter(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,)) as w:
        w.hops.verdict = lambda destination, recipient: GREYLISTED
        await w.accept("a@one.test", campaign="autumn")
        await w.accept("b@one.test")
        await w.settle_down()
        count = await w.operator.cancel_where(lambda batch: batch.envelope.campaign == "autumn")
        assert count == 1
        await w.settle_down()
        assert w.queued() == [("one.test", ("b@one.test",))]
        assert w.happened("cancelled") == [("cancelled", "a@one.test")]


async def test_a_filter_leaves_the_other_destinations_of_a_message_alone(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5,)) as w:
        w.hops.verdict = lambda destination, recipient: GREYLISTED
        await w.accept("a@one.test", "b@two.test")
        await w.settle_down()
        assert await w.operator.cancel_where(lambda batch: batch.destination == "one.test") == 1
        w.hops.verdict = lambda destination, recipient: OK
        await w.pass_time(10)
        assert w.happened("cancelled", "delivered") == [("cancelled", "a@one.test"), ("delivered", "b@two.test")]
        assert w.queued() == []
