"""Consumers of the outbox: everything in order, at least once, and nobody waits for a broken one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.errors import SinkError, SpoolError
from postroika.mail.ids import IdSource
from postroika.outcome import outbox
from postroika.outcome.outbox import Consumer, Outbox
from postroika.outcome.sinks import EventLog
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.schema import Table, u64_from
from postroika.spool.store import Store


class Ledger:
    """An outbox in memory that is also its committer: what `Source` and `Commits` ask for."""

    def __init__(self, records: dict[int, bytes] | None = None, cursors: dict[str, int] | None = None) -> None:
        self.records = dict(records or {})
        self.cursors = dict(cursors or {})
        self.commits = 0
        self.held: list[Callable[[], None]] | None = None
        self.fail: SpoolError | None = None

    def add(self, *lines: bytes) -> None:
        for line in lines:
            self.records[max(self.records, default=max(self.cursors.values(), default=0)) + 1] = line

    def outbox_read(self, after: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        for sequence in sorted(self.records):
            if sequence > after and (not found or sum(len(lines) for _, lines in found) < limit_bytes):
                found.append((sequence, self.records[sequence]))
        return found

    def cursor(self, name: str) -> int:
        return self.cursors.get(name, 0)

    def commit_nowait(self, changes: Changes, done: Callable[[SpoolError | None], None]) -> None:
        def commit() -> None:
            self.commits += 1
            if self.fail is None:
                for table, key, value in changes.writes:
                    if table is Table.OUTBOX:
                        assert value is None
                        del self.records[u64_from(key)]
                    else:
                        assert value is not None
                        self.cursors[key.removeprefix(b"cursor/").decode()] = u64_from(value)
            done(self.fail)

        if self.held is None:
            trio.lowlevel.current_trio_token().run_sync_soon(commit)
        else:
            self.held.append(commit)


class Memory:
    """A sink that remembers, and can be told to refuse."""

    def __init__(self) -> None:
        self.lines = b""
        self.writes = 0
        self.syncs = 0
        self.refuse = False
        self.refuse_sync = False

    def __str__(self) -> str:
        return "memory"

    async def write(self, lines: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.writes += 1
        if self.refuse:
            raise SinkError("no room")
        self.lines += lines

    async def sync(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuse_sync:
            raise SinkError("input/output error")
        self.syncs += 1


@asynccontextmanager
async def running(box: Outbox) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.run)
        yield
        box.close()


async def test_events_are_taken_in_order_and_then_removed(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger(), Memory()
    ledger.add(b"a\n", b"b\nc\n")
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with running(box):
        await trio.sleep(5)
        assert (sink.lines, ledger.records, ledger.cursors) == (b"a\nb\nc\n", {}, {"log": 2})
        ledger.add(b"d\n")
        box.wake()
        await trio.sleep(5)
    assert (sink.lines, sink.syncs, ledger.records, ledger.cursors) == (b"a\nb\nc\nd\n", 2, {}, {"log": 3})


async def test_events_are_written_at_once_and_saved_within_a_second(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger(), Memory()
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with running(box):
        await trio.sleep(10)
        ledger.add(b"a\n")
        box.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert (sink.lines, sink.syncs) == (b"a\n", 0)
        await trio.sleep(outbox.SAVE_EVERY_S + 0.1)
        assert (sink.syncs, ledger.commits, ledger.records) == (1, 1, {})


async def test_when_nothing_happens_nothing_is_written(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger(cursors={"log": 7}), Memory()
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with running(box):
        for _ in range(100):
            box.wake()
            await trio.sleep(1)
    assert (sink.writes, sink.syncs, ledger.commits) == (0, 0, 0)


async def test_many_small_commits_become_few_writes(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger(), Memory()
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with running(box):
        for n in range(1000):
            ledger.add(b"%d\n" % n)
            box.wake()
            await trio.sleep(0.001)
    assert sink.lines == b"".join(b"%d\n" % n for n in range(1000))
    assert sink.writes <= 1 / outbox.GATHER_S + 2
    assert ledger.commits <= 3


async def test_a_backlog_is_taken_without_pauses(autojump_clock: trio.testing.MockClock) -> None:
    line = b"x" * 999 + b"\n"
    ledger, sink = Ledger(dict.fromkeys(range(1, 201), line * 50)), Memory()
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with running(box):
        await trio.testing.wait_all_tasks_blocked()
        assert len(sink.lines) == 200 * 50_000
        assert ledger.cursors == {}
    assert ledger.cursors == {"log": 200}


async def test_restart_goes_on_from_the_cursor(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger({4: b"d\n", 5: b"e\n", 6: b"f\n"}, {"log": 5}), Memory()
    async with running(Outbox(ledger, ledger, [Consumer("log", sink)])):
        await trio.sleep(5)
    assert (sink.lines, ledger.records, ledger.cursors) == (b"f\n", {}, {"log": 6})


async def test_crash_before_the_cursor_is_saved_brings_the_same_lines_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger, sink = Ledger({1: b"a\n"}), Memory()
    with trio.move_on_after(outbox.SAVE_EVERY_S / 2):
        await Outbox(ledger, ledger, [Consumer("log", sink)]).run()
    assert (sink.lines, ledger.cursors) == (b"a\n", {})
    async with running(Outbox(ledger, ledger, [Consumer("log", sink)])):
        await trio.sleep(5)
    assert (sink.lines, ledger.cursors) == (b"a\na\n", {"log": 1})


async def test_broken_sink_is_tried_again_and_named_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, sink = Ledger({1: b"a\n"}), Memory()
    sink.refuse = True
    failures = metrics.OUTBOX_FAILURES.value
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with running(box):
        await trio.sleep(3600)
        ledger.add(b"b\n")
        box.wake()
        assert (sink.lines, len(ledger.records)) == (b"", 2)
        assert 3600 / outbox.LAST_RETRY_S <= metrics.OUTBOX_FAILURES.value - failures <= 3600 / outbox.LAST_RETRY_S + 10
        assert metrics.snapshot()["outbox_lag"] == pytest.approx(3600)
        sink.refuse = False
        await trio.sleep(outbox.LAST_RETRY_S + 2)
        assert (sink.lines, ledger.records) == (b"a\nb\n", {})
        assert metrics.snapshot()["outbox_lag"] == 0
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.ERROR, "memory: no room; events stay in the spool and are tried again"),
        (logging.WARNING, "memory: works again"),
    ]


async def test_what_a_failed_sync_may_have_lost_is_written_again(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger({1: b"a\n", 2: b"b\n"}), Memory()
    sink.refuse_sync = True
    async with running(Outbox(ledger, ledger, [Consumer("log", sink)])):
        await trio.sleep(outbox.SAVE_EVERY_S + 0.1)
        assert (sink.lines, ledger.cursors) == (b"a\nb\n", {})
        sink.refuse_sync = False
        await trio.sleep(60)
    assert (sink.lines, ledger.cursors) == (b"a\nb\na\nb\n", {"log": 2})


async def test_slow_consumer_keeps_events_but_delays_nobody(autojump_clock: trio.testing.MockClock) -> None:
    ledger, quick, slow = Ledger({1: b"a\n", 2: b"b\n"}), Memory(), Memory()
    slow.refuse = True
    box = Outbox(ledger, ledger, [Consumer("log", quick), Consumer("webhooks", slow)])
    async with running(box):
        await trio.sleep(10)
        assert (quick.lines, len(ledger.records), ledger.cursors) == (b"a\nb\n", 2, {"log": 2})
        slow.refuse = False
        await trio.sleep(60)
        assert (slow.lines, ledger.records, ledger.cursors) == (b"a\nb\n", {}, {"log": 2, "webhooks": 2})


async def test_what_a_consumer_has_not_synced_stays_while_others_go_on(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Memory):
        synced = trio.Event()

        async def sync(self) -> None:
            await self.synced.wait()
            await super().sync()

    ledger, quick, slow = Ledger({1: b"a\n", 2: b"b\n"}), Memory(), Slow()
    async with running(Outbox(ledger, ledger, [Consumer("quick", quick), Consumer("slow", slow)])):
        await trio.sleep(5)
        assert (quick.lines, slow.lines) == (b"a\nb\n", b"a\nb\n")
        assert (ledger.cursors, ledger.records) == ({"quick": 2}, {1: b"a\n", 2: b"b\n"})
        slow.synced.set()
        await trio.sleep(5)
        assert (ledger.cursors, ledger.records) == ({"quick": 2, "slow": 2}, {})


async def test_cursor_is_where_the_last_sync_was_and_not_the_last_write(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sinks = Ledger({1: b"a\n"}), (Memory(), Memory())
    ledger.held = []
    box = Outbox(ledger, ledger, [Consumer("one", sinks[0]), Consumer("other", sinks[1])])
    async with running(box):
        await trio.sleep(outbox.SAVE_EVERY_S + 0.1)
        assert ([sink.syncs for sink in sinks], len(ledger.held)) == ([1, 1], 1)  # one of them has to be saved later
        ledger.add(b"b\n")
        box.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert [(sink.lines, sink.syncs) for sink in sinks] == [(b"a\nb\n", 1)] * 2
        ledger.held.pop()()
        ledger.held.pop()()
        assert (ledger.cursors, ledger.records) == ({"one": 1, "other": 1}, {2: b"b\n"})
        ledger.held = None
    assert (ledger.cursors, ledger.records) == ({"one": 2, "other": 2}, {})


async def test_records_that_a_departed_consumer_held_are_removed(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger(dict.fromkeys(range(51, 102), b"x\n"), {"log": 100, "webhooks": 50}), Memory()
    async with running(Outbox(ledger, ledger, [Consumer("log", sink)])):
        await trio.sleep(5)
    assert (sink.lines, ledger.records, ledger.cursors) == (b"x\n", {}, {"log": 101, "webhooks": 50})


async def test_large_removal_is_spread_over_commits(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MAX_DROPS", 100)
    ledger, sink = Ledger(dict.fromkeys(range(1001, 1951), b"x\n")), Memory()
    async with running(Outbox(ledger, ledger, [Consumer("log", sink)])):
        await trio.sleep(5)
    assert (len(sink.lines), ledger.records, ledger.commits) == (1900, {}, 10)


async def test_only_one_commit_of_cursors_is_under_way(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger({1: b"a\n"}), Memory()
    ledger.held = []
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with running(box):
        for _ in range(5):
            await trio.sleep(2)
            ledger.add(b"b\n")
            box.wake()
        await trio.sleep(2)
        assert len(ledger.held) == 1
        held, ledger.held = ledger.held, None
        held[0]()
    assert (ledger.records, ledger.cursors, ledger.commits) == ({}, {"log": 6}, 2)


async def test_close_takes_what_there_is_and_saves_it(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger(), Memory()
    box = Outbox(ledger, ledger, [Consumer("log", sink)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.run)
        await trio.sleep(1)
        ledger.add(b"a\n", b"b\n")
        box.close()
        closed_at = trio.current_time()
    assert (sink.lines, ledger.cursors, ledger.records) == (b"a\nb\n", {"log": 2}, {})
    assert trio.current_time() - closed_at <= outbox.GATHER_S


async def test_close_does_not_wait_for_a_long_backlog(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Memory):
        async def write(self, lines: bytes) -> None:
            await trio.sleep(1)
            await super().write(lines)

    line = b"x" * 999 + b"\n"
    ledger, sink = Ledger(dict.fromkeys(range(1, 2001), line * 50)), Slow()
    async with trio.open_nursery() as nursery:
        box = Outbox(ledger, ledger, [Consumer("log", sink)])
        nursery.start_soon(box.run)
        await trio.sleep(3.5)
        box.close()
        closed_at = trio.current_time()
    assert outbox.CLOSE_GRACE_S <= trio.current_time() - closed_at <= outbox.CLOSE_GRACE_S + 1
    taken = len(sink.lines) // (50 * len(line))
    assert ledger.cursors == {"log": taken}
    assert min(ledger.records) == taken + 1


async def test_close_does_not_wait_for_a_sink_that_refuses(autojump_clock: trio.testing.MockClock) -> None:
    ledger, sink = Ledger({1: b"a\n"}), Memory()
    sink.refuse = True
    with trio.fail_after(outbox.LAST_RETRY_S / 2):
        async with running(Outbox(ledger, ledger, [Consumer("log", sink)])):
            await trio.sleep(5)
    assert ledger.records == {1: b"a\n"}


async def test_cursor_that_cannot_be_saved_does_not_hold_up_the_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, sink = Ledger({1: b"a\n"}), Memory()
    ledger.fail = SpoolError("closed")
    async with running(Outbox(ledger, ledger, [Consumer("log", sink)])):
        await trio.sleep(5)
    assert ledger.records == {1: b"a\n"}
    assert [r.getMessage() for r in caplog.records] == ["the cursors of the outbox could not be saved: closed"]


@pytest.mark.parametrize("names", [[], ["log", "log"]])
def test_consumers_need_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(ValueError, match="consumers with different names"):
        Outbox(Ledger(), Ledger(), [Consumer(name, Memory()) for name in names])


async def test_events_go_from_a_commit_to_the_log_file(tmp_path: Path) -> None:
    store = Store.create_or_open(tmp_path / "spool", 0, max_bytes=1 << 26)
    ids = IdSource(0)
    committer = Committer(store, ids, low_water_bytes=0)
    log = EventLog(tmp_path / "events.jsonl", rotate_bytes=1 << 20, keep=1)
    box = Outbox(store, committer, [Consumer("log", log)])
    committer.after_commit.append(box.wake)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.run)
            async with trio.open_nursery() as outbox_nursery:
                outbox_nursery.start_soon(box.run)
                for n in range(20):
                    changes = Changes()
                    changes.event(b'{"id":"%d"}' % n)
                    await committer.commit(changes, 10)
                box.close()
            committer.close()
    await log.aclose()
    assert (tmp_path / "events.jsonl").read_bytes() == b"".join(b'{"id":"%d"}\n' % n for n in range(20))
    assert (store.outbox_read(0, 1 << 20), store.cursor("log")) == ([], 20)
    store.close()
