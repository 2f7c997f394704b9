"""Reads the events log file while workers write and rotate it: its end, and what follows.

Promise: whole lines only, each once and in order, across any number of rotations, as long as the rotated files are
still there (`<log>.1` is the latest, `log.keep` of them). Blocking, for the command line; `read` never waits.

How: the open file is the place where we are. What is newer or older is found by looking for that file (device and
inode) among the names; a rotation that goes on meanwhile is noticed because the file is not where it was found before,
and the look is repeated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_READ_BYTES = 256 * 1024
_LOOKS = 50
_LOOK_AGAIN_S = 0.01  # a rotation is a few renames


class EventLog:
    """A place in the log; a context manager. It begins at the end of what is there.

    Args:
        path: of the log; it need not be there yet.
        keep: how many rotated files may be there.

    Every method raises OSError where the log cannot be read.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self._names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, keep + 1))]
        self._position = 0
        self._fd = _open(path)
        if self._fd >= 0:
            self._position = _end_of_lines(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_there(self) -> bool:
        """Whether there was a file to begin with, or has been since."""
        return self._fd >= 0

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> list[bytes]:
        """The next lines, without line feeds; none if there are none yet."""
        if self._fd < 0:
            self._fd = _open(self._names[0])
            if self._fd < 0:
                return []
        if lines := self._read_lines():
            return lines
        newer = self._neighbour(-1)
        if newer is None:
            return []
        # What was written between our last look at the file and its renaming; after that nobody writes to it.
        if lines := self._read_lines():
            os.close(newer)
            return lines
        os.close(self._fd)
        self._fd, self._position = newer, 0
        return self._read_lines()

    def backwards(self) -> Iterator[bytes]:
        """The lines before this place, latest first, through all rotated files."""
        if self._fd < 0:
            return
        current, position = os.dup(self._fd), self._position
        try:
            while True:
                yield from _lines_backwards(current, position)
                older = self._neighbour(1, current)
                if older is None:
                    return
                os.close(current)
                current = older
                position = _end_of_lines(current)
        finally:
            os.close(current)

    def _read_lines(self) -> list[bytes]:
        size = _READ_BYTES
        if os.fstat(self._fd).st_size < self._position:
            self._position = 0  # someone has emptied it
        while True:
            chunk = os.pread(self._fd, size, self._position)
            end = chunk.rfind(b"\n")
            if end >= 0:
                self._position += end + 1
                return chunk[:end].split(b"\n")
            if len(chunk) < size:
                return []
            size *= 2

    def _neighbour(self, step: int, fd: int | None = None) -> int | None:
        """Open the file one older (1) or newer (-1) than the open file `fd` (default: ours). None: there is none."""
        here = self._fd if fd is None else fd
        for _ in range(_LOOKS):
            place = self._place_of(here)
            wanted = place + step
            if wanted < 0 or wanted >= len(self._names):
                return None
            neighbour = _open(self._names[wanted])
            if self._place_of(here) == place:
                if neighbour >= 0:
                    return neighbour
                if step > 0 or wanted == 0:
                    return None  # there is no older one; or the new one is not made yet
            elif neighbour >= 0:
                os.close(neighbour)
            time.sleep(_LOOK_AGAIN_S)
        return None

    def _place_of(self, fd: int) -> int:
        """The index in `_names` of an open file. One that was deleted stands after the oldest that is there; one that
        was moved away under a name of somebody else's just before the log."""
        here = os.fstat(fd)
        oldest = -1
        for place, name in enumerate(self._names):
            try:
                named = name.stat()
            except FileNotFoundError:
                continue
            if os.path.samestat(named, here):
                return place
            oldest = place
        return oldest + 1 if os.fstat(fd).st_nlink == 0 else 1


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _end_of_lines(fd: int) -> int:
    """Where the last whole line ends."""
    position = os.fstat(fd).st_size
    while position > 0:
        start = max(0, position - _READ_BYTES)
        newline = os.pread(fd, position - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _lines_backwards(fd: int, end: int) -> Iterator[bytes]:
    """The lines that end before `end`, which is where a line ends, latest first."""
    if not end:
        return
    end -= 1  # the last line feed
    first = b""  # of the part read so far: the line that it begins in the middle of
    while end > 0:
        start = max(0, end - _READ_BYTES)
        first, *lines = (os.pread(fd, end - start, start) + first).split(b"\n")
        yield from reversed(lines)
        end = start
    yield first
