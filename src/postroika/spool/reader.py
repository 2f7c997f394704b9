"""What a shard holds, read in short transactions.

Promise: every method sees the last commit and ends its read transaction before it returns: a reader that stays open
keeps LMDB from reusing pages, and the file grows. All methods are plain functions over memory-mapped pages, cheap
enough to be called from the event loop, except where a docstring says otherwise.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from postroika.errors import SpoolFormatError
from postroika.mail.envelope import Batch
from postroika.spool import pages
from postroika.spool.schema import (
    ClassRecord,
    DestinationState,
    Table,
    batch_key,
    check_format,
    decode_batch,
    decode_class,
    decode_state,
    ready_prefix,
    split_ready_key,
    split_wake_key,
    u64_from,
    u64_key,
)

if TYPE_CHECKING:
    import lmdb

MAPPED_BYTES = 4 * 1024 * 1024  # of the map in our resident memory: more than that is given back …
# … and looked for after so many bodies or chunks: the kernel maps up to 64 KiB around each page that is met first
# (fault_around_bytes; two such windows for a chunk), if they are in its cache.
TOUCHES_A_LOOK = 32


class Loaded:
    """A batch in memory.

    Args:
        key: its key in BATCH.
        batch: the record; `batch.due_ms` is the one that its READY key holds.
        body: the whole body while it is at hand from the accept (fast path), else None: read it from the store.
    """

    __slots__ = ("batch", "body", "key")

    def __init__(self, key: bytes, batch: Batch, body: bytes | None = None) -> None:
        self.key = key
        self.batch = batch
        self.body = body

    def __repr__(self) -> str:
        return f"<Loaded {self.key.hex()} to {self.batch.destination}>"


class Reader:
    """A shard's tables for reading.

    Args:
        env: the open environment.
        path: its folder.
        shard: its number.

    Raises:
        SpoolFormatError: foreign or damaged, or another schema.
    """

    def __init__(self, env: lmdb.Environment, path: Path, shard: int) -> None:
        self.path = path
        self.shard = shard
        self._env = env
        self._mappings: list[tuple[int, int]] | None = None  # LMDB moves its map only when it is told to
        self._touches = 0  # of bodies, since we last looked at how much is mapped
        self._unmapped_bytes = pages.mapped_bytes()  # of other files: the interpreter, libraries
        try:
            self._dbs = [env.open_db(table.name.lower().encode(), create=False) for table in Table]
        except Exception as error:  # lmdb.NotFoundError and its kin; this module does not load lmdb
            raise SpoolFormatError(f"{path} is not a whole Postroika spool ({error}); it was left as it is") from error
        with env.begin() as txn:
            self.format = check_format(txn.get(b"format", db=self._dbs[Table.META]), shard, str(path))

    def trim(self, limit_bytes: int = MAPPED_BYTES) -> None:
        """Give back the pages of the map, if it holds more than `limit_bytes` of our resident memory."""
        self._touches = 0
        if pages.mapped_bytes() - self._unmapped_bytes > limit_bytes:
            if self._mappings is None:
                self._mappings = pages.mappings(self.path / "data.mdb")
            for mapping in self._mappings:
                pages.let_go(mapping)
            self._unmapped_bytes = pages.mapped_bytes()

    def _touched(self, values: int) -> None:
        """So many bodies, or chunks of them, were met: look at the map now and then."""
        self._touches += values
        if self._touches >= TOUCHES_A_LOOK:
            self.trim()

    def close(self) -> None:
        """Close the files."""
        self._mappings = []  # others may soon have these addresses
        self._env.close()

    def class_record(self, class_id: int) -> ClassRecord | None:
        """What class `class_id` stands for."""
        with self._env.begin() as txn:
            record = txn.get(class_id.to_bytes(4, "big"), db=self._dbs[Table.CLASS])
        return None if record is None else decode_class(record)

    def class_records(self) -> dict[int, ClassRecord]:
        """All classes that were ever used."""
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.CLASS]) as cursor:
            return {int.from_bytes(key, "big"): decode_class(value) for key, value in cursor}

    def read_body(self, message: int, chunk: int, count: int = 1) -> bytes:
        """One chunk of a body, or `count` of them from `chunk` on.

        Raises:
            SpoolFormatError: it is not there, though its batch is: damage.
        """
        bodies = self._dbs[Table.BODY]
        if count == 1:
            with self._env.begin() as txn:
                piece = txn.get(batch_key(message, chunk), None, bodies)
        else:
            with self._env.begin(buffers=True) as txn:  # so that it is copied once
                pieces = [txn.get(batch_key(message, number), None, bodies) for number in range(chunk, chunk + count)]
                piece = None if None in pieces else b"".join(pieces)
        if piece is None:
            raise SpoolFormatError(f"{self.path}: chunk {chunk} of message {message:#x} is missing")
        self._touched(count)
        return bytes(piece)

    def load(self, key: bytes) -> Loaded | None:
        """The batch with this key, if it is still there."""
        with self._env.begin() as txn:
            record = txn.get(key, db=self._dbs[Table.BATCH])
        return None if record is None else Loaded(key, decode_batch(record))

    def batches_of(self, message: int) -> list[Loaded]:
        """All open batches of a message."""
        prefix = u64_key(message)
        found: list[Loaded] = []
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.BATCH]) as cursor:
            ok = cursor.set_range(prefix)
            while ok and cursor.key().startswith(prefix):
                found.append(Loaded(cursor.key(), decode_batch(cursor.value())))
                ok = cursor.next()
        return found

    def batches_from(self, start: bytes, limit: int) -> list[Loaded]:
        """Up to `limit` batches in order of age, from key `start` on."""
        found: list[Loaded] = []
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.BATCH]) as cursor:
            ok = cursor.set_range(start) if start else cursor.first()
            while ok and len(found) < limit:
                found.append(Loaded(cursor.key(), decode_batch(cursor.value())))
                ok = cursor.next()
        return found

    def oldest_batch_key(self) -> bytes | None:
        """The key of the oldest open batch."""
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.BATCH]) as cursor:
            return cursor.key() if cursor.first() else None

    def wakes(self, start: bytes, until_ms: int, limit: int) -> list[tuple[bytes, str]]:
        """Up to `limit` (key, destination) with a wake time ≤ `until_ms`, earliest first, after key `start`."""
        found: list[tuple[bytes, str]] = []
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.WAKE]) as cursor:
            ok = cursor.set_range(start + b"\0") if start else cursor.first()
            while ok and len(found) < limit:
                key = cursor.key()
                due_ms, destination = split_wake_key(key)
                if due_ms > until_ms:
                    break
                found.append((key, destination))
                ok = cursor.next()
        return found

    def next_wake_ms(self, after_ms: int) -> int | None:
        """The first wake time later than `after_ms`."""
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.WAKE]) as cursor:
            return split_wake_key(cursor.key())[0] if cursor.set_range(u64_key(after_ms + 1)) else None

    def ready_classes(self, destination: str) -> list[tuple[int, int]]:
        """(class id, first due in epoch milliseconds) of each class of `destination` that has something queued."""
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.READY]) as cursor:
            return [
                (class_id, split_ready_key(key)[2])
                for class_id, key in first_of_each_class(cursor, ready_prefix(destination))
            ]

    def load_ready(
        self, destination: str, class_id: int, after: bytes, until_ms: int, limit: int, skip: Container[bytes]
    ) -> tuple[list[Loaded], bytes, int | None]:
        """The next batches of one class of a destination, in order of due time.

        Args:
            after: the READY key to go on from, b"" for the beginning.
            until_ms: only what is due by then.
            skip: batch keys already in memory.

        Returns:
            The batches, the READY key of the last one looked at, and when the one after it is due (epoch
            milliseconds; None if there is none).
        """
        prefix = ready_prefix(destination) + class_id.to_bytes(4, "big")
        found: list[Loaded] = []
        last = after
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.READY]) as cursor:
            batches = self._dbs[Table.BATCH]
            ok = cursor.set_range(after + b"\0" if after else prefix)
            while ok:
                key = cursor.key()
                if not key.startswith(prefix):
                    break
                _, _, due_ms, batch = split_ready_key(key)
                if due_ms > until_ms or len(found) >= limit:
                    return found, last, due_ms
                last = key
                if batch not in skip:
                    record = txn.get(batch, db=batches)
                    if record is None:
                        raise SpoolFormatError(f"{self.path}: {batch.hex()} is queued for {destination} but not there")
                    found.append(Loaded(batch, decode_batch(record)))
                ok = cursor.next()
        return found, last, None

    def ready_after(self, destination: str, class_id: int, after_ms: int, limit: int) -> list[Loaded]:
        """Up to `limit` batches of one class of a destination that are due only after `after_ms`."""
        floor = ready_prefix(destination) + class_id.to_bytes(4, "big") + u64_key(after_ms + 1)
        return self.load_ready(destination, class_id, floor, (1 << 63) - 1, limit, ())[0]

    def ready_keys(self, destination: str, limit: int) -> list[tuple[str, int, int, bytes]]:
        """Up to `limit` queued (destination, class, due, batch) of a destination, whenever they are due."""
        prefix = ready_prefix(destination)
        found: list[tuple[str, int, int, bytes]] = []
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.READY]) as cursor:
            ok = cursor.set_range(prefix)
            while ok and len(found) < limit and cursor.key().startswith(prefix):
                found.append(split_ready_key(cursor.key()))
                ok = cursor.next()
        return found

    def destinations(self, start: str, limit: int) -> list[str]:
        """Up to `limit` names of destinations with queued mail, in order, after `start`."""
        names: list[str] = []
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.READY]) as cursor:
            # \x01 is the first thing after "name\0…".
            ok = cursor.set_range(start.encode() + b"\x01") if start else cursor.first()
            while ok and len(names) < limit:
                name = split_ready_key(cursor.key())[0]
                names.append(name)
                ok = cursor.set_range(name.encode() + b"\x01")
        return names

    def destination_state(self, destination: str) -> DestinationState | None:
        """Why and until when a destination is left alone; None while it is up."""
        with self._env.begin() as txn:
            record = txn.get(destination.encode(), db=self._dbs[Table.DESTINATION])
        return None if record is None else decode_state(record)

    def partial_messages(self, limit: int) -> list[int]:
        """Messages whose body had begun to be stored when the process ended."""
        found: list[int] = []
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.PARTIAL]) as cursor:
            ok = cursor.first()
            while ok and len(found) < limit:
                found.append(u64_from(cursor.key()))
                ok = cursor.next()
        return found

    def doubts(self, limit: int) -> list[tuple[bytes, bytes]]:
        """Key and record of batches whose outcome the last crash made unknowable."""
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.DOUBT]) as cursor:
            return list(itertools.islice(cursor, limit))

    def outbox_read(self, after: int, limit_bytes: int) -> list[tuple[int, bytes]]:
        """Events later than sequence `after`: (sequence, lines); at least one record if there is one."""
        found: list[tuple[int, bytes]] = []
        size = 0
        with self._env.begin() as txn, txn.cursor(self._dbs[Table.OUTBOX]) as cursor:
            ok = cursor.set_range(u64_key(after + 1))
            while ok and (not found or size < limit_bytes):
                value = cursor.value()
                found.append((u64_from(cursor.key()), value))
                size += len(value)
                ok = cursor.next()
        return found

    def cursor(self, name: str) -> int:
        """The last sequence that consumer `name` has done; 0 if none."""
        with self._env.begin() as txn:
            record = txn.get(b"cursor/" + name.encode(), db=self._dbs[Table.META])
        return 0 if record is None else u64_from(record)

    def meta_number(self, name: str) -> int:
        """A number kept under META[name]; 0 if none."""
        with self._env.begin() as txn:
            record = txn.get(name.encode(), db=self._dbs[Table.META])
        return 0 if record is None else u64_from(record)

    def last_id(self) -> int:
        """The largest message id that is or was stored."""
        with self._env.begin() as txn:
            record = txn.get(b"last_id", db=self._dbs[Table.META])
        kept = 0 if record is None else u64_from(record)
        last = self._last_number(Table.BATCH)
        return max(kept, last, self._last_number(Table.PARTIAL))

    def _last_number(self, table: Table) -> int:
        with self._env.begin() as txn, txn.cursor(self._dbs[table]) as cursor:
            return u64_from(bytes(cursor.key()[:8])) if cursor.last() else 0

    def counts(self) -> dict[str, int]:
        """Entries of each table, by its name on disk."""
        with self._env.begin() as txn:
            return {table.name.lower(): txn.stat(self._dbs[table])["entries"] for table in Table}

    def room_bytes(self) -> int:
        """How much can still be stored: free disk (or map, if that is less) plus free pages inside the file."""
        with self._env.begin() as txn:
            page = 0
            used = 0
            for db in self._dbs:
                stat = txn.stat(db)
                page = stat["psize"]
                used += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        info = self._env.info()
        file_bytes = (info["last_pgno"] + 1) * page
        disk = os.statvfs(self.path)
        outside = min(disk.f_bavail * disk.f_frsize, info["map_size"] - file_bytes)
        return int(max(0, outside) + file_bytes - used * page)


def first_of_each_class(cursor: lmdb.Cursor, prefix: bytes) -> Iterator[tuple[int, bytes]]:
    """The earliest READY key of each class of a destination: a skip scan, one seek a class."""
    ok = cursor.set_range(prefix)
    while ok:
        key = cursor.key()
        if not key.startswith(prefix):
            return
        class_id = split_ready_key(key)[1]
        yield class_id, key
        ok = cursor.set_range(prefix + (class_id + 1).to_bytes(4, "big"))
