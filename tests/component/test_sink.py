"""The sink, spoken to over loopback: counts, refusals, delays, hang-ups, what it stores."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.bench import maildir
from postroika.bench.maildir import Stored
from postroika.bench.sink import Counts, Message, Sink, SinkSettings, listen
from postroika.errors import PostroikaError
from postroika.mail.outcome import Stage

HELLO = b"EHLO client.test\r\n"
CONTENT = b"Message-ID: <1@x>\r\nSubject: hi\r\n\r\n..dot\r\nbye\r\n"


class Client:
    """A client that says what it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def reply(self) -> str:
        """The next whole reply: its lines without CR LF, joined by |; "" at the end of the connection."""
        lines = []
        while True:
            while b"\r\n" not in self._rest:
                chunk = await self.stream.receive_some()
                if not chunk:
                    assert self._rest == b""
                    return ""
                self._rest += chunk
            line, self._rest = self._rest.split(b"\r\n", 1)
            lines.append(line.decode())
            if line[3:4] != b"-":
                return "|".join(lines)

    async def say(self, command: bytes) -> str:
        await self.stream.send_all(command)
        return await self.reply()

    async def send(self, *recipients: bytes, content: bytes = CONTENT) -> list[str]:
        """One message; the replies to MAIL, each RCPT, DATA and the dot."""
        commands = [b"MAIL FROM:<a@x.test>\r\n", *(b"RCPT TO:<%b>\r\n" % recipient for recipient in recipients)]
        replies = [await self.say(command) for command in (*commands, b"DATA\r\n")]
        return [*replies, await self.say(content + b".\r\n")]


@contextlib.asynccontextmanager
async def _serving(sink: Sink) -> AsyncIterator[int]:
    listeners = listen(["127.0.0.1:0"])
    async with trio.open_nursery() as nursery:
        await nursery.start(sink.serve, listeners)
        yield listeners[0].getsockname()[1]
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _client(port: int, *, hello: bool = True) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = Client(stream)
        if hello:
            assert (await client.reply()).startswith("220 ")
            assert (await client.say(HELLO)).startswith("250-sink.localhost|")
        yield client


def _plain(counts: Counts) -> dict[str, object]:
    return {name: getattr(counts, name) for name in counts.__struct_fields__ if not name.endswith("_at")}


async def test_messages_and_recipients_are_counted_and_told() -> None:
    told: list[Message] = []
    sink = Sink(SinkSettings(), told.append)
    async with _serving(sink) as port, _client(port) as client:
        assert await client.send(b"b@y.test", b"c@y.test") == [
            "250 2.1.0 Ok",
            "250 2.1.5 Ok",
            "250 2.1.5 Ok",
            "354 End data with <CR><LF>.<CR><LF>",
            "250 2.0.0 Ok",
        ]
        assert (await client.say(b"QUIT\r\n")).startswith("221 ")
        assert await client.reply() == ""
    size = len(CONTENT) - 1
    assert told == [Message("a@x.test", ("b@y.test", "c@y.test"), size, "127.0.0.1", "client.test")]
    assert _plain(sink.counts) == {
        "connections": 1, "messages": 1, "recipients": 2, "octets": size, "refused": 0, "deferred": 0, "doubled": 0,
        "disconnects": 0,
    }  # fmt: skip
    assert sink.counts.summary() == (
        f"1 messages to 2 recipients (0 doubled), {size} octets, 1 connections; refused 0, deferred 0, hung up 0"
    )


async def test_recipients_are_refused_and_deferred_by_pattern() -> None:
    sink = Sink(SinkSettings(refuse=("bounce@*", "*@gone.test"), defer=("defer@*",)))
    async with _serving(sink) as port, _client(port) as client:
        replies = await client.send(b"Bounce@y.test", b"b@gone.test", b"defer@y.test", b"bounce2@y.test")
    assert replies[1:5] == [
        "550 5.1.1 <Bounce@y.test>: the sink refuses this recipient",
        "550 5.1.1 <b@gone.test>: the sink refuses this recipient",
        "451 4.7.1 <defer@y.test>: the sink defers this recipient",
        "250 2.1.5 Ok",
    ]
    assert (sink.counts.refused, sink.counts.deferred, sink.counts.recipients) == (2, 1, 1)


async def test_doubles_are_counted_by_header_and_recipient() -> None:
    sink = Sink(SinkSettings(unique="Message-Id"))
    body_only = b"Subject: x\r\n\r\nMessage-ID: <1@x>\r\n"
    async with _serving(sink) as port, _client(port) as client:
        await client.send(b"b@y.test", b"c@y.test")
        await client.send(b"d@y.test")
        await client.send(b"b@y.test", content=body_only)
        assert sink.counts.doubled == 0
        await client.send(b"c@y.test", content=CONTENT.replace(b"ID: <", b"id:\r\n <"))
        assert sink.counts.doubled == 0
        await client.send(b"c@y.test", b"d@y.test")
        assert sink.counts.doubled == 2


async def test_stored_messages_are_whole_and_exact(tmp_path: Path) -> None:
    sink = Sink(SinkSettings(store=str(tmp_path / "mail")))
    big = b"Delivered-To: c@y.test\r\n\r\n" + b"\xff" * 900 + b"\r\n" + b"0123456789\r\n" * 100_000
    async with _serving(sink) as port, _client(port) as client:
        await client.send(b"b@y.test", b"c@y.test")
        await client.send(b"b@y.test", content=big)
        await client.say(b"MAIL FROM:<>\r\n")
        await client.say(b"RCPT TO:<b@y.test>\r\n")
        await client.say(b"DATA\r\n")
        await client.stream.send_all(b"Subject: never ended\r\n")
    assert list(maildir.read(tmp_path / "mail")) == [
        Stored("a@x.test", ("b@y.test", "c@y.test"), CONTENT.replace(b"..dot", b".dot")),
        Stored("a@x.test", ("b@y.test",), big),
    ]
    assert list((tmp_path / "mail" / "tmp").iterdir()) == []


async def test_message_that_cannot_be_stored_is_not_accepted(tmp_path: Path) -> None:
    sink = Sink(SinkSettings(store=str(tmp_path)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with _serving(sink) as port, _client(port) as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores SIGXFSZ: write fails
        try:
            replies = await client.send(b"b@y.test", content=b"x: y\r\n\r\n" + b"0123456789\r\n" * 50_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert replies[-1] == "452 4.3.1 the sink cannot store the message"
        assert (await client.send(b"b@y.test"))[-1] == "250 2.0.0 Ok"
    assert sink.counts.messages == 1
    assert [stored.recipients for stored in maildir.read(tmp_path)] == [("b@y.test",)]
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PostroikaError, match="cannot store messages in"):
        Sink(SinkSettings(store=str(tmp_path / "file")))


@pytest.mark.parametrize("stage", [Stage.GREETING, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT])
async def test_delay_at_each_stage(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    sink = Sink(SinkSettings(delays_s={stage: 700.0}))
    began = trio.current_time()
    async with _serving(sink) as port, _client(port) as client:
        await client.send(b"b@y.test")
    assert round(trio.current_time() - began) == 700
    assert sink.counts.messages == 1


@pytest.mark.parametrize(
    ("stage", "replies", "messages"),
    [
        (Stage.GREETING, [], 0),
        (Stage.EHLO, ["220"], 0),
        (Stage.MAIL, ["220", "250"], 0),
        (Stage.RCPT, ["220", "250", "250"], 0),
        (Stage.DATA, ["220", "250", "250", "250"], 0),
        (Stage.FINAL_DOT, ["220", "250", "250", "250", "354"], 1),
    ],
)
async def test_hang_up_at_each_stage(stage: Stage, replies: list[str], messages: int) -> None:
    sink = Sink(SinkSettings(disconnect_at=stage))
    script = [b"", HELLO, b"MAIL FROM:<>\r\n", b"RCPT TO:<b@y.test>\r\n", b"DATA\r\n", CONTENT + b".\r\n"]
    got = []
    async with _serving(sink) as port, _client(port, hello=False) as client:
        for command in script:
            if not (reply := await client.say(command)):
                break
            got.append(reply[:3])
    assert (got, sink.counts.messages, sink.counts.disconnects) == (replies, messages, 1)


async def test_extensions_can_be_held_back() -> None:
    sink = Sink(SinkSettings(extensions=frozenset({"8BITMIME"})))
    async with _serving(sink) as port, _client(port, hello=False) as client:
        await client.reply()
        assert await client.say(HELLO) == "250-sink.localhost|250 8BITMIME"


async def test_silent_client_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    sink = Sink(SinkSettings(idle_timeout_s=600.0))
    async with _serving(sink) as port, _client(port) as client:
        began = trio.current_time()
        assert await client.reply() == "421 4.4.2 nothing was heard for too long"
        assert round(trio.current_time() - began) == 600
        assert await client.reply() == ""


async def test_clients_are_told_when_the_sink_stops() -> None:
    sink = Sink(SinkSettings())
    async with contextlib.AsyncExitStack() as stack:
        async with _serving(sink) as port:
            client = await stack.enter_async_context(_client(port))
        assert await client.reply() == "421 4.3.2 the sink is being stopped"


async def test_several_listeners_share_the_counts() -> None:
    sink = Sink(SinkSettings())
    async with trio.open_nursery() as nursery:
        listeners = listen(["127.0.0.1:0", "127.0.0.2:0"])
        await nursery.start(sink.serve, listeners)
        for listener in listeners:
            host, port = listener.getsockname()
            stream = await trio.open_tcp_stream(host, port)
            async with stream:
                client = Client(stream)
                await client.reply()
                await client.say(HELLO)
                await client.send(b"b@y.test")
        assert (sink.counts.messages, sink.counts.connections) == (2, 2)
        nursery.cancel_scope.cancel()


def test_taken_port_is_said_and_leaves_nothing_open() -> None:
    (taken,) = listen(["127.0.0.1:0"])
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(PostroikaError, match=f"cannot listen on 127.0.0.1:{port}: .*Address already in use"):
            listen(["127.0.0.1:0", f"127.0.0.1:{port}"])
