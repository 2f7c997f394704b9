"""What a start does before the loop runs: remove bodies without an envelope, note the recipients in doubt.

Promise: the work grows with what was under way at the crash, not with the backlog.
"""

from __future__ import annotations

import time

import msgspec

from postroika.mail.envelope import Recipient
from postroika.spool.changes import Changes
from postroika.spool.inflight import InFlight
from postroika.spool.schema import Table, encode
from postroika.spool.store import Store

_DOUBT_KEPT_S = 30 * 86_400


class Doubt(msgspec.Struct, frozen=True, array_like=True):
    """DOUBT[batch key]: the final dot was sent, and the reply was lost with the process.

    Args:
        at: epoch seconds of the start that found it.
        destination: where it was being delivered.
        recipients: who may get the message twice, or have it already.
    """

    at: float
    destination: str
    recipients: tuple[Recipient, ...]


class Recovered(msgspec.Struct, frozen=True):
    """What a start found."""

    partial_messages: int
    batches_in_doubt: int


def recover(store: Store, inflight: InFlight) -> Recovered:
    """Bring a shard into order. Before the committer runs; calls the store's write side directly.

    Raises:
        SpoolError: it could not be written.
    """
    partial = 0
    while found := store.partial_messages(100):
        for message in found:
            store.drop_partial(message)
        partial += len(found)
    changes = Changes()
    now = time.time()
    in_doubt = 0
    for key in inflight.recovered:
        loaded = store.load(key)
        if loaded is not None:  # else its outcome had been committed and only the mark was left
            doubt = Doubt(now, loaded.batch.destination, loaded.batch.recipients)
            changes.put(Table.DOUBT, key, encode(doubt))
            in_doubt += 1
    for key, record in store.doubts(10_000):
        if msgspec.msgpack.decode(record, type=Doubt).at < now - _DOUBT_KEPT_S:
            changes.delete(Table.DOUBT, key)
    if changes.writes:
        store.apply([changes])
    inflight.take_over()
    return Recovered(partial, in_doubt)
