"""Group commit: all that waits goes into one transaction and one sync; then everyone who waited is told.

Promise: what was handed over is told of only after the sync. No clock delays it: the next group is what came
while the last one synced. A full disk fails those who can be refused (SpoolFullError) and keeps those who cannot
(`Changes.must`), trying again until there is room. A failed sync is never retried: `run` raises SpoolIOError, and the
process ends.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import trio

from postroika.errors import SpoolDoubtError, SpoolError, SpoolFullError, SpoolIOError
from postroika.mail.ids import IdSource
from postroika.metrics import COMMIT_CHANGES, COMMIT_SECONDS, COMMITS, SPOOL_REFUSALS
from postroika.pump import Wake, now
from postroika.spool.changes import Changes
from postroika.spool.commit_thread import CommitThread

log = logging.getLogger(__name__)

Done = Callable[[SpoolError | None], None]


class Shard(Protocol):
    """What the committer needs of a `Store`; see there."""

    def apply(self, group: list[Changes], last_id: int, written: Callable[[], None]) -> None: ...

    def room_bytes(self) -> int: ...


_GROUP_BYTES = 32 * 1024 * 1024  # far below LMDB's limit of 512 MiB of dirty pages in one transaction
_LATER_S = 0.1
_LATER_MOST = 5_000
_FULL_RETRY_S = 0.25
# How often everything else has a turn before a group is taken: what has come already is in it then. It takes no time
# where there is nothing to do, and where there is, a commit for each half of it costs more.
_GATHER_TURNS = 2
_ROOM_CHECK_S = 0.1
_ROOM_TOLD_S = 30.0


class Committer:
    """The one writer of a shard.

    Args:
        store: the shard.
        ids: the source of all ids of this shard; how far it has come is kept with each commit.
        low_water_bytes: below this much room, `has_room` is False.

    `stuck` is True while outcomes wait in memory for room on the disk: nothing more should be delivered then.
    """

    def __init__(self, store: Shard, ids: IdSource, *, low_water_bytes: int) -> None:
        self._store = store
        self._ids = ids
        self._low_water_bytes = low_water_bytes
        self._queue: deque[tuple[Changes, Done]] = deque()
        self._later: list[Changes] = []
        self._wanted = trio.Event()
        self._closing = False
        self.closed = trio.Event()
        self._writing = False
        self._ended = False
        self.stuck = False
        self._writing_thread = CommitThread()
        self._room_checked_at = -1.0
        self._room_bytes = 0
        self._told_low = False
        self._told_at = -math.inf
        self._full_until = 0.0
        self.after_commit: list[Callable[[], None]] = []

    def has_room(self) -> bool:
        """Whether intake may go on: more than the low-water mark is free."""
        at = now()
        # Between two looks what was committed counts double (pages of the trees come on top), so that a fast client
        # cannot fill the disk before the next look.
        if at - self._room_checked_at >= _ROOM_CHECK_S or self._room_bytes < self._low_water_bytes:
            self._room_checked_at = at
            self._room_bytes = self._store.room_bytes()
            self._tell_of_room(at)
        return self._room_bytes >= self._low_water_bytes and at >= self._full_until

    def _tell_of_room(self, at: float) -> None:
        """Log when intake stops and goes on, but not every moment of it where room comes and goes."""
        low = self._room_bytes < self._low_water_bytes
        if low == self._told_low or at < self._told_at + _ROOM_TOLD_S:
            return
        self._told_low, self._told_at = low, at
        if low:
            log.warning(
                "%.1f MB of room are left, less than spool.low_water_bytes: mail gets 452 until there is more",
                self._room_bytes / 1e6,
            )
        else:
            log.warning("there is room again: mail is accepted")

    @property
    def idle(self) -> bool:
        """Nobody waits for anything."""
        return not self._queue and not self._writing

    def commit_nowait(self, changes: Changes, done: Done) -> None:
        """Queue `changes`; `done(None)` is called from the committer's task after the sync, `done(error)` if they
        were not kept. `done` must not raise and must not wait."""
        if self._ended:
            if not changes.must:
                done(SpoolError("the spool is closed"))
            return
        self._queue.append((changes, done))
        self._wanted.set()

    def commit_later(self, changes: Changes) -> None:
        """Let `changes` ride with the next group, or make one within `_LATER_S`: for what nobody waits for and what
        may be lost in a crash, so that a flood of it does not keep the disk syncing."""
        if len(self._later) >= _LATER_MOST and not changes.must:
            SPOOL_REFUSALS.value += 1
            return
        self._later.append(changes)
        if len(self._later) == 1:
            self._wanted.set()

    def hand_over(self, changes: Changes) -> HandOver:
        """Queue `changes`, and go on with something else until they are written.

        Raises:
            SpoolError: the spool is closed.
        """
        if self._ended:
            raise SpoolError("the spool is closed")
        done = Wake()
        entry = (changes, done.set)
        self._queue.append(entry)
        self._wanted.set()
        return HandOver(self._queue, entry, done)

    def commit(self, changes: Changes, timeout_s: float) -> Awaitable[None]:
        """Write `changes` and wait for the sync: `hand_over`, and what `HandOver.wait` says."""
        return self.hand_over(changes).wait(timeout_s)

    def close(self) -> None:
        """Let `run` return, and set `closed`, once everything queued is written. What is queued later is written
        too, if it comes before that."""
        self._closing = True
        self._wanted.set()

    async def run(self) -> None:
        """Commit groups until closed.

        Raises:
            SpoolIOError: the disk failed; nothing more may be promised.

        Cancellation: between two groups; a group under way is finished first.
        """
        try:
            await self._run()
        finally:
            self._give_up()

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing and not self._later:
                    self.closed.set()
                    return
                if not self._closing:
                    self._wanted = trio.Event()
                    with trio.move_on_after(_LATER_S if self._later else math.inf) as waiting:
                        await self._wanted.wait()
                    if not self._queue and not waiting.cancelled_caught:
                        continue
            for _ in range(_GATHER_TURNS):
                await trio.lowlevel.checkpoint()
            group = self._take_group()
            self._writing = True
            error = await self._apply(group)
            self._writing = False
            if isinstance(error, SpoolFullError):
                await self._without_room(group, error)
            else:
                self._tell(group, error)

    def _give_up(self) -> None:
        """Nothing more will be written: whoever waits must not wait for ever. Done-marks that were not written stay
        undone; after the next start those batches are tried again."""
        self._ended = True
        self._writing_thread.close()
        error = SpoolError("the spool is closed")
        while self._queue:
            changes, done = self._queue.popleft()
            if not changes.must:
                done(error)

    def _take_group(self) -> list[tuple[Changes, Done]]:
        group: list[tuple[Changes, Done]] = [(changes, _nobody) for changes in self._later]
        size = sum(changes.bytes for changes in self._later)
        self._later = []
        while self._queue and size < _GROUP_BYTES:
            entry = self._queue.popleft()
            size += entry[0].bytes
            group.append(entry)
        return group

    async def _apply(self, group: list[tuple[Changes, Done]]) -> SpoolError | None:
        batch = [changes for changes, _ in group]
        started_at = trio.current_time()
        try:
            await self._writing_thread.call(partial(self._store.apply, batch, self._ids.last))
        except trio.Cancelled:
            self._queue.extendleft(reversed(group))  # it had not begun
            raise
        except SpoolIOError as broken:
            for changes, done in group:
                if not changes.must:
                    done(broken)
            raise
        except SpoolError as error:
            if not isinstance(error, SpoolFullError) and any(changes.must for changes in batch):
                raise  # a done-mark that can never be written would be a duplicate delivery after the next start
            if not isinstance(error, SpoolFullError):
                log.error("%s; %d changes were refused", error, len(group))
            return error
        self._room_bytes -= 2 * sum(changes.bytes for changes in batch)
        COMMITS.value += 1
        COMMIT_CHANGES.value += len(group)
        COMMIT_SECONDS.value += trio.current_time() - started_at
        return None

    async def _without_room(self, group: list[tuple[Changes, Done]], error: SpoolFullError) -> None:
        """Refuse those who can be refused, then try the others until there is room."""
        refused = [entry for entry in group if not entry[0].must]
        kept = [entry for entry in group if entry[0].must]
        self._full_until = trio.current_time() + 1.0
        SPOOL_REFUSALS.value += len(refused)
        self._tell(refused, error)
        logged = False
        self.stuck = bool(kept)
        while kept:
            failure = await self._apply(kept)
            if failure is None:
                self.stuck = False
                self._tell(kept, None)
                return
            if not logged:
                log.error("%s: %d outcomes wait in memory until there is room", failure, len(kept))
                logged = True
            self._full_until = trio.current_time() + 1.0
            while self._queue and not self._queue[0][0].must:
                _, done = self._queue.popleft()
                SPOOL_REFUSALS.value += 1
                done(SpoolFullError(str(failure)))
            await trio.sleep(_FULL_RETRY_S)

    def _tell(self, group: list[tuple[Changes, Done]], error: SpoolError | None) -> None:
        for _, done in group:
            done(error)
        if error is None:
            for hook in self.after_commit:
                hook()


class HandOver:
    """Changes that the committer has, and that one strand or task waits for. Made by `Committer.hand_over`."""

    __slots__ = ("_done", "_entry", "_queue")

    def __init__(self, queue: deque[tuple[Changes, Done]], entry: tuple[Changes, Done], done: Wake) -> None:
        self._queue = queue
        self._entry = entry
        self._done = done

    async def wait(self, timeout_s: float) -> None:
        """Until the sync.

        Raises:
            SpoolFullError: no room; nothing was kept.
            SpoolDoubtError: still under way after `timeout_s`.
            SpoolError: anything else; nothing was kept.

        Cancellation: none (shielded), but for at most `timeout_s`.
        """
        done = self._done
        if not await done.wait_within(timeout_s, shield=True):
            if not self.take_back():
                raise SpoolDoubtError(f"a commit has taken more than {timeout_s:g} s")
            raise SpoolError(f"no commit within {timeout_s:g} s")
        if done.value is not None:
            raise done.value

    def take_back(self) -> bool:
        """The changes are not written if that has not begun; whether this is so."""
        try:
            self._queue.remove(self._entry)
        except ValueError:
            return False
        return True


def _nobody(error: SpoolError | None) -> None:
    """Nobody waits for what was given to `commit_later`."""
