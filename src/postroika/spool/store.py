"""One shard on disk, for its owner.

Promise: `apply` puts a group of Changes into one synced transaction or none. It runs in a worker thread, begin to
commit in one call, because LMDB binds a write transaction to its thread. What it alone touches (`_known_wakes`, the
outbox sequence) needs no lock: the committer runs one `apply` at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb

from postroika.errors import SpoolError, SpoolFullError, SpoolIOError
from postroika.mail.envelope import Stream
from postroika.spool import files
from postroika.spool.changes import Changes
from postroika.spool.reader import TOUCHES_A_LOOK, Reader, first_of_each_class
from postroika.spool.schema import (
    ClassRecord,
    Table,
    encode,
    ready_prefix,
    split_ready_key,
    u64_key,
    wake_key,
)

_EVENTS_PER_VALUE_BYTES = 64 * 1024  # see CHUNK_BYTES in schema
_KNOWN_WAKES = 200_000
_TOUCHES_A_COMMIT = 2  # LMDB's list of free pages, which moves through the file


class Store(Reader):
    """A shard, read and written by its owner. Made by `create_or_open`."""

    def __init__(self, env: lmdb.Environment, path: Path, shard: int, lock_fd: int) -> None:
        super().__init__(env, path, shard)
        self._lock_fd = lock_fd
        env.reader_check()  # a CLI that was killed would pin pages for ever
        # For each destination a time not later than its earliest entry in WAKE, as far as we know.
        self._known_wakes: dict[str, int] = {}
        # Until when destinations that rest because they are down are not to be woken.
        self._down_until: dict[str, int] = {}
        self._next_outbox = max(self.meta_number("outbox_next"), self._last_number(Table.OUTBOX) + 1)
        self._class_records = self.class_records()
        self._classes = {record: number for number, record in self._class_records.items()}
        self._class_ids: dict[tuple[Stream, str, str], int] = {}  # of those that are stored, and were asked for
        self._stored_classes = {number.to_bytes(4, "big") for number in self._class_records}

    # -- opening ----------------------------------------------------------------------------------------------------

    @classmethod
    def create_or_open(cls, spool: Path, shard: int, *, max_bytes: int, lock_wait_s: float = 0.0) -> Store:
        """Open shard `shard` for writing; make it if its folder does not exist.

        Raises:
            SpoolLockedError: another process still owns it after `lock_wait_s`.
            SpoolFormatError: foreign or damaged files.
            SpoolError: the folder cannot be used.
        """
        path = files.shard_path(spool, shard)
        try:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = files.lock(spool / f".shard-{shard:02d}.lock", lock_wait_s)
        except OSError as error:
            raise SpoolError(f"{spool}: {error.strerror}") from error
        try:
            if not path.exists():
                files.create(path, shard, max_bytes)
            return cls(files.open_env(path, max_bytes, writable=True), path, shard, lock_fd)
        except BaseException:
            os.close(lock_fd)
            raise

    def close(self) -> None:
        """Close the files and give up the lock."""
        super().close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # -- writing (in the commit thread) -------------------------------------------------------------------------------

    def apply(self, group: list[Changes], last_id: int = 0, written: Callable[[], None] | None = None) -> None:
        """Write all of `group` in one transaction and sync it.

        Args:
            last_id: the largest id given so far. Ids must not be given twice, even if the queue runs empty and the
                clock is set back.
            written: called when all is in LMDB's pages, and what is left to do is to write and sync them.

        Raises:
            SpoolFullError: no room; nothing was written.
            SpoolIOError: the disk failed; the process must end.
            SpoolError: anything else; nothing was written.
        """
        next_outbox = self._next_outbox
        self._touched(_TOUCHES_A_COMMIT)
        try:
            with self._env.begin(write=True) as txn:
                classes = self._write(txn, group)
                if last_id:
                    txn.put(b"last_id", u64_key(last_id), db=self._dbs[Table.META])
                if written is not None:
                    written()
            self._stored_classes.update(classes)
        except lmdb.Error as error:
            self._next_outbox = next_outbox
            self._known_wakes.clear()
            self._down_until.clear()
            failure = files.translated(error)
            short = isinstance(failure, SpoolIOError) and not isinstance(error, lmdb.PanicError)
            if short and files.is_full(self.path, sum(c.bytes for c in group)):
                failure = SpoolFullError("the disk of the spool is full")
            raise failure from error

    def _write(self, txn: lmdb.Transaction, group: list[Changes]) -> Iterable[bytes]:
        """Write `group`. Returns the keys of class records in it."""
        dbs = self._dbs
        # Last writer wins, in the order in which callers came.
        merged: list[dict[bytes, bytes | memoryview | None]] = [{} for _ in dbs]
        lines: list[bytes] = []
        known, down_until = self._known_wakes, self._down_until
        for changes in group:
            for table, key, value in changes.writes:
                merged[table][key] = value
            lines += changes.events
            for destination, due_ms in changes.scheduled:
                if down_until and destination in down_until:
                    due_ms = max(due_ms, down_until[destination])
                wake = known.get(destination)
                if wake is None or wake > due_ms:
                    merged[Table.WAKE][wake_key(due_ms, destination)] = b""
                    known[destination] = due_ms
        for key, value in merged[Table.DESTINATION].items():
            if value is None:
                self._down_until.pop(key.decode(), None)
                known.pop(key.decode(), None)
        for table, pending in zip(Table, merged, strict=True):
            if not pending:
                continue
            db = dbs[table]
            puts = [item for item in pending.items() if item[1] is not None]
            if puts:
                with txn.cursor(db) as cursor:
                    cursor.putmulti(puts)
            if len(puts) < len(pending):
                gone = [key for key, value in pending.items() if value is None]
                delete = txn.delete
                for start in range(0, len(gone), TOUCHES_A_LOOK):
                    page = gone[start : start + TOUCHES_A_LOOK]
                    for key in page:
                        delete(key, b"", db)
                    if table is Table.BODY:  # LMDB looks at the head of each value that it drops
                        self._touched(len(page))
        if lines:
            self._append_events(txn, lines)
        for changes in group:
            for message in changes.finished:
                self._drop_finished_body(txn, message)
            for destination, not_before_ms, seen in changes.rests:
                self._rest(txn, destination, not_before_ms, seen)
        if len(known) > _KNOWN_WAKES:
            known.clear()
            self._down_until.clear()
        return merged[Table.CLASS]

    def _append_events(self, txn: lmdb.Transaction, lines: list[bytes]) -> None:
        db = self._dbs[Table.OUTBOX]
        start = 0
        whole = sum(map(len, lines)) + len(lines) - 1 < _EVENTS_PER_VALUE_BYTES  # nearly always
        while start < len(lines):
            size, end = 0, len(lines) if whole else start
            while end < len(lines) and (end == start or size + len(lines[end]) < _EVENTS_PER_VALUE_BYTES):
                size += len(lines[end]) + 1
                end += 1
            value = b"\n".join(lines[start:end]) + b"\n"
            txn.put(u64_key(self._next_outbox), value, db=db, append=True)
            self._next_outbox += 1
            start = end
        # The table may run empty; numbers must not be given twice, or a cursor would skip events.
        txn.put(b"outbox_next", u64_key(self._next_outbox), db=self._dbs[Table.META])

    def _drop_finished_body(self, txn: lmdb.Transaction, message: int) -> None:
        """Remove the body of `message` unless a batch of it is still there."""
        prefix = u64_key(message)
        with txn.cursor(self._dbs[Table.BATCH]) as batches:
            if batches.set_range(prefix) and batches.key().startswith(prefix):
                return
        self._drop_body(txn, prefix)

    def _drop_body(self, txn: lmdb.Transaction, prefix: bytes) -> None:
        with txn.cursor(self._dbs[Table.BODY]) as chunks:
            found = chunks.set_range(prefix)
            while found and chunks.key().startswith(prefix):
                found = chunks.delete()
                self._touched(1)

    def _rest(self, txn: lmdb.Transaction, destination: str, not_before_ms: int, seen: list[bytes]) -> None:
        wakes = self._dbs[Table.WAKE]
        for key in seen:
            txn.delete(key, db=wakes)
        earliest = self._earliest_due(txn, destination)
        if earliest is None:
            self._known_wakes.pop(destination, None)
            self._down_until.pop(destination, None)
            txn.delete(destination.encode(), db=self._dbs[Table.DESTINATION])  # without mail, nobody needs to know
            return
        due_ms = max(earliest, not_before_ms)
        txn.put(wake_key(due_ms, destination), b"", db=wakes)
        self._known_wakes[destination] = due_ms
        # While a destination is down, new mail for it must not wake it earlier.
        if not_before_ms:
            self._down_until[destination] = not_before_ms
        else:
            self._down_until.pop(destination, None)

    def _earliest_due(self, txn: lmdb.Transaction, destination: str) -> int | None:
        earliest: int | None = None
        with txn.cursor(self._dbs[Table.READY]) as cursor:
            for _, key in first_of_each_class(cursor, ready_prefix(destination)):
                due_ms = split_ready_key(key)[2]
                if earliest is None or due_ms < earliest:
                    earliest = due_ms
        return earliest

    # -- the rest ------------------------------------------------------------------------------------------------------

    def stored_class(self, stream: Stream, tenant: str, campaign: str) -> int | None:
        """The id of a class whose record is on disk; None: ask `intern_class`. From the loop."""
        return self._class_ids.get((stream, tenant, campaign))

    def intern_class(self, record: ClassRecord, changes: Changes) -> int:
        """The id of a class; its record rides with `changes` until a commit has brought it. From the loop, not the
        commit thread."""
        number = self._classes.get(record)
        if number is None:
            number = max(self._class_records, default=-1) + 1
            self._classes[record] = number
            self._class_records[number] = record
        key = number.to_bytes(4, "big")
        if key not in self._stored_classes:
            changes.put(Table.CLASS, key, encode(record))
        else:
            self._class_ids[record.stream, record.tenant, record.campaign] = number
        return number
