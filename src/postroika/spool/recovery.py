"""What a start does before the loop runs: remove bodies without an envelope, note the recipients in doubt.

Promise: the work grows with what was under way at the crash, not with the backlog.
"""

from __future__ import annotations

import time

import msgspec

from postroika.mail.envelope import Recipient
from postroika.spool.changes import Changes
from postroika.spool.inflight import InFlight
from postroika.spool.schema import Table, encode, u64_key
from postroika.spool.store import Store

_DOUBT_KEPT_S = 30 * 86_400
_MOST = 100_000  # sessions under way, doubts: far below this


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
    """What a start found.

    Args:
        changes: what has to be written; "must", so that a full disk does not keep the server from starting, which may
            make room.
    """

    partial_messages: int
    batches_in_doubt: int
    changes: Changes


def recover(store: Store, inflight: InFlight) -> Recovered:
    """Find out what has to be brought into order. Writes nothing: commit `changes`, then `inflight.take_over()`."""
    changes = Changes(must=True)
    partial = store.partial_messages(_MOST)
    for message in partial:
        changes.finished.append(message)  # drops the body unless a batch of it is there
        changes.delete(Table.PARTIAL, u64_key(message))
    now = time.time()
    in_doubt = 0
    for key in inflight.recovered:
        loaded = store.load(key)
        if loaded is not None:  # else its outcome had been committed and only the mark was left
            doubt = Doubt(now, loaded.batch.destination, loaded.batch.recipients)
            changes.put(Table.DOUBT, key, encode(doubt))
            in_doubt += 1
    for key, record in store.doubts(_MOST):
        if msgspec.msgpack.decode(record, type=Doubt).at < now - _DOUBT_KEPT_S:
            changes.delete(Table.DOUBT, key)
    return Recovered(len(partial), in_doubt, changes)
