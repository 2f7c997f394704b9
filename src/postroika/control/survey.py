"""Figures of the whole queue.

Promise: bounded work whatever the backlog. What LMDB knows (entries of a table) is exact; messages and recipients are
counted while there are few, and else estimated from samples spread evenly over the ages; destinations are counted in
order of name up to a bound, each up to a bound of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from postroika.control.records import (
    ConsumerLag,
    DestinationCount,
    Down,
    DownDestination,
    QueueStats,
    ReplyText,
    ShardStats,
)
from postroika.mail.ids import id_time_s
from postroika.outcome.event_record import decode as decode_event
from postroika.spool.reader import Loaded
from postroika.spool.schema import DestinationState, Table, batch_key, split_batch_key
from postroika.spool.shards import Shard

_COUNTED = 20_000  # batches of a shard that are counted one by one
_SAMPLES = 20
_READ = 500  # batches a transaction, and a sample
_EACH = 10_000  # entries of a destination that are counted
_READY_LOOKS = 5_000  # entries a transaction
_READY_BUDGET = 1_000_000  # entries of a shard that are looked at: about a second
_DOWN = 1_000


def survey(shards: Sequence[Shard], top: int) -> QueueStats:
    """Figures of all of `shards` together, with the `top` destinations that have most.

    Raises:
        SpoolError: a shard cannot be read.
    """
    counts = [shard.counts() for shard in shards]
    batches = [count["batch"] for count in counts]
    each = [_shard_stats(shard, count) for shard, count in zip(shards, counts, strict=True)]
    sizes = [_messages(shard, count) for shard, count in zip(shards, batches, strict=True)]
    destinations, all_counted = _destinations(shards)
    down, all_down = _down(shards)
    return QueueStats(
        batches=sum(batches),
        messages=sum(messages for messages, _ in sizes),
        recipients=sum(recipients for _, recipients in sizes),
        estimated=any(count > _COUNTED for count in batches),
        oldest_at=min((stats.oldest_at for stats in each if stats.oldest_at), default=0.0),
        destinations=heapq.nsmallest(top, destinations, key=lambda d: (-d.batches, d.name)),
        all_counted=all_counted,
        down=down,
        all_down=all_down,
        in_doubt=sum(count["doubt"] for count in counts),
        consumers=_consumers(shards),
        file_bytes=sum(stats.file_bytes for stats in each),
        room_bytes=min((stats.room_bytes for stats in each), default=0),
        shards=each,
    )


def _shard_stats(shard: Shard, counts: dict[str, int]) -> ShardStats:
    oldest = shard.oldest_batch_key()
    return ShardStats(
        shard=shard.shard,
        batches=counts["batch"],
        oldest_at=id_time_s(split_batch_key(oldest)[0]) if oldest else 0.0,
        file_bytes=shard.file_bytes(),
        room_bytes=shard.room_bytes(),
        outbox_records=counts[Table.OUTBOX.name.lower()],
    )


def _messages(shard: Shard, batches: int) -> tuple[int, int]:
    """Messages and recipients of a shard that has so many batches: counted, or estimated."""
    if batches <= _COUNTED:
        messages = recipients = 0
        last, start = -1, b""
        while page := shard.batches_from(start, _READ):
            found, people, last = _tally(page, last)
            messages += found
            recipients += people
            start = page[-1].key + b"\0"
        return messages, recipients
    oldest = shard.oldest_batch_key()
    first = split_batch_key(oldest)[0] if oldest else 0
    step = max(1, (shard.last_batch_message() - first) // _SAMPLES)
    seen = messages = recipients = 0
    for sample in range(_SAMPLES):
        page = shard.batches_from(batch_key(first + sample * step, 0), _READ)
        found, people, _ = _tally(page, -1)
        seen += len(page)
        messages += found
        recipients += people
    return (batches * messages // seen, batches * recipients // seen) if seen else (0, 0)


def _tally(page: Iterable[Loaded], last: int) -> tuple[int, int, int]:
    """Messages and recipients in a run of batches that follows message `last`, and the last message of it."""
    messages = recipients = 0
    for loaded in page:
        message = loaded.batch.envelope.message
        messages += message != last
        recipients += len(loaded.batch.recipients)
        last = message
    return messages, recipients, last


def _destinations(shards: Sequence[Shard]) -> tuple[list[DestinationCount], bool]:
    """All destinations that were looked at, and whether those are all."""
    counts: dict[str, int] = {}
    inexact: set[str] = set()
    all_counted = True
    for shard in shards:
        after, budget, more = "", _READY_BUDGET, True
        while more and budget > 0:
            found, more = shard.ready_counts(after, each=_EACH, looks=_READY_LOOKS)
            for name, batches, exact in found:
                counts[name] = counts.get(name, 0) + batches
                budget -= batches
                if not exact:
                    inexact.add(name)
            after = found[-1].destination if found else after
        all_counted = all_counted and not more
    return [
        DestinationCount(name=name, batches=count, exact=name not in inexact) for name, count in counts.items()
    ], all_counted


def _down(shards: Sequence[Shard]) -> tuple[list[DownDestination], bool]:
    """The destinations that are left alone, longest first, and whether those are all."""
    states: dict[str, DestinationState] = {}
    complete = True
    for shard in shards:
        found = shard.down_destinations("", _DOWN + 1)
        complete = complete and len(found) <= _DOWN
        for name, state in found[:_DOWN]:
            if name not in states or state.since < states[name].since:
                states[name] = state
    ordered = sorted(states.items(), key=lambda item: (item[1].since, item[0]))
    return [DownDestination(name=name, down=down_record(state)) for name, state in ordered], complete


def down_record(state: DestinationState) -> Down:
    """The state of a destination that is down, as it is told."""
    return Down(
        failures=state.failures,
        since=state.since,
        next_probe_at=state.down_until,
        reply=ReplyText.of(state.reply),
        host=state.host,
    )


def _consumers(shards: Sequence[Shard]) -> list[ConsumerLag]:
    """Each consumer of the outbox, with what all shards together still have for it."""
    records: dict[str, int] = {}
    oldest: dict[str, float] = {}
    for shard in shards:
        for name, done in shard.consumers().items():
            waiting = shard.outbox_read(done, 1)
            last = max(0, shard.meta_number("outbox_next") - 1)
            records[name] = records.get(name, 0) + (max(0, last - done) if waiting else 0)
            if waiting:
                at = _event_time(waiting[0][1])
                oldest[name] = min(oldest.get(name, at), at)
    return [
        ConsumerLag(name=name, records=count, oldest_at=oldest.get(name, 0.0))
        for name, count in sorted(records.items())
    ]


def _event_time(lines: bytes) -> float:
    """The time of the first of some event lines."""
    return decode_event(lines.split(b"\n", 1)[0]).at


def gauges(shards: Sequence[Shard], now: float) -> dict[str, float]:
    """Those figures of the queue that cost nothing, by the keys of `metrics`.

    Args:
        now: epoch seconds.

    Raises:
        SpoolError: a shard cannot be read.
    """
    figures = dict.fromkeys(("queue_batches", "queue_in_doubt", "destinations_down", "spool_files"), 0.0)
    oldest_at, room = now, float("inf")
    for shard in shards:
        counts = shard.counts()
        figures["queue_batches"] += counts["batch"]
        figures["queue_in_doubt"] += counts["doubt"]
        figures["destinations_down"] += counts["destination"]
        figures["spool_files"] += shard.file_bytes()
        room = min(room, shard.room_bytes())
        if oldest := shard.oldest_batch_key():
            oldest_at = min(oldest_at, id_time_s(split_batch_key(oldest)[0]))
    return {**figures, "queue_oldest": now - oldest_at, "spool_room": room if shards else 0.0}
