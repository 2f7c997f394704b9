"""What the control API answers, as structs: the server encodes them, the client decodes the same.

Times are epoch seconds, 0 where there is none. A member may be added; none changes its meaning (docs/control-api.md).
"""

from __future__ import annotations

from typing import Any

import msgspec

from postroika.mail.reply import Reply


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all."""


class ReplyText(Record, frozen=True, kw_only=True):
    """A reply, the peer's or our own."""

    code: int
    enhanced: str
    text: str

    @classmethod
    def of(cls, reply: Reply) -> ReplyText:
        """`reply` with all its lines in one."""
        return cls(code=reply.code, enhanced=reply.enhanced, text=reply.text)

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


class Filter(Record, frozen=True, kw_only=True):
    """Which mail is meant; see `filters`. Empty members do not count.

    Args:
        older_than_s: accepted at least that long ago.
        in_doubt: only what may have been delivered already (a reply to the final dot was lost).
    """

    destination: str = ""
    sender: str = ""
    recipient: str = ""
    tenant: str = ""
    campaign: str = ""
    older_than_s: float = 0.0
    in_doubt: bool = False


class QueuedMessage(Record, frozen=True, kw_only=True):
    """A line of the list: what is still open of one message, and matches the filter.

    Args:
        recipients: how many.
        first_recipients, first_destinations: some of them.
        attempts: of the batch that has had most.
        next_attempt_at: the earliest of all batches; in the past: it is due.
        last_reply, last_host: of the batch that is due first of those that have one.
    """

    id: str
    sender: str
    received_at: float
    size_bytes: int
    recipients: int
    first_recipients: list[str]
    batches: int
    first_destinations: list[str]
    attempts: int
    next_attempt_at: float
    last_reply: ReplyText | None
    last_host: str
    in_doubt: bool
    tenant: str
    stream: str
    campaign: str


class Page(Record, frozen=True, kw_only=True):
    """A part of the list, oldest first.

    Args:
        next: give it as `after` for what follows; "" at the end. A page may be short, even empty, and not be the
            last: the server looks at a bounded part of the queue for one answer.
    """

    messages: list[QueuedMessage]
    next: str


class Down(Record, frozen=True, kw_only=True):
    """A destination is left alone, because no host of it answers.

    Args:
        failures: probes that failed in a row.
        host: who said so, "" if we found out ourselves.
    """

    failures: int
    since: float
    next_probe_at: float
    reply: ReplyText
    host: str


class QueuedRecipient(Record, frozen=True, kw_only=True):
    """One RCPT TO that is still open."""

    address: str
    notify: list[str]
    orcpt: str


class QueuedBatch(Record, frozen=True, kw_only=True):
    """The open recipients of one destination.

    Args:
        state: why it was not delivered yet: "due" (waits for its turn, or is under way), "retry" (an attempt was
            deferred), "down" (its destination is left alone; see `down`), "held" (not before a time asked for),
            "disabled" (delivery is switched off in the config).
        deferrals: how often its recipients were told "deferred".
        delay_noted: the sender has been told that it is late.
        in_doubt: it may have been delivered already.
    """

    number: int
    destination: str
    state: str
    recipients: list[QueuedRecipient]
    attempts: int
    deferrals: int
    delay_noted: bool
    next_attempt_at: float
    last_reply: ReplyText | None
    last_host: str
    down: Down | None
    in_doubt: bool


class MessageDetail(Record, frozen=True, kw_only=True):
    """All about one message.

    Args:
        expires_at: when it is returned to its sender.
        batches_at_first: into how many it was split when it was accepted.
        next_batch: -1, or give it as `batch` for the batches that follow.
    """

    id: str
    sender: str
    received_at: float
    expires_at: float
    not_before: float
    size_bytes: int
    body_type: str
    eight_bit: bool
    smtputf8: bool
    ret: str
    envid: str
    tenant: str
    stream: str
    campaign: str
    client_ip: str
    client_helo: str
    batches_at_first: int
    batches: list[QueuedBatch]
    next_batch: int


class DoubtfulBatch(Record, frozen=True, kw_only=True):
    """Recipients who may have got a message twice, or may yet.

    Args:
        at: when it was found out.
        queued: it is still in the queue, and will be tried again.
    """

    id: str
    destination: str
    recipients: list[str]
    at: float
    queued: bool


class Doubts(Record, frozen=True, kw_only=True):
    """A part of the doubts, oldest message first; `next` as for `Page`."""

    batches: list[DoubtfulBatch]
    next: str


class DestinationCount(Record, frozen=True, kw_only=True):
    """What is queued for one destination. `exact` is false if there is more than `batches`."""

    name: str
    batches: int
    exact: bool


class DownDestination(Record, frozen=True, kw_only=True):
    """A destination and why it is left alone; of several workers the one that knows it longest."""

    name: str
    down: Down


class ConsumerLag(Record, frozen=True, kw_only=True):
    """How far a consumer of the outbox is behind.

    Args:
        records: outbox records (groups of events) that it has not confirmed; a consumer confirms about once a second.
        oldest_at: time of the first event of them.
    """

    name: str
    records: int
    oldest_at: float


class ShardStats(Record, frozen=True, kw_only=True):
    """Figures of one shard."""

    shard: int
    batches: int
    oldest_at: float
    file_bytes: int
    room_bytes: int
    outbox_records: int


class QueueStats(Record, frozen=True, kw_only=True):
    """Figures of the whole queue.

    Args:
        batches: exact.
        messages, recipients: estimated from samples if `estimated`, else exact.
        oldest_at: when the oldest message was accepted.
        destinations: those with most, most first.
        all_counted: false if there are so many destinations that not all were looked at.
        in_doubt: batches, queued or not.
        file_bytes, room_bytes: of all shards; the room of the fullest one.
        workers: figures of the running workers, by worker; empty where none runs.
    """

    batches: int
    messages: int
    recipients: int
    estimated: bool
    oldest_at: float
    destinations: list[DestinationCount]
    all_counted: bool
    down: list[DownDestination]
    all_down: bool
    in_doubt: int
    consumers: list[ConsumerLag]
    file_bytes: int
    room_bytes: int
    shards: list[ShardStats]
    workers: list[WorkerStatus] = []


class WorkerStatus(Record, frozen=True, kw_only=True):
    """One worker. `error` says why it does not answer; "" if it does."""

    worker: int
    pid: int
    error: str
    gauges: dict[str, float] = {}


class Status(Record, frozen=True, kw_only=True):
    """The server. `ready`: every worker answers."""

    version: str
    hostname: str
    pid: int
    uptime_s: float
    ready: bool
    workers: list[WorkerStatus]


class Changed(Record, frozen=True, kw_only=True):
    """What flush or cancel did.

    Args:
        count: batches that were made due (flush), or recipients that will get nothing (cancel).
        errors: of workers that could not do it.
    """

    count: int
    errors: list[str]


class FlushRequest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Try now: these messages (ids), these destinations, or with both empty everything."""

    messages: list[str] = []
    destinations: list[str] = []


class CancelRequest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take back: these messages (ids), or all that match every filter that is not empty; at least one is given."""

    messages: list[str] = []
    destination: str = ""
    sender: str = ""
    recipient: str = ""
    tenant: str = ""
    campaign: str = ""


class TlsFailure(Record, frozen=True, kw_only=True):
    """A kind of failure; see `tlsrpt.tally.Failure`."""

    result: str
    sending_ip: str
    mx_host: str
    mx_helo: str
    receiving_ip: str
    reason: str
    count: int


class TlsPolicy(Record, frozen=True, kw_only=True):
    """What sessions were to be like, and how many were. Failures come most frequent first."""

    type: str
    domain: str
    lines: list[str]
    mx_hosts: list[str]
    succeeded: int
    failed: int
    failures: list[TlsFailure]


class TlsDomain(Record, frozen=True, kw_only=True):
    """Sessions with the hosts of one domain."""

    domain: str
    policies: list[TlsPolicy]


class TlsCounts(Record, frozen=True, kw_only=True):
    """What has been counted for TLS reports.

    Args:
        day: a UTC day, as 2026-11-21.
        days: all of which there are counts.
        domains, succeeded, failed: sums over all that match, shown or not.
        shown: those with most failures.
    """

    day: str
    days: list[str]
    domains: int
    succeeded: int
    failed: int
    shown: list[TlsDomain]


class SendTlsReports(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send the reports about a day: as 2026-11-21, "today" or "yesterday"; "" = yesterday."""

    day: str = ""


class TlsReportsSent(Record, frozen=True, kw_only=True):
    """What came of sending the reports about a day.

    Args:
        domains: of which there were counts.
        reports: that were queued or posted now.
        failed: domains whose reports are to be tried again.
        problems: why, some of them.
    """

    day: str
    domains: int
    reports: int
    failed: int
    problems: list[str]


class ErrorText(Record, frozen=True, kw_only=True):
    """The body of every answer that is not 2xx."""

    error: str


def plain(record: Record) -> dict[str, Any]:
    """As JSON would have it; for output."""
    value: dict[str, Any] = msgspec.to_builtins(record)
    return value
