"""Large bodies on their way into the spool: what is spilled when, and what is left of what never came to its end."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.errors import SpoolError, SpoolFullError
from postroika.mail.envelope import Recipient
from postroika.mail.ids import IdSource
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.reader import Loaded
from postroika.spool.schema import CHUNK_BYTES
from postroika.spool.store import Store
from postroika.spool.writer import Intake, MessageWriter

PIECE = 50_000
NARROW = 4 * CHUNK_BYTES
WIDE = 12 * CHUNK_BYTES
BODY = b"".join(b"%07d\n" % number for number in range(500_000))


class Shard:
    """A shard with its intake. Commits wait for `gate`, and fail with `error`."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create_or_open(path, 0, max_bytes=1 << 28)
        self.gate = threading.Event()
        self.gate.set()
        self.error: SpoolError | None = None
        self.groups: list[int] = []  # octets
        self.committed: list[Loaded] = []
        self.committer = Committer(self, IdSource(0), low_water_bytes=1)
        self.intake = Intake(
            self.store,
            self.committer,
            IdSource(0),
            max_recipients_per_batch=10,
            commit_timeout_s=20,
            fresh=self.committed.extend,
        )

    def apply(self, group: list[Changes], last_id: int, written: Callable[[], None]) -> None:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.groups.append(sum(changes.bytes for changes in group))
        self.store.apply(group, last_id, written)

    def stored(self, message: int) -> bytes:
        """The body of a message that was committed."""
        (batch,) = self.store.batches_of(message)
        assert batch.batch.envelope.size_bytes == sum(
            len(self.store.read_body(message, chunk)) for chunk in range(batch.batch.envelope.chunks)
        )
        return b"".join(self.store.read_body(message, chunk) for chunk in range(batch.batch.envelope.chunks))

    def left(self) -> dict[str, int]:
        """What a message that never was must not leave."""
        counts = self.store.counts()
        return {name: counts[name] for name in ("body", "partial", "batch")}


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Shard]:
    shard = Shard(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shard.committer.run)
        try:
            yield shard
        finally:
            shard.gate.set()
            shard.committer.close()
    shard.store.close()


async def fill(writer: MessageWriter, body: bytes, piece: int = PIECE) -> None:
    for start in range(0, len(body), piece):
        wait = writer.write(body[start : start + piece])
        if wait is not None:
            await wait


async def finish(writer: MessageWriter) -> None:
    await writer.finish(
        reverse_path="", recipients=[Recipient("a@one.test")], received=lambda envelope, recipient, destination: b"{}"
    )


@pytest.mark.parametrize(
    "piece", [999, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 65_536, 4 * CHUNK_BYTES, 300_001]
)
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES + 1, NARROW, NARROW + 1, WIDE, WIDE + 1, 3_333_333])
async def test_a_body_comes_back_as_it_was_however_it_is_cut(tmp_path: Path, size: int, piece: int) -> None:
    async with opened(tmp_path) as shard:
        writer = shard.intake.begin()
        await fill(writer, BODY[:size], piece)
        await finish(writer)
        assert shard.stored(writer.message) == BODY[:size]
        assert shard.left()["body"] <= 2 * size // CHUNK_BYTES + 2
        assert [loaded.batch.envelope.message for loaded in shard.committed] == [writer.message]


async def test_the_next_spill_is_received_while_the_last_one_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as shard:
        shard.gate.clear()
        writer = shard.intake.begin()
        with trio.fail_after(10):
            await fill(writer, BODY[: 2 * WIDE])
        waits = writer.write(BODY[2 * WIDE : 3 * WIDE])
        assert waits is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait, waits)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert shard.groups == []
            shard.gate.set()
        await finish(writer)
        assert shard.stored(writer.message) == BODY[: 3 * WIDE]


async def _wait(what: object) -> None:
    await what  # type: ignore[misc]


async def test_more_than_a_few_large_messages_at_once_have_small_spills(tmp_path: Path) -> None:
    async with opened(tmp_path) as shard:
        writers = [shard.intake.begin() for _ in range(10)]
        for writer in writers:
            await fill(writer, BODY[: 2 * NARROW])
        assert shard.left()["partial"] == 2
        writers[0].abandon()
        await finish(writers[1])
        later = [shard.intake.begin() for _ in range(3)]
        for writer in later:
            await fill(writer, BODY[: 2 * NARROW])
        assert shard.left()["partial"] == 3
        for writer in writers[2:] + later:
            await finish(writer)
            assert shard.stored(writer.message) == BODY[: 2 * NARROW]


@pytest.mark.parametrize("written", ["waits", "is being written", "is written"])
@pytest.mark.parametrize("spills", [1, 2])
async def test_a_message_that_is_dropped_takes_its_last_spill_along(tmp_path: Path, written: str, spills: int) -> None:
    async with opened(tmp_path) as shard:
        shard.gate.clear()
        if written == "waits":
            shard.committer.commit_later(Changes())  # is written first
            await trio.sleep(0.11)
            await trio.testing.wait_all_tasks_blocked(0.01)
        writer = shard.intake.begin()
        if spills == 2:
            shard.gate.set()
            await fill(writer, BODY[: WIDE + PIECE])
            await trio.testing.wait_all_tasks_blocked(0.05)
            shard.gate.clear()
            if written == "waits":
                shard.committer.commit_nowait(Changes(), lambda error: None)
                await trio.testing.wait_all_tasks_blocked(0.01)
        await fill(writer, BODY[: WIDE + PIECE])
        if written != "waits":
            await trio.testing.wait_all_tasks_blocked(0.01)
        if written == "is written":
            shard.gate.set()
            await trio.testing.wait_all_tasks_blocked(0.05)
        writer.abandon()
        writer.abandon()
        shard.gate.set()
        await shard.intake.commit(Changes())
        await shard.intake.commit(Changes())
        assert shard.left() == {"body": 0, "partial": 0, "batch": 0}


async def test_a_spill_that_has_not_begun_is_written_with_the_envelope(tmp_path: Path) -> None:
    async with opened(tmp_path) as shard:
        shard.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait, shard.intake.commit(Changes()))
            await trio.testing.wait_all_tasks_blocked(0.01)
            writer = shard.intake.begin()
            await fill(writer, BODY[: WIDE + PIECE])
            nursery.start_soon(finish, writer)
            await trio.testing.wait_all_tasks_blocked(0.01)
            shard.gate.set()
        assert shard.stored(writer.message) == BODY[: WIDE + PIECE]
        assert len(shard.groups) == 2
        assert shard.left()["partial"] == 0


@pytest.mark.parametrize("size", [2 * NARROW, WIDE + 2 * PIECE, 2 * WIDE + 2 * PIECE])
async def test_a_spill_that_fails_fails_the_message(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as shard:
        shard.error = SpoolFullError("the disk of the spool is full")
        writer = shard.intake.begin()
        with pytest.raises(SpoolFullError):
            await fill(writer, BODY[:size])
            await trio.testing.wait_all_tasks_blocked(0.01)
            shard.error = shard.error if size == 2 * NARROW else None
            await finish(writer)
        writer.abandon()
        shard.error = None
        await shard.intake.commit(Changes())
        assert shard.left() == {"body": 0, "partial": 0, "batch": 0}
        assert shard.committed == []
