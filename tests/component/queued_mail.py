"""Writes a spool as a server would have left it, at times of the test's choosing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from postroika.config import Config, Delivery, Retry, Server, Spool
from postroika.control.queries import Queries
from postroika.mail.envelope import Batch, Envelope, Recipient
from postroika.mail.ids import IdSource, id_text
from postroika.mail.reply import Reply
from postroika.outcome.events import EventWriter
from postroika.spool.changes import Changes
from postroika.spool.recovery import Doubt
from postroika.spool.schema import CHUNK_BYTES, ClassRecord, DestinationState, Table, batch_key, encode
from postroika.spool.shards import Shards
from postroika.spool.store import Store

NOW = 1_800_000_000.0
MAX_BYTES = 1 << 30
BODY = b"Received: from shop\r\nSubject: hello\r\n\r\nhello\r\n"
GREYLISTED = Reply(451, "4.7.1", ("greylisted,", "come back later"))
REFUSED = Reply(451, "4.4.1", ("connection refused",))


class QueuedMail:
    """The shards of one spool, open for writing; close it before anybody reads."""

    def __init__(self, spool: Path, shards: int = 1, now: float = NOW) -> None:
        self.spool = spool
        self.now = now
        self._stores = [Store.create_or_open(spool, shard, max_bytes=MAX_BYTES) for shard in range(shards)]
        self._at = now
        self._ids = [IdSource(shard, clock=lambda: self._at) for shard in range(shards)]
        self._events = [EventWriter(ids, clock=lambda: self._at) for ids in self._ids]

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def message(
        self,
        *batches: Sequence[str],
        age_s: float = 60.0,
        shard: int = 0,
        sender: str = "sender@news.test",
        body: bytes = BODY,
        due_in_s: float = 0.0,
        attempts: int = 0,
        reply: Reply | None = None,
        host: str = "",
        notify: int = 0,
        first: int = 0,
        **envelope: object,
    ) -> int:
        """Queue a message; `batches` are the recipients of each. Returns its id."""
        store = self._stores[shard]
        self._at = self.now - age_s
        number = self._ids[shard].next_id()
        pieces = [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]
        shared = Envelope(number, sender, self._at, len(body), len(pieces), batches=first + len(batches), **envelope)  # type: ignore[arg-type]
        changes = Changes()
        class_id = store.intern_class(ClassRecord(shared.stream, shared.tenant, shared.campaign), changes)
        for chunk, piece in enumerate(pieces):
            changes.put_chunk(number, chunk, piece)
        position = 0
        for index, addresses in enumerate(batches, first):
            recipients = []
            for address in addresses:
                recipients.append(Recipient(address, notify, "", position))
                position += 1
            destination = addresses[0].rpartition("@")[2]
            batch = Batch(
                shared,
                index,
                destination,
                tuple(recipients),
                class_id,
                int((self.now + due_in_s) * 1000),
                attempts=attempts,
                deferrals=attempts,
                last_reply=reply,
                last_host=host,
            )
            changes.put_batch(batch)
            for recipient in recipients:
                changes.event(self._events[shard].received(shared, recipient, destination))
        store.apply([changes], self._ids[shard].last)
        return number

    def down(self, name: str, *, since_s: float = 600.0, probe_in_s: float = 300.0, shard: int = 0) -> None:
        """Have a destination left alone."""
        changes = Changes()
        state = DestinationState(3, self.now - since_s, self.now + probe_in_s, REFUSED)
        changes.put(Table.DESTINATION, name.encode(), encode(state))
        self._stores[shard].apply([changes])

    def doubt(self, message: int, *recipients: str, number: int = 0, shard: int = 0) -> None:
        """Have the outcome of a batch unknown."""
        changes = Changes()
        doubt = Doubt(self.now - 30, recipients[0].rpartition("@")[2], tuple(Recipient(r) for r in recipients))
        changes.put(Table.DOUBT, batch_key(message, number), encode(doubt))
        self._stores[shard].apply([changes])

    def settled(self, message: int, number: int = 0, shard: int = 0) -> None:
        """Have a batch leave the queue."""
        store = self._stores[shard]
        loaded = store.load(batch_key(message, number))
        assert loaded is not None
        changes = Changes()
        changes.finish_batch(loaded.key, loaded.batch)
        store.apply([changes])

    def consumed(self, name: str, sequence: int, shard: int = 0) -> None:
        """Have a consumer of the outbox get that far."""
        changes = Changes()
        changes.consumed(name, sequence)
        self._stores[shard].apply([changes])


def config_for(spool: Path, **delivery: object) -> Config:
    """A config with this spool, and the control socket beside it."""
    return Config(
        server=Server(hostname="mx.us.test", spool=str(spool), control=str(spool.parent / "control.sock")),
        delivery=Delivery(**delivery),  # type: ignore[arg-type]
        retry=Retry(expire_after_s=1000.0),
        spool=Spool(max_bytes=MAX_BYTES),
    )


def queries_for(spool: Path, **delivery: object) -> Queries:
    """Questions to the spool, at NOW."""
    return Queries(Shards(spool, MAX_BYTES), config_for(spool, **delivery), clock=lambda: NOW)


def ids(page: msgspec.Struct) -> list[str]:
    """The ids of a page, in order."""
    return [message.id for message in page.messages]  # type: ignore[attr-defined]


def texts(*messages: int) -> list[str]:
    """Ids as they are shown."""
    return [id_text(message) for message in messages]
