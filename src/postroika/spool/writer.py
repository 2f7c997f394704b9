"""Storing one message while it arrives.

Promise: `finish` returns only when the message and all its recipients are on disk. A message in the making costs at
most `_NARROW_BYTES` of memory however large it is, or twice `_WIDE_BYTES` for the first few: what is more goes to the
spool chunk by chunk, marked as partial, and counts only once the envelope is committed; until then recovery removes it.

How: a spill is a commit like any other, since LMDB knows no smaller step, and costs two syncs. So where there is room
for it spills are large, and the next one is received while the last one is written.
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
from postroika.spool.committer import Committer, HandOver
from postroika.spool.reader import Loaded
from postroika.spool.schema import CHUNK_BYTES, ClassRecord, Table, batch_key, u64_key
from postroika.spool.store import Store

_NARROW_BYTES = 4 * CHUNK_BYTES
_WIDE_BYTES = 12 * CHUNK_BYTES
_WIDE_MOST = 8  # messages of a shard
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
        self._wide = 0
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

    def spill(self, changes: Changes) -> HandOver:
        """As `Committer.hand_over`."""
        return self._committer.hand_over(changes)

    async def wait_for(self, spill: HandOver) -> None:
        """As `HandOver.wait`, with the configured time."""
        await spill.wait(self._timeout_s)

    def widen(self) -> bool:
        """Whether one message more may take room for wide spills; if so, `narrow` gives it back."""
        if self._wide == _WIDE_MOST:
            return False
        self._wide += 1
        return True

    def narrow(self) -> None:
        """A message with wide spills is done."""
        self._wide -= 1

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

    __slots__ = ("_buffered", "_chunks", "_intake", "_pieces", "_size", "_spill", "_wide", "message")

    def __init__(self, intake: Intake, message: int) -> None:
        self.message = message
        self._intake = intake
        self._pieces: list[bytes | memoryview] = []
        self._buffered = 0
        self._size = 0
        self._chunks = 0
        self._spill: tuple[HandOver, Changes] | None = None  # not known to be written
        self._wide = False

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
        if self._buffered <= _NARROW_BYTES:
            return None
        if not self._wide and not self._chunks:
            self._wide = self._intake.widen()
        return None if self._wide and self._buffered <= _WIDE_BYTES else self._spill_over()

    async def _spill_over(self) -> None:
        if self._spill is not None:
            await self._spilled()
        changes = Changes()
        if self._chunks == 0:
            changes.put(Table.PARTIAL, u64_key(self.message), b"")
        pieces, self._pieces = self._pieces, []
        rest = self._put_chunks(changes, pieces)
        if rest:
            self._pieces.append(rest)
        self._buffered = len(rest)
        self._spill = self._intake.spill(changes), changes
        if not self._wide:
            await self._spilled()

    async def _spilled(self) -> None:
        """Wait for what is being spilled."""
        assert self._spill is not None
        await self._intake.wait_for(self._spill[0])
        self._spill = None

    def _put_chunks(self, changes: Changes, pieces: list[bytes | memoryview], least: int = CHUNK_BYTES // 2) -> bytes:
        """Cut `pieces` into chunks, as far as possible without a copy. Returns what is left: fewer than `least`."""
        short: list[bytes | memoryview] = []  # one after the other, less than a chunk
        short_bytes = 0
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                if short_bytes or len(rest) < CHUNK_BYTES // 2:
                    part = rest[: CHUNK_BYTES - short_bytes]
                    short.append(part)
                    short_bytes += len(part)
                    if short_bytes >= CHUNK_BYTES // 2:
                        self._put_chunk(changes, b"".join(short))
                        short, short_bytes = [], 0
                else:
                    part = rest[:CHUNK_BYTES]
                    self._put_chunk(changes, part)
                rest = rest[len(part) :]
        left = b"".join(short)
        if len(left) < least:
            return left
        self._put_chunk(changes, left)
        return b""

    def _put_chunk(self, changes: Changes, piece: bytes | memoryview) -> None:
        changes.put_chunk(self.message, self._chunks, piece)
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
        tls: str = "",
        tenant: str = "",
        stream: Stream = Stream.TRANSACTIONAL,
        campaign: str = "",
        not_before: float = 0.0,
        expires_at: float = 0.0,
        account: str = "",
        requiretls: bool = False,
        ours: bool = False,
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
        body = b""
        if spilled:
            changes = await self._last_spill()
            changes.delete(Table.PARTIAL, u64_key(self.message))
            self._put_chunks(changes, self._pieces, 1)
        else:
            pieces = self._pieces
            body = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
            if 0 < len(body) <= CHUNK_BYTES:
                self._put_chunk(changes, body)
            else:
                self._put_chunks(changes, [body], 1)
        self._pieces = []
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
            requiretls,
            tls,
            account,
            ours,
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
        self._narrow()
        intake.hand_over(loaded)

    async def _last_spill(self) -> Changes:
        """What is still to be written: the changes of the last spill if they have not begun to be, else new ones."""
        if self._spill is not None:
            hand_over, changes = self._spill
            if hand_over.take_back():
                self._spill = None
                return changes
            try:
                await self._spilled()
            except SpoolError:
                self.abandon()
                raise
        return Changes()

    def _narrow(self) -> None:
        if self._wide:
            self._wide = False
            self._intake.narrow()

    def abandon(self) -> None:
        """Drop the message; what was spilled is removed in a later commit. Never blocks, may be called twice."""
        self._pieces = []
        self._buffered = 0
        self._narrow()
        if self._spill is not None:
            # What waits would be written behind its removal; what is being written is removed by the next commit.
            self._spill[0].take_back()
            self._spill = None
        if self._chunks:
            changes = Changes(must=True)
            for chunk in range(self._chunks):
                changes.delete(Table.BODY, batch_key(self.message, chunk))
            changes.delete(Table.PARTIAL, u64_key(self.message))
            self._chunks = 0
            self._intake.forget(changes)
