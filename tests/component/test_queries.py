"""Questions about the queue, to spools as a server leaves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from postroika.control import queries as queries_module
from postroika.control import survey as survey_module
from postroika.control.queries import Queries
from postroika.control.records import (
    ConsumerLag,
    DestinationCount,
    DoubtfulBatch,
    Doubts,
    Down,
    DownDestination,
    Filter,
    MessageDetail,
    Page,
    QueuedBatch,
    QueuedMessage,
    QueuedRecipient,
    ReplyText,
)
from postroika.errors import NotQueuedError, RefusedError, SpoolError, SpoolFormatError
from postroika.mail.envelope import BodyType, Notify, Stream
from postroika.mail.ids import IdSource, id_text, parse_id
from postroika.spool.schema import CHUNK_BYTES
from postroika.spool.shards import Shards, open_read_only
from postroika.spool.store import Store
from tests.component.queued_mail import (
    BODY,
    GREYLISTED,
    NOW,
    QueuedMail,
    config_for,
    ids,
    queries_for,
    texts,
)


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[QueuedMail]:
    made = QueuedMail(tmp_path / "spool", shards=2)
    yield made
    made.close()


@pytest.fixture
def ask(mail: QueuedMail) -> Iterator[object]:
    """`ask()` ends the writing and returns the Queries."""
    opened: list[Queries] = []

    def ask(**delivery: object) -> Queries:
        mail.close()
        opened.append(queries_for(mail.spool, **delivery))
        return opened[0]

    yield ask
    for queries in opened:
        queries.close()


def all_pages(queries: Queries, wanted: Filter, limit: int) -> list[list[str]]:
    """The ids of every page in turn."""
    pages, after = [], 0
    while True:
        page = queries.page(wanted, after, limit)
        pages.append(ids(page))
        if not page.next:
            return pages
        after = parse_id(page.next)


def test_a_line_of_the_list_tells_all_that_is_open_of_a_message(mail, ask) -> None:
    number = mail.message(
        ["a@shop.test", "b@shop.test"],
        ["c@other.test", "d@other.test"],
        age_s=120,
        due_in_s=45,
        attempts=2,
        reply=GREYLISTED,
        host="mx.shop.test",
        tenant="acme",
        campaign="may",
        stream=Stream.BROADCAST,
    )
    assert ask().page(Filter()) == Page(
        messages=[
            QueuedMessage(
                id=id_text(number),
                sender="sender@news.test",
                received_at=NOW - 120,
                size_bytes=len(BODY),
                recipients=4,
                first_recipients=["a@shop.test", "b@shop.test", "c@other.test"],
                batches=2,
                first_destinations=["shop.test", "other.test"],
                attempts=2,
                next_attempt_at=NOW + 45,
                last_reply=ReplyText(code=451, enhanced="4.7.1", text="greylisted, come back later"),
                last_host="mx.shop.test",
                in_doubt=False,
                tenant="acme",
                stream="broadcast",
                campaign="may",
            )
        ],
        next="",
    )


def test_pages_go_by_age_over_all_shards(mail, ask) -> None:
    expected = [mail.message([f"r{age}@shop.test"], age_s=age, shard=age % 2) for age in range(70, 0, -10)]
    expected += [mail.message(["last@shop.test"], age_s=0.5, shard=1)]
    expected = texts(*expected)
    queries = ask()
    assert all_pages(queries, Filter(), 3) == [expected[:3], expected[3:6], expected[6:]]
    assert all_pages(queries, Filter(), 1000) == [expected]


def test_filters_must_all_match(mail, ask) -> None:
    plain = mail.message(["a@shop.test"], age_s=400)
    acme = mail.message(["b@shop.test"], age_s=300, tenant="acme", campaign="may")
    other = mail.message(["Some.One@other.test"], age_s=200, tenant="acme", sender="News@Acme.Test", shard=1)
    bounce = mail.message(["c@shop.test"], age_s=100, sender="", shard=1)
    queries = ask()
    found = {
        name: ids(queries.page(Filter(**wanted)))
        for name, wanted in {
            "tenant": {"tenant": "acme"},
            "tenant, campaign": {"tenant": "acme", "campaign": "may"},
            "sender": {"sender": "news@acme.test"},
            "sender in brackets": {"sender": "<news@ACME.test>"},
            "sender's domain": {"sender": "@acme.test"},
            "null sender": {"sender": "<>"},
            "recipient": {"recipient": "some.one@OTHER.test"},
            "recipients' domain": {"recipient": "@shop.test"},
            "destination": {"destination": "Shop.Test."},
            "destination, sender": {"destination": "shop.test", "sender": "<>"},
            "no such destination": {"destination": "nowhere.test"},
            "age": {"older_than_s": 250},
        }.items()
    }
    assert found == {
        "tenant": texts(acme, other),
        "tenant, campaign": texts(acme),
        "sender": texts(other),
        "sender in brackets": texts(other),
        "sender's domain": texts(other),
        "null sender": texts(bounce),
        "recipient": texts(other),
        "recipients' domain": texts(plain, acme, bounce),
        "destination": texts(plain, acme, bounce),
        "destination, sender": texts(bounce),
        "no such destination": [],
        "age": texts(plain, acme),
    }


def test_a_filtered_line_tells_only_what_matches(mail, ask) -> None:
    mail.message(["a@shop.test", "b@shop.test"], ["c@other.test"])
    (line,) = ask().page(Filter(destination="other.test")).messages
    assert (line.recipients, line.first_recipients, line.batches) == (1, ["c@other.test"], 1)


@pytest.mark.parametrize(("indexed", "read"), [(0, 100), (100, 100), (100, 3), (100, 5)])
def test_a_destination_is_found_by_index_and_by_scan_alike(mail, ask, monkeypatch, indexed: int, read: int) -> None:
    monkeypatch.setattr(queries_module, "_INDEXED", indexed)
    monkeypatch.setattr(queries_module, "_INDEX_READ", read)
    expected = []
    for age in range(40, 0, -1):
        number = mail.message([f"r{age}@{'shop' if age % 4 else 'rare'}.test"], age_s=age, due_in_s=-age % 7)
        if not age % 4:
            expected.append(id_text(number))
    assert all_pages(ask(), Filter(destination="rare.test"), 4) == [expected[:4], expected[4:8], expected[8:]]


def test_one_answer_looks_at_a_bounded_part_of_the_queue_and_says_where_to_go_on(mail, ask, monkeypatch) -> None:
    monkeypatch.setattr(queries_module, "_READ", 5)
    monkeypatch.setattr(queries_module, "_LOOKS", 20)
    for age in range(100, 1, -1):
        mail.message([f"r{age}@shop.test"], age_s=age)
    rare = mail.message(["rare@shop.test"], age_s=1)
    pages = all_pages(ask(), Filter(recipient="rare@shop.test"), 100)
    assert pages[-1] == texts(rare)
    assert len(pages) > 4
    assert [found for page in pages for found in page] == texts(rare)


def test_doubts_are_told_whether_or_not_they_are_still_queued(mail, ask) -> None:
    first = mail.message(["a@shop.test"], age_s=300, shard=1)
    second = mail.message(["b@other.test"], ["c@shop.test"], age_s=200)
    mail.message(["d@shop.test"], age_s=100)
    mail.doubt(first, "a@shop.test", shard=1)
    mail.doubt(second, "c@shop.test", number=1)
    mail.settled(first, shard=1)
    queries = ask()
    gone = DoubtfulBatch(
        id=id_text(first), destination="shop.test", recipients=["a@shop.test"], at=NOW - 30, queued=False
    )
    waits = DoubtfulBatch(
        id=id_text(second), destination="shop.test", recipients=["c@shop.test"], at=NOW - 30, queued=True
    )
    assert queries.doubts() == Doubts(batches=[gone, waits], next="")
    page = queries.doubts(limit=1)
    assert page.batches == [gone]
    assert queries.doubts(page.next, 1) == Doubts(batches=[waits], next="")
    assert [
        (line.id, line.first_recipients, line.in_doubt) for line in queries.page(Filter(in_doubt=True)).messages
    ] == [(id_text(second), ["c@shop.test"], True)]
    with pytest.raises(RefusedError, match="'x' is not where a page of doubts ended"):
        queries.doubts("x")


def test_a_message_tells_why_it_was_not_delivered(mail, ask) -> None:
    number = mail.message(
        ["a@shop.test"],
        ["b@dead.test", "c@dead.test"],
        due_in_s=90,
        attempts=1,
        reply=GREYLISTED,
        host="mx.shop.test",
        notify=Notify.SUCCESS | Notify.FAILURE,
        body_type=BodyType.EIGHT_BIT,
        eight_bit=True,
        ret="HDRS",
        envid="QQ+3D1",
        client_ip="192.0.2.7",
        client_helo="shop",
    )
    mail.down("dead.test")
    mail.doubt(number, "b@dead.test", number=1)
    reply = ReplyText(code=451, enhanced="4.7.1", text="greylisted, come back later")
    refused = ReplyText(code=451, enhanced="4.4.1", text="connection refused")
    wanted = ["success", "failure"]
    common = {
        "attempts": 1,
        "deferrals": 1,
        "delay_noted": False,
        "next_attempt_at": NOW + 90,
        "last_reply": reply,
        "last_host": "mx.shop.test",
    }
    assert ask().detail(number) == MessageDetail(
        id=id_text(number),
        sender="sender@news.test",
        received_at=NOW - 60,
        expires_at=NOW - 60 + 1000,
        not_before=0.0,
        size_bytes=len(BODY),
        body_type="8bitmime",
        eight_bit=True,
        smtputf8=False,
        ret="HDRS",
        envid="QQ+3D1",
        tenant="",
        stream="transactional",
        campaign="",
        client_ip="192.0.2.7",
        client_helo="shop",
        batches_at_first=2,
        batches=[
            QueuedBatch(
                number=0,
                destination="shop.test",
                state="retry",
                recipients=[QueuedRecipient(address="a@shop.test", notify=wanted, orcpt="")],
                down=None,
                in_doubt=False,
                **common,
            ),
            QueuedBatch(
                number=1,
                destination="dead.test",
                state="down",
                recipients=[
                    QueuedRecipient(address="b@dead.test", notify=wanted, orcpt=""),
                    QueuedRecipient(address="c@dead.test", notify=wanted, orcpt=""),
                ],
                down=Down(failures=3, since=NOW - 600, next_probe_at=NOW + 300, reply=refused, host=""),
                in_doubt=True,
                **common,
            ),
        ],
        next_batch=-1,
    )


def test_states_of_a_batch(mail, ask) -> None:
    due = mail.message(["a@shop.test"])
    held = mail.message(["a@shop.test"], not_before=NOW + 50, due_in_s=50)
    probed = mail.message(["a@dead.test"], due_in_s=10)
    mail.down("dead.test", probe_in_s=-1)
    queries = ask()
    assert [queries.detail(number).batches[0].state for number in (due, held, probed)] == ["due", "held", "retry"]


def test_state_of_a_batch_where_delivery_is_off(mail, ask) -> None:
    number = mail.message(["a@shop.test"])
    assert ask(enabled=False).detail(number).batches[0].state == "disabled"


def test_a_message_of_many_batches_comes_in_parts(mail, ask, monkeypatch) -> None:
    monkeypatch.setattr(queries_module, "MAX_PAGE", 2)
    number = mail.message(*([f"r@d{index}.test"] for index in range(5)), first=3)
    mail.settled(number, 4)
    queries = ask()
    parts = [queries.detail(number), queries.detail(number, 6)]
    assert [([b.number for b in part.batches], part.next_batch) for part in parts] == [([3, 5], 6), ([6, 7], -1)]


def test_what_is_not_queued_is_said_so(mail, ask) -> None:
    number = mail.message(["a@shop.test"])
    mail.settled(number)
    queries = ask()
    absent = IdSource(9, clock=lambda: NOW).next_id()
    for asked in (number, absent):
        with pytest.raises(NotQueuedError, match=f"^{id_text(asked)} is not in the queue; the events log tells"):
            queries.detail(asked)
        with pytest.raises(NotQueuedError):
            queries.body(asked)


def test_a_body_comes_in_pieces(mail, ask) -> None:
    body = BODY + b"x" * (2 * CHUNK_BYTES)
    number = mail.message(["a@shop.test"], body=body, shard=1)
    size, pieces = ask().body(number)
    read = list(pieces)
    assert (size, b"".join(read), [len(piece) for piece in read]) == (
        len(body),
        body,
        [CHUNK_BYTES, CHUNK_BYTES, len(BODY)],
    )


def test_figures_of_the_queue(mail, ask) -> None:
    mail.message(["a@shop.test", "b@shop.test"], ["c@other.test"], age_s=500)
    mail.message(["d@shop.test"], age_s=90, shard=1)
    gone = mail.message(["e@shop.test"], age_s=20)
    mail.settled(gone)
    mail.down("other.test")
    mail.down("dead.test", since_s=9000)
    mail.down("dead.test", since_s=100, shard=1)
    mail.doubt(gone, "e@shop.test")
    mail.consumed("log", 1)
    mail.consumed("log", 0, shard=1)
    stats = ask().stats(top=1)
    refused = ReplyText(code=451, enhanced="4.4.1", text="connection refused")
    down = Down(failures=3, since=NOW - 9000, next_probe_at=NOW + 300, reply=refused, host="")
    sizes = {"file_bytes": stats.file_bytes, "room_bytes": stats.room_bytes, "shards": stats.shards}
    assert msgspec.to_builtins(stats) == msgspec.to_builtins(
        msgspec.structs.replace(
            stats,
            batches=3,
            messages=2,
            recipients=4,
            estimated=False,
            oldest_at=NOW - 500,
            destinations=[DestinationCount(name="shop.test", batches=2, exact=True)],
            all_counted=True,
            down=[
                DownDestination(name="dead.test", down=down),
                DownDestination(name="other.test", down=msgspec.structs.replace(down, since=NOW - 600)),
            ],
            all_down=True,
            in_doubt=1,
            consumers=[ConsumerLag(name="log", records=2, oldest_at=NOW - 90)],
            workers=[],
            **sizes,
        )
    )
    assert [(s.shard, s.batches, s.oldest_at, s.outbox_records) for s in stats.shards] == [
        (0, 2, NOW - 500, 2),
        (1, 1, NOW - 90, 1),
    ]
    assert stats.file_bytes == sum(shard.file_bytes for shard in stats.shards) > 0
    assert 0 < stats.room_bytes == min(shard.room_bytes for shard in stats.shards) <= 1 << 30


def test_figures_of_a_long_queue_are_estimates(mail, ask, monkeypatch) -> None:
    monkeypatch.setattr(survey_module, "_COUNTED", 100)
    monkeypatch.setattr(survey_module, "_READ", 10)
    monkeypatch.setattr(survey_module, "_EACH", 50)
    for age in range(300, 0, -1):
        mail.message([f"a{age}@shop.test", f"b{age}@shop.test"], [f"c{age}@b{age % 3}.test"], age_s=age)
    stats = ask().stats()
    assert (stats.batches, stats.estimated) == (600, True)
    assert 290 <= stats.messages <= 330
    assert 870 <= stats.recipients <= 930
    assert (stats.destinations, stats.all_counted) == (
        [
            DestinationCount(name="b0.test", batches=50, exact=False),
            DestinationCount(name="b1.test", batches=50, exact=False),
            DestinationCount(name="b2.test", batches=50, exact=False),
            DestinationCount(name="shop.test", batches=50, exact=False),
        ],
        True,
    )


def test_destinations_are_counted_within_a_budget(mail, ask, monkeypatch) -> None:
    monkeypatch.setattr(survey_module, "_READY_BUDGET", 10)
    monkeypatch.setattr(survey_module, "_READY_LOOKS", 4)
    for index in range(30):
        mail.message([f"a@d{index:02}.test"])
    stats = ask().stats(top=100)
    assert [destination.name for destination in stats.destinations] == [f"d{index:02}.test" for index in range(12)]
    assert stats.all_counted is False


def test_gauges(mail, ask) -> None:
    message = mail.message(["a@shop.test"], age_s=500)
    mail.down("dead.test", shard=1)
    mail.doubt(message, "a@shop.test")
    figures = ask().gauges()
    assert figures.pop("spool_files") > 0
    assert figures.pop("spool_room") > 0
    assert figures == {
        "queue_batches": 1,
        "queue_in_doubt": 1,
        "destinations_down": 1,
        "queue_oldest": pytest.approx(500),
    }


def test_an_empty_queue(mail, ask) -> None:
    queries = ask()
    assert queries.page(Filter()) == Page(messages=[], next="")
    assert queries.doubts() == Doubts(batches=[], next="")
    stats = queries.stats()
    assert (stats.batches, stats.messages, stats.recipients, stats.oldest_at, stats.destinations) == (0, 0, 0, 0.0, [])


def test_shards_that_come_later_are_found(tmp_path: Path) -> None:
    first = QueuedMail(tmp_path / "spool")
    number = first.message(["a@shop.test"])
    first.close()
    queries = queries_for(tmp_path / "spool")
    assert ids(queries.page(Filter())) == texts(number)
    Store.create_or_open(tmp_path / "spool", 1, max_bytes=1 << 30).close()
    assert [stats.shard for stats in queries.stats().shards] == [0, 1]
    queries.close()


def test_no_spool_is_said_so(tmp_path: Path) -> None:
    queries = queries_for(tmp_path / "spool")
    with pytest.raises(SpoolError, match=f"^no spool at {tmp_path / 'spool'}: No such file or directory$"):
        queries.page(Filter())


def test_a_shard_without_its_file_is_not_made_anew(tmp_path: Path) -> None:
    (tmp_path / "spool/shard-00").mkdir(parents=True)
    with pytest.raises(SpoolFormatError, match=r"data\.mdb: No such file or directory; it was not made anew$"):
        open_read_only(tmp_path / "spool", 0, 1 << 30)
    assert list((tmp_path / "spool/shard-00").iterdir()) == []


def test_a_shard_is_opened_once(mail: QueuedMail) -> None:
    mail.close()
    shards = Shards(mail.spool, config_for(mail.spool).spool.max_bytes)
    assert list(shards) == list(shards)
    assert shards.shard(1) is list(shards)[1]
    assert shards.shard(2) is None
    shards.close()
