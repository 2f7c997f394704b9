"""The shard on disk: what is committed stays, what is not there is not invented, what is foreign is left alone."""

import os
from pathlib import Path

import lmdb
import msgspec
import pytest

from postroika.errors import SpoolError, SpoolFormatError, SpoolFullError, SpoolIOError, SpoolLockedError
from postroika.mail.envelope import Batch, Envelope, Recipient
from postroika.mail.reply import Reply
from postroika.spool import pages
from postroika.spool.changes import Changes
from postroika.spool.files import open_env, shard_path, translated
from postroika.spool.inflight import InFlight
from postroika.spool.reader import Reader
from postroika.spool.recovery import Doubt, recover
from postroika.spool.schema import SCHEMA, DestinationState, Format, Table, batch_key, encode, u64_key, wake_key
from postroika.spool.store import Store

MIB = 1 << 20


def opened(path: Path, **settings: int) -> Store:
    return Store.create_or_open(path, 0, **{"max_bytes": 64 * MIB, **settings})  # type: ignore[arg-type]


def batch(
    message: int, destination: str = "shop.test", *, number: int = 0, due_ms: int = 1000, **more: object
) -> Batch:
    envelope = Envelope(message, "a@news.test", 1.0, 5, 1, **more)  # type: ignore[arg-type]
    return Batch(envelope, number, destination, (Recipient(f"r{message}@{destination}"),), 0, due_ms)


def accepted(store: Store, *batches: Batch) -> None:
    changes = Changes()
    for one in batches:
        changes.put_chunk(one.envelope.message, 0, b"body\n")
        changes.put_batch(one)
    store.apply([changes])


def test_a_commit_is_there_after_reopening(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1))
    store.close()
    store = opened(tmp_path)
    loaded = store.load(batch_key(1, 0))
    assert loaded is not None
    assert loaded.batch == batch(1)
    assert store.read_body(1, 0) == b"body\n"
    assert [found.key for found in store.load_ready("shop.test", 0, b"", 1000, 10, set())[0]] == [batch_key(1, 0)]
    store.close()


def test_a_record_that_does_not_say_whose_mail_it_is_is_a_strangers(tmp_path: Path) -> None:
    *envelope, ours = msgspec.to_builtins(batch(1, ours=True).envelope)
    assert ours is True
    older = msgspec.convert(envelope, Envelope)
    assert older == batch(1).envelope


def test_a_shard_is_opened_so_that_a_commit_is_on_disk(tmp_path: Path) -> None:
    """Pages and then the page that names them are synced; with `writemap` a full disk would be a SIGBUS."""
    store = opened(tmp_path)
    flags = store._env.flags()
    store.close()
    kept = ("sync", "metasync", "writemap", "map_async", "lock")
    assert {name: flags[name] for name in kept} == {
        "sync": True, "metasync": True, "writemap": False, "map_async": False, "lock": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (lmdb.MapFullError("mdb_put: MDB_MAP_FULL"), SpoolFullError, "the spool has reached spool.max_bytes"),
        (lmdb.DiskError("mdb_txn_commit: No space"), SpoolFullError, "the disk of the spool is full"),
        (lmdb.Error("x: No space left on device"), SpoolFullError, "the disk of the spool is full"),
        (lmdb.Error("x: Disk quota exceeded"), SpoolFullError, "the disk quota of the spool is used up"),
        (lmdb.Error("x: Input/output error"), SpoolIOError, "the disk of the spool failed: x: Input/output error"),
        (
            lmdb.PanicError("mdb_txn_begin: MDB_PANIC"),
            SpoolIOError,
            "the spool can only be used again after a restart: mdb_txn_begin: MDB_PANIC",
        ),
        (lmdb.BadTxnError("MDB_BAD_TXN"), SpoolError, "the spool refused a transaction: MDB_BAD_TXN"),
    ],
)
def test_what_lmdb_says_decides_between_refusing_and_ending(error: lmdb.Error, kind: type, text: str) -> None:
    told = translated(error)
    assert (type(told), str(told)) == (kind, text)


def test_the_largest_id_is_known_though_nothing_with_it_is_stored(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(5))
    store.apply([Changes()], 77)
    store.close()
    store = opened(tmp_path)
    assert store.last_id() == 77
    accepted(store, batch(99))
    assert store.last_id() == 99
    store.close()


def test_the_last_of_several_writers_of_a_group_wins(tmp_path: Path) -> None:
    store = opened(tmp_path)
    groups = []
    for value in (b"1", None, b"3"):
        changes = Changes()
        if value is None:
            changes.delete(Table.DESTINATION, b"x")
        else:
            changes.put(Table.DESTINATION, b"x", value)
        groups.append(changes)
    store.apply(groups)
    assert store.counts()["destination"] == 1
    last = Changes()
    last.put(Table.DESTINATION, b"x", b"4")
    gone = Changes()
    gone.delete(Table.DESTINATION, b"x")
    store.apply([last, gone])
    assert store.counts()["destination"] == 0
    store.close()


def test_a_body_goes_with_the_last_batch_of_its_message(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first, second = batch(1, "a.test", batches=2), batch(1, "b.test", number=1, batches=2)
    accepted(store, first, second)
    done = Changes()
    done.finish_batch(batch_key(1, 0), first)
    store.apply([done])
    assert store.counts()["body"] == 1
    done = Changes()
    done.finish_batch(batch_key(1, 1), second)
    store.apply([done])
    counts = store.counts()
    assert (counts["body"], counts["batch"], counts["ready"]) == (0, 0, 0)
    store.close()


def test_two_last_batches_in_one_group_take_the_body_along(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first, second = batch(1, "a.test", batches=2), batch(1, "b.test", number=1, batches=2)
    accepted(store, first, second)
    one, two = Changes(), Changes()
    one.finish_batch(batch_key(1, 0), first)
    two.finish_batch(batch_key(1, 1), second)
    store.apply([one, two])
    assert store.counts()["body"] == 0
    store.close()


def test_a_destination_is_woken_once_and_not_later_than_its_first_batch(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1, due_ms=5000), batch(2, due_ms=7000), batch(3, due_ms=3000))
    assert store.wakes(b"", 10_000, 10) == [
        (wake_key(3000, "shop.test"), "shop.test"),
        (wake_key(5000, "shop.test"), "shop.test"),
    ]
    assert store.next_wake_ms(3000) == 5000
    store.close()


def test_rest_leaves_one_wake_at_the_next_due_time(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1, due_ms=3000), batch(2, due_ms=9000))
    seen = [key for key, _ in store.wakes(b"", 3000, 10)]
    rest = Changes()
    rest.finish_batch(batch_key(1, 0), batch(1, due_ms=3000))
    rest.rest("shop.test", 0, seen)
    store.apply([rest])
    assert store.wakes(b"", 99_000, 10) == [(wake_key(9000, "shop.test"), "shop.test")]
    store.close()


def test_rest_with_nothing_left_leaves_no_wake(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1, due_ms=3000))
    rest = Changes()
    rest.finish_batch(batch_key(1, 0), batch(1, due_ms=3000))
    rest.rest("shop.test", 0, [wake_key(3000, "shop.test")])
    store.apply([rest])
    assert store.wakes(b"", 99_000, 10) == []
    accepted(store, batch(2, due_ms=4000))
    assert store.wakes(b"", 99_000, 10) == [(wake_key(4000, "shop.test"), "shop.test")]
    store.close()


def test_new_mail_does_not_wake_a_destination_that_is_down(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1, due_ms=3000))
    rest = Changes()
    rest.rest("shop.test", 60_000, [wake_key(3000, "shop.test")])
    store.apply([rest])
    accepted(store, batch(2, due_ms=4000))
    assert store.wakes(b"", 99_000, 10) == [(wake_key(60_000, "shop.test"), "shop.test")]
    store.close()


def test_mail_that_comes_in_the_group_of_a_rest_is_not_forgotten(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1, due_ms=3000))
    done = Changes()
    done.finish_batch(batch_key(1, 0), batch(1, due_ms=3000))
    rest = Changes()
    rest.rest("shop.test", 0, [wake_key(3000, "shop.test")])
    fresh = Changes()
    fresh.put_batch(batch(2, due_ms=4000))
    store.apply([done, rest, fresh])
    assert store.wakes(b"", 99_000, 10) == [(wake_key(4000, "shop.test"), "shop.test")]
    store.close()


def test_events_are_numbered_on_after_the_outbox_was_emptied(tmp_path: Path) -> None:
    store = opened(tmp_path)
    changes = Changes()
    changes.event(b"{1}")
    changes.event(b"{2}")
    store.apply([changes])
    assert store.outbox_read(0, 1 << 20) == [(1, b"{1}\n{2}\n")]
    consumed = Changes()
    consumed.consumed("log", 1)
    consumed.drop_outbox([1])
    store.apply([consumed])
    store.close()
    store = opened(tmp_path)
    more = Changes()
    more.event(b"{3}")
    store.apply([more])
    assert store.outbox_read(store.cursor("log"), 1 << 20) == [(2, b"{3}\n")]
    store.close()


def test_many_events_of_one_commit_are_cut_into_several_values(tmp_path: Path) -> None:
    store = opened(tmp_path)
    changes = Changes()
    lines = [b"%06d" % number * 50 for number in range(1000)]
    for line in lines:
        changes.event(line)
    store.apply([changes])
    records = store.outbox_read(0, 1 << 30)
    assert len(records) > 1
    assert b"".join(value for _, value in records).split() == lines
    assert max(len(value) for _, value in records) <= 64 * 1024
    store.close()


def test_a_shard_has_one_owner(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(SpoolLockedError, match="another Postroika is running on this spool"):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_a_reader_sees_each_commit_of_the_owner(tmp_path: Path) -> None:
    accepted(store := opened(tmp_path), batch(1))
    store.close()
    pid = os.fork()
    if pid == 0:  # LMDB wants one environment a process and path
        reader = Reader(open_env(shard_path(tmp_path, 0), 0, writable=False), tmp_path, 0)
        os._exit(0 if [b.key for b in reader.batches_of(1)] == [batch_key(1, 0)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def damaged_files() -> dict[str, bytes]:
    return {"empty": b"", "text": b"not a database " * 1000, "zeros": bytes(32768)}


@pytest.mark.parametrize("kind", damaged_files())
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    shard = tmp_path / "shard-00"
    shard.mkdir()
    content = damaged_files()[kind]
    (shard / "data.mdb").write_bytes(content)
    with pytest.raises(SpoolFormatError, match=r"left as it is"):
        opened(tmp_path)
    assert (shard / "data.mdb").read_bytes() == content


def test_a_missing_file_is_refused_and_not_made_anew(tmp_path: Path) -> None:
    (tmp_path / "shard-00").mkdir()
    with pytest.raises(SpoolFormatError, match="not made anew"):
        opened(tmp_path)
    assert list((tmp_path / "shard-00").iterdir()) == []


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for message in range(1, 200):
        accepted(store, batch(message))
    store.close()
    data = tmp_path / "shard-00" / "data.mdb"
    whole = data.read_bytes()
    os.truncate(data, len(whole) // 2)
    with pytest.raises(SpoolFormatError, match="cut short"):
        opened(tmp_path)
    assert data.read_bytes() == whole[: len(whole) // 2]


def test_the_lmdb_file_of_another_program_is_refused(tmp_path: Path) -> None:
    shard = tmp_path / "shard-00"
    shard.mkdir()
    with lmdb.open(str(shard), max_dbs=2) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    before = (shard / "data.mdb").read_bytes()
    with pytest.raises(SpoolFormatError, match="not a whole Postroika spool"):
        opened(tmp_path)
    assert (shard / "data.mdb").read_bytes() == before


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        (Format("postroika spool", SCHEMA + 1, 0, 1.0), "has schema 2, this release reads 1"),
        (Format("postroika spool", SCHEMA, 3, 1.0), "belongs to shard 3, not 0"),
        (Format("something else", SCHEMA, 0, 1.0), "is not a Postroika spool"),
    ],
)
def test_another_schema_or_shard_is_refused(tmp_path: Path, form: Format, complaint: str) -> None:
    store = opened(tmp_path)
    changes = Changes()
    changes.put(Table.META, b"format", encode(form))
    store.apply([changes])
    store.close()
    with pytest.raises(SpoolFormatError, match=complaint):
        opened(tmp_path)


def test_a_half_made_shard_is_made_again(tmp_path: Path) -> None:
    half = tmp_path / "shard-00.new"
    half.mkdir()
    (half / "data.mdb").write_bytes(b"half")
    opened(tmp_path).close()
    assert not half.exists()


def test_a_full_map_refuses_the_group_and_keeps_what_was_there(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=MIB)
    accepted(store, batch(1))
    big = Changes()
    for chunk in range(64):
        big.put_chunk(2, chunk, bytes(64 * 1024))
    with pytest.raises(SpoolFullError, match=r"spool\.max_bytes"):
        store.apply([big])
    assert store.read_body(1, 0) == b"body\n"
    assert store.counts()["body"] == 1
    accepted(store, batch(3))
    assert store.wakes(b"", 99_000, 10) == [(wake_key(1000, "shop.test"), "shop.test")]
    store.close()


def test_room_counts_free_pages_inside_the_file(tmp_path: Path) -> None:
    store = opened(tmp_path, max_bytes=4 * MIB)
    empty = store.room_bytes()
    body = Changes()
    for chunk in range(32):
        body.put_chunk(1, chunk, bytes(64 * 1024))
    store.apply([body])
    assert empty - store.room_bytes() > 2 * MIB
    for chunk in range(32):
        gone = Changes()
        gone.delete(Table.BODY, batch_key(1, chunk))
        store.apply([gone])
    assert empty - store.room_bytes() < MIB // 4
    store.close()


def recovered(store: Store, inflight: InFlight) -> tuple[int, int]:
    """What a start does before anything else: messages that were removed, batches in doubt."""
    found = recover(store, inflight)
    store.apply([found.changes])
    inflight.take_over()
    return found.partial_messages, found.batches_in_doubt


def test_recovery_removes_bodies_without_an_envelope(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1))
    partial = Changes()
    partial.put(Table.PARTIAL, u64_key(2), b"")
    for chunk in range(3):
        partial.put_chunk(2, chunk, b"x" * 100)
    store.apply([partial])
    store.close()
    store = opened(tmp_path)
    inflight = InFlight(store.path / "inflight", 4)
    assert recovered(store, inflight) == (1, 0)
    assert (store.counts()["body"], store.counts()["partial"]) == (1, 0)
    assert store.read_body(1, 0) == b"body\n"
    assert store.last_id() >= 1
    inflight.close()
    store.close()


def test_only_batches_whose_dot_was_sent_and_not_settled_are_in_doubt(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for message in (1, 2, 3):
        accepted(store, batch(message))
    table = InFlight(store.path / "inflight", 4)
    recovered(store, table)
    for message in (1, 2, 3, 4):
        table.begin(batch_key(message, 0))
    table.begin(batch_key(5, 0))  # one more than there are slots
    assert table.untracked == 1
    table.dot_sent(batch_key(2, 0))
    table.dot_sent(batch_key(3, 0))
    table.dot_sent(batch_key(4, 0))  # settled, but the mark was left: it is not in the spool
    table.end(batch_key(3, 0))
    table.close()
    store.close()

    store = opened(tmp_path)
    table = InFlight(store.path / "inflight", 4)
    assert recovered(store, table) == (0, 1)
    ((key, record),) = store.doubts(10)
    assert key == batch_key(2, 0)
    doubt = msgspec.msgpack.decode(record, type=Doubt)
    assert (doubt.destination, doubt.recipients) == ("shop.test", (Recipient("r2@shop.test"),))
    table.close()
    store.close()
    store = opened(tmp_path)
    table = InFlight(store.path / "inflight", 4)
    assert recovered(store, table) == (0, 0)  # told once
    assert len(store.doubts(10)) == 1
    table.close()
    store.close()


def test_a_destination_state_comes_back_as_it_was(tmp_path: Path) -> None:
    store = opened(tmp_path)
    state = DestinationState(2, 1.5, 60.25, Reply(451, "4.4.1", ("no route",)), "mx.shop.test")
    changes = Changes()
    changes.put(Table.DESTINATION, b"shop.test", encode(state))
    store.apply([changes])
    assert store.destination_state("shop.test") == state
    assert store.destination_state("other.test") is None
    store.close()


def test_destinations_are_listed_by_name_also_when_one_is_the_beginning_of_another(tmp_path: Path) -> None:
    store = opened(tmp_path)
    accepted(store, batch(1, "a.test"), batch(2, "a.test.example"), batch(3, "a"), batch(4, "b"))
    assert store.destinations("", 10) == ["a", "a.test", "a.test.example", "b"]
    assert store.destinations("a", 2) == ["a.test", "a.test.example"]
    assert [found.batch.destination for found in store.load_ready("a", 0, b"", 1000, 10, ())[0]] == ["a"]
    store.close()


def test_pages_of_large_bodies_are_given_back_and_can_be_read_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.trim(0)
    before = pages.mapped_bytes()
    seen = []
    for message in (1, 2):  # the second one in the room that the first one has left
        for first in range(0, 400, 4):
            changes = Changes()
            for chunk in range(first, first + 4):
                changes.put_chunk(message, chunk, bytes([chunk % 256]) * 64 * 1024)
            store.apply([changes])
            seen.append(pages.mapped_bytes())
        for chunk in range(400):
            assert store.read_body(message, chunk) == bytes([chunk % 256]) * 64 * 1024
            seen.append(pages.mapped_bytes())
        changes = Changes()
        for chunk in range(400):
            changes.delete(Table.BODY, batch_key(message, chunk))
        store.apply([changes])
        seen.append(pages.mapped_bytes())
    assert max(seen) - before < 10 * MIB
    assert max(seen) - before > 2 * MIB  # or this test sees nothing
    store.trim(0)
    assert pages.mapped_bytes() - before < 2 * MIB
    accepted(store, batch(3))
    assert store.read_body(3, 0) == b"body\n"
    store.close()
