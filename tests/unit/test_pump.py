"""The epoll loop of the load and the sink, over socket pairs."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from postroika.bench.pump import HANG_UP, READ, WRITE, Pump


@pytest.fixture
def pump() -> Iterator[Pump]:
    with Pump() as pump:
        yield pump


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


def test_handler_is_called_while_its_socket_is_ready(pump: Pump, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    seen: list[tuple[int, bytes]] = []

    def on_ready(events: int) -> None:
        seen.append((events, one.recv(2)))
        if len(seen) == 3:
            pump.stop()

    pump.add(one, on_ready, READ)
    other.send(b"abcdef")  # level-triggered: what is left is told again
    pump.run()
    assert seen == [(READ, b"ab"), (READ, b"cd"), (READ, b"ef")]


def test_what_is_watched_for_can_change(pump: Pump, pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    seen: list[int] = []

    def on_ready(events: int) -> None:
        seen.append(events)
        if len(seen) == 1:
            pump.modify(one, READ)
            other.send(b"x")
        elif len(seen) == 2:
            pump.modify(one, 0)
            other.close()
        else:
            pump.stop()

    pump.add(one, on_ready, WRITE)
    pump.run()
    assert seen == [WRITE, READ, HANG_UP & seen[2]]
    assert seen[2]


def test_removed_socket_is_not_called_with_an_event_in_hand(pump: Pump) -> None:
    """Both were reported by one wait; the first to be called removes the other, whose number then goes to a new one."""
    pairs = [socket.socketpair() for _ in range(2)]
    seen: list[str] = []
    late: list[socket.socket] = []

    def make(name: str, victim: int) -> Callable[[int], None]:
        def on_ready(events: int) -> None:
            seen.append(name)
            mine, others = pairs[1 - victim][0], pairs[victim][0]
            number = others.fileno()
            pump.remove(mine)
            pump.remove(others)
            others.close()
            fresh = socket.fromfd(pairs[victim][1].fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
            assert fresh.fileno() == number
            late.append(fresh)
            pump.add(fresh, lambda events: seen.append("fresh"), READ)
            pump.call_at(0.0, pump.stop)

        return on_ready

    pump.add(pairs[0][0], make("a", 1), WRITE)
    pump.add(pairs[1][0], make("b", 0), WRITE)
    # The other end closed, so that the new socket is ready at the next wait, which must not come.
    pump.run()
    assert seen in (["a"], ["b"])
    for sock in (*late, *(sock for pair in pairs for sock in pair)):
        sock.close()


def test_timers_run_in_order_and_never_early(pump: Pump) -> None:
    began = time.monotonic()
    seen: list[tuple[str, bool]] = []

    def at(name: str, delay_s: float) -> None:
        def fire() -> None:
            seen.append((name, time.monotonic() >= began + delay_s))
            if len(seen) == 4:
                pump.stop()

        pump.call_at(began + delay_s, fire)

    at("third", 0.02)
    at("first", -5.0)
    at("fourth", 0.03)
    at("second", 0.01)
    pump.run()
    assert seen == [("first", True), ("second", True), ("third", True), ("fourth", True)]


def test_timer_made_by_a_timer_waits_for_the_sockets(pump: Pump, pair: tuple[socket.socket, socket.socket]) -> None:
    one, _ = pair
    seen: list[str] = []

    def on_ready(events: int) -> None:
        seen.append("socket")
        if len(seen) > 3:
            pump.stop()

    def again() -> None:
        seen.append("timer")
        pump.call_at(0.0, again)

    pump.add(one, on_ready, WRITE)
    pump.call_at(0.0, again)
    pump.run()
    assert seen == ["socket", "timer", "socket", "timer", "socket"]


def test_cancelled_timers_do_not_run_and_do_not_stay(pump: Pump) -> None:
    seen: list[int] = []
    timers = [pump.call_at(float(number), lambda number=number: seen.append(number)) for number in range(2000)]  # type: ignore[misc]
    for timer in timers[:1990]:
        timer.cancel()
        timer.cancel()
    pump.call_at(1995.5, pump.stop)
    assert len(pump._timers) < 512
    pump.run()
    timers[1990].cancel()  # too late, and harmless
    assert seen == [1990, 1991, 1992, 1993, 1994, 1995]


def test_stop_before_run_and_running_again(pump: Pump) -> None:
    seen: list[int] = []
    pump.call_at(0.0, lambda: seen.append(1))
    pump.stop()
    pump.run()
    assert seen == []
    pump.call_at(0.0, pump.stop)
    pump.run()
    assert seen == [1]


def test_what_a_handler_raises_ends_the_run(pump: Pump, pair: tuple[socket.socket, socket.socket]) -> None:
    def on_ready(events: int) -> None:
        raise ZeroDivisionError

    pump.add(pair[0], on_ready, WRITE)
    with pytest.raises(ZeroDivisionError):
        pump.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_told_in_the_loop_and_handlers_are_restored(number: signal.Signals) -> None:
    seen: list[tuple[int, str]] = []

    def on_signal(number: int) -> None:
        seen.append((number, threading.current_thread().name))
        pump.stop()

    before = signal.getsignal(number)
    with Pump(on_signal) as pump:
        pump.call_at(0.0, lambda: os.kill(os.getpid(), number))
        pump.run()
        assert seen == [(number, "MainThread")]
    assert signal.getsignal(number) is before
