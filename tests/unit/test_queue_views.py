"""How the queue looks: on a terminal of 80 columns, and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from postroika.cli._queue_views import print_detail, print_doubts, print_messages, print_stats
from postroika.control.records import (
    ConsumerLag,
    DestinationCount,
    DoubtfulBatch,
    Down,
    DownDestination,
    MessageDetail,
    QueuedBatch,
    QueuedMessage,
    QueuedRecipient,
    QueueStats,
    ReplyText,
    ShardStats,
    WorkerStatus,
)

pytestmark = pytest.mark.usefixtures("utc")

NOW = 1_800_000_000.0
GREYLISTED = ReplyText(code=451, enhanced="4.7.1", text="greylisted, come back later")
REFUSED = ReplyText(code=451, enhanced="4.4.1", text="connection refused")
DOWN = Down(failures=3, since=NOW - 600, next_probe_at=NOW + 300, reply=REFUSED, host="")


class Screen:
    """A terminal of 80 columns without colours, or a pipe."""

    def __init__(self, *, terminal: bool) -> None:
        self._file = io.StringIO()
        self.console = Console(
            file=self._file,
            width=80,
            force_terminal=terminal,
            color_system=None,
            highlight=False,
            legacy_windows=False,
        )

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._file.getvalue().splitlines()]


@pytest.fixture
def terminal() -> Screen:
    return Screen(terminal=True)


@pytest.fixture
def pipe() -> Screen:
    return Screen(terminal=False)


def line(number: int, **changed: object) -> QueuedMessage:
    facts: dict[str, object] = {
        "id": f"6gzytke8c000{number}",
        "sender": "sender@news.test",
        "received_at": NOW - 11_000,
        "size_bytes": 4200,
        "recipients": 1,
        "first_recipients": ["a@shop.test"],
        "batches": 1,
        "first_destinations": ["shop.test"],
        "attempts": 0,
        "next_attempt_at": NOW - 1,
        "last_reply": None,
        "last_host": "",
        "in_doubt": False,
        "tenant": "",
        "stream": "transactional",
        "campaign": "",
    }
    return QueuedMessage(**{**facts, **changed})  # type: ignore[arg-type]


MESSAGES = [
    line(1),
    line(
        2,
        sender="",
        received_at=NOW - 300_000,
        recipients=1234,
        first_recipients=["one@shop.test", "two@shop.test", "evil\x1b[2J[red]@other.test"],
        attempts=3,
        next_attempt_at=NOW + 700,
        last_reply=GREYLISTED,
        last_host="mx.shop.test",
        in_doubt=True,
    ),
    line(3, first_recipients=["somebody.with.a.rather.long.name@a.domain.with.a.long.name.example"]),
]


def test_list_on_a_terminal(terminal: Screen) -> None:
    print_messages(terminal.console, MESSAGES, NOW)
    assert terminal.lines == [
        "MESSAGE          AGE  SIZE  NEXT  MAIL",
        "6gzytke8c0001  3h03m  4.1K   now  sender@news.test",
        "                                  → a@shop.test",
        "6gzytke8c0002  3d11h  4.1K   11m  <>",
        "                                  → one@shop.test, two@shop.test,",
        "                                  evil\\u001b[2J[red]@other.test and 1,231 more",
        "                                  mx.shop.test: 451 4.7.1 greylisted, come back",
        "                                  later",
        "                                  may have been delivered already",
        "6gzytke8c0003  3h03m  4.1K   now  sender@news.test",
        "                                  →",
        "                                  somebody.with.a.rather.long.name@a.domain.with",
        "                                  .a.long.name.example",
    ]


def test_list_in_a_pipe(pipe: Screen) -> None:
    print_messages(pipe.console, MESSAGES, NOW)
    space = " " * 55
    head = "MESSAGE          AGE  SIZE  TRIES  NEXT  SENDER            RECIPIENTS"
    second = "one@shop.test, two@shop.test, evil\\u001b[2J[red]@other.test and 1,231 more"
    reason = "mx.shop.test: 451 4.7.1 greylisted, come back later; may have been delivered already"
    third = "somebody.with.a.rather.long.name@a.domain.with.a.long.name.example"
    assert pipe.lines == [
        f"{head}{space}           REASON",
        "6gzytke8c0001  3h03m  4.1K      0   now  sender@news.test  a@shop.test",
        f"6gzytke8c0002  3d11h  4.1K      3   11m  <>                {second}  {reason}",
        f"6gzytke8c0003  3h03m  4.1K      0   now  sender@news.test  {third}",
    ]


def batch(number: int, destination: str, state: str, **changed: object) -> QueuedBatch:
    facts: dict[str, object] = {
        "number": number,
        "destination": destination,
        "state": state,
        "recipients": [QueuedRecipient(address=f"a@{destination}", notify=[], orcpt="")],
        "attempts": 0,
        "deferrals": 0,
        "delay_noted": False,
        "next_attempt_at": NOW + 90,
        "last_reply": None,
        "last_host": "",
        "down": None,
        "in_doubt": False,
    }
    return QueuedBatch(**{**facts, **changed})  # type: ignore[arg-type]


def detail(*batches: QueuedBatch, **changed: object) -> MessageDetail:
    facts: dict[str, object] = {
        "id": "6gzytke8c0001",
        "sender": "sender@news.test",
        "received_at": NOW - 11_000,
        "expires_at": NOW + 420_000,
        "not_before": 0.0,
        "size_bytes": 4200,
        "body_type": "7bit",
        "eight_bit": False,
        "smtputf8": False,
        "ret": "",
        "envid": "",
        "tenant": "",
        "stream": "transactional",
        "campaign": "",
        "client_ip": "",
        "client_helo": "",
        "batches_at_first": len(batches),
        "batches": list(batches),
        "next_batch": -1,
    }
    return MessageDetail(**{**facts, **changed})  # type: ignore[arg-type]


def test_a_message_says_why_it_was_not_delivered(terminal: Screen) -> None:
    recipients = [
        QueuedRecipient(address="a@shop.test", notify=["success", "failure"], orcpt="rfc822;A+40old.test"),
        QueuedRecipient(address="b@shop.test", notify=[], orcpt=""),
    ]
    batches = [
        batch(
            0,
            "shop.test",
            "retry",
            recipients=recipients,
            attempts=3,
            last_reply=GREYLISTED,
            last_host="mx.shop.test",
            in_doubt=True,
            delay_noted=True,
        ),
        batch(1, "dead.test", "down", last_reply=REFUSED, deferrals=1, down=DOWN),
        batch(2, "fresh.test", "due"),
        batch(3, "off.test", "disabled"),
    ]
    message = detail(
        *batches,
        client_ip="192.0.2.7",
        client_helo="shop",
        eight_bit=True,
        body_type="8bitmime",
        tenant="acme",
        campaign="may",
        ret="HDRS",
        envid="QQ314159",
    )
    print_detail(terminal.console, message, batches, NOW, live=True)
    since = "cannot be reached since 2027-01-15 07:50:00"
    assert terminal.lines == [
        "Message 6gzytke8c0001",
        "  from      sender@news.test",
        "  received  2027-01-15 04:56:40 (3h03m ago) from shop [192.0.2.7]",
        "  size      4,200 octets, body 8bitmime, 8-bit",
        "  expires   2027-01-20 04:40:00 (in 4d20h)",
        "  tenant    acme",
        "  campaign  may",
        "  stream    transactional",
        "  dsn       ret=HDRS envid=QQ314159",
        "",
        "shop.test: 2 recipients",
        "  Is due again in 1m, at 2027-01-15 08:01:30.",
        "  After 3 attempts, mx.shop.test said: 451 4.7.1 greylisted, come back later",
        "  May have been delivered already: the reply to its final dot was lost.",
        "  Its sender has been told that it is late.",
        "    a@shop.test  notify=success,failure  orcpt=rfc822;A+40old.test",
        "    b@shop.test",
        "",
        "dead.test: 1 recipient",
        f"  The destination {since} (3 probes failed, the next is in 5m): 451 4.4.1 connection refused",
        "  Without an attempt, we found: 451 4.4.1 connection refused",
        "    a@dead.test",
        "",
        "fresh.test: 1 recipient",
        "  Waits for its turn, or is being delivered now.",
        "    a@fresh.test",
        "",
        "off.test: 1 recipient",
        "  Delivery is switched off in the config (delivery.enabled = false).",
        "    a@off.test",
    ]


def test_a_message_of_a_stopped_server_that_is_held(pipe: Screen) -> None:
    batches = [batch(0, "shop.test", "held"), batch(1, "other.test", "due", attempts=1)]
    message = detail(*batches, sender="", not_before=NOW + 7200, expires_at=NOW - 1)
    print_detail(pipe.console, message, batches, NOW, live=False)
    assert pipe.lines == [
        "Message 6gzytke8c0001",
        "  from      <>",
        "  received  2027-01-15 04:56:40 (3h03m ago)",
        "  size      4,200 octets, body 7bit",
        "  held      until 2027-01-15 10:00:00 (for 2h00m)",
        "  expires   2027-01-15 07:59:59 (now)",
        "  stream    transactional",
        "",
        "shop.test: 1 recipient",
        "  Is held until the time that its sender asked for.",
        "    a@shop.test",
        "",
        "other.test: 1 recipient",
        "  Is due; no server is running.",
        "  Has had 1 attempt.",
        "    a@other.test",
    ]


STATS = QueueStats(
    batches=24_000,
    messages=20_500,
    recipients=60_000,
    estimated=True,
    oldest_at=NOW - 11_000,
    destinations=[
        DestinationCount(name="shop.test", batches=10_000, exact=False),
        DestinationCount(name="other.test", batches=12, exact=True),
    ],
    all_counted=False,
    down=[DownDestination(name="dead.test", down=DOWN)],
    all_down=False,
    in_doubt=2,
    consumers=[ConsumerLag(name="log", records=3, oldest_at=NOW - 4), ConsumerLag(name="web", records=0, oldest_at=0)],
    file_bytes=90_000_000,
    room_bytes=5 << 30,
    shards=[
        ShardStats(
            shard=0, batches=24_000, oldest_at=NOW - 11_000, file_bytes=80_000_000, room_bytes=5 << 30, outbox_records=1
        ),
        ShardStats(shard=1, batches=0, oldest_at=0.0, file_bytes=10_000_000, room_bytes=6 << 30, outbox_records=0),
    ],
    workers=[
        WorkerStatus(worker=0, pid=1, error="", gauges={"lanes": 3, "in_memory": 1200}),
        WorkerStatus(worker=1, pid=2, error="worker 1 is not running"),
    ],
)


@pytest.mark.parametrize("screen", ["terminal", "pipe"])
def test_figures(request: pytest.FixtureRequest, screen: str) -> None:
    shown: Screen = request.getfixturevalue(screen)
    print_stats(shown.console, STATS, NOW)
    assert shown.lines == [
        "messages    about 20,500",
        "recipients  about 60,000",
        "batches     24,000",
        "oldest      3h03m",
        "in doubt    2",
        "spool files 86M",
        "room        5.0G",
        "",
        "DESTINATION  BATCHES",
        "shop.test    10,000+",
        "other.test        12",
        "There are so many destinations that not all were counted.",
        "",
        "CANNOT BE REACHED  SINCE  PROBE  REASON",
        "dead.test            10m     5m  451 4.4.1 connection refused",
        "There are more that cannot be reached.",
        "",
        "EVENTS FOR  BEHIND  OLDEST",
        "log              3      4s",
        "web              0       -",
        "",
        "SHARD  BATCHES  OLDEST  FILE  ROOM",
        "    0   24,000   3h03m   76M  5.0G",
        "    1        0       -  9.5M  6.0G",
        "",
        "worker 0: lanes 3, in memory 1,200",
        "worker 1: worker 1 is not running",
    ]


def test_figures_of_an_empty_queue(pipe: Screen) -> None:
    empty = QueueStats(
        batches=0,
        messages=0,
        recipients=0,
        estimated=False,
        oldest_at=0.0,
        destinations=[],
        all_counted=True,
        down=[],
        all_down=True,
        in_doubt=0,
        consumers=[],
        file_bytes=65_536,
        room_bytes=1 << 30,
        shards=[],
    )
    print_stats(pipe.console, empty, NOW)
    assert pipe.lines == [
        "messages    0",
        "recipients  0",
        "batches     0",
        "oldest      -",
        "in doubt    0",
        "spool files 64K",
        "room        1.0G",
    ]


def test_doubts(pipe: Screen) -> None:
    found = [
        DoubtfulBatch(
            id="6gzytke8c0001",
            destination="shop.test",
            recipients=["a@shop.test", "b@shop.test"],
            at=NOW - 90,
            queued=True,
        ),
        DoubtfulBatch(
            id="6gzytke8c0002", destination="shop.test", recipients=["c@shop.test"], at=NOW - 9000, queued=False
        ),
    ]
    print_doubts(pipe.console, found, NOW)
    assert pipe.lines == [
        "MESSAGE        FOUND  STATE    RECIPIENTS",
        "6gzytke8c0001     1m  queued   a@shop.test, b@shop.test",
        "6gzytke8c0002  2h30m  settled  c@shop.test",
    ]
