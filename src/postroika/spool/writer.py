"""Storing one message while it arrives.

Promise: `finish` returns only when the message and all its recipients are on disk. A message in the making costs at
most `_SPILL_BYTES` of memory however large it is: what is more goes to the spool chunk by chunk, marked as partial,
and counts only once the envelope is committed; until then recovery removes it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from postroika.errors import SpoolDoubtError, SpoolError
from postroika.mail.address import routing_domain
from postroika.mail.envelope import Batch, BodyType, Envelope, Recipient, Stream
from postroika.mail.ids import IdSource
from postroika.pump import breathe
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.reader import Loaded
from postroika.spool.schema import CHUNK_BYTES, ClassRecord, Table, batch_key, u64_key
from postroika.spool.store import Store

_SPILL_BYTES = 4 * CHUNK_BYTES
_BATCHES_A_STEP = 200  # about a millisecond each 50: a list of thousands of domains must not take the loop for itself
MAX_DESTINATION_OCTETS = 255  # RFC 1035 §2.3.4, and what fits into a key
_NO_DESTINATION = "domain.missing.invalid"  # RFC 6761 §6.4: resolves nowhere, so that the recipient is returned

Received = Callable[[Envelope, Recipient, str], bytes]


def destination_of(address: str) -> str:
    """The destination of an address: its routing domain, or, if it has none that could be one, a name that the routing
    refuses."""
    return _destination_of_domain(address[address.rfind("@") :])


@functools.lru_cache(maxsize=4096)
def _destination_of_domain(domain: str) -> str:
    domain = routing_domain(domain)
    return domain if 0 < len(domain.encode()) <= MAX_DESTINATION_OCTETS else _NO_DESTINATION


class Intake:
    """Makes a MessageWriter for each transaction.

    Args:
        store, committer: of the shard.
        ids: message ids.
        max_recipients_per_batch: how a long recipient list is cut.
        commit_timeout_s: how long a hand-over may take.
        fresh: gets the batches of each committed message, bodies still in memory.
        clock: epoch seconds.
    """

    def __init__(
        self,
        store: Store,
        committer: Committer,
        ids: IdSource,
        *,
        max_recipients_per_batch: int,
        commit_timeout_s: float,
        fresh: Callable[[list[Loaded]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._committer = committer
        self._ids = ids
        self._max_recipients = max_recipients_per_batch
        self._timeout_s = commit_timeout_s
        self._fresh = fresh
        self.clock = clock

    def begin(self) -> MessageWriter:
        """A writer for one message."""
        return MessageWriter(self, self._ids.next_id())

    def has_room(self) -> bool:
        """Whether a message may come in: more than the low-water mark is free."""
        return self._committer.has_room()

    def commit(self, changes: Changes) -> Awaitable[None]:
        """As `Committer.commit`, with the configured time."""
        return self._committer.commit(changes, self._timeout_s)

    def forget(self, changes: Changes) -> None:
        """Write `changes` some time; recovery does the same after a crash."""
        self._committer.commit_later(changes)

    def split(
        self, envelope: Envelope, recipients: Sequence[Recipient], changes: Changes
    ) -> tuple[Envelope, list[Batch]]:
        """Cut `recipients` into batches by routing domain, and tell the envelope how many there are (1 in it says that
        nobody has)."""
        class_id = self._store.stored_class(envelope.stream, envelope.tenant, envelope.campaign)
        if class_id is None:
            record = ClassRecord(envelope.stream, envelope.tenant, envelope.campaign)
            class_id = self._store.intern_class(record, changes)
        received_at, not_before = envelope.received_at, envelope.not_before
        due_ms = int(max(received_at, not_before) * 1000)
        if len(recipients) == 1:
            address = recipients[0].address
            destination = _destination_of_domain(address[address.rfind("@") :])
            return envelope, [Batch(envelope, 0, destination, tuple(recipients), class_id, due_ms)]
        by_domain: dict[str, list[Recipient]] = {}
        for recipient in recipients:
            by_domain.setdefault(destination_of(recipient.address), []).append(recipient)
        step = self._max_recipients
        pieces = [
            (domain, tuple(listed[start : start + step]))
            for domain, listed in by_domain.items()
            for start in range(0, len(listed), step)
        ]
        if len(pieces) > 1:
            envelope = msgspec.structs.replace(envelope, batches=len(pieces))
        return envelope, [
            Batch(envelope, number, domain, piece, class_id, due_ms) for number, (domain, piece) in enumerate(pieces)
        ]

    def hand_over(self, loaded: list[Loaded]) -> None:
        """Give committed batches to the queue."""
        self._fresh(loaded)


class MessageWriter:
    """One message on its way into the spool.

    Args:
        intake: who made it.
        message: its id, to be told in the reply.
    """

    __slots__ = ("_buffered", "_chunks", "_intake", "_pieces", "_size", "message")

    def __init__(self, intake: Intake, message: int) -> None:
        self.message = message
        self._intake = intake
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._size = 0
        self._chunks = 0

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Take the next piece of the body. When too much is in memory, what is returned has to be awaited before the
        next one: it waits for the disk.

        Raises (when awaited):
            SpoolFullError: no room; abandon the message.
            SpoolError: it could not be written; abandon the message.
        """
        self._pieces.append(piece)
        self._buffered += len(piece)
        self._size += len(piece)
        return self._spill() if self._buffered > _SPILL_BYTES else None

    async def _spill(self) -> None:
        changes = Changes()
        body = b"".join(self._pieces)
        whole = len(body) - len(body) % CHUNK_BYTES
        if self._chunks == 0:
            changes.put(Table.PARTIAL, u64_key(self.message), b"")
        self._put_chunks(changes, memoryview(body)[:whole])
        self._pieces = [body[whole:]] if whole < len(body) else []
        self._buffered = len(body) - whole
        await self._intake.commit(changes)

    def _put_chunks(self, changes: Changes, body: bytes | memoryview) -> None:
        if isinstance(body, bytes) and len(body) <= CHUNK_BYTES:
            if body:
                changes.put_chunk(self.message, self._chunks, body)
                self._chunks += 1
            return
        for start in range(0, len(body), CHUNK_BYTES):
            changes.put_chunk(self.message, self._chunks, bytes(body[start : start + CHUNK_BYTES]))
            self._chunks += 1

    async def finish(
        self,
        *,
        reverse_path: str,
        recipients: Sequence[Recipient],
        received: Received,
        body_type: BodyType = BodyType.SEVEN_BIT,
        eight_bit: bool = False,
        smtputf8: bool = False,
        utf8_needed: bool = False,
        ret: str = "",
        envid: str = "",
        client_ip: str = "",
        client_helo: str = "",
        tenant: str = "",
        stream: Stream = Stream.TRANSACTIONAL,
        campaign: str = "",
        not_before: float = 0.0,
        expires_at: float = 0.0,
    ) -> None:
        """Commit the message with all its recipients; then hand it to the queue.

        Args:
            received: makes the "received" event of (envelope, recipient, destination); it is stored in the same
                transaction.
            others: see Envelope.

        Raises:
            SpoolFullError: no room, nothing was kept.
            SpoolError: see `Committer.commit`.

        Cancellation: none once the commit is handed over.
        """
        intake = self._intake
        changes = Changes()
        spilled = self._chunks > 0
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        if spilled:
            changes.delete(Table.PARTIAL, u64_key(self.message))
        self._put_chunks(changes, body)
        envelope = Envelope(  # by position: with this many, names would cost as much as the rest of it
            self.message,
            reverse_path,
            intake.clock(),
            self._size,
            self._chunks,
            1,
            body_type,
            eight_bit,
            smtputf8,
            utf8_needed,
            ret,
            envid,
            tenant,
            stream,
            campaign,
            not_before,
            expires_at,
            client_ip,
            client_helo,
        )
        envelope, batches = intake.split(envelope, recipients, changes)
        kept = None if spilled else body
        loaded: list[Loaded] = []
        for batch in batches:
            if len(loaded) % _BATCHES_A_STEP == _BATCHES_A_STEP - 1:
                await breathe()
            loaded.append(Loaded(changes.put_batch(batch), batch, kept))
            for recipient in batch.recipients:
                changes.event(received(envelope, recipient, batch.destination))
        try:
            await intake.commit(changes)
        except SpoolDoubtError:
            self._chunks = 0  # it may yet be kept: its chunks must stay
            raise
        except SpoolError:
            if spilled:
                self.abandon()
            else:
                self._chunks = 0
            raise
        self._chunks = 0
        intake.hand_over(loaded)

    def abandon(self) -> None:
        """Drop the message; what was spilled is removed in a later commit. Never blocks, may be called twice."""
        self._pieces = []
        self._buffered = 0
        if self._chunks:
            changes = Changes(must=True)
            for chunk in range(self._chunks):
                changes.delete(Table.BODY, batch_key(self.message, chunk))
            changes.delete(Table.PARTIAL, u64_key(self.message))
            self._chunks = 0
            self._intake.forget(changes)
