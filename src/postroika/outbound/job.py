"""A batch on its way through one attempt: which recipients are still to be tried, and what the others got.

Promise: plain bookkeeping. Every recipient is in exactly one place: to be tried (`todo`), in a transaction under way,
or with a result; those with a result that another host could better are also in `elsewhere`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from postroika.mail.envelope import Recipient
from postroika.mail.outcome import Peer, RecipientResult
from postroika.outbound import classify
from postroika.smtp.client_transaction import Transaction, Verdict
from postroika.spool.reader import Loaded


class Job:
    """One batch in one attempt.

    Attributes:
        todo: positions of the recipients to be tried on the current connection, in order.
        elsewhere: positions of those deferred here that the next host may take.
        results: by position; None while there is none.
        under_way: transactions that are not answered.
        dots: those of them of which the final dot went out.
    """

    __slots__ = ("dots", "elsewhere", "loaded", "results", "todo", "under_way")

    def __init__(self, loaded: Loaded) -> None:
        count = len(loaded.batch.recipients)
        self.loaded = loaded
        self.todo: list[int] = [0] if count == 1 else list(range(count))
        self.elsewhere: list[int] = []
        self.results: list[RecipientResult | None] = [None] * count
        self.under_way = 0
        self.dots = 0

    @property
    def tried(self) -> bool:
        """Some recipient has a result."""
        return any(result is not None for result in self.results)

    def hold(self, verdict: Verdict) -> None:
        """Those to be tried here get no further: `verdict` is their result."""
        for index in self.todo:
            self.results[index] = classify.result(index, verdict)
        self.todo = []

    def fail(self, verdict: Verdict) -> None:
        """No host took the rest: `verdict` is the result of those to be tried that have none from a peer."""
        for index in self.todo:
            known = self.results[index]
            if known is None or not known.remote:
                self.results[index] = classify.result(index, verdict)
        self.todo = []

    def complete(self, verdict: Verdict) -> None:
        """`verdict` is the result of all that have none."""
        for index, known in enumerate(self.results):
            if known is None:
                self.results[index] = classify.result(index, verdict)

    def move_on(self, peer: Peer) -> None:
        """To the next host, with what can be bettered; what is known so far was said by `peer`."""
        self.results = [
            msgspec.structs.replace(known, peer=peer) if known is not None and known.peer is None else known
            for known in self.results
        ]
        self.todo, self.elsewhere = self.elsewhere, []


class Try(Transaction):
    """One transaction for some recipients of a job.

    Attributes:
        positions: of the recipients in the batch.
        fields: that go in front of a body which is sent in pieces.
        next_chunk: of a body that is sent in pieces.
        marked: noted in the in-flight table.
    """

    __slots__ = ("fields", "job", "marked", "next_chunk", "positions")

    def __init__(
        self, job: Job, positions: list[int], recipients: Sequence[Recipient], body: bytes | None, fields: bytes = b""
    ) -> None:
        envelope = job.loaded.batch.envelope
        if fields:  # SIZE tells of all that is sent
            envelope = msgspec.structs.replace(envelope, size_bytes=envelope.size_bytes + len(fields))
        super().__init__(envelope, recipients, body)
        self.job = job
        self.positions = positions
        self.fields = fields
        self.next_chunk = 0
        self.marked = False
