"""What several component tests stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from postroika import pump as module
from postroika.pump import Pump, open_pump


@pytest.fixture
async def pump() -> AsyncIterator[Pump]:
    """One for the strands of a test, which must have ended, or been told to, at its end."""
    async with open_pump() as pump:
        yield pump


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_pump() -> Iterator[None]:
    """Of one run in the next: the loop is the process's."""
    yield
    assert (module._current, list(module._runnable), module._stepping) == (None, [], False)
