"""Many batches over one connection: from jobs to transactions, and from verdicts back to results.

Promise: a batch is told "tried" only if the peer could have had something to do with it; a message whose final dot
was sent is never tried again in the same attempt; bodies beyond
`one_write_bytes` are never brought into memory as a whole.

The loop takes events until there are none, then offers the client a further transaction (so that the next message
rides behind the dot of this one), then exchanges bytes. Nothing here is awaited but the connection and, when there is
no work, the lane.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Protocol

from postroika.config import Delivery
from postroika.errors import RemoteProtocolError, SigningError
from postroika.mail.envelope import Envelope, Notify
from postroika.mail.outcome import Outcome, RecipientResult
from postroika.outbound import classify
from postroika.outbound.connection import Connection
from postroika.outbound.contract import Bodies, InFlightTable, Signer
from postroika.outbound.failure import FAILURES, Failure, PeerClosed, TlsFailed
from postroika.outbound.job import Job, Try
from postroika.pump import breathe
from postroika.smtp.client_transaction import BodyWanted, Closed, Done, Fate, Transaction, Verdict
from postroika.spool.reader import Loaded
from postroika.spool.schema import CHUNK_BYTES

# Deferred recipients wait for a try at the next host until there is nothing else to do here, or they are this many.
_MAX_LEFTOVERS = 50
# Batches that fail without a word to the peer (too large for it, for instance) go by without waiting for anything.
_DONE_BEFORE_YIELD = 16
_CHUNKS_A_PIECE = 4
_SUCCESS = int(Notify.SUCCESS)  # An IntFlag takes thirty times as long to be asked.


class End(enum.Enum):
    """Why a session is over."""

    IDLE = enum.auto()  # The lane has nothing more.
    WANTED = enum.auto()  # Nothing to do, and somebody else wants the connection.
    FULL = enum.auto()  # It has done its part; jobs that are left need another connection.
    STALE = enum.auto()  # The peer had closed it while it was at rest.
    LOST = enum.auto()  # It broke.


class Source(Protocol):
    """Where batches come from and results go."""

    def take(self) -> Job | None:
        """Another batch, if there is one now."""

    async def wait(self) -> tuple[Job | None, bool]:
        """Another batch, or None after a while; and whether the wait was ended since the connection is wanted."""

    def report(self, job: Job) -> None:
        """All recipients have a result."""


class Session:
    """Works off jobs on one connection.

    Args:
        connection: its session stands, and nothing is under way.
        jobs: with recipients to be tried here; those that could not be are left in it.
        source: where more comes from.
        takes: take more than `jobs`.
        alternatives: there is another host for what is deferred here.
        signer: signs what goes out, if anything is signed.

    Attributes:
        leftovers: jobs with recipients for the next host.
        apart: a job that needs another kind of connection (REQUIRETLS); nothing more is taken until it had its turn.
        failed: why the session was lost, as the verdict on what was first under way.
        spoiled: it was lost before the peer had answered anything of a first message, or one was begun: the host is of
            no use.
    """

    def __init__(
        self,
        connection: Connection,
        jobs: deque[Job],
        source: Source,
        bodies: Bodies,
        in_flight: InFlightTable,
        config: Delivery,
        *,
        takes: bool,
        alternatives: bool,
        signer: Signer | None = None,
    ) -> None:
        self.leftovers: list[Job] = []
        self.apart: Job | None = None
        self.failed: Verdict | None = None
        self.spoiled = False
        self._connection = connection
        self._client = connection.client
        self._jobs = jobs
        self._source = source
        self._bodies = bodies
        self._in_flight = in_flight
        self._takes = takes
        self._alternatives = alternatives
        self._max_messages = config.max_messages_per_connection
        self._max_recipients = self._client.capabilities.max_recipients
        self._success_notices = not self._client.capabilities.dsn
        self._in_memory_bytes = self._client.settings.one_write_bytes
        self._started = connection.messages
        self._signer = signer
        self._unsigned: Loaded | None = None  # what is to go next, and has to be signed first

    async def run(self) -> End:
        """Until there is nothing more to do on this connection. Can be called again after IDLE and WANTED.

        Interruption: the connection is closed; jobs stay as they are.
        """
        try:
            with self._connection.attended():
                return await self._converse()
        except FAILURES as error:
            self._connection.close()
            self._lose(error)
            return End.LOST
        except BaseException:
            self._connection.close()
            raise

    async def _converse(self) -> End:
        connection, client = self._connection, self._client
        done = 0
        while True:
            event = connection.next_event()
            if event is None:
                while client.ready_for_next and self._start_next():
                    if client.has_event:
                        break
                else:
                    if client.busy:
                        if client.finals:
                            self._mark(client.finals)
                        await connection.exchange()
                        done = 0
                    elif self._unsigned is not None and client.ready_for_next:
                        if await self._wait_for_signature(self._unsigned):
                            return End.STALE
                    elif (end := await self._without_work()) is not None:
                        return end
            elif isinstance(event, Done):
                self._done(event.transaction)
                done += 1
                if done >= _DONE_BEFORE_YIELD:
                    done = 0
                    await breathe()
            elif isinstance(event, BodyWanted):
                self._give_body(event.transaction)
            elif isinstance(event, Closed):
                raise PeerClosed(client.waiting, event.reply)

    async def _without_work(self) -> End | None:
        """Nothing is under way: wait for the lane, or end."""
        if self._jobs or self.leftovers or self.apart is not None or self._client.exhausted or not self._room:
            return End.FULL
        if not self._takes:
            return End.IDLE
        self._connection.rest()
        job, wanted = await self._source.wait()
        if job is None:
            return End.WANTED if wanted else End.IDLE
        if job.loaded.batch.envelope.requiretls:
            self.apart = job
            return End.FULL
        self._jobs.append(job)
        return End.STALE if self._connection.looks_closed() else None

    async def _wait_for_signature(self, loaded: Loaded) -> bool:
        """Nothing is under way, and the next message is being signed. Whether the peer closed meanwhile."""
        assert self._signer is not None
        self._connection.rest()
        await self._signer.wait(loaded)
        return self._connection.looks_closed()

    # --- jobs to transactions

    @property
    def _room(self) -> bool:
        return self._started < self._max_messages

    def _start_next(self) -> bool:
        """Begin a transaction, if there is anything to begin."""
        jobs = self._jobs
        if not jobs:
            if not self._takes or not self._room or len(self.leftovers) >= _MAX_LEFTOVERS:
                return False
            if self.apart is not None or (taken := self._source.take()) is None:
                return False
            if taken.loaded.batch.envelope.requiretls:
                self.apart = taken
                return False
            jobs.append(taken)
        job = jobs[0]
        loaded = job.loaded
        fields = b""
        if self._signer is not None:
            signed = self._signed(job)
            if signed is None:
                return self._unsigned is None
            fields = signed
        batch = loaded.batch
        positions, most = job.todo, self._max_recipients
        if most and len(positions) > most:
            positions, job.todo = positions[:most], positions[most:]
        else:
            job.todo = []
            jobs.popleft()
        recipients = batch.recipients
        count = len(positions)
        if count != len(recipients):
            recipients = tuple([recipients[position] for position in positions])
        elif count > 1:
            positions.sort()  # All of them; those to be tried again had gone to the end.
        size_bytes = batch.envelope.size_bytes + len(fields)
        if size_bytes > self._in_memory_bytes:
            body = None
        elif (body := loaded.body) is None:
            body = self._read_body(batch.envelope)
        if fields and body is not None:
            body = fields + body
        job.under_way += 1
        self._started += 1
        self._in_flight.begin(loaded.key)
        client = self._client
        if not client.busy:
            self._connection.begin_transaction(size_bytes)
        client.send(Try(job, positions, recipients, body, fields))
        return True

    def _signed(self, job: Job) -> bytes | None:
        """The signature fields of the first job; None if there are none yet (then it is `_unsigned`), or cannot be
        (then it is done with, and deferred)."""
        assert self._signer is not None
        self._unsigned = None
        try:
            fields = self._signer.signature(job.loaded)
        except SigningError as error:
            self._jobs.popleft()
            job.hold(classify.unsigned(error))
            self._over(job)
            return None
        if fields is None:
            self._unsigned = job.loaded
        return fields

    def _read_body(self, envelope: Envelope) -> bytes:
        """The whole body."""
        return self._bodies.read_body(envelope.message, 0, envelope.chunks) if envelope.chunks else b""

    def _give_body(self, transaction: Transaction) -> None:
        """Some chunks more: as much as a body may have that is given at once."""
        assert isinstance(transaction, Try)
        start = transaction.next_chunk
        loaded = transaction.job.loaded
        if loaded.body is not None:
            end = transaction.next_chunk = start + _CHUNKS_A_PIECE
            piece = loaded.body[start * CHUNK_BYTES : end * CHUNK_BYTES]
            if not start and transaction.fields:
                piece = transaction.fields + piece
            self._client.body(piece, last=end * CHUNK_BYTES >= len(loaded.body))
        else:
            envelope = transaction.envelope
            end = transaction.next_chunk = min(start + _CHUNKS_A_PIECE, envelope.chunks)
            piece = self._bodies.read_body(envelope.message, start, end - start)
            if not start and transaction.fields:
                piece = transaction.fields + piece
            self._client.body(piece, last=end == envelope.chunks)

    def _mark(self, finals: list[Transaction]) -> None:
        """The output that goes out next holds the end of these messages."""
        for transaction in finals:
            assert isinstance(transaction, Try)
            transaction.marked = True
            transaction.job.dots += 1
            self._in_flight.dot_sent(transaction.job.loaded.key)
        finals.clear()

    # --- verdicts to results

    def _done(self, transaction: Transaction) -> None:
        assert isinstance(transaction, Try)
        job = transaction.job
        if len(transaction.verdicts) == 1:
            verdict = transaction.verdicts[0]
            assert verdict is not None
            if verdict.remote:
                self._connection.messages += 1
            self._take_verdict(job, transaction.positions[0], verdict)
        else:
            self._take_verdicts(transaction)
        self._finish(transaction)
        if self._client.busy:
            self._connection.begin_transaction(transaction.envelope.size_bytes)

    def _take_verdicts(self, transaction: Try) -> None:
        job = transaction.job
        verdicts = transaction.verdicts
        self._connection.messages += any(verdict is not None and verdict.remote for verdict in verdicts)
        # Those that were too many for one transaction go into another, if this one got at least somebody through.
        taken = sum(verdict is not None and verdict.reply.kind == 2 for verdict in verdicts)
        for position, verdict in zip(transaction.positions, verdicts, strict=True):
            if verdict is None:
                continue
            if taken and classify.too_many_recipients(verdict):
                self._again(job, position)
                self._max_recipients = min(self._max_recipients or transaction.accepted, transaction.accepted)
            else:
                self._take_verdict(job, position, verdict)

    def _take_verdict(self, job: Job, position: int, verdict: Verdict) -> None:
        wants_notice = self._success_notices and bool(job.loaded.batch.recipients[position].notify & _SUCCESS)
        result: RecipientResult = classify.result(position, verdict, wants_success_notice=wants_notice)
        job.results[position] = result
        if self._alternatives and result.outcome is Outcome.DEFERRED and classify.worth_another_host(verdict):
            job.elsewhere.append(position)

    def _again(self, job: Job, position: int) -> None:
        """To be tried once more, as if it had not been."""
        job.todo.append(position)
        if job not in self._jobs:
            self._jobs.append(job)

    def _finish(self, transaction: Try) -> None:
        """The transaction is over, and perhaps the job with it."""
        job = transaction.job
        job.under_way -= 1
        job.dots -= transaction.marked
        self._over(job)

    def _over(self, job: Job) -> None:
        """If nothing more is to be tried here, report it or keep it for the next host."""
        if job.under_way or job.todo:
            return
        if job.elsewhere and self._alternatives:
            job.move_on(self._connection.peer)
            self.leftovers.append(job)
        else:
            self._source.report(job)

    def _lose(self, error: Failure) -> None:
        """The connection is gone: what became of what was under way."""
        connection, client = self._connection, self._client
        try:
            while (event := client.next_event(sending=True)) is not None:
                if isinstance(event, Done):
                    self._done(event.transaction)
                elif isinstance(event, Closed) and event.reply is not None:
                    error = PeerClosed(client.waiting, event.reply)
        except RemoteProtocolError as worse:
            error = worse
        step = client.waiting
        fresh = not connection.messages
        self.failed = classify.failure(error, step, connection.peer)
        rest = client.abandon(connection.unsent_bytes)
        # It has spoken unasked before a first message could be begun: another connection would be no better.
        self.spoiled = fresh and not rest and bool(self._jobs)
        for number, (transaction, fate) in enumerate(rest):
            assert isinstance(transaction, Try)
            # Closing a connection that has done its work, instead of answering MAIL, is no attempt.
            closed_at_rest = not fresh and isinstance(error, PeerClosed | OSError | TlsFailed)
            untried = fate is Fate.UNTOUCHED and (number > 0 or closed_at_rest)
            doubtful = fate is Fate.IN_DOUBT
            self.spoiled |= fresh and number == 0 and fate is Fate.UNTOUCHED
            verdict = classify.doubt(error, connection.peer) if doubtful else self.failed
            for position, known in zip(transaction.positions, transaction.verdicts, strict=True):
                if known is not None:
                    self._take_verdict(transaction.job, position, known)
                elif untried:
                    self._again(transaction.job, position)
                else:
                    self._take_verdict(transaction.job, position, verdict)
            self._finish(transaction)
