"""What a start does before the loop runs: remove bodies without an envelope, note the recipients in doubt; and what is
forgotten of these later.

Promise: the work grows with what was under way at the crash, not with the backlog.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import trio

from postroika.mail.envelope import Recipient
from postroika.mail.ids import id_time_s
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.inflight import InFlight
from postroika.spool.schema import Table, encode, split_batch_key, u64_key
from postroika.spool.store import Store

_MOST = 100_000  # sessions under way: far below this
_DOUBT_KEPT_S = 30 * 86_400
_FORGET_EVERY_S = 3600.0
_FORGOTTEN_AT_ONCE = 5_000  # some milliseconds


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
    return Recovered(len(partial), in_doubt, changes)


async def forget_old_doubts(store: Store, committer: Committer, clock: Callable[[], float] = time.time) -> None:
    """Remove doubts when they are a month old: at once, and then each hour. Never returns.

    Args:
        clock: epoch seconds.

    Cancellation: at any time.
    """
    while True:
        horizon = clock() - _DOUBT_KEPT_S
        changes = Changes()
        for key, record in store.doubts(_FORGOTTEN_AT_ONCE):
            if id_time_s(split_batch_key(key)[0]) >= horizon:
                break  # keys are in the order in which messages came, and none is in doubt before it came
            if msgspec.msgpack.decode(record, type=Doubt).at < horizon:
                changes.delete(Table.DOUBT, key)
        if changes.writes:
            committer.commit_later(changes)
        await trio.sleep(_FORGET_EVERY_S)
