"""Tables, keys and records of a shard. docs/spool-format.md tells the same in words; a change here raises SCHEMA.

Integers in keys are big-endian, so that LMDB's byte order is number order and new keys append.
"""

from __future__ import annotations

import enum
import struct

import msgspec

from postroika.errors import SpoolFormatError
from postroika.mail.envelope import Batch, Stream
from postroika.mail.ids import MAX_SHARD
from postroika.mail.reply import Reply

MAGIC = "postroika spool"
SCHEMA = 1

# 64 KiB keeps the run of contiguous free pages that LMDB must find for one value short, so that a fragmented
# file is still reused instead of growing. Its header of 16 octets is in the first of these pages.
CHUNK_BYTES = 64 * 1024 - 16


class Table(enum.IntEnum):
    """The sub-databases; the value is the index in the store's list of handles, the name is the name on disk."""

    META = 0
    BODY = 1
    BATCH = 2
    READY = 3
    WAKE = 4
    DESTINATION = 5
    OUTBOX = 6
    CLASS = 7
    PARTIAL = 8
    DOUBT = 9


class Format(msgspec.Struct, frozen=True):
    """META["format"]: what this file is."""

    magic: str
    schema: int
    shard: int
    created_at: float


class DestinationState(msgspec.Struct, frozen=True, array_like=True):
    """DESTINATION[name]: kept only while the destination is down.

    Args:
        failures: probes that failed in a row.
        since: epoch seconds of the first of them.
        down_until: epoch seconds of the next probe.
        reply: why.
        host: who said so, "" if we found out ourselves.
    """

    failures: int
    since: float
    down_until: float
    reply: Reply
    host: str = ""


class ClassRecord(msgspec.Struct, frozen=True, array_like=True):
    """CLASS[id]: what shares a turn at a destination."""

    stream: Stream
    tenant: str
    campaign: str


DEFAULT_CLASS = ClassRecord(Stream.TRANSACTIONAL, "", "")

_U64 = struct.Struct(">Q")
_BATCH_KEY = struct.Struct(">QI")
_READY_TAIL = struct.Struct(">IQ12s")
_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_state_decoder = msgspec.msgpack.Decoder(DestinationState)
_class_decoder = msgspec.msgpack.Decoder(ClassRecord)
_format_decoder = msgspec.msgpack.Decoder(Format)

encode = _encoder.encode
u64_key = _U64.pack


def u64_from(key: bytes) -> int:
    """The number of a key made by `u64_key`."""
    number: int = _U64.unpack(key)[0]
    return number


batch_key = _BATCH_KEY.pack  # (message id, batch number) → 12 octets; BODY uses the same form with the chunk number


def split_batch_key(key: bytes) -> tuple[int, int]:
    """Message id and batch number."""
    message, number = _BATCH_KEY.unpack(key)
    return message, number


def ready_prefix(destination: str) -> bytes:
    """What all READY keys of a destination begin with. NUL cannot stand in a domain."""
    return destination.encode() + b"\0"


def ready_key(destination: str, class_id: int, due_ms: int, batch: bytes) -> bytes:
    """READY: (destination, class, due, batch) → nothing."""
    return f"{destination}\0".encode() + _READY_TAIL.pack(class_id, due_ms, batch)


def split_ready_key(key: bytes) -> tuple[str, int, int, bytes]:
    """Destination, class id, due in epoch milliseconds, batch key."""
    tail = len(key) - _READY_TAIL.size
    class_id, due_ms, batch = _READY_TAIL.unpack_from(key, tail)
    return key[: tail - 1].decode(), class_id, due_ms, batch


def wake_key(due_ms: int, destination: str) -> bytes:
    """WAKE: (when, destination) → nothing: look at this destination then."""
    return _U64.pack(due_ms) + destination.encode()


def split_wake_key(key: bytes) -> tuple[int, str]:
    """Epoch milliseconds and destination."""
    return u64_from(key[:8]), key[8:].decode()


def decode_batch(record: bytes) -> Batch:
    """A BATCH record.

    Raises:
        SpoolFormatError: damaged.
    """
    try:
        return _batch_decoder.decode(record)
    except msgspec.DecodeError as error:
        raise SpoolFormatError(f"a batch record cannot be read: {error}") from error


def decode_state(record: bytes) -> DestinationState:
    """A DESTINATION record.

    Raises:
        SpoolFormatError: damaged.
    """
    try:
        return _state_decoder.decode(record)
    except msgspec.DecodeError as error:
        raise SpoolFormatError(f"a destination record cannot be read: {error}") from error


def decode_class(record: bytes) -> ClassRecord:
    """A CLASS record.

    Raises:
        SpoolFormatError: damaged.
    """
    try:
        return _class_decoder.decode(record)
    except msgspec.DecodeError as error:
        raise SpoolFormatError(f"a class record cannot be read: {error}") from error


def check_format(record: bytes | None, shard: int, where: str) -> Format:
    """META["format"], checked against what this release can read.

    Raises:
        SpoolFormatError: foreign, damaged, another schema, or the files of another shard.
    """
    if record is None:
        raise SpoolFormatError(f"{where} is an LMDB file, but not a Postroika spool; it was left as it is")
    try:
        form = _format_decoder.decode(record)
    except msgspec.DecodeError as error:
        raise SpoolFormatError(f"{where}: the format record cannot be read: {error}") from error
    if form.magic != MAGIC:
        raise SpoolFormatError(f"{where} is not a Postroika spool; it was left as it is")
    if form.schema != SCHEMA:
        raise SpoolFormatError(
            f"{where} has schema {form.schema}, this release reads {SCHEMA}; use the release that wrote it"
        )
    if form.shard != shard or not 0 <= form.shard <= MAX_SHARD:
        raise SpoolFormatError(f"{where} belongs to shard {form.shard}, not {shard}: the files were moved or copied")
    return form
