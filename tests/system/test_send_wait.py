"""`postroika send` and `postroika events tail` with a running server."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

from postroika.cli import ExitCode
from tests.system.command import command, started
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import StartOurSink

_AGAIN_SOON = "[retry]\ndelays_s = [0.5]\ndown_delays_s = [0.5]\n"


def to(port: int) -> str:
    """A config that sends all mail to one port."""
    return f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://127.0.0.1:{port}"\n'


def outcomes(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(recipient, outcome) as `send --json` tells them."""
    return [(one["recipient"], one["outcome"]) for one in report["recipients"]]


def test_outcome_of_each_recipient_is_waited_for(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink("--refuse", "bounce@*", store=True)
    with Postroika(tmp_path, to(peer.port)) as server:
        good = command(server, "send", "--to", "You@Shop.Test", "--from", "me@news.test", "--wait")
        message = server.events_of("delivered")[0]["message"]
        assert (good.code, good.out.splitlines(), good.err) == (
            ExitCode.OK,
            [
                f"250 2.0.0 Ok: queued as {message}",
                "RECIPIENT      OUTCOME    REPLY",
                "You@Shop.Test  delivered  127.0.0.1: 250 2.0.0 Ok",
            ],
            "",
        )
        body = peer.messages()[0].content
        assert re.search(rb"\r\nDate: \w{3}, \d\d? \w{3} \d{4} [\d:]{8} [+-]\d{4}\r\n", body)
        assert re.search(rb"\r\nMessage-ID: <[^<>]+@mx\.postroika\.test>\r\n", body)
        assert b"\r\nFrom: me@news.test\r\nTo: You@Shop.Test\r\nSubject: A message from Postroika\r\n" in body

        mixed = command(
            server, "send", "--to", "a@shop.test", "--to", "bounce@other.test", "--from", "<>", "--wait", "--json"
        )
        assert (mixed.code, outcomes(mixed.json)) == (
            ExitCode.FAILED,
            [("a@shop.test", "delivered"), ("bounce@other.test", "bounced")],
        )
        assert mixed.json["recipients"][1]["reply"].startswith("550 5.1.1 <bounce@other.test>:")


def test_deferred_recipients_are_told_while_they_are_waited_for(tmp_path: Path, sink: StartOurSink) -> None:
    port = free_port()
    with Postroika(tmp_path, to(port) + _AGAIN_SOON) as server:
        output = tmp_path / "send.log"
        with started(server, output, "send", "--to", "a@shop.test", "--wait", "--timeout", "2m") as waiting:
            wait_until(lambda: "a@shop.test deferred: 451 4.4.1" in output.read_text(), "word of the deferral", 30)
            sink(port=port)
            assert waiting.wait(30) == ExitCode.OK
        assert output.read_text().endswith("a@shop.test  delivered  127.0.0.1: 250 2.0.0 Ok\n")


def test_waiting_ends_in_time_and_says_what_is_open(tmp_path: Path) -> None:
    with Postroika(tmp_path, to(free_port())) as server:
        done = command(server, "send", "--to", "a@shop.test", "--wait", "--timeout", "3", "--json")
        assert (done.code, outcomes(done.json)) == (ExitCode.FAILED, [("a@shop.test", "deferred")])
        assert done.err.splitlines()[-1] == "postroika: not all is final after 3s; the server goes on"


def test_waiting_goes_on_across_rotations_of_the_log(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink()
    # The config of the class ends with [log]: each append of events begins a new file.
    with Postroika(tmp_path, "rotate_bytes = 1\nkeep = 20\n" + to(peer.port)) as server:
        recipients = [argument for number in range(5) for argument in ("--to", f"a@d{number}.test")]
        for _ in range(3):
            done = command(server, "send", *recipients, "--from", "<>", "--wait", "--json")
            assert (done.code, outcomes(done.json)) == (
                ExitCode.OK,
                [(f"a@d{number}.test", "delivered") for number in range(5)],
            )
        assert server.event_log.with_name("events.jsonl.3").exists()
        tail = command(server, "events", "tail", "-n", "15", "--type", "delivered", "--json")
        assert sorted(tail.out.splitlines()) == sorted(
            line
            for path in tmp_path.glob("events.jsonl*")
            for line in path.read_text().splitlines()
            if '"delivered"' in line
        )


def test_without_a_log_the_queue_is_watched(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink("--defer", "later@*")
    with Postroika(tmp_path, to(peer.port)) as server:
        server.stop()
        text = server.config_file.read_text().replace('events = "events.jsonl"', 'events = ""')
        server.config_file.write_text(text)
        server.start()
        arguments = ("--to", "a@shop.test", "--to", "later@shop.test", "--wait", "--timeout", "4", "--json")
        done = command(server, "send", *arguments)
        assert (done.code, outcomes(done.json)) == (
            ExitCode.FAILED,
            [("a@shop.test", "unknown"), ("later@shop.test", "deferred")],
        )
        lines = done.err.splitlines()
        assert lines[0] == "postroika: events are not logged; only the queue can be watched, not the outcome"
        assert lines[-1] == "postroika: not all is final after 4s; the server goes on"


def test_file_is_sent_as_it_is(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink(store=True)
    text = "From: Jöran <joran@news.test>\n\n.dots\n..at the start\ntrailing space \ngrün".encode()
    (tmp_path / "message.eml").write_bytes(text)
    with Postroika(tmp_path, to(peer.port)) as server:
        file = str(tmp_path / "message.eml")
        assert command(server, "send", "--to", "a@shop.test", "--file", file, "--wait").code == ExitCode.OK
        piped = command(server, "send", "--to", "b@shop.test", "--file", "-", "--wait", stdin=text)
        assert piped.code == ExitCode.OK
        expected = text.replace(b"\n", b"\r\n") + b"\r\n"
        assert [stored.content.partition(b"From: J")[1:] for stored in peer.wait_for(2)] == [
            (b"From: J", expected.removeprefix(b"From: J"))
        ] * 2
        assert {event["sender"] for event in server.events_of("delivered")} == {"joran@news.test"}


def test_refusals_are_told(tmp_path: Path) -> None:
    with Postroika(tmp_path, "[limits]\nmax_message_bytes = 1000\n") as server:
        large = command(server, "send", "--to", "a@shop.test", "--body", "x" * 2000)
        assert large.code == ExitCode.FAILED
        assert large.err.startswith("552 5.3.4 ")
        some = command(server, "send", "--to", "a@shop.test", "--to", "b@-", "--json")
        assert (some.code, outcomes(some.json)) == (ExitCode.FAILED, [("a@shop.test", "queued"), ("b@-", "refused")])
    nobody = command(server, "send", "--to", "a@shop.test")
    assert nobody == (
        ExitCode.FAILED,
        "",
        f"postroika: no server listens at 127.0.0.1:{server.port}; start one with `postroika serve`\n",
    )


def test_events_are_shown_as_they_come(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink("--refuse", "bounce@*")
    with Postroika(tmp_path, to(peer.port)) as server:
        assert command(server, "events", "tail", "--json").out == ""
        output = tmp_path / "tail.log"
        options = ("-n", "0", "--follow", "--type", "delivered", "--type", "bounced", "--sender", "me@news.test")
        with started(server, output, "events", "tail", *options) as tail:
            sent = ("send", "--to", "a@shop.test", "--to", "bounce@shop.test", "--wait", "--from")
            # It may have been started after the first of these was delivered.
            wait_until(
                lambda: command(server, *sent, "me@news.test") and "bounced" in output.read_text(), "word of it", 60
            )
            command(server, *sent, "you@news.test")
            tail.signal(signal.SIGINT)
            assert tail.wait() == ExitCode.INTERRUPTED
        when, line = r"\w{3} \d\d \d\d:\d\d:\d\d", output.read_text().splitlines()[-1]
        assert re.fullmatch(
            rf"{when} bounced      [0-9a-z]{{13}}  bounce@shop\.test  127\.0\.0\.1(\[127\.0\.0\.1\])?  after [\d.]+s  "
            r"550 5\.1\.1 <bounce@shop\.test>: .+",
            line,
        )
        everything = command(server, "events", "tail", "-n", "1000").out.splitlines()
        assert len(everything) == len(server.events())
        one = server.events_of("delivered")[0]
        shown = command(server, "events", "tail", "--message", one["message"], "--recipient", "@shop.test", "--json")
        assert len(shown.out.splitlines()) == 4
        assert command(server, "events", "tail", "--recipient", "nobody@shop.test").out == ""
