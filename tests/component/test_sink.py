"""The sink, spoken to over loopback: counts, marks, what it stores, and clients that are not nice."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from pathlib import Path

import pytest

from postroika.bench import maildir
from postroika.bench.maildir import Stored
from postroika.bench.pump import Pump
from postroika.bench.sink import Message, Sink, SinkSettings, listen
from postroika.errors import PostroikaError
from tests.component.sink_world import CONTENT, HELLO, marked, serving

ENVELOPE = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<r0@y.test>\r\nDATA\r\n"
SIZE = len(CONTENT) - 1  # the stuffed dot
EXPRESS = (SinkSettings(), SinkSettings(defer=("nobody@*",)))
"""With the express lane, and without it."""


@pytest.mark.parametrize("settings", EXPRESS)
def test_messages_and_recipients_are_counted_and_told(settings: SinkSettings) -> None:
    with serving(settings, tell=lambda running: running.told.append) as running, running.client() as client:
        assert client.send(b"b@y.test", b"c@y.test") == [
            "250 2.1.0 Ok",
            "250 2.1.5 Ok",
            "250 2.1.5 Ok",
            "354 End data with <CR><LF>.<CR><LF>",
            "250 2.0.0 Ok",
        ]
        assert client.say(b"QUIT\r\n").startswith("221 ")
        assert client.reply() == ""
    assert running.told == [Message("a@x.test", ("b@y.test", "c@y.test"), SIZE, "127.0.0.1", "client.test")]
    assert running.counts() == {"messages": 1, "recipients": 2, "unmarked": 1, "sessions": 1, "bytes": SIZE}
    assert running.sink.counts.summary() == (
        f"1 messages to 2 recipients, {SIZE} bytes, 1 sessions; refused 0, deferred 0, hung up 0"
    )


@pytest.mark.parametrize("settings", EXPRESS)
@pytest.mark.parametrize("cut", range(1, 12))
def test_bytes_may_come_in_any_pieces(settings: SinkSettings, cut: int) -> None:
    stream = ENVELOPE + marked(1) + b".\r\n" + ENVELOPE + marked(2) + b".\r\n"
    stream += b"MAIL FROM:<> SIZE=9\r\nRCPT TO:<r0@y.test>\r\nBDAT 9 LAST\r\na: b\r\n\r\n." + b"QUIT\r\n"
    with serving(settings) as running, running.client() as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(stream), cut):
            client.sock.sendall(stream[start : start + cut])
        replies = [client.reply()[:3] for _ in range(13)]
    assert replies == ["250", "250", "354", "250"] * 2 + ["250", "250", "250", "221", ""]
    assert running.counts("bytes") == {"messages": 3, "recipients": 3, "unique": 2, "unmarked": 1, "sessions": 1}


@pytest.mark.parametrize("settings", EXPRESS)
def test_doubled_and_damaged_messages_are_told_by_their_marks(settings: SinkSettings) -> None:
    whole, other = marked(7), marked(8)
    damaged = marked(9).replace(b"one\r\n", b"onf\r\n")
    header_changed = b"Received: by me\r\n" + marked(10).replace(b"Subject: x", b"Subject: y")
    with serving(settings) as running, running.client() as client:
        for recipients, content in (
            ((b"r0@y.test", b"r1@y.test"), whole),
            ((b"r1@y.test", b"r2@y.test"), whole),  # r1 again
            ((b"r0@y.test", b"r0@other.test"), other),  # the second is the first
            ((b"r0@y.test",), damaged),
            ((b"r0@y.test",), header_changed),
            ((b"r0@y.test",), marked(7, run=0xABCE)),  # of another run
            ((b"postmaster@y.test",), whole),  # not a recipient of the load
            ((b"r0@y.test",), CONTENT),
        ):
            assert client.send(*recipients, content=content)[-1] == "250 2.0.0 Ok"
    assert running.counts("bytes", "sessions") == {
        "messages": 8, "recipients": 11, "unique": 7, "doubled": 2, "damaged": 1, "unmarked": 1,
    }  # fmt: skip
    assert running.sink.tally.latency.count == 7


def test_body_of_many_reads_is_summed_up() -> None:
    body = b"0123456789\r\n.dots\r\n" * 50_000
    with serving() as running, running.client() as client:
        client.send(b"r0@y.test", content=marked(0, body=body))
        client.send(b"r0@y.test", content=marked(1, body=body)[:-3] + b"!\r\n")
        for number, spoilt in ((2, False), (3, True)):
            content = marked(number, body=body).replace(b"\r\n.", b"\r\n")
            content = content[:-3] + b"!\r\n" if spoilt else content
            client.sock.sendall(b"MAIL FROM:<>\r\nRCPT TO:<r0@y.test>\r\nBDAT %d LAST\r\n" % len(content) + content)
            assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "250"]
    assert running.counts("bytes", "sessions") == {"messages": 4, "recipients": 4, "unique": 4, "damaged": 2}


def test_latency_is_from_the_mark_to_the_acceptance() -> None:
    began_ns = time.monotonic_ns()
    with serving() as running, running.client() as client:
        client.send(b"r0@y.test", content=marked(0, sent_ns=began_ns - 5_000_000_000))
        ended_ns = time.monotonic_ns()
    latency = running.sink.tally.latency
    assert latency.count == 1
    assert 5_000_000_000 <= latency.max_ns <= 5_000_000_000 + ended_ns - began_ns
    assert began_ns / 1e9 <= running.sink.counts.first_at == running.sink.counts.last_at <= ended_ns / 1e9


def test_doubles_are_counted_by_header_and_recipient() -> None:
    body_only = b"Subject: x\r\n\r\nMessage-ID: <1@x>\r\n"
    no_header = b"\r\nMessage-ID: <1@x>\r\n\r\n"
    with serving(SinkSettings(unique="Message-Id")) as running, running.client() as client:
        client.send(b"b@y.test", b"c@y.test")
        client.send(b"d@y.test")
        client.send(b"b@y.test", content=body_only)
        client.send(b"b@y.test", content=no_header)
        client.send(b"c@y.test", content=CONTENT.replace(b"ID: <", b"id:\r\n <"))  # folded: another text
        client.send(b"c@y.test", b"d@y.test")
    assert running.counts("bytes", "sessions") == {
        "messages": 6, "recipients": 8, "unique": 4, "doubled": 2, "unmarked": 2,
    }  # fmt: skip


def test_stored_messages_are_whole_and_exact(tmp_path: Path) -> None:
    big = b"Delivered-To: c@y.test\r\n\r\n" + b"\xff" * 900 + b"\r\n" + b"0123456789\r\n" * 100_000
    with serving(SinkSettings(store=str(tmp_path / "mail"))) as running, running.client() as client:
        client.send(b"b@y.test", b"c@y.test")
        client.send(b"b@y.test", content=big)
        client.say(b"MAIL FROM:<>\r\n")
        client.say(b"RCPT TO:<b@y.test>\r\n")
        client.say(b"DATA\r\n")
        client.sock.sendall(b"Subject: never ended\r\n")
    assert list(maildir.read(tmp_path / "mail")) == [
        Stored("a@x.test", ("b@y.test", "c@y.test"), CONTENT.replace(b"..dot", b".dot")),
        Stored("a@x.test", ("b@y.test",), big),
    ]
    assert list((tmp_path / "mail" / "tmp").iterdir()) == []


def test_message_that_cannot_be_stored_is_not_accepted(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(SinkSettings(store=str(tmp_path))) as running, running.client() as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores SIGXFSZ: write fails
        try:
            replies = client.send(b"b@y.test", content=b"x: y\r\n\r\n" + b"0123456789\r\n" * 50_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert replies[-1] == "452 4.3.1 the sink cannot store the message"
        assert client.send(b"b@y.test")[-1] == "250 2.0.0 Ok"
    assert running.sink.counts.messages == 1
    assert [stored.recipients for stored in maildir.read(tmp_path)] == [("b@y.test",)]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Pump() as pump, pytest.raises(PostroikaError, match="cannot store messages in"):
        Sink(SinkSettings(store=str(tmp_path / "file")), pump)


@pytest.mark.parametrize("settings", EXPRESS)
def test_message_that_is_not_well_formed_is_refused_and_the_next_is_taken(settings: SinkSettings) -> None:
    reason = "CR LF (RFC 5321 section 2.3.8)"
    with serving(settings) as running, running.client() as client:
        assert client.send(b"r0@y.test", content=marked(1, body=b"a\nb\r\n"))[-1] == (
            f"550 5.6.0 message has a bare LF: each line must end with {reason}"
        )
        assert client.send(b"r0@y.test", content=b"a: b\r\n\r\na\rb\r\n")[-1] == (
            f"550 5.6.0 message has a bare CR: each line must end with {reason}"
        )
        client.sock.sendall(b"MAIL FROM:<>\r\nRCPT TO:<r0@y.test>\r\nBDAT 10 LAST\r\na: b\r\n\r\n\0." + ENVELOPE)
        assert [client.reply()[:3] for _ in range(6)] == ["250", "250", "550", "250", "250", "354"]
        assert client.say(marked(1) + b".\r\n") == "250 2.0.0 Ok"
    assert running.counts("bytes", "sessions") == {"messages": 1, "recipients": 1, "unique": 1}


@pytest.mark.parametrize("settings", EXPRESS)
@pytest.mark.parametrize(
    ("stream", "last"),
    [
        (b"x" * 100_000, "421 4.7.0 sink.localhost closing the connection: lines must end with CR LF"),
        (b"MAIL FROM:<" + b"x" * 100_000, "421 4.7.0 sink.localhost closing the connection: lines must end with CR LF"),
        (b"RCPT TO:<a@b>\n" * 30, "421 4.7.0 sink.localhost closing the connection: lines must end with CR LF"),
        (b"\r\n" * 30, "421 4.7.0 sink.localhost closing the connection: too many bad commands"),
        (b"GET / HTTP/1.1\r\n\r\n", "421 4.7.0 sink.localhost closing the connection: that is not SMTP"),
    ],
)
def test_rubbish_is_sent_away_and_costs_others_nothing(settings: SinkSettings, stream: bytes, last: str) -> None:
    with serving(settings) as running, running.client() as good, running.client() as bad:
        with contextlib.suppress(OSError):  # it may be closed while we are still talking
            bad.sock.sendall(stream)
        replies = []
        while reply := bad.reply():
            replies.append(reply)
        # Unless the unread rest of it made the system throw away what had been answered.
        assert replies == [] or replies[-1] == last
        assert good.send(b"r0@y.test")[-1] == "250 2.0.0 Ok"
    assert running.counts("bytes") == {"messages": 1, "recipients": 1, "unmarked": 1, "sessions": 2}


@pytest.mark.parametrize("settings", EXPRESS)
@pytest.mark.parametrize(
    "stream",
    [b"", b"MAIL FROM:<a@b", b"MAIL FROM:<>\r\n", ENVELOPE, ENVELOPE + b"Subject: half\r\n", ENVELOPE + CONTENT + b"."],
)
@pytest.mark.parametrize("reset", [False, True])
def test_client_that_goes_away_leaves_nothing(settings: SinkSettings, stream: bytes, reset: bool) -> None:
    with serving(settings) as running, running.client() as other:
        with running.client() as client:
            client.sock.sendall(stream)
            if reset:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while running.sink.counts.open_sessions > 1:
            assert other.say(b"NOOP\r\n") == "250 2.0.0 Ok"
        assert running.counts() == {"sessions": 2, "open_sessions": 1}


@pytest.mark.parametrize("settings", EXPRESS)
def test_client_that_does_not_read_is_not_read_from(settings: SinkSettings) -> None:
    """Its replies fill what the system holds of them; then its commands have to wait, and nobody else does."""
    commands = b"MAIL FROM:<>\r\nRCPT TO:<r0@y.test>\r\nBDAT 0 LAST\r\n" * 1000
    with serving(settings) as running, running.client() as good, running.client() as deaf:
        deaf.sock.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 100_000_000:
                sent += deaf.sock.send(commands[sent % len(commands) :])
        assert sent < 100_000_000
        assert good.send(b"b@y.test")[-1] == "250 2.0.0 Ok"
        deaf.sock.setblocking(True)
        deaf.sock.shutdown(socket.SHUT_WR)
        replies = b"".join(iter(lambda: deaf.sock.recv(1 << 20), b""))
    whole = sent // len(commands) * 1000
    assert whole <= replies.count(b"250 2.0.0 Ok\r\n") <= whole + 1000
    assert replies.count(b"\r\n") == replies.count(b"250 2.")


def test_clients_are_told_when_the_sink_stops() -> None:
    with contextlib.ExitStack() as stack:
        with serving() as running:
            client = stack.enter_context(running.client())
            client.sock.sendall(ENVELOPE)
            assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        assert client.reply() == "421 4.3.2 the sink is being stopped"
        assert client.reply() == ""


def test_it_stops_when_it_has_enough_and_the_last_message_is_answered() -> None:
    with serving(stop_after=2) as running, running.client() as client:
        assert client.send(b"r0@y.test")[-1] == "250 2.0.0 Ok"
        assert client.send(b"r0@y.test")[-1] == "250 2.0.0 Ok"
        assert client.reply() == "421 4.3.2 the sink is being stopped"
    assert running.counts("bytes") == {"messages": 2, "recipients": 2, "unmarked": 2, "sessions": 1}


def test_several_listeners_share_the_counts() -> None:
    with serving(listeners=2) as running:
        for port in running.ports:
            with running.client(port=port) as client:
                client.send(b"b@y.test")
    assert running.counts("bytes") == {"messages": 2, "recipients": 2, "unmarked": 2, "sessions": 2}


def test_taken_port_is_said_and_leaves_nothing_open() -> None:
    (taken,) = listen(["127.0.0.1:0"])
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(PostroikaError, match=f"cannot listen on 127.0.0.1:{port}: .*Address already in use"):
            listen(["127.0.0.1:0", f"127.0.0.1:{port}"])


def test_out_of_descriptors_it_waits_and_goes_on() -> None:
    with serving() as running, running.client() as first:
        spare = [socket.socket() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        late = socket.socket()
        lowest_free = max(sock.fileno() for sock in (*spare, late)) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            late.connect(("127.0.0.1", running.ports[0]))
            assert first.say(HELLO).startswith("250-")  # it cannot take the other, and serves us
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with late:
            late.settimeout(30)
            assert late.recv(100) == b"220 sink.localhost ESMTP Postroika\r\n"
        for sock in spare:
            sock.close()
    assert running.counts() == {"sessions": 2}
