"""A worker as the supervisor sees it: what is asked of it, and how long an answer is waited for."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from postroika.config import Config
from postroika.control import wire
from postroika.supervisor.child import WorkerProcess
from postroika.supervisor.process import ChildProcess


class FakeWorker:
    """The other end of the channel. `figures` says whether it answers to Stats; the rest is answered on `release`."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = wire.Channel(theirs)
        self.process = WorkerProcess(3, Config(), takes_connections=True)
        self.process._channel = wire.Channel(ours)
        self.process.ready.set()
        self.figures = True
        self.asked: list[wire.Request] = []
        self._release: list[wire.Ask] = []

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            assert self.process._channel is not None
            nursery.start_soon(self.process._listen, self.process._channel)
            while (ask := await self.channel.receive_ask()) is not None:
                self.asked.append(ask.request)
                if not isinstance(ask.request, wire.Stats):
                    self._release.append(ask)
                elif self.figures:
                    await self.channel.send(wire.Answer(ask.number, {"gauges": {}}))

    async def release(self) -> None:
        for ask in self._release:
            await self.channel.send(wire.Answer(ask.number, {"recipients": 7}))

    def close(self) -> None:
        self.channel.close()
        assert self.process._channel is not None
        self.process._channel.close()


@pytest.fixture
async def worker(nursery: trio.Nursery) -> AsyncIterator[FakeWorker]:
    fake = FakeWorker()
    nursery.start_soon(fake.run)
    yield fake
    nursery.cancel_scope.cancel()
    fake.close()


async def after(seconds: float, then: Callable[[], Awaitable[None]]) -> None:
    await trio.sleep(seconds)
    await then()


async def test_worker_that_does_not_answer_is_named_soon_enough_for_who_asks(
    worker: FakeWorker, autojump_clock: trio.testing.MockClock
) -> None:
    from postroika.control.client import ANSWER_TIMEOUT_S

    worker.figures = False
    began = trio.current_time()
    assert await worker.process.ask(wire.Stats()) == wire.Answer(1, error="worker 3 does not answer")
    assert trio.current_time() - began < ANSWER_TIMEOUT_S


@pytest.mark.parametrize("request_", [wire.Flush(), wire.Cancel(sender="<>")])
async def test_long_change_is_waited_for_while_the_worker_answers_others(
    worker: FakeWorker, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: wire.Request
) -> None:
    nursery.start_soon(after, 3600, worker.release)
    assert await worker.process.ask(request_) == wire.Answer(1, {"recipients": 7})
    assert (worker.asked[0], set(map(type, worker.asked[1:]))) == (request_, {wire.Stats})


async def test_change_is_given_up_when_the_worker_answers_nobody(
    worker: FakeWorker, autojump_clock: trio.testing.MockClock
) -> None:
    worker.figures = False
    assert await worker.process.ask(wire.Cancel(sender="<>")) == wire.Answer(1, error="worker 3 does not answer")


async def test_change_that_was_given_up_leaves_nothing_behind(
    worker: FakeWorker, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(100):
        await worker.process.ask(wire.Flush())
    await worker.release()
    await trio.testing.wait_all_tasks_blocked()
    assert (worker.process._waiting, worker.process._answers) == ({}, {})


@pytest.mark.parametrize(("shielded", "code"), [(True, 7), (False, 1)])
async def test_ctrl_c_does_not_reach_a_child_that_is_shielded(
    shielded: bool, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    # Whoever runs us in the background of a shell may have SIGINT ignored, and children inherit that.
    interrupted = "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)"
    code_of_child = (
        f"import os, signal, sys\ntry: exec({interrupted!r})\nexcept KeyboardInterrupt: sys.exit(1)\nsys.exit(7)"
    )
    child = ChildProcess([sys.executable, "-c", code_of_child], shielded=shielded)
    assert await child.wait() == code
    await child.end()
    assert capfd.readouterr() == ("", "")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
