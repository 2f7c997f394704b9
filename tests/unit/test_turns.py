"""policy.turns: how much of one client's goes on at once."""

from __future__ import annotations

import trio
import trio.testing

from postroika.policy.turns import AT_ONCE, Turns


async def test_clients_that_have_gone_leave_nothing_behind() -> None:
    turns = Turns()

    async def ask(ip: str) -> None:
        async with turns.of(ip):
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for i in range(AT_ONCE + 1):
            nursery.start_soon(ask, f"2001:db8::{i}")
        nursery.start_soon(ask, "192.0.2.1")
        await trio.testing.wait_all_tasks_blocked()
        assert len(turns) == 2
        nursery.cancel_scope.cancel()
    assert len(turns) == 0
