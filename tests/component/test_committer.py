"""Group commit: who is told what, and when; what a full disk and a failing one do."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.errors import SpoolDoubtError, SpoolError, SpoolFullError, SpoolIOError
from postroika.mail.ids import IdSource
from postroika.pump import Interrupted, Pump, Wake, open_pump
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.schema import Table
from postroika.spool.store import Store

OWN_MARKS = 1  # META["format"]


class Disk:
    """A store whose commits wait for `gate`, and fail as `fails` says; with so much `room`, if that is given."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.groups: list[int] = []
        self.room: int | None = None
        self.looks = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fails: Callable[[list[Changes]], SpoolError | None] = lambda group: None

    def apply(self, group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
        self.gate.wait(10)
        error = self.fails(group)
        if error is not None:
            raise error
        self.groups.append(len(group))
        self.store.apply(group, last_id, written)

    def room_bytes(self) -> int:
        self.looks += 1
        return self.store.room_bytes() if self.room is None else self.room


@pytest.fixture
def disk(tmp_path: Path):
    store = Store.create_or_open(tmp_path, 0, max_bytes=1 << 26)
    yield Disk(store)
    store.close()


def committer_on(disk: Disk, low_water_bytes: int = 1) -> Committer:
    return Committer(disk, IdSource(0), low_water_bytes=low_water_bytes)


def mark(name: bytes, *, must: bool = False) -> Changes:
    changes = Changes(must=must)
    changes.put(Table.META, name, b"1")
    return changes


async def test_what_comes_while_a_commit_syncs_goes_into_the_next_one(disk: Disk) -> None:
    committer = committer_on(disk)
    disk.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.commit, mark(b"0"), 10)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(committer.run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for number in range(1, 51):
            nursery.start_soon(committer.commit, mark(b"%d" % number), 10)
        await trio.testing.wait_all_tasks_blocked(0.01)
        committer.close()
        disk.gate.set()
    assert disk.groups == [1, 50]
    assert disk.store.counts()["meta"] == 51 + OWN_MARKS


async def test_close_writes_all_that_was_queued(disk: Disk) -> None:
    committer = committer_on(disk)
    done: list[SpoolError | None] = []
    committer.commit_nowait(mark(b"a"), done.append)
    committer.close()
    committer.commit_nowait(mark(b"b"), done.append)
    await committer.run()
    assert done == [None, None]


async def test_a_full_disk_refuses_mail_and_keeps_done_marks(disk: Disk, mock_clock: trio.testing.MockClock) -> None:
    committer = committer_on(disk)
    full = True
    disk.fails = lambda group: SpoolFullError("the disk of the spool is full") if full else None
    told: dict[str, SpoolError | None] = {}
    async with trio.open_nursery() as nursery:
        committer.commit_nowait(mark(b"mail"), lambda error: told.update(mail=error))
        committer.commit_nowait(mark(b"done", must=True), lambda error: told.update(done=error))
        nursery.start_soon(committer.run)
        while "mail" not in told:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert isinstance(told["mail"], SpoolFullError)
        assert not committer.has_room()
        committer.commit_nowait(mark(b"late"), lambda error: told.update(late=error))
        while "late" not in told:
            mock_clock.jump(0.3)
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert isinstance(told["late"], SpoolFullError)
        assert "done" not in told
        full = False
        while "done" not in told:
            mock_clock.jump(0.3)
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert told["done"] is None
        mock_clock.jump(2)
        assert committer.has_room()
        committer.close()
    assert disk.groups == [1]


async def test_a_failed_sync_ends_the_committer_and_nobody_is_told_that_it_went_well(disk: Disk) -> None:
    committer = committer_on(disk)
    disk.fails = lambda group: SpoolIOError("mdb_txn_commit: Input/output error")
    told: list[SpoolError | None] = []
    committer.commit_nowait(mark(b"mail"), told.append)
    committer.commit_nowait(mark(b"done", must=True), told.append)
    with pytest.raises(SpoolIOError):
        await committer.run()
    assert [type(error) for error in told] == [SpoolIOError]
    assert disk.groups == []


async def test_a_done_mark_that_can_never_be_written_ends_the_committer(disk: Disk) -> None:
    """To go on without it would mean that what was delivered is delivered again after the next start."""
    committer = committer_on(disk)
    disk.fails = lambda group: SpoolError("the spool refused a transaction: MDB_BAD_VALSIZE")
    told: list[SpoolError | None] = []
    committer.commit_nowait(mark(b"done", must=True), told.append)
    with pytest.raises(SpoolError, match="MDB_BAD_VALSIZE"):
        await committer.run()
    assert told == []


async def test_mail_that_the_spool_refuses_is_told_so_and_others_go_on(disk: Disk) -> None:
    committer = committer_on(disk)
    error = SpoolError("the spool refused a transaction: MDB_BAD_VALSIZE")
    disk.fails = lambda group: error if any(c.writes[0][1] == b"bad" for c in group) else None
    told: list[SpoolError | None] = []
    async with trio.open_nursery() as nursery:
        committer.commit_nowait(mark(b"bad"), told.append)
        nursery.start_soon(committer.run)
        while not told:
            await trio.testing.wait_all_tasks_blocked(0.001)
        committer.commit_nowait(mark(b"good"), told.append)
        committer.close()
    assert told == [error, None]
    assert disk.store.counts()["meta"] == 1 + OWN_MARKS


async def test_nobody_waits_for_a_committer_that_was_cancelled(disk: Disk) -> None:
    committer = committer_on(disk)
    disk.gate.clear()
    failures: list[str] = []

    async def caller(name: bytes) -> None:
        try:
            await committer.commit(mark(name), 3600)
        except SpoolError as error:
            failures.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller, b"first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(committer.run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(caller, b"second")
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
        disk.gate.set()
    assert disk.groups == [1]
    assert failures == ["the spool is closed"]


async def test_a_commit_that_takes_too_long_is_in_doubt(disk: Disk, mock_clock: trio.testing.MockClock) -> None:
    committer = committer_on(disk)
    disk.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)

        async def wait() -> None:
            with pytest.raises(SpoolDoubtError, match="more than 10 s"):
                await committer.commit(mark(b"slow"), 10)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.01)

        async def queued_behind() -> None:
            with pytest.raises(SpoolError, match="no commit within 5 s"):
                await committer.commit(mark(b"never"), 5)

        nursery.start_soon(queued_behind)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(11)
        await trio.testing.wait_all_tasks_blocked(0.01)
        committer.close()
        disk.gate.set()
    assert disk.groups == [1]


async def test_a_cancelled_caller_leaves_its_commit_alone(disk: Disk) -> None:
    committer = committer_on(disk)
    disk.gate.clear()
    outcomes: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)

        async def caller(scope: trio.CancelScope) -> None:
            with scope:
                await committer.commit(mark(b"kept"), 10)
                outcomes.append("committed")

        scope = trio.CancelScope()
        nursery.start_soon(caller, scope)
        await trio.testing.wait_all_tasks_blocked(0.01)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert outcomes == []
        disk.gate.set()
        committer.close()
    assert outcomes == ["committed"]
    assert disk.store.counts()["meta"] == 1 + OWN_MARKS


async def committed(committer: Committer, changes: Changes, timeout_s: float, told: list[object]) -> None:
    """A strand, as sessions are."""
    try:
        await committer.commit(changes, timeout_s)
        told.append("committed")
    except SpoolError as error:
        told.append(str(error))


async def test_strands_that_commit_at_once_share_a_sync(disk: Disk) -> None:
    committer = committer_on(disk)
    told: list[object] = []
    async with trio.open_nursery() as nursery:
        disk.gate.clear()
        async with open_pump() as pump:
            pump.spawn(committed(committer, mark(b"0"), 10, told))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(committer.run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            for number in range(1, 51):
                pump.spawn(committed(committer, mark(b"%d" % number), 10, told))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert told == []
            disk.gate.set()
        committer.close()
    assert disk.groups == [1, 50]
    assert told == ["committed"] * 51


@pytest.mark.parametrize("how", ["interrupt", "cancel"])
async def test_a_strand_that_is_told_to_end_hears_first_what_became_of_its_commit(disk: Disk, how: str) -> None:
    committer = committer_on(disk)
    disk.gate.clear()
    told: list[object] = []

    async def strand() -> None:
        await committed(committer, mark(b"kept"), 10, told)
        try:
            await Wake().wait()
        except Interrupted:
            told.append("interrupted")

    async def sessions(scope: trio.CancelScope) -> None:
        with scope:
            async with open_pump() as pump:
                session = pump.spawn(strand())
                await trio.testing.wait_all_tasks_blocked(0.01)
                if how == "interrupt":
                    session.interrupt()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        scope = trio.CancelScope()
        nursery.start_soon(sessions, scope)
        await trio.testing.wait_all_tasks_blocked(0.02)
        if how == "cancel":
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert told == []
        disk.gate.set()
        committer.close()
    assert told == ["committed", "interrupted"]
    assert disk.store.counts()["meta"] == 1 + OWN_MARKS


async def test_a_commit_of_a_strand_that_takes_too_long_is_in_doubt(
    disk: Disk, pump: Pump, mock_clock: trio.testing.MockClock
) -> None:
    committer = committer_on(disk)
    disk.gate.clear()
    told: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        pump.spawn(committed(committer, mark(b"slow"), 10, told))
        await trio.testing.wait_all_tasks_blocked(0.01)
        pump.spawn(committed(committer, mark(b"never"), 5, told))
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(5.5)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert told == ["no commit within 5 s"]
        mock_clock.jump(5)
        await trio.testing.wait_all_tasks_blocked(0.01)
        committer.close()
        disk.gate.set()
    assert told == ["no commit within 5 s", "a commit has taken more than 10 s"]
    assert disk.groups == [1]


async def test_intake_stops_at_the_low_water_mark(disk: Disk, mock_clock: trio.testing.MockClock) -> None:
    room = disk.store.room_bytes()
    assert [committer_on(disk, low_water_bytes=mark).has_room() for mark in (room, room + 1)] == [True, False]


async def test_a_fast_client_does_not_use_up_the_room_between_two_looks(
    disk: Disk, mock_clock: trio.testing.MockClock
) -> None:
    committer = committer_on(disk, low_water_bytes=500)
    disk.room = 1000
    assert [committer.has_room() for _ in range(3)] == [True] * 3
    assert disk.looks == 1
    changes = Changes()
    changes.put(Table.META, b"mail", bytes(300))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        await committer.commit(changes, 10)
        committer.close()
    disk.room = 400
    assert [committer.has_room() for _ in range(3)] == [False] * 3
    mock_clock.jump(0.2)
    disk.room = 500
    assert committer.has_room()


async def test_after_a_full_disk_mail_is_refused_before_it_is_sent(
    disk: Disk, mock_clock: trio.testing.MockClock
) -> None:
    """Also where nothing but mail was refused: the figures of a disk can look better than they are (quotas)."""
    committer = committer_on(disk)
    disk.fails = lambda group: SpoolFullError("the disk quota of the spool is used up")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        assert committer.has_room()
        with pytest.raises(SpoolFullError, match="quota"):
            await committer.commit(mark(b"mail"), 10)
        assert not committer.has_room()
        mock_clock.jump(1.1)
        assert committer.has_room()
        assert not committer.stuck
        committer.close()


async def test_what_may_wait_rides_with_the_next_group_or_makes_one_soon(
    disk: Disk, mock_clock: trio.testing.MockClock
) -> None:
    committer = committer_on(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        for number in range(100):
            committer.commit_later(mark(b"later%d" % number))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert disk.groups == []
        mock_clock.jump(0.11)
        while not disk.groups:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert disk.groups == [100]
        committer.commit_later(mark(b"rides"))
        await committer.commit(mark(b"now"), 10)
        assert disk.groups == [100, 2]
        committer.commit_later(mark(b"last"))
        committer.close()
    assert disk.groups == [100, 2, 1]


async def test_log_tells_when_intake_stops_and_goes_on(
    disk: Disk, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="postroika.spool.committer")
    committer = committer_on(disk, low_water_bytes=2_000_000)
    rooms = []
    for jump_s, room in ((0, 2_000_000), (1, 1_500_000), (1, 1_000_000), (1, 3_000_000), (1, 0), (60, 3_000_000)):
        mock_clock.jump(jump_s)
        disk.room = room
        rooms.append(committer.has_room())
    assert rooms == [True, False, False, True, False, True]
    assert caplog.messages == [
        "1.5 MB of room are left, less than spool.low_water_bytes: mail gets 452 until there is more",
        "there is room again: mail is accepted",
    ]
