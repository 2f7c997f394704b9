"""The load generator over real sockets, against our own sink and against servers that behave badly."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from postroika.bench.load import Load, LoadResult, LoadSettings, LoadStatus
from postroika.bench.pump import Pump
from postroika.bench.sink import Sink, SinkSettings, listen
from postroika.bench.sink_settings import Counts
from postroika.errors import PostroikaError
from postroika.mail.outcome import Stage


class RunningSink:
    """A sink in a thread."""

    def __init__(self, settings: SinkSettings, port: int = 0) -> None:
        self._pump = Pump()
        self._sink = Sink(settings, self._pump)
        listeners = listen([f"127.0.0.1:{port}"])
        self.target = f"127.0.0.1:{listeners[0].getsockname()[1]}"
        self._sink.serve(listeners)
        self._asks, self._tells = socket.socketpair()
        self._pump.add(self._asks, lambda events: self._pump.stop(), 1)
        self._thread = threading.Thread(target=self._pump.run)
        self._thread.start()

    def end(self) -> Counts:
        """Stop it; what it has seen."""
        if self._thread.is_alive():
            self._tells.send(b"x")
            self._thread.join()
            self._sink.stop()
            self._pump.close()
            self._asks.close()
            self._tells.close()
        return self._sink.counts


Serve = Callable[..., RunningSink]


@pytest.fixture
def sink() -> Iterator[Serve]:
    """`sink(**settings)` starts one."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> RunningSink:
            running = RunningSink(SinkSettings(**settings))
            stack.callback(running.end)
            return running

        yield start


class Rude:
    """A server that says the same to everyone and then does nothing, or hangs up.

    Args:
        says: right after a connection is made.
    """

    def __init__(self, says: bytes, *, hangs_up: bool = False) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._says = says
        self._hangs_up = hangs_up
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.sendall(self._says)
            if self._hangs_up:
                connection.close()
            else:
                self.connections.append(connection)

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def rude() -> Iterator[Callable[..., Rude]]:
    """`rude(says, hangs_up=False)` starts one."""
    with contextlib.ExitStack() as stack:

        def start(says: bytes, **how: bool) -> Rude:
            server = Rude(says, **how)
            stack.callback(server.end)
            return server

        yield start


def load(target: str, **settings: Any) -> LoadResult:
    """Run a small one to its end."""
    return Load(LoadSettings(**{"target": target, "sessions": 5, "messages": 50, "deadline_s": 60.0} | settings)).run()


def seen(counts: Counts) -> dict[str, int]:
    """What marks tell, of a run without mishaps."""
    names = ("messages", "recipients", "unique", "doubled", "damaged")
    return {name: getattr(counts, name) for name in names}


@pytest.mark.parametrize(
    "how",
    [
        {"pipelining": False},
        {"pipelining": True, "across": False},
        {"pipelining": True, "across": True},
        {"bdat": True},
        {"bdat": True, "pipelining": False},
        {"messages_per_connection": 1},
        {"messages_per_connection": 7, "pipelining": False},
        {"tls": "starttls"},
        {"tls": "implicit", "bdat": True},
        {"tls": "implicit", "pipelining": False, "messages_per_connection": 4},
    ],
    ids=lambda how: ",".join(f"{name}={value}" for name, value in how.items()),
)
def test_every_message_arrives_once_and_whole(sink: Serve, how: dict[str, Any]) -> None:
    server = sink(tls=how.get("tls", "none"))
    result = load(server.target, size="1000:2,5k:1", recipients=3, domains=2, **how)
    counts = server.end()
    assert seen(counts) == {"messages": 50, "recipients": 150, "unique": 150, "doubled": 0, "damaged": 0}
    assert (result.messages, result.recipients, result.bytes) == (50, 150, counts.bytes)
    assert (result.failed, result.unsent, result.errors, result.ended_by) == (0, 0, {}, "")
    assert result.complete
    assert result.latency_ms["count"] == 50
    assert result.timeline[-1][1] == 50
    each = how.get("messages_per_connection", 0)
    assert (50 // each if each else 5) <= result.connections <= counts.sessions


@pytest.mark.parametrize("how", [{}, {"bdat": True}, {"tls": "implicit"}])
def test_large_bodies_go_out_in_parts(sink: Serve, how: dict[str, Any]) -> None:
    server = sink(tls=how.get("tls", "none"))
    result = load(server.target, size="6m", messages=4, sessions=2, **how)
    assert result.complete
    assert result.bytes == 4 * 6 * 1024 * 1024
    assert seen(server.end()) == {"messages": 4, "recipients": 4, "unique": 4, "doubled": 0, "damaged": 0}


def test_one_message_to_very_many(sink: Serve) -> None:
    server = sink(max_recipients=20_000)
    result = load(server.target, messages=1, recipients=20_000, domains=1000)
    assert (result.messages, result.recipients, result.errors) == (1, 20_000, {})
    assert seen(server.end())["unique"] == 20_000


def test_connections_that_break_are_made_again_and_nothing_is_sent_twice(sink: Serve) -> None:
    server = sink(disconnect_at=Stage.RCPT, disconnect_share=0.1)
    result = load(server.target, messages=200, across=False)
    counts = server.end()
    assert result.messages + result.failed == 200
    assert result.messages == counts.messages
    assert result.disconnects == counts.disconnects > 0
    assert result.retried > 0
    assert (counts.doubled, counts.damaged, result.in_doubt) == (0, 0, 0)


def test_lost_replies_to_the_final_dot_are_doubts_and_not_acknowledgements(sink: Serve) -> None:
    server = sink(disconnect_at=Stage.FINAL_DOT, disconnect_share=0.2)
    result = load(server.target, messages=100, across=False)
    counts = server.end()
    assert result.in_doubt == result.failed == counts.disconnects > 0
    assert result.messages + result.failed == 100
    assert counts.messages == 100
    assert not result.complete


def test_refusals_are_counted_by_what_was_said(sink: Serve) -> None:
    server = sink(refuse=("r1@*",), defer=("r0@d1.test",))
    result = load(server.target, messages=4, recipients=2, domains=3)
    assert (result.messages, result.recipients, result.failed) == (3, 3, 1)
    assert result.refused_recipients == 5
    assert result.errors == {
        "RCPT: 550 5.1.1 <>: the sink refuses this recipient": 4,
        "RCPT: 451 4.7.1 <>: the sink defers this recipient": 1,
    }
    assert server.end().messages == 3


def test_a_server_that_takes_few_messages_a_connection(sink: Serve) -> None:
    server = sink(messages_per_connection=3)
    result = load(server.target, messages=50)
    assert (result.messages, result.failed) == (50, 0)
    assert result.disconnects > 0
    assert seen(server.end()) == {"messages": 50, "recipients": 50, "unique": 50, "doubled": 0, "damaged": 0}


def test_idle_sessions_stay_until_the_others_are_done(sink: Serve) -> None:
    server = sink()
    result = load(server.target, sessions=2, messages=300, idle_sessions=150)
    assert (result.messages, result.idle_sessions, result.connections) == (300, 150, 152)
    assert result.errors == {}
    assert server.end().sessions == 152


def test_only_idle_sessions_are_held_for_the_duration(sink: Serve) -> None:
    server = sink()
    result = load(server.target, sessions=0, idle_sessions=20, duration_s=0.1)
    assert (result.idle_sessions, result.messages, result.unsent, result.errors) == (20, 0, 0, {})
    assert result.complete
    assert server.end().sessions == 20


def test_open_loop_keeps_its_rate_and_counts_from_when_a_message_was_due(sink: Serve) -> None:
    server = sink(delays_s={Stage.FINAL_DOT: 0.02})
    # One session takes 20 ms for a message, and one is due every 5 ms: the twentieth is some 300 ms late.
    result = load(server.target, sessions=1, messages=20, rate_per_s=200)
    assert result.messages == 20
    latency_max_ms = result.latency_ms["max"]
    assert latency_max_ms is not None
    assert latency_max_ms >= 20 * 20 - 19 * 5


def test_open_loop_waits_for_its_messages(sink: Serve) -> None:
    server = sink()
    result = load(server.target, messages=20, rate_per_s=200)
    assert result.first_at is not None
    assert result.last_at is not None
    assert result.messages == 20
    assert result.last_at - result.first_at >= 19 / 200
    assert result.errors == {}


def test_open_loop_for_a_time_tells_what_was_not_sent(sink: Serve) -> None:
    server = sink(delays_s={Stage.FINAL_DOT: 0.05})
    result = load(server.target, sessions=1, messages=0, rate_per_s=100, duration_s=0.5)
    assert result.unsent == 50 - result.messages > 0
    assert not result.complete


def test_closed_loop_for_a_time(sink: Serve) -> None:
    server = sink()
    result = load(server.target, messages=0, duration_s=0.2)
    assert result.messages == server.end().messages > 0
    assert result.complete
    assert result.last_at is not None
    assert result.elapsed_s >= 0.2


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = f"127.0.0.1:{taken.getsockname()[1]}"
    result = load(target, patience_s=0)
    assert (result.messages, result.failed, result.unsent) == (0, 0, 50)
    assert (result.connections, result.connect_failures) == (0, 5)
    assert result.errors == {"greeting: Connection refused": 5}


def test_nobody_listens_for_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = f"127.0.0.1:{taken.getsockname()[1]}"
    result = load(target, patience_s=0, tls="implicit")
    assert result.errors == {"greeting: Connection refused": 5}


def test_a_server_that_is_late_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    started: list[RunningSink] = []

    def start_once(status: LoadStatus) -> None:
        if not started:
            started.append(RunningSink(SinkSettings(), port))

    try:
        result = Load(LoadSettings(target=f"127.0.0.1:{port}", sessions=2, messages=10), start_once).run()
    finally:
        for one in started:
            one.end()
    assert result.messages == 10
    assert result.connect_failures > 0


def test_a_server_that_says_no_at_once(rude: Callable[..., Rude]) -> None:
    result = load(rude(b"554 no\r\n", hangs_up=True).target, patience_s=0)
    assert result.errors == {"greeting: 554 no": 5}
    assert (result.unsent, result.connect_failures) == (50, 5)


def test_no_greeting_for_too_long(rude: Callable[..., Rude]) -> None:
    result = load(rude(b"").target, patience_s=0, reply_timeout_s=0.1)
    assert result.errors == {"greeting: no reply for too long": 5}
    assert result.ended_by == ""


def test_the_deadline_breaks_off(rude: Callable[..., Rude]) -> None:
    result = load(rude(b"220 hi\r\n250 PIPELINING\r\n").target, deadline_s=0.1)
    assert result.ended_by == "deadline"
    assert (result.messages, result.failed + result.unsent) == (0, 50)
    assert not result.complete


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_breaks_off(rude: Callable[..., Rude], number: signal.Signals) -> None:
    settings = LoadSettings(target=rude(b"220 hi\r\n").target)
    result = Load(settings, lambda status: os.kill(os.getpid(), number)).run()
    assert result.ended_by == number.name
    assert (result.messages, result.unsent) == (0, 1000)


def test_a_handshake_that_fails(rude: Callable[..., Rude]) -> None:
    result = load(rude(b"220 this is no TLS\r\n").target, patience_s=0, tls="implicit")
    assert sum(result.errors.values()) == 5
    assert all(text.startswith("greeting: TLS: ") for text in result.errors)


@pytest.mark.parametrize(
    ("without", "how"),
    [("PIPELINING", {}), ("CHUNKING", {"bdat": True}), ("STARTTLS", {"tls": "starttls"})],
)
def test_a_server_that_cannot_do_what_is_wanted_is_named(sink: Serve, without: str, how: dict[str, Any]) -> None:
    server = sink(extensions=SinkSettings().extensions - {without})
    with pytest.raises(PostroikaError) as caught:
        load(server.target, **how)
    assert str(caught.value) == f"{server.target}: the server does not offer {without}"


def test_status_is_told_meanwhile(sink: Serve) -> None:
    server = sink()
    told: list[LoadStatus] = []
    settings = LoadSettings(target=server.target, sessions=2, idle_sessions=1, messages=0, duration_s=0.6)
    result = Load(settings, told.append).run()
    assert told
    assert all(0 < one.messages <= result.messages for one in told)
    assert {(one.open_sessions, one.idle_sessions, one.failed) for one in told} == {(2, 1, 0)}


def test_the_result_is_json(sink: Serve) -> None:
    result = load(sink().target)
    assert msgspec.json.decode(msgspec.json.encode(result), type=LoadResult) == result
