"""What is in the queue: read-only answers over all shards of a spool, the same with and without a running server.

Promise: nothing is written; memory and time of one answer are bounded whatever the backlog (what is not finished goes
on from a cursor); every read is a transaction of at most a few milliseconds, so that nothing keeps LMDB from reusing
pages. All methods block: in an event loop they are called in threads, and any number of threads may do so.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

import msgspec

from postroika.config import Config
from postroika.control.filters import destination_name, matcher
from postroika.control.records import (
    DoubtfulBatch,
    Doubts,
    Filter,
    MessageDetail,
    Page,
    QueuedBatch,
    QueuedMessage,
    QueuedRecipient,
    QueueStats,
    ReplyText,
)
from postroika.control.survey import down_record, gauges, survey
from postroika.errors import NotQueuedError, RefusedError, SpoolFormatError
from postroika.mail.envelope import Batch, Envelope, Notify, Recipient
from postroika.mail.ids import first_id_at, id_shard, id_text
from postroika.queue.retry import expires_at
from postroika.spool.reader import Loaded
from postroika.spool.recovery import Doubt
from postroika.spool.schema import DestinationState, batch_key, split_batch_key
from postroika.spool.shards import Shard, Shards

MAX_PAGE = 1000
_READ = 200  # batches a transaction
_LOOKS = 50_000  # batches looked at for one page: a quarter of a second
_INDEX_READ = 2_000  # index entries a transaction
_INDEXED = 50_000  # a destination with fewer batches is read by its index
_LAST_ID = 2**64 - 1
_FIRST = 3  # recipients and destinations shown in a list

_decode_doubt = msgspec.msgpack.Decoder(Doubt).decode


class Queries:
    """Questions to a spool.

    Args:
        shards: of the spool.
        config: as the server has it: retry times and whether delivery is on.
        clock: epoch seconds.
    """

    def __init__(self, shards: Shards, config: Config, clock: Callable[[], float] = time.time) -> None:
        self._shards = shards
        self.config = config
        self._clock = clock

    def close(self) -> None:
        """Close the shards. Nothing may be under way in another thread."""
        self._shards.close()

    # -- lists --------------------------------------------------------------------------------------------------------

    def page(self, wanted: Filter, after: int = 0, limit: int = 100) -> Page:
        """The messages that match, oldest first.

        Args:
            after: the id of a message; the page begins with the one after it.
            limit: at most that many, and at most MAX_PAGE.

        Raises:
            SpoolError: there is no spool, or it cannot be read.
        """
        limit = min(limit, MAX_PAGE)
        before = first_id_at(self._clock() - wanted.older_than_s) if wanted.older_than_s else 1 << 64
        looks = _Looks(_LOOKS)
        scans = [_rows(shard, batches) for shard, batches in self._scans(wanted, after, looks)]
        found: list[QueuedMessage] = []
        position = after
        for message, row in heapq.merge(*scans, key=itemgetter(0)):
            if message >= before:
                break
            if len(found) >= limit or (not looks.left and position > after):
                return Page(messages=found, next=id_text(position))
            position = message
            if row is not None:
                found.append(row.record())
        return Page(messages=found, next="")

    def _scans(self, wanted: Filter, after: int, looks: _Looks) -> Iterator[tuple[Shard, Iterator[_Seen]]]:
        """For each shard the batches to look at, oldest first, each with whether it matches."""
        matches = matcher(wanted)
        for shard in self._shards:
            start = batch_key(min(after + 1, _LAST_ID), 0)
            keys: list[bytes] | None = None
            if wanted.in_doubt:
                batches = _batches(shard, _doubtful_keys(shard, start), looks)
            else:
                if wanted.destination:
                    keys = _indexed_keys(shard, destination_name(wanted.destination), start)
                batches = _all_batches(shard, start, looks) if keys is None else _batches(shard, keys, looks)
            yield shard, ((loaded, matches(loaded.batch)) for loaded in batches)

    def doubts(self, after: str = "", limit: int = 100) -> Doubts:
        """The batches that may have been delivered twice, or may yet be; those of the oldest messages first.

        Args:
            after: `Doubts.next` of the page before.

        Raises:
            RefusedError: `after` is something else.
            SpoolError: there is no spool, or it cannot be read.
        """
        limit = min(limit, MAX_PAGE)
        try:
            start = bytes.fromhex(after) + b"\0" if after else b""
        except ValueError:
            raise RefusedError(f"{after!r} is not where a page of doubts ended") from None
        scans = [_doubts(shard, start) for shard in self._shards]
        found: list[DoubtfulBatch] = []
        position = b""
        for key, record, shard in heapq.merge(*scans, key=itemgetter(0)):
            if len(found) >= limit:
                return Doubts(batches=found, next=position.hex())
            position = key
            doubt = _decode_doubt(record)
            found.append(
                DoubtfulBatch(
                    id=id_text(split_batch_key(key)[0]),
                    destination=doubt.destination,
                    recipients=[recipient.address for recipient in doubt.recipients],
                    at=doubt.at,
                    queued=shard.load(key) is not None,
                )
            )
        return Doubts(batches=found, next="")

    # -- one message --------------------------------------------------------------------------------------------------

    def detail(self, message: int, first_batch: int = 0) -> MessageDetail:
        """All about a message, with up to MAX_PAGE of its batches from number `first_batch` on.

        Raises:
            NotQueuedError: nothing of it is queued.
            SpoolError: there is no spool, or it cannot be read.
        """
        shard, envelope = self._find(message, first_batch)
        found = _batches_of(shard, message, first_batch, MAX_PAGE + 1)
        more = found.pop().batch.number if len(found) > MAX_PAGE else -1
        return MessageDetail(
            id=id_text(message),
            sender=envelope.reverse_path,
            received_at=envelope.received_at,
            expires_at=expires_at(envelope, self.config.retry),
            not_before=envelope.not_before,
            size_bytes=envelope.size_bytes,
            body_type=("7bit", "8bitmime", "binarymime")[envelope.body_type],
            eight_bit=envelope.eight_bit,
            smtputf8=envelope.smtputf8,
            ret=envelope.ret,
            envid=envelope.envid,
            tenant=envelope.tenant,
            stream=envelope.stream.name.lower(),
            campaign=envelope.campaign,
            client_ip=envelope.client_ip,
            client_helo=envelope.client_helo,
            batches_at_first=envelope.batches,
            batches=[self._batch(shard, loaded) for loaded in found],
            next_batch=more,
        )

    def _batch(self, shard: Shard, loaded: Loaded) -> QueuedBatch:
        batch = loaded.batch
        state = shard.destination_state(batch.destination)
        return QueuedBatch(
            number=batch.number,
            destination=batch.destination,
            state=self._state(batch, state),
            recipients=[_recipient(recipient) for recipient in batch.recipients],
            attempts=batch.attempts,
            deferrals=batch.deferrals,
            delay_noted=batch.delay_noted,
            next_attempt_at=batch.due_ms / 1000,
            last_reply=ReplyText.of(batch.last_reply) if batch.last_reply else None,
            last_host=batch.last_host,
            down=down_record(state) if state else None,
            in_doubt=shard.in_doubt(loaded.key),
        )

    def _state(self, batch: Batch, down: DestinationState | None) -> str:
        now = self._clock()
        if not self.config.delivery.enabled:
            return "disabled"
        if batch.envelope.not_before > now:
            return "held"
        if down is not None and down.down_until > now:
            return "down"
        return "retry" if batch.due_ms > now * 1000 else "due"

    def _find(self, message: int, first_batch: int = 0) -> tuple[Shard, Envelope]:
        shard = self._shards.shard(id_shard(message))
        first = _batches_of(shard, message, first_batch, 1) if shard else []
        if shard is None or not first:
            raise NotQueuedError(f"{id_text(message)} is not in the queue; the events log tells what became of it")
        return shard, first[0].batch.envelope

    def body(self, message: int) -> tuple[int, Iterator[bytes]]:
        """The size and the pieces of a message as it is stored, header first.

        Raises:
            NotQueuedError: it is not in the queue; or, from the iterator, it left the queue meanwhile.
            SpoolError: there is no spool, or it cannot be read.
        """
        shard, envelope = self._find(message)
        return envelope.size_bytes, self._pieces(shard, envelope)

    def _pieces(self, shard: Shard, envelope: Envelope) -> Iterator[bytes]:
        for chunk in range(envelope.chunks):
            try:
                piece = shard.read_body(envelope.message, chunk)
            except SpoolFormatError:
                if _batches_of(shard, envelope.message, 0, 1):
                    raise
                raise NotQueuedError(f"{id_text(envelope.message)} left the queue while it was read") from None
            yield piece

    # -- the whole ----------------------------------------------------------------------------------------------------

    def stats(self, top: int = 10) -> QueueStats:
        """Figures of the whole queue, with the `top` destinations that have most."""
        return survey(list(self._shards), min(top, MAX_PAGE))

    def gauges(self) -> dict[str, float]:
        """Those of the figures that cost nothing, by the keys of `metrics`."""
        return gauges(list(self._shards), self._clock())


_Seen = tuple[Loaded, bool]


class _Looks:
    """How many more batches may be looked at for one answer."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, count: int) -> None:
        self.left = max(0, self.left - count)


class _Row:
    """One line of the list in the making; holds no batch but the first, however many a message has."""

    def __init__(self, shard: Shard, loaded: Loaded) -> None:
        self._shard = shard
        self._envelope = loaded.batch.envelope
        self._due_ms = loaded.batch.due_ms
        self._recipients = self._batches = self._attempts = 0
        self._addresses: list[str] = []
        self._destinations: list[str] = []
        self._told: Batch | None = None
        self._in_doubt = False

    def add(self, loaded: Loaded) -> None:
        batch = loaded.batch
        self._batches += 1
        self._recipients += len(batch.recipients)
        self._attempts = max(self._attempts, batch.attempts)
        self._due_ms = min(self._due_ms, batch.due_ms)
        room = _FIRST - len(self._addresses)
        self._addresses += [recipient.address for recipient in batch.recipients[:room]]
        if len(self._destinations) < _FIRST and batch.destination not in self._destinations:
            self._destinations.append(batch.destination)
        if batch.last_reply is not None and (self._told is None or batch.due_ms < self._told.due_ms):
            self._told = batch
        self._in_doubt = self._in_doubt or self._shard.in_doubt(loaded.key)

    def record(self) -> QueuedMessage:
        envelope, told = self._envelope, self._told
        return QueuedMessage(
            id=id_text(envelope.message),
            sender=envelope.reverse_path,
            received_at=envelope.received_at,
            size_bytes=envelope.size_bytes,
            recipients=self._recipients,
            first_recipients=self._addresses,
            batches=self._batches,
            first_destinations=self._destinations,
            attempts=self._attempts,
            next_attempt_at=self._due_ms / 1000,
            last_reply=ReplyText.of(told.last_reply) if told and told.last_reply else None,
            last_host=told.last_host if told else "",
            in_doubt=self._in_doubt,
            tenant=envelope.tenant,
            stream=envelope.stream.name.lower(),
            campaign=envelope.campaign,
        )


def _rows(shard: Shard, batches: Iterator[_Seen]) -> Iterator[tuple[int, _Row | None]]:
    """Each message that was looked at; with its line if something of it matches."""
    current, row = -1, None
    for loaded, matches in batches:
        message = loaded.batch.envelope.message
        if message != current:
            if current >= 0:
                yield current, row
            current, row = message, None
        if matches:
            row = row or _Row(shard, loaded)
            row.add(loaded)
    if current >= 0:
        yield current, row


def _all_batches(shard: Shard, start: bytes, looks: _Looks) -> Iterator[Loaded]:
    while page := shard.batches_from(start, _READ):
        looks.take(len(page))
        yield from page
        start = page[-1].key + b"\0"


def _batches(shard: Shard, keys: Iterable[bytes], looks: _Looks) -> Iterator[Loaded]:
    for key in keys:
        looks.take(1)
        loaded = shard.load(key)
        if loaded is not None:
            yield loaded


def _indexed_keys(shard: Shard, destination: str, start: bytes) -> list[bytes] | None:
    """The keys ≥ `start` of the batches of a destination, oldest first; None if it has so many that to look through
    the whole queue finds them as fast."""
    keys: list[bytes] = []
    after = b""
    while len(keys) <= _INDEXED:
        page, after = shard.ready_batches(destination, after, _INDEX_READ)
        keys += page
        if not after:
            return sorted(key for key in keys if key >= start)
    return None


def _doubts(shard: Shard, start: bytes) -> Iterator[tuple[bytes, bytes, Shard]]:
    while page := shard.doubts_from(start, _READ):
        for key, record in page:
            yield key, record, shard
        start = page[-1][0] + b"\0"


def _doubtful_keys(shard: Shard, start: bytes) -> Iterator[bytes]:
    for key, _, _ in _doubts(shard, start):
        yield key


def _batches_of(shard: Shard, message: int, first: int, limit: int) -> list[Loaded]:
    found = shard.batches_from(batch_key(message, first), limit)
    return [loaded for loaded in found if loaded.batch.envelope.message == message]


def _recipient(recipient: Recipient) -> QueuedRecipient:
    flags = Notify(recipient.notify)
    names = [flag.name.lower() for flag in flags if flag.name]
    return QueuedRecipient(address=recipient.address, notify=names, orcpt=recipient.orcpt)
