"""`postroika sink` as a process, under real clients."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from postroika.bench import maildir
from tests.system.peers import RunSource, RunSwaks
from tests.system.process import run
from tests.system.sink_peer import StartOurSink


def test_every_message_of_a_load_is_counted_once(sink: StartOurSink, smtp_source: RunSource) -> None:
    running = sink("--unique", "Message-ID")
    smtp_source(running.address, messages=5000, sessions=20, size_bytes=4096)
    smtp_source(running.address, messages=100, sessions=10, recipients=100)
    counts = running.end()
    size_bytes = counts.pop("bytes")
    assert {name: value for name, value in counts.items() if value} == {
        "sessions": 20 + 10 + 1,  # and the one that saw that it listens
        "messages": 5100,
        "recipients": 5000 + 10_000,
        "unique": 5000 + 10_000,
    }
    assert size_bytes > 5000 * 4096


def test_stored_messages_can_be_read_back(sink: StartOurSink, smtp_source: RunSource, tmp_path: Path) -> None:
    running = sink("--store", str(tmp_path / "mail"))
    smtp_source(running.address, messages=50, sessions=5, recipients=2, sender="a@x.test", recipient="b@y.test")
    counts = running.end(signal.SIGINT)
    stored = list(maildir.read(tmp_path / "mail"))
    assert {(one.reverse_path, one.recipients) for one in stored} == {("a@x.test", ("2b@y.test", "b@y.test"))}
    assert counts["messages"] == len(stored) == len({one.content for one in stored}) == 50
    assert counts["bytes"] == sum(len(one.content) for one in stored)


def test_refusals_doubles_and_lines_as_swaks_sees_them(sink: StartOurSink, swaks: RunSwaks) -> None:
    running = sink("--refuse", "bounce@*", "--defer", "*@slow.test", "--unique", "message-id", "--print", host="::1")
    options = ("--header", "Message-Id: <same@x>", "--helo", "me.test")
    transcripts = [
        swaks(running.address, *options, to=to)
        for to in ("bounce@shop.test", "a@slow.test", "you@shop.test", "you@shop.test")
    ]
    assert [transcript.returncode for transcript in transcripts] == [24, 24, 0, 0]
    assert "550 5.1.1 <bounce@shop.test>: the sink refuses this recipient" in transcripts[0].replies
    assert "451 4.7.1 <a@slow.test>: the sink defers this recipient" in transcripts[1].replies
    counts = running.end()
    assert (counts["messages"], counts["doubled"], counts["refused"], counts["deferred"]) == (2, 1, 1, 1)
    line = "from=<sender@swaks.test> to=<you@shop.test> size="
    assert running.process.output().count(line) == 2


def test_wrong_use_is_explained(tmp_path: Path) -> None:
    postroika = (sys.executable, "-m", "postroika", "sink")
    for options, code, text in (
        (("--delay", "dot=1"), 2, "'dot=1' is not STAGE=SECONDS with a stage of greeting, ehlo,"),
        (("--delay", "rcpt=soon"), 2, "'rcpt=soon' is not STAGE=SECONDS"),
        (("--bytes-per-s", "2x"), 2, "'2x' is not a number of bytes above zero, as 64000, 64k or 2M"),
        (("--key", "key.pem"), 2, "--key needs --certificate"),
        (("--tls", "implicit", "--certificate", "none.pem"), 1, "postroika: cannot use the certificate none.pem with "),
        (("--without", "CHUNK"), 2, "--without CHUNK: known are 8BITMIME,"),
        (("--listen", "localhost"), 1, "postroika: cannot listen on localhost: 'localhost' has no port"),
        (("--listen", "192.0.2.1:2526"), 1, "postroika: cannot listen on 192.0.2.1:2526: "),
    ):
        result = run([*postroika, *options], within_s=30, cwd=tmp_path)
        assert (result.returncode, text in result.stdout) == (code, True), result.stdout
