"""Many messages, many destinations: who gets connections and room in memory, and who waits behind whom."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import trio
import trio.testing

from postroika.mail.outcome import Attempt, Outcome, RecipientResult, Stage
from postroika.pump import Wake, in_task
from tests.component.world import GREYLISTED, NARROW, OK, PEER, REFUSED, old_mail, world


async def test_a_peer_that_takes_one_connection_does_not_cost_the_backlog_an_attempt(
    tmp_path: Path, mock_clock: object
) -> None:
    async with world(tmp_path, delays_s=(300,)) as w:
        busy = 0

        async def deliver(lane: object) -> None:
            nonlocal busy
            if busy >= 1:
                loaded = lane.take_nowait()  # type: ignore[attr-defined]
                if loaded is not None:
                    result = RecipientResult(0, Outcome.DEFERRED, REFUSED, Stage.CONNECT, remote=False)
                    await in_task(trio.sleep, 0.01)
                    lane.report(loaded, Attempt((result,), PEER))  # type: ignore[attr-defined]
                    lane.unreachable(REFUSED, "")  # type: ignore[attr-defined]
                return
            busy += 1
            lane.connected()  # type: ignore[attr-defined]
            while (loaded := await lane.take(1)) is not None:  # type: ignore[attr-defined]
                await in_task(trio.sleep, 0.05)
                result = RecipientResult(0, Outcome.DELIVERED, OK, Stage.FINAL_DOT)
                lane.report(loaded, Attempt((result,), PEER))  # type: ignore[attr-defined]
            busy -= 1

        w.deliver = deliver  # type: ignore[assignment]
        for number in range(200):
            await w.accept(f"r{number}@one.test")
        clock = trio.lowlevel.current_clock()
        for _ in range(2000):
            clock.jump(0.01)  # type: ignore[attr-defined]
            await w._quiet()
            if not w.scheduler.snapshot()["in_memory"]:
                break
        deferred, delivered = len(w.happened("deferred")), len(w.happened("delivered"))
        assert deferred < 20, (deferred, delivered)
        assert delivered + deferred == 200  # and those deferred wait for their time


async def test_flush_all_keeps_to_the_bound_of_active_destinations(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, delays_s=(5000,), active_destinations=10, max_connections=5) as w:
        w.hops.verdict = lambda d, r: GREYLISTED
        for number in range(200):
            await w.accept(f"r@d{number}.test")
        await w.settle_down()
        for _ in range(60):
            await w.pass_time(1)
        assert len(w.happened("deferred")) == 200
        w.hops.gate = trio.Event()
        await w.operator.flush_all()
        await trio.testing.wait_all_tasks_blocked(0.01)
        active = w.scheduler.snapshot()["active_destinations"]
        w.hops.verdict = lambda d, r: OK
        w.hops.gate.set()
        await w.settle_down()
        for _ in range(60):
            await w.pass_time(1)
        assert 0 < active <= 20, active
        assert sorted(r for _, r, _ in w.hops.delivered) == sorted(f"r@d{number}.test" for number in range(200))


async def test_one_site_of_many_domains_does_not_take_all_connections(tmp_path: Path, mock_clock: object) -> None:
    from postroika.outbound.pool import SitePool

    async with world(tmp_path, max_connections=10) as w:
        pool = SitePool(2)
        original = w.hops._deliver

        async def deliver(lane: object) -> None:
            if lane.destination.startswith("hosted"):  # type: ignore[attr-defined]
                if pool.is_full("mx.bighost.test"):
                    lane.pause()  # type: ignore[attr-defined]
                await pool.acquire("mx.bighost.test")
                await lane.resume()  # type: ignore[attr-defined]
                lane.take_nowait()  # type: ignore[attr-defined]
                await Wake().wait()  # a black hole
            await original(lane)  # type: ignore[arg-type]

        w.deliver = deliver  # type: ignore[assignment]
        for number in range(20):
            await w.accept(f"r@hosted{number}.test")
        await w.accept("r@fine.test")
        await w.settle_down()
        await w.sleep(30)
        assert [r for _, r, _ in w.hops.delivered] == ["r@fine.test"]


async def test_more_destinations_than_may_be_active_follow_without_a_pause(tmp_path: Path, mock_clock: object) -> None:
    async with world(tmp_path, active_destinations=10) as w:
        async with trio.open_nursery() as n:
            for number in range(300):
                n.start_soon(w.accept, f"r@d{number}.test")
        await w.settle_down()
        for _ in range(20):
            await w.sleep(6)
        assert len(w.hops.delivered) == 300
        assert w.queued() == []


async def test_mail_that_keeps_coming_does_not_hold_up_what_came_before(tmp_path: Path, mock_clock: object) -> None:
    clock = await old_mail(tmp_path, 200)
    async with world(tmp_path, clock, **NARROW) as w:
        places = trio.Semaphore(0)
        w.hops.gate = SimpleNamespace(wait=places.acquire)  # type: ignore[assignment]
        for number in range(300):  # two come for each that goes
            await w.accept(f"new{2 * number}@one.test", sender="")
            await w.accept(f"new{2 * number + 1}@one.test", sender="")
            places.release()
            await w._quiet()
        w.hops.gate = None
        for _ in range(2):
            places.release()
        await w.settle_down()
    order = [recipient for _, recipient, _ in w.hops.delivered]
    assert len(order) == 200 + 600
    assert max(order.index(f"old{number}@one.test") for number in range(200)) < 240


async def test_a_class_of_its_own_does_not_wait_behind_a_backlog(tmp_path: Path, mock_clock: object) -> None:
    clock = await old_mail(tmp_path, 200)
    async with world(tmp_path, clock, **NARROW) as w:
        w.hops.gate = trio.Event()
        await w._quiet()
        await w.accept("receipt@one.test", sender="", stream=1)
        w.hops.gate.set()
        await w.settle_down()
    order = [recipient for _, recipient, _ in w.hops.delivered]
    assert len(order) == 201
    assert order.index("receipt@one.test") < 6
