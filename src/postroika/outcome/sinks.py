"""The event log: a file of JSON lines that several workers append to.

Promise: a reader sees whole lines only, each of them once it is complete, whoever writes and whoever is killed while
writing; a rotation loses none; `sync` returns after the disk has what was written before.

How: a side file `<log>.lock` is held with flock for each append. Under it the writer makes sure that its descriptor is
still the file of that name (another worker or logrotate may have moved it), cuts off a line that a killed writer left
half (that one's cursor was not advanced, so it writes the line again), rotates if the file is large enough, and
appends. An append that fails half-way is taken back before the lock is let go.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from postroika.errors import SinkError

LOCK_TIMEOUT_S: Final = 5.0  # An append takes milliseconds; whoever holds the lock this long has been stopped.
_LOCK_POLL_S: Final = 0.002
_YIELD_S: Final = (
    2 * _LOCK_POLL_S
)  # Who has just had the lock waits this long, or the others would hardly ever meet it free.
_JUST_BEGUN_S: Final = 3.0  # All workers get a signal within this time, and logrotate sends it so soon after moving.
_TAIL_BYTES: Final = 64 * 1024
_FILE_MODE: Final = 0o640  # The log holds addresses.


class LogFile:
    """The file itself. Blocking: for worker threads, one call at a time.

    Args:
        path: of the log. Its directory is made if it is missing.
        rotate_bytes: an append that would make the file larger goes to a new one.
        keep: how many rotated files stay, as `<log>.1` (the latest) to `<log>.<keep>`.
    """

    def __init__(self, path: Path, *, rotate_bytes: int, keep: int) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._fd = -1
        self._lock_fd = -1
        self._unlocked_at = 0.0
        self._dirty = False
        self._left: list[int] = []
        self._directory_dirty = False

    def append(self, lines: bytes) -> None:
        """Add whole lines. They are visible at once, and on the disk after `sync`.

        Raises:
            OSError: nothing of `lines` is in the file (disk full, no permission, the lock held too long).
        """
        with self._locked():
            self._follow()
            size = self._cut_torn_tail()
            if size and size + len(lines) > self._rotate_bytes:
                self._rotate()
                size = 0
            try:
                written = 0
                while written < len(lines):
                    written += os.write(self._fd, lines[written:] if written else lines)
            except OSError:
                os.ftruncate(self._fd, size)
                raise
            self._dirty = True

    def sync(self) -> None:
        """Return once the disk has all that was appended here.

        Raises:
            OSError: it is unknown what of the appends since the last `sync` is there.
        """
        dirty, self._dirty = self._dirty, False
        directory_dirty, self._directory_dirty = self._directory_dirty, False
        try:
            for fd in self._left:
                os.fsync(fd)
            if dirty:
                os.fsync(self._fd)
            if directory_dirty:
                _sync_directory(self._path.parent)
        finally:
            for fd in self._left:
                os.close(fd)
            self._left.clear()

    def reopen(self) -> None:
        """Begin a new file now, unless there is nothing in the present one, or somebody has just done so: another
        worker that got the same signal, or whoever has moved the file away.

        Raises:
            OSError: as for `append`.
        """
        with self._locked():
            moved_away = self._fd >= 0 and not _is_at(self._fd, self._path)
            self._follow()
            just_begun = abs(time.time() - os.fstat(self._lock_fd).st_mtime) < _JUST_BEGUN_S
            if not moved_away and not just_begun and self._cut_torn_tail():
                self._rotate()
            self._note_new_file()

    def close(self) -> None:
        """Sync and close.

        Raises:
            OSError: as for `sync`; the file is closed all the same.
        """
        try:
            self.sync()
        finally:
            for fd in (self._fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock_fd = -1

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        now = time.monotonic()
        deadline = now + LOCK_TIMEOUT_S
        if now < self._unlocked_at + _YIELD_S:
            time.sleep(self._unlocked_at + _YIELD_S - now)
        while True:
            if self._lock_fd < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lock_fd = self._open_lock()
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        errno.ETIMEDOUT, "another process holds the lock", str(self._lock_path)
                    ) from None
                time.sleep(_LOCK_POLL_S)
                continue
            if _is_at(self._lock_fd, self._lock_path):
                break
            # Someone has removed the lock file: a lock on what no one else can find is none.
            os.close(self._lock_fd)
            self._lock_fd = -1
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
            self._unlocked_at = time.monotonic()

    def _open_lock(self) -> int:
        try:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        except FileExistsError:
            return os.open(self._lock_path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
        os.utime(fd, (0, 0))
        return fd

    def _note_new_file(self) -> None:
        """The time of the lock file tells everybody when the present log was begun."""
        os.utime(self._lock_fd)

    def _follow(self) -> None:
        """Have the descriptor of the file that bears the name now."""
        if self._fd >= 0:
            if _is_at(self._fd, self._path):
                return
            self._let_go()
            self._note_new_file()
        self._open()

    def _let_go(self) -> None:
        """Turn from a file that is not the log any more. `sync` still has to look after what we wrote there."""
        fd, self._fd = self._fd, -1
        if self._dirty:
            self._dirty = False
            self._left.append(fd)
        else:
            os.close(fd)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._fd = os.open(self._path, flags, _FILE_MODE)
        self._directory_dirty = True  # Whoever has made the file may have been killed before he synced its name.

    def _cut_torn_tail(self) -> int:
        """Remove an unfinished last line. Returns the size of the file."""
        size = os.fstat(self._fd).st_size
        if not size or os.pread(self._fd, 1, size - 1) == b"\n":
            return size
        end = size
        while end:
            start = max(0, end - _TAIL_BYTES)
            newline = os.pread(self._fd, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        os.ftruncate(self._fd, end)
        return end

    def _rotate(self) -> None:
        self._let_go()
        if not self._keep:
            self._path.unlink()
        else:
            names = [self._path]
            while names[-1].exists() and len(names) <= self._keep:
                names.append(self._path.with_name(f"{self._path.name}.{len(names)}"))
            # From the oldest: a crash in between leaves a gap, which the next rotation fills.
            for old, new in reversed(list(itertools.pairwise(names))):
                old.replace(new)
        self._open()
        self._note_new_file()


class EventLog:
    """The outbox consumer's sink that is a `LogFile`.

    Args: as for `LogFile`.
    """

    def __init__(self, path: Path, *, rotate_bytes: int, keep: int) -> None:
        self._file = LogFile(path, rotate_bytes=rotate_bytes, keep=keep)
        self._path = path
        self._one_call = trio.CapacityLimiter(1)

    def __str__(self) -> str:
        return f"event log {self._path}"

    async def write(self, lines: bytes) -> None:
        """Append whole lines.

        Raises:
            SinkError: nothing was appended.

        Cancellation: before it begins; what has begun is finished first.
        """
        try:
            await trio.to_thread.run_sync(self._file.append, lines, limiter=self._one_call)
        except OSError as error:
            raise SinkError(_plain(error)) from error

    async def sync(self) -> None:
        """Return once all that was written is on the disk.

        Raises:
            SinkError: some of it may be lost.

        Cancellation: as for `write`.
        """
        try:
            await trio.to_thread.run_sync(self._file.sync, limiter=self._one_call)
        except OSError as error:
            raise SinkError(_plain(error)) from error

    async def reopen(self) -> None:
        """After SIGHUP, in each worker: begin a new file, unless that has just been done.

        Raises:
            SinkError: it could not be done now.

        Cancellation: as for `write`.
        """
        try:
            await trio.to_thread.run_sync(self._file.reopen, limiter=self._one_call)
        except OSError as error:
            raise SinkError(_plain(error)) from error

    async def aclose(self) -> None:
        """Sync and close.

        Raises:
            SinkError: some of what was written may be lost; the file is closed.

        Cancellation: as for `write`.
        """
        try:
            await trio.to_thread.run_sync(self._file.close, limiter=self._one_call)
        except OSError as error:
            raise SinkError(_plain(error)) from error


class Discard:
    """The sink for those who want no log: takes everything, so that the outbox does not grow."""

    def __str__(self) -> str:
        return "no event log"

    async def write(self, lines: bytes) -> None:
        """Forget `lines`. Cancellation: at a checkpoint before it."""
        await trio.lowlevel.checkpoint()

    async def sync(self) -> None:
        """Nothing to do. Cancellation: at a checkpoint before it."""
        await trio.lowlevel.checkpoint()


def _plain(error: OSError) -> str:
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


def _is_at(fd: int, path: Path) -> bool:
    """Whether the open file `fd` is what `path` names."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), named)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
