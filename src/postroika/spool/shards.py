"""All shards of a spool, for those who only look: the supervisor beside its workers, the command line on its own.

Promise: nothing is written, no lock of the owner is touched, and each shard is opened once however often it is asked
for (LMDB refuses a second time in one process). Every method of `Shard` is one short transaction, as in `Reader`;
those that can be asked for a lot say what one call costs, and are to be called again from where they stopped.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from postroika.errors import SpoolError
from postroika.spool import files
from postroika.spool.reader import Reader
from postroika.spool.schema import (
    DestinationState,
    Table,
    decode_state,
    ready_prefix,
    split_ready_key,
    u64_from,
)

_CURSOR_PREFIX = b"cursor/"


class ReadyCount(NamedTuple):
    """How much is queued for a destination; `exact` is False if there is more than that."""

    destination: str
    batches: int
    exact: bool


class Shard(Reader):
    """A shard that somebody else writes, or nobody. Made by `open_read_only`; may be used by several threads."""

    def last_batch_message(self) -> int:
        """The message of the youngest open batch; 0 if there is none."""
        return self._last_number(Table.BATCH)

    def ready_counts(self, after: str, *, each: int, looks: int) -> tuple[list[ReadyCount], bool]:
        """How much is queued for the destinations after the name `after`, in order of name.

        Args:
            each: a destination is counted up to here.
            looks: begin no further destination after that many entries (a million takes about a second).

        Returns:
            The counts, and whether there are more destinations.
        """
        found: list[ReadyCount] = []
        seen = 0
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.READY]) as cursor:
            # \x01 is the first thing after "name\0…".
            ok = cursor.set_range(after.encode() + b"\x01") if after else cursor.first()
            while ok:
                if seen >= looks:
                    return found, True
                name = split_ready_key(cursor.key())[0]
                prefix = name.encode() + b"\0"
                count, exact = 0, True
                while ok and cursor.key().startswith(prefix):
                    if count >= each:
                        exact = False
                        ok = cursor.set_range(name.encode() + b"\x01")
                        break
                    count += 1
                    ok = cursor.next()
                seen += count
                found.append(ReadyCount(name, count, exact))
        return found, False

    def ready_batches(self, destination: str, after: bytes, limit: int) -> tuple[list[bytes], bytes]:
        """The batch keys of up to `limit` entries of a destination, in the order of its queue.

        Args:
            after: what the call before returned; b"" to begin.

        Returns:
            The keys, and where to go on; b"" at the end.
        """
        prefix = ready_prefix(destination)
        found: list[bytes] = []
        last = after
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.READY]) as cursor:
            ok = cursor.set_range(after + b"\0" if after else prefix)
            while ok and cursor.key().startswith(prefix):
                if len(found) >= limit:
                    return found, last
                last = cursor.key()
                found.append(split_ready_key(last)[3])
                ok = cursor.next()
        return found, b""

    def down_destinations(self, after: str, limit: int) -> list[tuple[str, DestinationState]]:
        """Up to `limit` destinations that are left alone, in order of name, after the name `after`."""
        found: list[tuple[str, DestinationState]] = []
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.DESTINATION]) as cursor:
            ok = cursor.set_range(after.encode() + b"\0") if after else cursor.first()
            while ok and len(found) < limit:
                found.append((cursor.key().decode(), decode_state(cursor.value())))
                ok = cursor.next()
        return found

    def doubts_from(self, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` (batch key, record) of batches in doubt, from key `start` on."""
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.DOUBT]) as cursor:
            if start and not cursor.set_range(start):
                return []
            return list(itertools.islice(cursor, limit))

    def in_doubt(self, key: bytes) -> bool:
        """Whether it is unknown if the batch with this key was delivered."""
        with self._env.begin() as txn:
            return txn.get(key, db=self._dbs[Table.DOUBT]) is not None

    def consumers(self) -> dict[str, int]:
        """The consumers of the outbox, and the last sequence that each has done."""
        found: dict[str, int] = {}
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.META]) as cursor:
            ok = cursor.set_range(_CURSOR_PREFIX)
            while ok and cursor.key().startswith(_CURSOR_PREFIX):
                found[cursor.key().removeprefix(_CURSOR_PREFIX).decode()] = u64_from(cursor.value())
                ok = cursor.next()
        return found

    def file_bytes(self) -> int:
        """How much disk the data file takes."""
        return (self.path / "data.mdb").stat().st_blocks * 512  # stat(2): in units of 512, whatever the block size


def open_read_only(spool: Path, shard: int, max_bytes: int) -> Shard:
    """Open a shard for reading, whether or not its owner runs.

    Args:
        spool: the folder of all shards.
        max_bytes: as the owner has it (`spool.max_bytes`); room is counted against it.

    Raises:
        SpoolFormatError: foreign or damaged files.
        SpoolError: it may not be read, or is open in this process already.
    """
    path = files.shard_path(spool, shard)
    return Shard(files.open_env(path, max_bytes, writable=False), path, shard)


class Shards:
    """The shards of one spool, opened when they are first asked for and kept open. May be used by several threads.

    Args:
        spool: the folder.
        max_bytes: see `open_read_only`.
    """

    def __init__(self, spool: Path, max_bytes: int) -> None:
        self.spool = spool
        self._max_bytes = max_bytes
        self._open: dict[int, Shard] = {}
        self._opening = threading.Lock()

    def __iter__(self) -> Iterator[Shard]:
        """All that are there now, in order of number.

        Raises:
            SpoolError: there is no spool, or it cannot be read.
        """
        try:
            os.scandir(self.spool).close()  # glob, below, takes what it may not read for empty
        except OSError as error:
            raise SpoolError(f"no spool at {self.spool}: {error.strerror}") from error
        return iter([self._shard(number) for number in files.existing_shards(self.spool)])

    def shard(self, number: int) -> Shard | None:
        """One of them, if it is there.

        Raises:
            SpoolError: as for the iteration.
        """
        return next((shard for shard in self if shard.shard == number), None)

    def _shard(self, number: int) -> Shard:
        with self._opening:
            if number not in self._open:
                self._open[number] = open_read_only(self.spool, number, self._max_bytes)
            return self._open[number]

    def close(self) -> None:
        """Close all. Nothing may be under way in another thread."""
        with self._opening:
            for shard in self._open.values():
                shard.close()
            self._open.clear()
