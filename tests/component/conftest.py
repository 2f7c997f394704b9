"""What several component tests stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from postroika.pump import Pump, loop, open_pump


@pytest.fixture
async def pump() -> AsyncIterator[Pump]:
    """One for the strands of a test; those that are left at its end are interrupted."""
    async with open_pump() as pump:
        yield pump
        pump.nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_pump() -> Iterator[None]:
    """Of one run in the next: the loop is the process's."""
    yield
    assert (loop.running, list(loop.runnable), loop._stepping) == (None, [], False)
