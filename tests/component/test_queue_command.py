"""`postroika queue` without a server: from the spool itself, read-only."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from postroika.cli import ExitCode, run
from postroika.mail.ids import id_text
from postroika.spool.schema import CHUNK_BYTES
from tests.component.queued_mail import BODY, GREYLISTED, QueuedMail, texts
from tests.outputs import Output

CONFIG = """
[server]
hostname = "mx.us.test"
spool = "spool"
control = "control.sock"
[log]
events = "events.jsonl"
"""


class Postroika:
    """`postroika(*arguments)` in a directory with a config and a spool, where no server runs."""

    def __init__(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.notice = f"postroika: no server answers at {home}/control.sock; reading the spool {home}/spool\n"
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Output:
        code = run(arguments)
        return Output(code, *self._capfd.readouterr())


@pytest.fixture
def postroika(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Postroika:
    (tmp_path / "postroika.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTROIKA_CONFIG", raising=False)
    return Postroika(tmp_path, capfd)


@pytest.fixture
def mail(tmp_path: Path) -> QueuedMail:
    return QueuedMail(tmp_path / "spool", shards=2, now=time.time())


def test_list_says_that_it_reads_the_spool(postroika: Postroika, mail: QueuedMail) -> None:
    number = mail.message(["a@shop.test"], age_s=7260, due_in_s=-5, attempts=2, reply=GREYLISTED, host="mx.shop.test")
    mail.close()
    row = f"{id_text(number)}  2h01m   46B      2   now  sender@news.test  a@shop.test  "
    assert postroika("queue", "list") == (
        ExitCode.OK,
        "MESSAGE          AGE  SIZE  TRIES  NEXT  SENDER            RECIPIENTS   REASON\n"
        f"{row} mx.shop.test: 451 4.7.1 greylisted, come back later\n".replace("   mx.", "  mx."),
        postroika.notice,
    )


def test_list_for_programs(postroika: Postroika, mail: QueuedMail) -> None:
    numbers = [mail.message([f"{age}@shop.test"], age_s=age, shard=age % 2) for age in (50, 40, 31, 20)]
    mail.close()
    first = postroika("queue", "list", "--json", "--limit", "3")
    assert [message["id"] for message in first.json["messages"]] == texts(*numbers[:3])
    assert first.json["next"] == id_text(numbers[2])
    rest = postroika("queue", "list", "--json", "--after", first.json["next"])
    assert ([message["id"] for message in rest.json["messages"]], rest.json["next"]) == (texts(numbers[3]), "")


def test_list_that_is_cut_says_how_to_go_on(postroika: Postroika, mail: QueuedMail) -> None:
    number = mail.message(["a@shop.test"], age_s=50)
    mail.message(["b@shop.test"], age_s=40)
    mail.close()
    assert postroika("queue", "list", "--limit", "1").err == (
        f"{postroika.notice}There may be more: --after {id_text(number)}\n"
    )


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (("--sender", "<>"), [0]),
        (("--sender", "@news.test"), [1, 2]),
        (("--recipient", "B@shop.test", "--campaign", "may"), [1]),
        (("--destination", "other.test"), [2]),
        (("--tenant", "acme"), [0, 1]),
        (("--older-than", "1h"), [0]),
        (("--in-doubt",), [2]),
        (("--sender", "nobody@news.test"), []),
    ],
)
def test_list_filters(postroika: Postroika, mail: QueuedMail, filters: tuple[str, ...], found: list[int]) -> None:
    numbers = [
        mail.message(["a@shop.test"], age_s=4000, sender="", tenant="acme"),
        mail.message(["b@shop.test"], age_s=300, tenant="acme", campaign="may"),
        mail.message(["c@other.test"], age_s=200),
    ]
    mail.doubt(numbers[2], "c@other.test")
    mail.close()
    output = postroika("queue", "list", "--json", *filters)
    assert [message["id"] for message in output.json["messages"]] == texts(*(numbers[index] for index in found))


def test_empty_lists_say_so(postroika: Postroika, mail: QueuedMail) -> None:
    mail.close()
    assert [
        postroika("queue", "list").out,
        postroika("queue", "list", "--sender", "a@b.test").out,
        postroika("queue", "doubts").out,
    ] == ["The queue is empty.\n", "Nothing that is queued matches.\n", "Nobody is in doubt.\n"]


def test_show_for_programs_has_every_batch(postroika: Postroika, mail: QueuedMail) -> None:
    number = mail.message(*([f"r@d{index}.test"] for index in range(1100)))
    mail.close()
    (detail,) = [msgspec.json.decode(postroika("queue", "show", "--json", id_text(number).upper()).out)]
    assert (detail["id"], [batch["number"] for batch in detail["batches"]], detail["next_batch"]) == (
        id_text(number),
        list(range(1100)),
        -1,
    )


def test_show_prints_the_message_as_it_is_stored(postroika: Postroika, mail: QueuedMail) -> None:
    body = BODY + b"x" * (2 * CHUNK_BYTES)
    number = mail.message(["a@shop.test"], body=body)
    mail.close()
    output = postroika("queue", "show", "--body", id_text(number))
    assert (output.code, output.out) == (ExitCode.OK, body.decode())


def test_show_prints_the_header_safely(postroika: Postroika, mail: QueuedMail) -> None:
    body = "Subject: evil \x1b[2J\r\n\tand grün\r\n\r\nbody".encode() + b"\r\n"
    number = mail.message(["a@shop.test"], body=body)
    mail.close()
    assert postroika("queue", "show", "--headers", id_text(number)).out == "Subject: evil \\u001b[2J\n    and grün\n"


def test_what_is_not_queued_fails(postroika: Postroika, mail: QueuedMail) -> None:
    mail.close()
    assert postroika("queue", "show", "0" * 13) == (
        ExitCode.FAILED,
        "",
        f"{postroika.notice}postroika: 0000000000000 is not in the queue; the events log tells what became of it\n",
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("show", "xyz"), "'xyz' is not a message id (13 letters and digits)"),
        (("show", "0" * 13, "--body", "--json"), "--headers, --body and --json exclude each other"),
        (("list", "--older-than", "soon"), "'soon' is not a duration such as 90s, 30m, 2h or 3d"),
        (("cancel",), "Name either the messages to cancel or filters."),
        (("cancel", "0" * 13, "--sender", "a@b.test"), "Name either the messages to cancel or filters."),
        (("lsit",), "No such command 'lsit'. Did you mean 'list'?"),
    ],
)
def test_wrong_usage(postroika: Postroika, arguments: tuple[str, ...], problem: str) -> None:
    output = postroika("queue", *arguments)
    assert (output.code, output.out) == (ExitCode.USAGE, "")
    assert problem in output.err


@pytest.mark.parametrize(
    "arguments", [("flush",), ("flush", "0" * 13), ("cancel", "0" * 13), ("cancel", "--sender", "a@b.test", "--yes")]
)
def test_changes_need_a_server(postroika: Postroika, mail: QueuedMail, arguments: tuple[str, ...]) -> None:
    mail.close()
    assert postroika("queue", *arguments) == (
        ExitCode.UNAVAILABLE,
        "",
        f"postroika: no server answers at {postroika.home}/control.sock; {arguments[0]} needs a running server\n",
    )


def test_no_spool_fails(postroika: Postroika) -> None:
    assert postroika("queue", "stats") == (
        ExitCode.FAILED,
        "",
        f"{postroika.notice}postroika: no spool at {postroika.home}/spool: No such file or directory\n",
    )


def test_figures_for_programs(postroika: Postroika, mail: QueuedMail) -> None:
    mail.message(["a@shop.test"], ["b@other.test"])
    mail.close()
    figures = postroika("queue", "stats", "--json", "--top", "1").json
    assert (figures["batches"], figures["messages"], figures["destinations"], figures["workers"]) == (
        2,
        1,
        [{"name": "other.test", "batches": 1, "exact": True}],
        [],
    )


def test_doubts_for_programs(postroika: Postroika, mail: QueuedMail) -> None:
    number = mail.message(["a@shop.test", "b@shop.test"])
    mail.doubt(number, "a@shop.test", "b@shop.test")
    mail.close()
    assert postroika("queue", "doubts", "--json").json == {
        "batches": [
            {
                "id": id_text(number),
                "destination": "shop.test",
                "recipients": ["a@shop.test", "b@shop.test"],
                "at": mail.now - 30,
                "queued": True,
            }
        ],
        "next": "",
    }
