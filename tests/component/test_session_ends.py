"""inbound.session: deadlines, shutdown, broken clients."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from postroika.policy.pipeline import Client, Pipeline
from postroika.pump import Wake
from postroika.smtp.server_events import Mail, Rcpt
from tests.component.session_words import BEGIN, BEGUN, LONG, QUEUED, SHUTTING_DOWN, STAMP, TIMED_OUT
from tests.component.smtp_client import LIMITS, Inbound

# ---- deadlines


async def test_idle_client_is_sent_away(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    began = trio.current_time()
    assert (await inbound.socket.recv(1000)).decode() == TIMED_OUT.replace("\n", "\r\n")
    await inbound.ended.wait()
    assert trio.current_time() - began == pytest.approx(LIMITS.idle_timeout_s, abs=1)


async def test_client_that_drips_a_command_gains_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    began = trio.current_time()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            await inbound.send(b"x")
            await trio.sleep(9)
    assert trio.current_time() - began == pytest.approx(LIMITS.command_timeout_s, abs=10)


@pytest.mark.parametrize(
    ("wire", "expected_s"),
    [
        (b"MAIL FROM:<a@b.example>\r\n", LIMITS.command_timeout_s),
        (BEGIN, LIMITS.data_timeout_s),
        (BEGIN + b"half", LIMITS.data_timeout_s),
        (b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 10\r\nhalf", LIMITS.data_timeout_s),
    ],
)
async def test_client_that_stops_in_a_transaction_is_sent_away(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, wire: bytes, expected_s: float
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(wire)
    began = trio.current_time()
    await inbound.ended.wait()
    assert await inbound.read() == TIMED_OUT
    assert trio.current_time() - began == pytest.approx(expected_s, abs=1)
    assert inbound.spool.kept == []
    assert all(message.abandoned for message in inbound.spool.messages)


async def test_transaction_as_a_whole_has_a_deadline(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    began = trio.current_time()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            await inbound.send(b"x" * 70 + b"\r\n")
            await trio.sleep(40)
    assert trio.current_time() - began == pytest.approx(LIMITS.transaction_timeout_s, abs=41)


async def test_client_that_never_lets_us_wait_has_that_deadline_too(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("READ_BYTES", "LARGE_READ_BYTES"):
        monkeypatch.setattr(f"postroika.pump.channel.{name}", 1)  # so that there is always more in the socket
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    began = trio.current_time()
    with trio.fail_after(2000), pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            await inbound.send(b"x" * 70 + b"\r\n")
            mock_clock.jump(1)
            await trio.lowlevel.checkpoint()
    assert trio.current_time() - began == pytest.approx(LIMITS.transaction_timeout_s, abs=41)


async def test_next_transaction_has_its_own_deadline(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    for number in range(1, 25):
        await inbound.say(BEGIN)
        assert await inbound.say(b".\r\n") == f"250 2.0.0 Ok: queued as {'0123456789abcdefghjkmnpqrst'[number]:0>13}\n"
        await trio.sleep(90)


async def test_client_that_does_not_read_its_replies_is_dropped(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    with trio.move_on_after(1):
        while True:
            await inbound.send(b"HELP\r\n" * 1000)
    began = trio.current_time()
    await inbound.ended.wait()
    assert trio.current_time() - began == pytest.approx(LIMITS.command_timeout_s, abs=2)


async def test_slow_commit_is_not_cut_short_by_the_client_s_deadlines(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    inbound = Inbound(nursery)
    inbound.spool.may_commit = Wake()
    await inbound.greet()
    await inbound.say(BEGIN)
    await inbound.send(b".\r\n")
    await trio.sleep(1500)
    inbound.spool.may_commit.set()
    assert await inbound.read() == QUEUED


async def test_hook_that_is_too_slow_puts_off(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    async def mail(client: Client, event: Mail) -> None:
        await trio.sleep_forever()

    inbound = Inbound(nursery, pipeline=Pipeline(30, mail=[mail]))
    await inbound.greet()
    await inbound.send(b"MAIL FROM:<a@b.example>\r\n")
    await trio.sleep(31)
    assert await inbound.read() == "451 4.7.1 a check took too long, please try again later\n"


async def test_time_that_hooks_take_is_not_the_client_s(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def rcpt(client: Client, event: Rcpt) -> None:
        await trio.sleep(29)

    inbound = Inbound(nursery, pipeline=Pipeline(30, rcpt=[rcpt]))
    await inbound.greet()
    await inbound.send(b"MAIL FROM:<a@b.example>\r\n" + b"RCPT TO:<c@d.example>\r\n" * 30)
    await trio.sleep(29 * 30 + 1)
    assert await inbound.read() == "250 2.1.0 Ok\n" + "250 2.1.5 Ok\n" * 30


# ---- shutdown


async def test_shutdown_ends_an_idle_session_at_once(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    inbound.session.stop(now=False)
    assert await inbound.read() == SHUTTING_DOWN
    await inbound.ended.wait()


async def test_shutdown_lets_a_transaction_come_to_its_end(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN)
    inbound.session.stop(now=False)
    await inbound.send(b"x\r\n")
    await trio.testing.wait_all_tasks_blocked()
    assert await inbound.say(b".\r\n") == QUEUED + SHUTTING_DOWN
    await inbound.ended.wait()
    assert len(inbound.spool.kept) == 1


@pytest.mark.parametrize("now", [False, True])
async def test_shutdown_answers_a_message_that_is_being_committed(nursery: trio.Nursery, now: bool) -> None:
    inbound = Inbound(nursery)
    inbound.spool.may_commit = Wake()
    await inbound.greet()
    await inbound.say(BEGIN)
    await inbound.send(b"x\r\n.\r\n")
    await trio.testing.wait_all_tasks_blocked()
    inbound.session.stop(now=now)
    await trio.testing.wait_all_tasks_blocked()
    inbound.spool.may_commit.set()
    assert await inbound.read() == QUEUED + SHUTTING_DOWN
    await inbound.ended.wait()
    assert len(inbound.spool.kept) == 1


async def test_shutdown_at_once_drops_an_unfinished_message(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.say(BEGIN + LONG)
    inbound.session.stop(now=True)
    assert await inbound.read() == SHUTTING_DOWN
    await inbound.ended.wait()
    assert inbound.spool.messages[0].abandoned


async def test_cancelled_session_drops_its_message_and_closes() -> None:
    async with trio.open_nursery() as nursery:
        inbound = Inbound(nursery)
        await inbound.greet()
        await inbound.say(BEGIN + LONG)
        nursery.cancel_scope.cancel()
    assert inbound.spool.messages[0].abandoned
    assert inbound.ours.fileno() == -1


@pytest.mark.parametrize("timely", [True, False])
async def test_cancelled_session_keeps_a_message_that_is_being_committed(timely: bool) -> None:
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        inbound = Inbound(nursery)
        inbound.spool.may_commit = Wake()
        await inbound.greet()
        await inbound.say(BEGIN)
        await inbound.send(b"x\r\n.\r\n")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

        @outer.start_soon
        async def commit() -> None:
            if not timely:
                await trio.testing.wait_all_tasks_blocked()
            inbound.spool.may_commit.set()

    assert [(message.body, message.abandoned) for message in inbound.spool.kept] == [(STAMP + b"x\r\n", False)]
    assert inbound.ours.fileno() == -1


# ---- broken clients


@pytest.mark.parametrize("wire", [b"", b"EHLO c\r\n", b"EHLO c\r\n" + BEGIN + b"half", b"half a comm"])
async def test_client_that_goes_away_ends_only_its_session(nursery: trio.Nursery, wire: bytes) -> None:
    inbound = Inbound(nursery)
    await inbound.send(wire)
    inbound.socket.close()
    await inbound.ended.wait()
    assert inbound.spool.kept == []
    assert all(message.abandoned for message in inbound.spool.messages)


async def test_client_that_goes_away_after_its_dot_has_its_message_kept(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(BEGIN + b"x\r\n.\r\n")
    inbound.socket.close()
    await inbound.ended.wait()
    assert len(inbound.spool.kept) == 1


async def test_half_closed_client_is_answered(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(BEGIN + b"x\r\n.\r\n")
    inbound.socket.shutdown(socket.SHUT_WR)
    assert await inbound.read() == BEGUN + QUEUED
    await inbound.ended.wait()


async def test_client_that_is_sent_away_in_mid_sentence_can_read_why(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(b"BDAT x\r\n" + b"y" * 100_000)
    assert (await inbound.read()).startswith("501 5.5.4 syntax: BDAT")
    inbound.socket.close()
    await inbound.ended.wait()


@pytest.mark.parametrize("now", [False, True])
async def test_shutdown_while_a_client_is_given_time_to_read_ends_only_its_session(
    nursery: trio.Nursery, now: bool
) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    await inbound.send(b"BDAT x\r\n" + b"y" * 100_000)
    assert (await inbound.read()).startswith("501 5.5.4 syntax: BDAT")
    inbound.session.stop(now=now)
    await inbound.ended.wait()
    assert (await inbound.read(), inbound.ours.fileno(), inbound.spool.messages) == ("", -1, [])


async def test_client_that_is_gone_when_it_is_told_of_the_shutdown_ends_only_its_session(nursery: trio.Nursery) -> None:
    inbound = Inbound(nursery)
    await inbound.greet()
    inbound.session.stop(now=True)
    inbound.socket.close()
    await inbound.ended.wait()
    assert (inbound.ours.fileno(), inbound.spool.messages, inbound.events) == (-1, [], [])
