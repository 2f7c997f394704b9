"""Recording what became of an attempt: the only door out of the spool.

Promise: the done-marks, the events and the delivery status notification of one attempt (or, for what is still open,
the new due time) are one set of Changes: a crash leaves all of it or nothing. A recipient gets exactly one final
outcome; nothing is ever sent to the null sender about its own mail.

`settle`, `cancel`, … are pure but for reading the header that a notification returns; `commit` hands over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from postroika.mail.envelope import Batch, BodyType, Envelope, Recipient
from postroika.mail.ids import IdSource, id_text
from postroika.mail.outcome import Attempt, Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply
from postroika.metrics import COUNTERS, NOTICES
from postroika.outcome import dsn
from postroika.outcome.events import EventWriter
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.inflight import InFlight
from postroika.spool.reader import Loaded
from postroika.spool.recovery import Doubt
from postroika.spool.schema import CHUNK_BYTES, ClassRecord, DestinationState, Table, batch_key, encode
from postroika.spool.store import Store
from postroika.spool.writer import destination_of

_DELIVERED = Outcome.DELIVERED
_COUNT_DELIVERED = COUNTERS[_DELIVERED]
_CANCELLED = Reply(554, "5.7.0", ("cancelled by the operator",))
_EXPIRED = Reply(554, "5.4.7", ("delivery time expired",))


class Settled(msgspec.Struct):
    """What is to be committed for one batch.

    Args:
        loaded: the batch as it was.
        changes: the writes.
        notices: delivery status notifications among them, to be handed to the queue after the commit.
    """

    loaded: Loaded
    changes: Changes
    notices: list[Loaded]


class Settler:
    """Makes and commits outcomes.

    Args:
        store, committer, inflight, ids: of the shard.
        events: makes event lines.
        hostname: ours, for notifications.
        expire_after_s: tells a late sender until when we try.
        clock: epoch seconds.
    """

    def __init__(
        self,
        store: Store,
        committer: Committer,
        inflight: InFlight,
        ids: IdSource,
        events: EventWriter,
        *,
        hostname: str,
        expire_after_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._committer = committer
        self._inflight = inflight
        self._ids = ids
        self._events = events
        self._hostname = hostname
        self._expire_after_s = expire_after_s
        self._clock = clock

    def settle(
        self,
        loaded: Loaded,
        attempt: Attempt,
        *,
        due_at: float,
        expired: bool = False,
        cancelled: bool = False,
        note_delay: bool = False,
    ) -> Settled:
        """The outcome of an attempt.

        Args:
            due_at: epoch seconds of the next attempt, for recipients that are deferred.
            expired, cancelled: a deferral is the end: the message is too old, or the operator has taken it back.
            note_delay: tell the sender, if recipients are still deferred, that the message is late.
        """
        batch = loaded.batch
        recipients = batch.recipients
        changes = Changes(must=True)
        settled = Settled(loaded, changes, [])
        if len(attempt.results) == 1 and attempt.results[0].outcome is _DELIVERED:
            result = attempt.results[0]
            if not result.relayed_without_dsn:  # what becomes of nearly all mail
                _COUNT_DELIVERED.value += 1
                changes.event(self._events.attempt(batch, recipients[result.index], result, attempt))
                changes.finish_batch(loaded.key, batch)
                return settled
        still_open: list[Recipient] = []
        failed: list[RecipientResult] = []
        given_up: list[RecipientResult] = []
        relayed: list[RecipientResult] = []
        last, host = batch.last_reply, ""
        in_doubt = False
        for result in attempt.results:
            recipient = recipients[result.index]
            if result.outcome is Outcome.DEFERRED:
                in_doubt |= result.stage is Stage.FINAL_DOT and not result.remote
                if cancelled:
                    result = msgspec.structs.replace(result, outcome=Outcome.CANCELLED)
                elif expired:
                    result = msgspec.structs.replace(result, outcome=Outcome.EXPIRED)
                    given_up.append(result)
                else:
                    still_open.append(recipient)
                    last = result.reply
                    host = (result.peer or attempt.peer).host if result.remote else ""
            elif result.outcome is Outcome.FAILED:
                failed.append(result)
            elif result.relayed_without_dsn:
                relayed.append(result)
            COUNTERS[result.outcome].value += 1
            next_at = due_at if result.outcome is Outcome.DEFERRED else 0.0
            changes.event(self._events.attempt(batch, recipient, result, attempt, next_at))
        if in_doubt:
            self._note_doubt(changes, loaded)
        peer = attempt.peer
        for kind, results in ((dsn.Kind.FAILED, failed), (dsn.Kind.EXPIRED, given_up), (dsn.Kind.RELAYED, relayed)):
            if results:
                self._notify(settled, kind, self._reports(batch, results, peer))
        if not still_open:
            changes.finish_batch(loaded.key, batch)
            return settled
        if note_delay:
            deferred = [result for result in attempt.results if result.outcome is Outcome.DEFERRED]
            self._notify(settled, dsn.Kind.DELAYED, self._reports(batch, deferred, peer))
        self._requeue(
            changes,
            loaded,
            msgspec.structs.replace(
                batch,
                recipients=tuple(still_open),
                due_ms=int(due_at * 1000),
                attempts=batch.attempts + 1,
                deferrals=batch.deferrals + 1,
                delay_noted=batch.delay_noted or note_delay,
                last_reply=last,
                last_host=host,
            ),
        )
        return settled

    def defer_untried(self, loaded: Loaded, down: DestinationState) -> Settled:
        """The destination is down: tell so without an attempt, due again when it is probed."""
        batch = loaded.batch
        changes = Changes(must=True)
        attempt = Attempt((), Peer(down.host))
        for index, recipient in enumerate(batch.recipients):
            result = RecipientResult(index, Outcome.DEFERRED, down.reply, Stage.QUEUE, remote=bool(down.host))
            COUNTERS[Outcome.DEFERRED].value += 1
            line = self._events.attempt(batch, recipient, result, attempt, down.down_until, number=batch.attempts)
            changes.event(line)
        self._requeue(
            changes,
            loaded,
            msgspec.structs.replace(
                batch,
                due_ms=int(down.down_until * 1000),
                deferrals=batch.deferrals + 1,
                last_reply=down.reply,
                last_host=down.host,
            ),
        )
        return Settled(loaded, changes, [])

    def cancel(self, loaded: Loaded) -> Settled:
        """The operator has taken the message back. Its sender is not told."""
        changes = Changes(must=True)
        for recipient in loaded.batch.recipients:
            COUNTERS[Outcome.CANCELLED].value += 1
            changes.event(self._events.cancelled(loaded.batch, recipient, _CANCELLED))
        changes.finish_batch(loaded.key, loaded.batch)
        return Settled(loaded, changes, [])

    def expire(self, loaded: Loaded) -> Settled:
        """The message is too old, and no attempt was made now."""
        batch = loaded.batch
        settled = Settled(loaded, Changes(must=True), [])
        for recipient in batch.recipients:
            COUNTERS[Outcome.EXPIRED].value += 1
            settled.changes.event(self._events.expired(batch, recipient, None if batch.last_reply else _EXPIRED))
        self._notify(settled, dsn.Kind.EXPIRED, self._late_reports(batch))
        settled.changes.finish_batch(loaded.key, batch)
        return settled

    def note_delay(self, loaded: Loaded) -> Settled:
        """The message is late: tell its sender once; the schedule stays as it is."""
        batch = loaded.batch
        settled = Settled(loaded, Changes(must=True), [])
        self._notify(settled, dsn.Kind.DELAYED, self._late_reports(batch))
        noted = msgspec.structs.replace(batch, delay_noted=True)
        settled.changes.put(Table.BATCH, loaded.key, encode(noted))
        return settled

    def make_due(self, loaded: Loaded, now: float) -> Settled:
        """The operator wants it tried now."""
        settled = Settled(loaded, Changes(must=True), [])
        self._requeue(settled.changes, loaded, msgspec.structs.replace(loaded.batch, due_ms=int(now * 1000)))
        return settled

    def not_tried(self, loaded: Loaded) -> None:
        """The attempt came to nothing before anything was sent."""
        self._inflight.end(loaded.key)

    def commit(self, settled: Settled, committed: Callable[[], None]) -> None:
        """Hand over; `committed` is called after the sync. The batch stays in the in-flight table until then."""
        self._committer.commit_nowait(settled.changes, partial(self._done, settled.loaded.key, committed))

    def _done(self, key: bytes, committed: Callable[[], None], error: Exception | None) -> None:
        if error is not None:
            raise error  # must=True: only a broken spool gets here
        self._inflight.end(key)
        committed()

    # -- parts --------------------------------------------------------------------------------------------------------

    def _requeue(self, changes: Changes, loaded: Loaded, batch: Batch) -> None:
        if batch.due_ms != loaded.batch.due_ms:
            changes.unqueue(loaded.key, loaded.batch)
        changes.put_batch(batch)

    def _note_doubt(self, changes: Changes, loaded: Loaded) -> None:
        """The reply to the final dot was lost: whether these have the message is unknowable."""
        doubt = Doubt(self._clock(), loaded.batch.destination, loaded.batch.recipients)
        changes.put(Table.DOUBT, loaded.key, encode(doubt))

    def _reports(self, batch: Batch, results: Iterable[RecipientResult], peer: Peer) -> list[dsn.RecipientReport]:
        now = self._clock()
        until = batch.envelope.expires_at or batch.envelope.received_at + self._expire_after_s
        return [
            dsn.RecipientReport(
                batch.recipients[result.index],
                result.reply,
                result.stage,
                result.remote,
                result.peer or peer,
                now,
                until,
            )
            for result in results
        ]

    def _late_reports(self, batch: Batch) -> list[dsn.RecipientReport]:
        until = batch.envelope.expires_at or batch.envelope.received_at + self._expire_after_s
        return [
            dsn.RecipientReport(
                recipient,
                batch.last_reply or Reply(450, "4.4.7", ("not tried yet",)),
                Stage.QUEUE,
                bool(batch.last_host),
                Peer(batch.last_host),
                0.0,
                until,
            )
            for recipient in batch.recipients
        ]

    def _notify(self, settled: Settled, kind: dsn.Kind, reports: Sequence[dsn.RecipientReport]) -> None:
        """Add a notification about `reports` to the changes, if the sender wants one."""
        if not reports:
            return
        original = settled.loaded.batch.envelope
        wanted = dsn.select(kind, original, reports)
        if not wanted:
            return
        NOTICES[kind.value].value += 1
        now = self._clock()
        full = dsn.returns_full(kind, original)
        number = self._ids.next_id()
        body = dsn.build(
            kind,
            original,
            wanted,
            hostname=self._hostname,
            message_id_text=id_text(number),
            now=now,
            returned=self._body(settled.loaded, full),
            returned_is_full=full,
        )
        eight_bit = not body.isascii()
        utf8_needed = not original.reverse_path.isascii()
        changes = settled.changes
        pieces = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
        for chunk, piece in enumerate(pieces):
            changes.put_chunk(number, chunk, piece)
        envelope = Envelope(
            message=number,
            reverse_path="",
            received_at=now,
            size_bytes=len(body),
            chunks=len(pieces),
            body_type=BodyType.EIGHT_BIT if eight_bit else BodyType.SEVEN_BIT,
            eight_bit=eight_bit,
            smtputf8=utf8_needed,
            utf8_needed=utf8_needed,
            tenant=original.tenant,
            stream=original.stream,
            campaign=original.campaign,
            ours=True,
        )
        recipient = Recipient(original.reverse_path)
        destination = destination_of(original.reverse_path)
        class_id = self._store.intern_class(ClassRecord(original.stream, original.tenant, original.campaign), changes)
        batch = Batch(envelope, 0, destination, (recipient,), class_id, int(now * 1000))
        changes.put_batch(batch)
        changes.event(self._events.received(envelope, recipient, destination))
        settled.notices.append(Loaded(batch_key(number, 0), batch, body))

    def _body(self, loaded: Loaded, full: bool) -> bytes:
        if loaded.body is not None:
            return loaded.body
        envelope = loaded.batch.envelope
        chunks = envelope.chunks if full else min(1, envelope.chunks)
        return self._store.read_body(envelope.message, 0, chunks) if chunks else b""
