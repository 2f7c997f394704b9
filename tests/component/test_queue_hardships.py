"""What the queue must withstand: operators at odds, kills at bad moments, odd clocks, names that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from postroika.mail.envelope import Recipient
from postroika.mail.outcome import Attempt, Outcome, RecipientResult, Stage
from postroika.pump import in_task
from postroika.queue.destination import Destination
from postroika.spool.changes import Changes
from postroika.spool.inflight import InFlight
from postroika.spool.reader import Loaded
from postroika.spool.recovery import Doubt, forget_old_doubts
from postroika.spool.schema import DestinationState, Table, batch_key, encode
from tests.component.world import GREYLISTED, NO_SUCH_USER, OK, PEER, Clock, world


async def test_flush_and_cancel_at_once_give_one_outcome(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,)) as w:
        w.hops.verdict = lambda d, r: GREYLISTED
        message = await w.accept("a@one.test", "b@two.test")
        await w.settle_down()
        w.hops.verdict = lambda d, r: OK
        async with trio.open_nursery() as n:
            n.start_soon(w.operator.flush_messages, [message])
            n.start_soon(w.operator.cancel_messages, [message])
        await w.settle_down()
        final = w.happened("delivered", "cancelled")
        assert sorted(r for _, r in final) == ["a@one.test", "b@two.test"], final
        assert w.queued() == []


async def test_two_flushes_at_once_leave_a_sound_index(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,)) as w:
        w.hops.verdict = lambda d, r: GREYLISTED
        message = await w.accept(*(f"r@d{n:02}.test" for n in range(30)), sender="")
        await w.settle_down()
        w.hops.verdict = lambda d, r: OK
        async with trio.open_nursery() as n:
            n.start_soon(w.operator.flush_messages, [message])
            n.start_soon(w.operator.flush_destination, "d29.test")
        await w.settle_down()
        delivered = [r for _, r, _ in w.hops.delivered]
        counts = w.store.counts()
        assert (len(delivered), counts["ready"], counts["batch"]) == (len(set(delivered)), 0, 0), w.queued()


async def test_mail_for_a_destination_that_was_down_wakes_it_after_a_restart(
    tmp_path: Path, mock_clock: object
) -> None:
    clock = Clock()
    async with world(tmp_path, clock, delays_s=(14_400,), down_delays_s=(30,)) as w:
        w.hops.unreachable.add("dead.test")
        await w.accept("a@dead.test")
        await w.settle_down()
        clock.at += 31  # no longer down; the only mail is due in four hours
        w.scheduler.stopping = True  # as if killed right after the commit: the fast path never ran
        await w.accept("b@dead.test")
    async with world(tmp_path, clock, delays_s=(14_400,), down_delays_s=(30,)) as w:
        await w.pass_time(600)
        assert [r for _, r, _ in w.hops.delivered] == ["b@dead.test"]


async def test_mail_for_a_destination_that_was_down_waits_for_room_only(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock, delays_s=(14_400,), down_delays_s=(30,), active_destinations=1) as w:
        w.hops.unreachable.add("dead.test")
        await w.accept("a@dead.test")
        await w.settle_down()
        w.hops.unreachable.clear()
        clock.at += 31
        w.hops.gate = trio.Event()
        await w.accept("x@other.test")  # takes the one place
        await w.accept("b@dead.test")
        await trio.testing.wait_all_tasks_blocked(0.01)
        w.hops.gate.set()
        await w.settle_down()
        for _ in range(20):
            await w.pass_time(60)
        assert sorted(r for _, r, _ in w.hops.delivered) == ["b@dead.test", "x@other.test"]


async def test_a_destination_that_comes_up_while_it_is_swept_can_rest(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    path = tmp_path / "second"
    async with world(path, clock, enabled=False) as w:
        for number in range(1500):
            await w.accept(f"r{number}@dead.test", sender="")
    async with world(path, clock, loaded_batches=30, down_delays_s=(30,), delays_s=(300,)) as w:
        w.hops.unreachable.add("dead.test")
        real = w.scheduler._down.tell
        calls = 0

        def tell(*how: Any) -> None:
            nonlocal calls
            real(*how)
            calls += 1
            if calls == 1:
                w.hops.unreachable.clear()
                w.scheduler.bring_up("dead.test")  # an operator's flush, or a lane that gets through

        w.scheduler._down.tell = tell  # type: ignore[method-assign]
        await w.settle_down()
        for _ in range(10):
            await w.pass_time(60)
        assert w.queued() == []
        assert w.scheduler.snapshot()["active_destinations"] == 0


@pytest.mark.parametrize("sender", ["", "postmaster"])
async def test_an_address_without_domain_does_not_kill_the_worker(
    tmp_path: Path, mock_clock: object, sender: str
) -> None:
    async with world(tmp_path) as w:
        w.hops.verdict = lambda d, r: NO_SUCH_USER
        recipient = "a@one.test" if sender else "postmaster"
        await w.accept(recipient, sender=sender)
        await w.settle_down()
        # The notice goes to "postmaster" without a domain, and cannot be delivered either.
        told = [("bounced", recipient)] + ([("bounced", sender)] if sender else [])
        assert w.happened("bounced", "delivered") == told
        assert w.queued() == []


@pytest.mark.parametrize("how", ["cancel", "flush"])
async def test_nothing_is_delivered_while_delivery_is_off(tmp_path: Path, mock_clock: object, how: str) -> None:
    async with world(tmp_path, enabled=False) as w:
        first = await w.accept("a@one.test")
        await w.accept("b@one.test")
        if how == "cancel":
            assert await w.operator.cancel_messages([first]) == 1
        else:
            await w.operator.flush_all()
        await w.settle_down()
        kept = [("one.test", ("b@one.test",))]
        assert w.hops.attempts == []
        assert w.queued() == (kept if how == "cancel" else [("one.test", ("a@one.test",)), *kept])


async def test_scheduled_mail_is_found_though_its_destination_never_rests(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        stuck = trio.Event()
        original = w.hops._deliver

        async def deliver(lane: object) -> None:
            if not stuck.is_set() and not w.hops.attempts:
                w.hops.attempts.append("slow")
                lane.take_nowait()  # type: ignore[attr-defined]
                await in_task(stuck.wait)
            await original(lane)  # type: ignore[arg-type]

        w.deliver = deliver  # type: ignore[assignment]
        await w.accept("slow@one.test")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await w.pass_time(2)
        await w.accept("later@one.test", not_before=w.clock.at + 100)
        await w.pass_time(200)
        await w.pass_time(200)
        got = [r for _, r, _ in w.hops.delivered]
        assert got == ["later@one.test"]


async def test_a_message_that_names_its_own_expiry_is_held_to_it(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, janitor=True, delays_s=(14_400,), delay_dsn_after_s=0) as w:
        w.hops.verdict = lambda d, r: GREYLISTED
        await w.accept("a@one.test", sender="", expires_at=w.clock.at + 600)
        await w.settle_down()
        w.clock.at += 700
        await w.sleep(12)
        assert w.happened("expired") == [("expired", "a@one.test")]


async def test_a_message_behind_others_is_held_to_its_own_expiry(tmp_path: Path, mock_clock: object) -> None:
    """The janitor sees the front of the queue only: whatever is due by then is given up when it is due."""
    async with world(tmp_path, delays_s=(14_400,), delay_dsn_after_s=0) as w:
        w.hops.verdict = lambda d, r: GREYLISTED
        expires_at = w.clock.at + 600
        await w.accept("a@one.test", sender="", expires_at=expires_at)
        await w.settle_down()
        await w.pass_time(599)
        assert w.hops.attempts == ["one.test"]
        await w.pass_time(2)
        assert w.hops.attempts == ["one.test", "one.test"]
        assert [(e.type, e.next_attempt_at) for e in w.logged()] == [
            ("received", None), ("deferred", expires_at), ("expired", None)
        ]  # fmt: skip
        assert w.queued() == []


def test_a_second_transaction_of_a_batch_does_not_hide_the_first_ones_dot(tmp_path: Path) -> None:
    table = InFlight(tmp_path / "inflight", 4)
    table.take_over()
    table.begin(b"k" * 12)
    table.dot_sent(b"k" * 12)
    table.begin(b"k" * 12)  # RCPTMAX: the rest of the recipients go in a transaction of their own
    table.close()
    assert InFlight(tmp_path / "inflight", 4).recovered == [b"k" * 12]


async def test_nothing_is_remembered_of_a_dead_destination_without_mail(tmp_path: Path, mock_clock: object) -> None:
    settings = {"down_delays_s": (100_000,), "expire_after_s": 1000, "delay_dsn_after_s": 0}
    async with world(tmp_path, janitor=True, **settings) as w:  # type: ignore[arg-type]
        w.hops.unreachable.add("dead.test")
        await w.accept("a@dead.test", sender="")
        await w.settle_down()
        w.clock.at += 1001
        await w.sleep(6)
        await w.settle_down()
        assert w.happened("expired") == [("expired", "a@dead.test")]
        w.clock.at += 200_000
        await w.sleep(12)
        assert w.store.counts()["destination"] == 0


async def test_a_cancel_while_the_deferral_is_committed_is_not_lost(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,)) as w:
        counts = []

        async def deliver(lane: object) -> None:
            while (loaded := await lane.take(1)) is not None:  # type: ignore[attr-defined]
                result = RecipientResult(0, Outcome.DEFERRED, GREYLISTED, Stage.RCPT)
                lane.report(loaded, Attempt((result,), PEER))  # type: ignore[attr-defined]
                counts.append(await in_task(w.operator.cancel_messages, [loaded.batch.envelope.message]))

        w.deliver = deliver  # type: ignore[assignment]
        await w.accept("a@one.test")
        await w.settle_down()
        assert w.queued() == [], (counts, w.happened())


async def test_ids_are_never_given_twice_though_the_queue_ran_empty_and_the_clock_went_back(
    tmp_path: Path, mock_clock: object
) -> None:
    clock = Clock()
    async with world(tmp_path, clock) as w:
        await w.accept("a@one.test")
        await w.settle_down()
        assert w.queued() == []
        before = [event.id for event in w.logged()]
        changes = Changes()
        changes.drop_outbox([sequence for sequence, _ in w.store.outbox_read(0, 1 << 30)])
        await w.committer.commit(changes, 10)
    clock.at -= 3600
    async with world(tmp_path, clock) as w:
        await w.accept("b@one.test")
        await w.settle_down()
        after = [event.id for event in w.logged()]
        assert len(before) == len(after) == 2
        assert max(before) < min(after)
        assert min(event.message for event in w.logged()) > max(before)


async def test_doubts_are_listed_for_thirty_days_also_by_a_server_that_is_never_restarted(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path, enabled=False) as w, trio.open_nursery() as nursery:
        days = {}

        async def in_doubt(*, queued_for_days: int = 0) -> None:
            """A message came, and later its outcome was in doubt."""
            message = await w.accept("a@one.test")
            w.clock.at += queued_for_days * 86_400
            changes = Changes()
            doubt = Doubt(w.clock.at, "one.test", (Recipient("a@one.test"),))
            changes.put(Table.DOUBT, batch_key(message, 0), encode(doubt))
            await w.committer.commit(changes, 10)
            days[batch_key(message, 0)] = len(days)

        async def left() -> list[int]:
            mock_clock.jump(3601)
            await w.settle_down()
            return [days[key] for key, _ in w.store.doubts(10)]

        await in_doubt()
        await in_doubt(queued_for_days=5)
        await in_doubt()
        nursery.start_soon(forget_old_doubts, w.store, w.committer, w.clock)
        assert await left() == [0, 1, 2]
        w.clock.at += 25 * 86_400 + 1  # the first is 30 days old
        assert await left() == [1, 2]
        await in_doubt()
        w.clock.at += 5 * 86_400
        assert await left() == [3]
        nursery.cancel_scope.cancel()


async def test_mail_expires_though_the_clock_was_once_ahead(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock, enabled=False) as w:
        clock.at += 10 * 365 * 86_400
        await w.accept("x@one.test", sender="")
        clock.at -= 10 * 365 * 86_400
        await w.operator.cancel_where(lambda batch: True)
        await w.settle_down()
        await w.accept("a@one.test", sender="")
    async with world(tmp_path, clock, janitor=True, enabled=False, expire_after_s=1000, delay_dsn_after_s=0) as w:
        clock.at += 2000
        await w.sleep(12)
        assert w.happened("expired") == [("expired", "a@one.test")]


async def test_telling_a_dead_destinations_mail_does_not_hold_up_the_loop(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock, enabled=False) as w:
        for _ in range(600):
            await w.accept(*(f"r{n}@dead.test" for n in range(100)), sender="")
    async with world(tmp_path, clock) as w:
        w.hops.unreachable.add("dead.test")
        told_at_once = [0]
        real = w.scheduler._down.tell

        def tell(state: Destination, defer: Callable[..., None], let_go: Any) -> None:
            told_at_once.append(0)

            def counted(state: Destination, loaded: Loaded, down: DestinationState) -> None:
                told_at_once[-1] += len(loaded.batch.recipients)
                defer(state, loaded, down)

            real(state, counted, let_go)

        w.scheduler._down.tell = tell  # type: ignore[method-assign]
        await w.settle_down()
        assert 0 < max(told_at_once) <= 1000
        assert len(w.happened("deferred")) == 60_000


async def test_a_flush_beside_a_retry_leaves_a_sound_index(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,)) as w:
        tries = {"r@d29.test": 2}

        def verdict(destination: str, recipient: object) -> object:
            left = tries.get(recipient.address, 0)  # type: ignore[attr-defined]
            tries[recipient.address] = left - 1  # type: ignore[attr-defined]
            return GREYLISTED if left > 0 else OK

        w.hops.verdict = lambda d, r: GREYLISTED
        message = await w.accept(*(f"r@d{n:02}.test" for n in range(30)), sender="")
        await w.settle_down()
        w.clock.at += 10
        tries["r@d29.test"] = 1
        w.hops.verdict = verdict  # type: ignore[assignment]
        async with trio.open_nursery() as n:
            n.start_soon(w.operator.flush_messages, [message])
            n.start_soon(w.operator.flush_destination, "d29.test")
        await w.settle_down()
        await w.pass_time(6000)  # SpoolFormatError: "is queued for d29.test but not there", at each start from now on
        counts = w.store.counts()
        assert counts["ready"] == counts["batch"], counts


@pytest.mark.parametrize("looks", [0, 1, 3])
async def test_a_flushed_destination_is_tried_though_it_is_looked_at_before_that_is_written(
    tmp_path: Path, mock_clock: object, looks: int
) -> None:
    async with world(tmp_path, down_delays_s=(5000,)) as w:
        w.hops.unreachable.add("dead.test")
        await w.accept("c@dead.test")
        await w.settle_down()
    async with world(tmp_path, down_delays_s=(5000,)) as w:

        class LookingAtOnce:
            def bring_up(self, name: str) -> None:
                w.scheduler.bring_up(name)
                for _ in range(looks):  # as it may at any time: the spool still says that it is down
                    for state in w.scheduler.active.due():
                        w.scheduler.tend(state)

        w.operator._scheduler = LookingAtOnce()  # type: ignore[assignment]
        assert await w.operator.flush_all() == 1
        await w.settle_down()
        assert [recipient for _, recipient, _ in w.hops.delivered] == ["c@dead.test"]
        assert (w.queued(), w.scheduler.active._resting) == ([], {})


async def test_a_flush_reaches_mail_that_is_just_being_told_of_a_dead_destination(
    tmp_path: Path, mock_clock: object
) -> None:
    async with world(tmp_path, down_delays_s=(5000,)) as w:
        w.hops.unreachable.add("dead.test")
        await w.accept("first@dead.test")
        await w.settle_down()
        tell, flushed = w.scheduler._down.tell, False

        def told(*how: Any) -> None:
            nonlocal flushed
            tell(*how)
            state = w.scheduler.active.by_name["dead.test"]
            if state.held and not flushed:  # its deferral is on its way to the disk
                flushed = True
                w.hops.unreachable.clear()
                w.scheduler.bring_up("dead.test")

        w.scheduler._down.tell = told  # type: ignore[method-assign]
        await w.accept("second@dead.test")
        await w.settle_down()
        assert flushed
        assert [recipient for _, recipient, _ in w.hops.delivered] == ["second@dead.test"]
        assert w.queued() == [("dead.test", ("first@dead.test",))]  # `bring_up` alone does not touch its time


async def test_a_restart_does_not_leave_alone_what_was_brought_up(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock, down_delays_s=(5000,)) as w:
        w.hops.unreachable.add("dead.test")
        await w.accept("a@dead.test")
        await w.settle_down()
        w.hops.unreachable.clear()
        w.hops.gate = trio.Event()  # nothing more is reported
        w.scheduler.active.add("dead.test").held.add(b"another")  # so that it does not rest, either
        assert await w.operator.flush_destination("dead.test") == 1
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (w.hops.open_lanes, w.hops.delivered) == (1, [])
    async with world(tmp_path, clock, down_delays_s=(5000,)) as w:
        await w.settle_down()
        assert [recipient for _, recipient, _ in w.hops.delivered] == ["a@dead.test"]


async def test_flushing_an_impossible_destination_does_not_kill_the_worker(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        for name in ("", "x" * 600):
            with pytest.raises(ValueError, match="is not a destination"):
                await w.operator.flush_destination(name)
