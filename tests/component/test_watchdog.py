"""supervisor.watchdog: the service manager hears that all is well while it is, and only then."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from postroika.control import wire
from postroika.process.service_manager import ServiceManager
from postroika.supervisor.watchdog import keep_alive


class Manager(ServiceManager):
    """Notes when it was told that we are alive."""

    def __init__(self, watchdog_s: float) -> None:
        super().__init__("/nowhere", watchdog_s)
        self.told_at: list[float] = []

    def alive(self) -> None:
        self.told_at.append(trio.current_time())


class Workers:
    """Two. `errors` is what the second one answers; it says nothing while `hangs`."""

    def __init__(self) -> None:
        self.error = ""
        self.hangs = False

    async def ask_all(self, request: wire.Request) -> list[wire.Answer]:
        assert request == wire.Stats()
        if self.hangs:
            await trio.sleep(20)
            return [wire.Answer(1), wire.Answer(2, error="worker 1 does not answer")]
        await trio.lowlevel.checkpoint()
        return [wire.Answer(1, {"gauges": {}}), wire.Answer(2, error=self.error)]


async def test_told_three_times_a_term(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    manager, began = Manager(30), trio.current_time()
    nursery.start_soon(keep_alive, manager, Workers().ask_all)
    await trio.sleep(35)
    nursery.cancel_scope.cancel()
    assert [at - began for at in manager.told_at] == pytest.approx([0, 10, 20, 30])


@pytest.mark.parametrize("how", ["hangs", "is gone"])
async def test_not_told_while_a_worker_does_not_answer(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    manager, workers = Manager(30), Workers()
    nursery.start_soon(keep_alive, manager, workers.ask_all)
    await trio.sleep(15)
    workers.hangs, workers.error = how == "hangs", "" if how == "hangs" else "worker 1 is not running"
    told = len(manager.told_at)
    await trio.sleep(100)
    assert len(manager.told_at) == told
    problem = "a worker does not answer within 10 s" if how == "hangs" else "worker 1 is not running"
    assert caplog.messages == [f"{problem}: until all workers answer, the service manager is not told that all is well"]
    workers.hangs, workers.error = False, ""
    await trio.sleep(25)
    assert len(manager.told_at) > told
    nursery.cancel_scope.cancel()


async def test_without_a_watchdog_it_ends(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1):
        await keep_alive(Manager(0), Workers().ask_all)
