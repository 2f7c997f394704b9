"""The queue while the disk is full, slow or failed: nothing more is done than can be recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.errors import SpoolFullError, SpoolIOError
from postroika.mail.outcome import Attempt, Outcome, RecipientResult, Stage
from postroika.spool.changes import Changes
from postroika.spool.inflight import InFlight
from postroika.spool.schema import batch_key
from tests.component.world import NARROW, OK, PEER, Clock, old_mail, world, write


async def pass_without_commits(seconds: int) -> None:
    clock = trio.lowlevel.current_clock()
    for _ in range(seconds * 2):
        clock.jump(0.5)  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked(0.002)


async def test_nothing_more_is_delivered_than_can_be_recorded(tmp_path: Path, mock_clock: object) -> None:
    clock = await old_mail(tmp_path, 1500)
    async with world(tmp_path, clock, **NARROW) as w:
        real, full = w.store.apply, True

        def apply(group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
            if full:
                raise SpoolFullError("full")
            real(group, last_id, written)

        w.store.apply = apply  # type: ignore[method-assign]
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked(0.002)
        delivered, unsettled, untracked = len(w.hops.delivered), w.scheduler.unsettled, w.inflight.untracked
        full = False
        w.store.apply = real  # type: ignore[method-assign]
        await w.sleep(3)
        assert 0 < delivered <= 100, (delivered, unsettled, untracked)
        await w.settle_down()
        assert sorted(r for _, r, _ in w.hops.delivered) == sorted(f"old{n}@one.test" for n in range(1500))
        assert w.queued() == []


async def test_a_batch_stays_in_the_in_flight_table_until_its_outcome_is_on_disk(
    tmp_path: Path, mock_clock: object
) -> None:
    """Killed before that, it is delivered again: its recipients must be found in doubt then."""
    async with world(tmp_path) as w:
        gate, real = threading.Event(), w.store.apply

        async def deliver(lane: object) -> None:
            while (loaded := await lane.take(1)) is not None:  # type: ignore[attr-defined]
                w.inflight.begin(loaded.key)
                w.inflight.dot_sent(loaded.key)
                lane.report(loaded, Attempt((RecipientResult(0, Outcome.DELIVERED, OK, Stage.FINAL_DOT),), PEER))  # type: ignore[attr-defined]

        def apply(group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
            if any(b'"delivered"' in line for changes in group for line in changes.events):
                gate.wait(10)
            real(group, last_id, written)

        def in_doubt_if_killed_now() -> list[bytes]:
            return InFlight(w.store.path / "inflight", 1).recovered

        w.deliver = deliver  # type: ignore[assignment]
        w.store.apply = apply  # type: ignore[method-assign]
        message = await w.accept("a@one.test")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.happened("delivered") == []
        assert in_doubt_if_killed_now() == [batch_key(message, 0)]
        gate.set()
        await w.settle_down()
        assert w.happened("delivered") == [("delivered", "a@one.test")]
        assert in_doubt_if_killed_now() == []


async def test_an_abandoned_message_is_removed_once_there_is_room(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        writer = w.intake.begin()
        await write(writer, bytes(1_000_000))
        real, fails = w.store.apply, 1

        def apply(group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
            nonlocal fails
            if fails:
                fails -= 1
                raise SpoolFullError("full")
            real(group, last_id, written)

        w.store.apply = apply  # type: ignore[method-assign]
        with pytest.raises(SpoolFullError):
            await write(writer, bytes(1_000_000))
        fails = 1
        writer.abandon()
        await w.sleep(3)
        await w.accept("a@one.test")
        await w.settle_down()
        assert (w.store.counts()["body"], w.store.counts()["partial"]) == (0, 0)


async def test_a_commit_after_the_disk_failed_is_told_at_once(tmp_path: Path, mock_clock: object) -> None:
    from postroika.errors import SpoolError
    from postroika.mail.ids import IdSource
    from postroika.spool.committer import Committer
    from postroika.spool.store import Store

    store = Store.create_or_open(tmp_path, 0, max_bytes=1 << 26)

    def apply(group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
        raise SpoolIOError("EIO")

    store.apply = apply  # type: ignore[method-assign]
    committer = Committer(store, IdSource(0), low_water_bytes=1)
    committer.commit_nowait(Changes(), lambda error: None)
    with pytest.raises(SpoolIOError):
        await committer.run()
    trio.lowlevel.current_clock().autojump_threshold = 0.01  # type: ignore[attr-defined]
    began = trio.current_time()
    with pytest.raises(SpoolError):
        await committer.commit(Changes(), 60)
    assert trio.current_time() - began < 1


async def test_the_janitor_does_not_fill_memory_while_the_disk_is_full(tmp_path: Path, mock_clock: object) -> None:
    clock = Clock()
    async with world(tmp_path, clock, enabled=False) as w:
        for number in range(1500):
            await w.accept(f"r@d{number}.test")
    clock.at += 2000
    async with world(tmp_path, clock, janitor=True, enabled=False, expire_after_s=1000, delay_dsn_after_s=0) as w:
        real = w.store.apply

        def apply(group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
            raise SpoolFullError("full")

        w.store.apply = apply  # type: ignore[method-assign]
        await pass_without_commits(30)
        held = w.scheduler.unsettled
        active = w.scheduler.snapshot()["active_destinations"]
        w.store.apply = real  # type: ignore[method-assign]
        assert 0 < held <= 500, (held, active)
        for _ in range(20):
            await w.sleep(6)
        assert sorted(w.happened("expired")) == sorted(("expired", f"r@d{number}.test") for number in range(1500))


async def test_refusals_do_not_fill_memory_while_the_disk_is_full(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path) as w:
        real = w.store.apply

        def apply(group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
            raise SpoolFullError("full")

        w.store.apply = apply  # type: ignore[method-assign]
        w.committer.commit_nowait(Changes(must=True), lambda error: None)
        await pass_without_commits(5)
        for _ in range(20_000):
            changes = Changes()
            changes.event(b"{}" * 200)
            w.committer.commit_later(changes)
        await pass_without_commits(5)
        left = len(w.committer._later)
        w.store.apply = real  # type: ignore[method-assign]
        for _ in range(60):
            await w.sleep(1)
            if not (w.committer.stuck or w.committer._later):
                break
        assert 0 < left < 10_000, left
        assert len(w.logged_lines()) == left  # the others are lost: nobody was promised anything
