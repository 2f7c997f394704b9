"""Tells the service manager that we are alive for as long as all workers answer.

Promise: a worker that hangs, or that cannot be started again, lets the watchdog run out, and so does a supervisor that
hangs itself; then the service manager starts everything anew, and nothing that was accepted is lost with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from postroika.control import wire
from postroika.process.service_manager import ServiceManager

log = logging.getLogger(__name__)

_TELLS_A_TERM = 3  # of the time within which the manager wants to hear of us; half of it is what systemd recommends

AskAll = Callable[[wire.Request], Awaitable[list[wire.Answer]]]


async def keep_alive(manager: ServiceManager, ask_all: AskAll) -> None:
    """Run until cancelled; ends at once if the service manager does not watch.

    Cancellation: at any time.
    """
    if not manager.watchdog_s:
        return
    interval_s = manager.watchdog_s / _TELLS_A_TERM
    silent = ""
    while True:
        problem = await _problem(ask_all, interval_s)
        if not problem:
            manager.alive()
        elif not silent:
            log.error("%s: until all workers answer, the service manager is not told that all is well", problem)
        silent = problem
        await trio.sleep(interval_s)


async def _problem(ask_all: AskAll, within_s: float) -> str:
    """What is wrong with the workers; "" if all answer `within_s`."""
    with trio.move_on_after(within_s):
        answers = await ask_all(wire.Stats())
        return "; ".join(answer.error for answer in answers if answer.error)
    return f"a worker does not answer within {within_s:g} s"
