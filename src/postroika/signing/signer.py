"""What delivery asks for signatures: made once for each message, kept in memory while its batches go out.

Promise: `signature` gives the fields that a message has to have, or raises; it never gives less. What is kept is
bounded. The event loop neither reads, hashes nor signs: threads do (`hands`), and a body that is large goes through
them chunk by chunk.

Only mail that is ours (`Envelope.ours`) is signed. What strangers bring for [relay] domains has in From what they like,
and a signature would vouch for it.

A message is signed when it goes out, not when it comes in: a key that was replaced meanwhile is replaced for it too,
and what waits for long is not signed in vain.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

import trio

from postroika.config import Config
from postroika.errors import PostroikaError, SigningError
from postroika.kernels.dkim import Fields, RelaxedBody
from postroika.kernels.headers import HeaderScanner
from postroika.mail.address import routing_domain
from postroika.mail.author import author_domains
from postroika.mail.ids import id_text
from postroika.metrics import SIGNATURES, SIGNED_MESSAGES, SIGNING_FAILURES
from postroika.pump import Wake
from postroika.signing.field import Names, signature_fields
from postroika.signing.hands import Hands
from postroika.signing.ring import KeyRing
from postroika.spool.reader import Loaded

log = logging.getLogger(__name__)

_LARGE_BYTES = 1024 * 1024  # takes as long as some RSA signatures
_CHUNKS_A_PIECE = 4
_MOST_AHEAD = 128  # some hundredths of a second of RSA: what is taken meanwhile
_KEPT_S = 900.0  # A batch that is tried again later is signed anew: t= is to tell when it was sent.
_CLOSE_WAIT_S = 10.0


class Bodies(Protocol):
    """Where bodies are that are not in memory. Called in threads."""

    def read_body(self, message: int, chunk: int, count: int) -> bytes:
        """So many chunks from `chunk` on."""


class Job:
    """A message to be signed.

    Attributes:
        wanted: somebody has asked for its signatures.
        reloads: how often the keys had been read again when it was begun.
        wakes: who waits for it.
    """

    __slots__ = ("body", "chunks", "large", "message", "reloads", "reverse_path", "tenant", "wakes", "wanted")

    def __init__(self, loaded: Loaded) -> None:
        envelope = loaded.batch.envelope
        self.message = envelope.message
        self.tenant = envelope.tenant
        self.reverse_path = envelope.reverse_path
        self.chunks = envelope.chunks
        self.body = loaded.body
        self.large = envelope.size_bytes > _LARGE_BYTES
        self.wanted = False
        self.reloads = 0
        self.wakes: list[Wake] = []


class Signer:
    """Signs what one worker delivers.

    Args:
        config: checked.
        ring: its keys, loaded.
        bodies: the store.
        threads: that sign at once.
        clock: epoch seconds, for t=.
        now: seconds that only grow.
    """

    def __init__(
        self,
        config: Config,
        ring: KeyRing,
        bodies: Bodies,
        *,
        threads: int = 1,
        clock: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._bodies = bodies
        self._names = Names(config.signing)
        self._timeout_s = config.signing.timeout_s
        self._most = config.signing.cached_messages
        expire_after_s = config.signing.expire_after_s
        self._kept_s = min(_KEPT_S, expire_after_s / 4) if expire_after_s else _KEPT_S
        self._clock = clock
        self._now = now
        self._made: OrderedDict[int, tuple[bytes, float]] = OrderedDict()
        self._failed: dict[int, str] = {}
        self._pending: dict[int, Job] = {}
        # Messages that were looked ahead at and not asked for since. They have half of the memory: whoever looks ahead
        # at many destinations would lose signatures before they are used, and make all of them twice.
        self._early: set[int] = set()
        self._reloads = 0
        self._quick: Hands[Job, bytes | SigningError] = Hands(threads, self._sign, self._take, "sign")
        self._slow: Hands[Job, bytes | SigningError] = Hands(1, self._sign, self._take, "sign-large")

    def prepare(self, loaded: Loaded, *, ahead: bool = False) -> None:
        """The signatures of this message will be asked for soon; ahead: behind those of others, and if the threads have
        nothing else to do they may be made by then."""
        envelope = loaded.batch.envelope
        message = envelope.message
        if not envelope.ours or message in self._made:
            return
        job = self._pending.get(message)
        if not ahead:
            self._want(loaded, job)
        elif (
            job is None
            and envelope.size_bytes <= _LARGE_BYTES
            and self._quick.ahead < _MOST_AHEAD
            and len(self._early) < self._most // 2
        ):
            job = self._pending[message] = Job(loaded)
            self._early.add(message)
            self._quick.give(job, ahead=True)

    def signature(self, loaded: Loaded) -> bytes | None:
        """The fields to put in front of the message: b"" if no key is for it or it is a stranger's, None while they are
        being made.

        Raises:
            SigningError: it cannot be signed now; the next call begins anew.
        """
        envelope = loaded.batch.envelope
        if not envelope.ours:
            return b""
        message = envelope.message
        made = self._made.get(message)
        if made is not None:
            fields, until = made
            if self._now() < until:
                self._made.move_to_end(message)
                self._early.discard(message)
                return fields
            del self._made[message]
        if self._failed and (problem := self._failed.pop(message, None)) is not None:
            raise SigningError(problem)
        self._want(loaded, self._pending.get(message))
        return None

    async def wait(self, loaded: Loaded) -> None:
        """Wait until `signature` has something to say about this message, which is within `signing.timeout_s`; or until
        what has been made for it is of no use, since the keys are others by now.

        Interruption: the signatures are made all the same.
        """
        message = loaded.batch.envelope.message
        job = self._pending.get(message)
        if job is None:
            return
        wakes = job.wakes
        wake = Wake()
        wakes.append(wake)
        try:
            if not await wake.wait_within(self._timeout_s):
                self._failed[message] = "the signatures were not made in time"
        finally:
            if wake in wakes:
                wakes.remove(wake)

    def _want(self, loaded: Loaded, job: Job | None) -> None:
        """Let the signatures be made now.

        Args:
            job: if it is pending.
        """
        if job is None:
            job = self._pending[loaded.batch.envelope.message] = Job(loaded)
            (self._slow if job.large else self._quick).give(job)
        elif not job.wanted:
            self._quick.hurry(job)
        if not job.wanted:
            job.wanted = True
            self._early.discard(job.message)

    def _take(self, results: list[tuple[Job, bytes | SigningError]]) -> None:
        """What the threads bring."""
        until = self._now() + self._kept_s
        for job, result in results:
            message = job.message
            del self._pending[message]
            if job.reloads != self._reloads:
                self._early.discard(message)
            elif isinstance(result, SigningError):
                self._early.discard(message)
                if job.wanted:  # else it is tried again when it is asked for, and all may be well by then
                    self._fail(message, result)
            else:
                if result:
                    SIGNED_MESSAGES.value += 1
                    SIGNATURES.value += result.count(b"DKIM-Signature:")
                self._failed.pop(message, None)
                self._made[message] = (result, until)
                while len(self._made) > self._most:
                    self._early.discard(self._made.popitem(last=False)[0])
            for wake in job.wakes:
                wake.set()
        while len(self._failed) > self._most:  # of batches that nobody asked about any more
            del self._failed[next(iter(self._failed))]

    def _fail(self, message: int, error: SigningError) -> None:
        SIGNING_FAILURES.value += 1
        self._failed[message] = str(error)
        cause = error.__cause__
        if isinstance(cause, PostroikaError):
            log.error("message %s cannot be read to be signed, and is deferred: %s", id_text(message), cause)
        else:
            log.warning("message %s is not signed, and deferred: %s", id_text(message), error)

    async def reload(self) -> None:
        """Read all keys again, and forget what was signed, or could not be, with the old ones; also what is being
        signed meanwhile.

        Cancellation: while the keys are read, which goes on.
        """
        await trio.to_thread.run_sync(self._ring.reload, abandon_on_cancel=True)
        self._reloads += 1
        self._made.clear()
        self._failed.clear()
        self._early.intersection_update(self._pending)

    def close(self) -> None:
        """Let the threads end. Nobody may be waiting. Blocks until the one at work has done its job."""
        self._quick.close(_CLOSE_WAIT_S)
        self._slow.close(_CLOSE_WAIT_S)

    # -- in the threads -----------------------------------------------------------------------------------------------

    def _sign(self, job: Job) -> bytes | SigningError:
        job.reloads = self._reloads
        try:
            return self._signed(job)
        except SigningError as error:
            return error
        except PostroikaError as unread:  # of the spool: as broken as it is, the message must not go out
            failure = SigningError("the message could not be read")
            failure.__cause__ = unread
            return failure
        except Exception:  # a message that finds a bug in here must not end one worker after the other
            log.exception("message %s cannot be signed", id_text(job.message))
            return SigningError("an error in the signer")

    def _signed(self, job: Job) -> bytes:
        pieces = self._pieces(job)
        scanner = HeaderScanner()
        head: list[bytes] = []
        for piece in pieces:
            head.append(piece)
            if scanner.feed(piece):
                break
        begun = head[0] if len(head) == 1 else b"".join(head)
        size = scanner.size if scanner.ended else len(begun)
        fields = Fields(begun[:size])
        domains = [domain for value in fields.values(b"from", fields.count) for domain in author_domains(value)]
        if not domains and (domain := routing_domain(job.reverse_path)):
            domains = [domain]
        signatures = self._ring.signatures(job.tenant, *domains)
        if not signatures:
            return b""
        body_hash = hashlib.sha256()
        body = RelaxedBody(body_hash.update)
        body.feed(begun[size:])
        for piece in pieces:
            body.feed(piece)
        body.finish()
        return signature_fields(fields, body_hash.digest(), signatures, self._names, int(self._clock()))

    def _pieces(self, job: Job) -> Iterator[bytes]:
        """The message. What comes from the spool comes in pieces, of which each is a short read."""
        if job.body is not None:
            yield job.body
            return
        for chunk in range(0, job.chunks, _CHUNKS_A_PIECE):
            yield self._bodies.read_body(job.message, chunk, min(_CHUNKS_A_PIECE, job.chunks - chunk))


def threads_for(workers: int) -> int:
    """How many threads sign in each of so many workers (0: one for each core): its share of the cores, and one for the
    cores of workers that have nothing to sign."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // (workers or cores)) + 1
