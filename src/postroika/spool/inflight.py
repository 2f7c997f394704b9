"""Which batches are at a next hop right now, and of which the final dot was sent: a small mapped file.

Promise: the table outlives a crash of the process (not of the machine: it is not synced, for it would cost a sync per
message). A batch that it holds in the state "dot sent" at the next start was perhaps delivered, and perhaps will be
again: those are the recipients in doubt, and no others can be doubled.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
from pathlib import Path

log = logging.getLogger(__name__)

_MAGIC = b"PSTRinflight\0\0\0\1"
_SLOT_BYTES = 16  # batch key 12, state 1, unused 3
_FREE, _BEGUN, _DOT_SENT = 0, 1, 2
_BEGUN_OCTET = bytes([_BEGUN])


class InFlight:
    """The table of one shard.

    Args:
        path: the file. An older one is read first (`recovered`) and then emptied.
        slots: how many batches may be under way; more are let through untracked, and counted in `untracked`.
    """

    def __init__(self, path: Path, slots: int) -> None:
        self.recovered = _dot_sent_in(path)
        self.untracked = 0
        size = len(_MAGIC) + slots * _SLOT_BYTES
        fresh = path.with_name(path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)  # a hole filled in later could fail with SIGBUS on a full disk
            self._map = mmap.mmap(fd, size)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            log.error("%s: %s; what is under way at a crash will not be known", path, error.strerror)
            self._map = mmap.mmap(-1, size)
        finally:
            os.close(fd)
        self._map[: len(_MAGIC)] = _MAGIC
        self._fresh, self._path = fresh, path
        self._free = list(range(len(_MAGIC), size, _SLOT_BYTES))
        self._slots: dict[bytes, int] = {}

    def take_over(self) -> None:
        """Replace the older file: to be called once `recovered` is safe in the spool."""
        self._fresh.rename(self._path)

    def begin(self, key: bytes) -> None:
        """An attempt at this batch begins."""
        if key in self._slots:
            return  # a further transaction of the same attempt: a dot that was sent stays sent
        if not self._free:
            self.untracked += 1
            return
        slot = self._free.pop()
        self._slots[key] = slot
        self._map[slot : slot + 13] = key + _BEGUN_OCTET

    def dot_sent(self, key: bytes) -> None:
        """The final dot of this batch is about to be handed to the kernel."""
        slot = self._slots.get(key)
        if slot is not None:
            self._map[slot + 12] = _DOT_SENT

    def end(self, key: bytes) -> None:
        """The outcome is committed, or nothing was sent."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._map[slot + 12] = _FREE
            self._free.append(slot)

    def close(self) -> None:
        """Unmap. What is still held stays in the file."""
        self._map.close()


def _dot_sent_in(path: Path) -> list[bytes]:
    """Keys of the batches whose dot had been sent when the process ended."""
    try:
        table = path.read_bytes()
    except FileNotFoundError:
        return []
    if not table.startswith(_MAGIC):
        return []  # cut off while it was made: nothing had been sent yet
    return [
        table[slot : slot + 12]
        for slot in range(len(_MAGIC), len(table) - _SLOT_BYTES + 1, _SLOT_BYTES)
        if table[slot + 12] == _DOT_SENT
    ]
