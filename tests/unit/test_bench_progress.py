"""What is told while the harness works."""

from __future__ import annotations

import io
import threading

from rich.console import Console

from postroika.bench.pace import Pace
from postroika.bench.progress import Teller
from tests.unit.bench_fakes import turn


def test_each_turn_is_a_line_in_a_pipe() -> None:
    told = io.StringIO()
    with Teller(Console(file=told, width=40)) as teller:
        teller.step("relay: round 1: [bold]Postfix")
        teller.tell_turn("relay", turn("Postfix", 1, 0.5, 0.1, "postfix"), "messages")
        teller.tell_turn("relay", turn("Postfix", 2, 0.5, None), "MB")
        teller.say("[red]nothing is markup")
    assert told.getvalue() == (
        "relay: round 1, smtp-source: Postfix: 200 messages/s, 1.00 ms CPU each\n"
        "relay: round 2, our load: Postfix: 8.00 MB/s\n"
        "[red]nothing is markup\n"
    )


def test_a_count_is_not_looked_at_where_nobody_sees_it() -> None:
    told, looked = io.StringIO(), list[int]()

    def count() -> int:
        looked.append(1)
        return 1

    with Teller(Console(file=told)) as teller:
        with teller.watch(count, 10):
            threads = {thread.name for thread in threading.enumerate()}
        teller.say("done")
    assert ("teller" in threads, looked, told.getvalue()) == (False, [], "done\n")


def test_a_count_is_shown_on_a_terminal() -> None:
    told, looked = io.StringIO(), threading.Event()

    def count() -> int:
        looked.set()
        return 7

    with Teller(Console(file=told, force_terminal=True, width=120)) as teller:
        teller.step("relay: round 1 of 3, Postroika")
        with teller.watch(count, 10):
            assert looked.wait(30)
        assert "teller" not in {thread.name for thread in threading.enumerate()}
    assert "relay: round 1 of 3, Postroika" in told.getvalue()


def test_what_is_left_is_shown_on_a_terminal() -> None:
    told = io.StringIO()
    with Teller(Console(file=told, force_terminal=True, width=120)) as teller:
        teller.step("relay: starting")
        teller.pace = Pace([60.0, 540.0], lambda: 0.0)
        teller.step("relay: round 1")
    assert "about 10 min left" in told.getvalue()
