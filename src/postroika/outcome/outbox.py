"""Taking events out of the outbox, the ordered log in the spool, to whoever wants them.

Promise: each consumer gets every event, in order, at least once; after a crash it may get some again, with the same
ids. A consumer that is slow or broken delays neither mail nor other consumers: its events stay in the spool, and are
removed once all consumers have them.

How: a consumer reads on from its position, and has a durable cursor that follows about once a second: the sink is
asked to sync, then the cursor is committed, along with the removal of what everybody has passed. So an event costs
neither a sync nor a commit of its own, and when nothing happens, nothing is written.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import trio

from postroika.errors import SinkError, SpoolError
from postroika.metrics import OUTBOX_BYTES, OUTBOX_FAILURES, OUTBOX_LAG
from postroika.spool.changes import Changes

log = logging.getLogger(__name__)

READ_BYTES: Final = 256 * 1024  # A read is not in a thread; this much is copied in a tenth of a millisecond.
GATHER_S: Final = 0.05  # Between two writes: under load they become few and large.
SAVE_EVERY_S: Final = 1.0  # How much may come again after a crash.
CLOSE_GRACE_S: Final = 5.0
FIRST_RETRY_S: Final = 0.25
LAST_RETRY_S: Final = 30.0
_MAX_DROPS: Final = 10_000  # In one commit, so that catching up does not hold up the mail.


class Source(Protocol):
    """What the store of the spool offers. Sequences are given without gaps."""

    def outbox_read(self, after: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Records later than `after`: at least one if there is any, and about as many as fit."""

    def cursor(self, name: str) -> int:
        """The last sequence that consumer `name` has done; 0 if none."""


class Commits(Protocol):
    """What the committer offers."""

    def commit_nowait(self, changes: Changes, done: Callable[[SpoolError | None], None], /) -> None:
        """Queue `changes`; `done` is called after the sync."""


class Sink(Protocol):
    """Takes event lines. `str()` of it names it in the operations log."""

    async def write(self, lines: bytes) -> None:
        """Take whole lines, each with its line feed. Raises SinkError: none were taken."""

    async def sync(self) -> None:
        """Return once all that was written is safe. Raises SinkError: some since the last sync may be lost."""


class Consumer:
    """One reader of the outbox, with a sink.

    Args:
        name: of its cursor in the spool: a new name begins with the oldest event there is.
        sink: where the lines go.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self.sink = sink
        self.position = 0
        self.synced = 0
        self._wanted = trio.Event()
        self._closed = trio.Event()
        self._broken = False
        self._behind_since = math.inf
        self._sync_due = math.inf
        self._stop_at = math.inf
        self._retry_s = FIRST_RETRY_S

    @property
    def lag_s(self) -> float:
        """For how long there has been something to take."""
        return max(0.0, trio.current_time() - self._behind_since)

    def wake(self) -> None:
        """There may be something new."""
        self._wanted.set()

    def close(self, grace_s: float) -> None:
        """Let `run` return once it has taken what there is: without another try at a sink that refuses, and leaving
        what `grace_s` does not suffice for."""
        self._stop_at = trio.current_time() + grace_s
        self._closed.set()
        self._wanted.set()

    async def run(self, source: Source, saved: Callable[[], None]) -> None:
        """Take events until closed.

        Args:
            saved: called when `synced` has advanced.

        Cancellation: at any time; what was not synced comes again.
        """
        self.position = self.synced = source.cursor(self.name)
        while True:
            self._wanted = trio.Event()
            records = source.outbox_read(self.position, READ_BYTES)
            self._note_lag(bool(records))
            late = trio.current_time() >= self._stop_at
            ending = late or (self._closed.is_set() and not records)
            try:
                if records and not late:
                    await self._write(records)
                if self.position > self.synced and (ending or trio.current_time() >= self._sync_due):
                    await self._sync()
                    saved()
            except SinkError as error:
                self._refused(error)
                if self._closed.is_set():
                    return
                await self._pause(self._retry_s)
                self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
                continue
            if self._broken:
                self._works_again()
            if ending:
                return
            if sum(len(lines) for _, lines in records) >= READ_BYTES:
                continue  # Behind: no time to gather.
            if records:
                await self._pause(GATHER_S)
            else:
                await self._wait_for_more()

    async def _write(self, records: Sequence[tuple[int, bytes]]) -> None:
        lines = b"".join(lines for _, lines in records)
        await self.sink.write(lines)
        OUTBOX_BYTES.value += len(lines)
        self.position = records[-1][0]
        self._sync_due = min(self._sync_due, trio.current_time() + SAVE_EVERY_S)

    async def _sync(self) -> None:
        self._sync_due = math.inf
        reached = self.position
        try:
            await self.sink.sync()
        except SinkError:
            self.position = self.synced  # All that may be lost is written again.
            raise
        self.synced = reached

    def _note_lag(self, behind: bool) -> None:
        if not behind:
            self._behind_since = math.inf
        elif self._behind_since == math.inf:
            self._behind_since = trio.current_time()

    async def _wait_for_more(self) -> None:
        with trio.CancelScope(deadline=self._sync_due):
            await self._wanted.wait()

    async def _pause(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._closed.wait()

    def _refused(self, error: SinkError) -> None:
        OUTBOX_FAILURES.value += 1
        if not self._broken:
            self._broken = True
            log.error("%s: %s; events stay in the spool and are tried again", self.sink, error)

    def _works_again(self) -> None:
        self._broken = False
        self._retry_s = FIRST_RETRY_S
        log.warning("%s: works again", self.sink)


class Outbox:
    """All consumers of one shard, their durable cursors, and the removal of what all of them have.

    Args:
        source, commits: of the shard.
        consumers: at least one (`sinks.Discard` if nobody wants events), with different names.
    """

    def __init__(self, source: Source, commits: Commits, consumers: Sequence[Consumer]) -> None:
        if not consumers or len({consumer.name for consumer in consumers}) < len(consumers):
            raise ValueError("an outbox needs consumers with different names")
        self._source = source
        self._commits = commits
        self._consumers = consumers
        self._saved: dict[str, int] = {}
        self._saving = False
        self._idle = trio.Event()

    def wake(self) -> None:
        """Something was committed. For `Committer.after_commit`."""
        for consumer in self._consumers:
            consumer.wake()

    def lag_s(self) -> float:
        """For how long the slowest consumer has had something to take."""
        return max(consumer.lag_s for consumer in self._consumers)

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Let `run` return once every consumer has what there is now, or its sink refuses or takes longer than
        `grace_s`, and cursors are saved. The committer has to be running until then."""
        for consumer in self._consumers:
            consumer.close(grace_s)

    async def run(self) -> None:
        """Feed the consumers until closed.

        Cancellation: at any time; what was not saved comes again after the next start.
        """
        self._saved = {consumer.name: self._source.cursor(consumer.name) for consumer in self._consumers}
        OUTBOX_LAG.read = self.lag_s
        try:
            async with trio.open_nursery() as nursery:
                for consumer in self._consumers:
                    nursery.start_soon(consumer.run, self._source, self._save)
            while self._saving:
                self._idle = trio.Event()
                await self._idle.wait()
        finally:
            OUTBOX_LAG.read = None

    def _save(self) -> None:
        """Commit the cursors that have moved, unless a commit is under way: then after it."""
        if self._saving:
            return
        changes = Changes(must=True)
        moved = {c.name: c.synced for c in self._consumers if c.synced > self._saved[c.name]}
        for name, sequence in moved.items():
            changes.consumed(name, sequence)
        passed = min(moved.get(c.name, self._saved[c.name]) for c in self._consumers)
        oldest = self._source.outbox_read(0, 1)
        done_with = range(oldest[0][0], min(passed + 1, oldest[0][0] + _MAX_DROPS)) if oldest else range(0)
        changes.drop_outbox(list(done_with))
        if not moved and not done_with:
            self._idle.set()
            return

        def done(error: SpoolError | None) -> None:
            self._saving = False
            if error is None:
                self._saved.update(moved)
                self._save()
            else:
                log.error("the cursors of the outbox could not be saved: %s", error)
                self._idle.set()

        self._saving = True
        self._commits.commit_nowait(changes, done)
