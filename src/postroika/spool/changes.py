"""What one caller wants written, as plain data that the commit thread applies.

Changes of many callers go into one transaction. All but two kinds are blind writes, so that the last one wins and no
caller needs to know of another; the two that must look (`finish`, `rest`) do so inside the transaction.
"""

from __future__ import annotations

from postroika.mail.envelope import Batch, Envelope
from postroika.spool.schema import Table, batch_key, encode, ready_key, u64_key

_BODY, _BATCH, _READY = Table.BODY, Table.BATCH, Table.READY  # a member costs more to look up than to use


class Changes:
    """A set of writes that is committed as a whole or not at all.

    Args:
        must: these record what has already happened in the world (a delivery). On a full disk they are kept and
            tried again, where others fail with SpoolFullError.
    """

    __slots__ = ("bytes", "events", "finished", "must", "rests", "scheduled", "writes")

    def __init__(self, *, must: bool = False) -> None:
        self.must = must
        self.bytes = 0
        self.writes: list[tuple[Table, bytes, bytes | memoryview | None]] = []
        self.scheduled: list[tuple[str, int]] = []
        self.finished: list[int] = []
        self.events: list[bytes] = []
        self.rests: list[tuple[str, int, list[bytes]]] = []

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Write or replace."""
        self.writes.append((table, key, value))
        self.bytes += len(key) + len(value)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove if there."""
        self.writes.append((table, key, None))

    def event(self, line: bytes) -> None:
        """Append to the outbox; `line` without its newline."""
        self.events.append(line)
        self.bytes += len(line)

    def put_chunk(self, message: int, chunk: int, piece: bytes | memoryview) -> None:
        """A piece of a body. It counts only once the envelope is committed; until then recovery removes it."""
        key = batch_key(message, chunk)
        self.writes.append((_BODY, key, piece))
        self.bytes += len(key) + len(piece)

    def put_batch(self, batch: Batch) -> bytes:
        """Store a batch and queue it at `batch.due_ms`. Returns its key."""
        destination, due_ms = batch.destination, batch.due_ms
        key = batch_key(batch.envelope.message, batch.number)
        record = encode(batch)
        ready = ready_key(destination, batch.class_id, due_ms, key)
        self.writes += (_BATCH, key, record), (_READY, ready, b"")
        self.bytes += len(key) + len(record) + len(ready)
        self.scheduled.append((destination, due_ms))
        return key

    def unqueue(self, key: bytes, batch: Batch) -> None:
        """Take a batch out of the ready index, under the due time that it was stored with."""
        self.writes.append((_READY, ready_key(batch.destination, batch.class_id, batch.due_ms, key), None))

    def finish_batch(self, key: bytes, batch: Batch) -> None:
        """Every recipient is settled: remove the batch, and the body if it was the last one."""
        envelope = batch.envelope
        ready = ready_key(batch.destination, batch.class_id, batch.due_ms, key)
        if envelope.batches == 1 and envelope.chunks == 1:  # the usual message
            self.writes += (_READY, ready, None), (_BATCH, key, None), (_BODY, batch_key(envelope.message, 0), None)
            return
        self.writes += (_READY, ready, None), (_BATCH, key, None)
        if envelope.batches == 1:
            self.drop_body(envelope)
        else:
            self.finished.append(envelope.message)

    def drop_body(self, envelope: Envelope) -> None:
        """Remove the chunks of a body that nobody needs."""
        for chunk in range(envelope.chunks):
            self.writes.append((_BODY, batch_key(envelope.message, chunk), None))

    def rest(self, destination: str, not_before_ms: int, seen: list[bytes]) -> None:
        """The scheduler lets go of a destination: wake it when its next batch is due, but not before
        `not_before_ms` (0: no such bound). `seen`: the WAKE keys that brought it up, used up now."""
        self.rests.append((destination, not_before_ms, seen))

    def consumed(self, name: str, sequence: int) -> None:
        """The outbox consumer `name` has done everything up to `sequence`."""
        self.put(Table.META, b"cursor/" + name.encode(), u64_key(sequence))

    def drop_outbox(self, sequences: list[int]) -> None:
        """Remove outbox records that every consumer has passed."""
        for sequence in sequences:
            self.delete(Table.OUTBOX, u64_key(sequence))
