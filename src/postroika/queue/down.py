"""Destinations that cannot be reached: left alone as a whole, durably, and each recipient told once why.

Nothing is rewritten in the spool when a probe fails again: batches stay where they are in the ready index, and the wake
index says when to probe (docs/adr/0004).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random

from postroika.config import Retry
from postroika.mail.reply import Reply
from postroika.queue import retry as schedule
from postroika.queue.destination import Destination
from postroika.queue.loader import SWEEP_PAGE, Loader
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.reader import Loaded
from postroika.spool.schema import DestinationState, Table, encode

log = logging.getLogger(__name__)

_TELL_RECIPIENTS = 1_000  # in one step: more would keep the loop from others


class DownKeeper:
    """Marks destinations as down and up, and tells their mail.

    Args:
        committer: of the shard.
        loader: reads what waits in the spool.
        retry, rng: when to probe.
        clock: epoch seconds.
    """

    def __init__(
        self, committer: Committer, loader: Loader, retry: Retry, rng: Random, clock: Callable[[], float]
    ) -> None:
        self._committer = committer
        self._loader = loader
        self._retry = retry
        self._rng = rng
        self._clock = clock

    def failed(self, state: Destination, reply: Reply, host: str) -> bool:
        """No host answered. False if that means nothing: there is a session with it right now, or it is known."""
        now = self._clock()
        if state.connected or state.is_down(now):
            return False
        before = state.down
        failures = 1 if before is None else before.failures + 1
        until = schedule.down_until(failures, now, self._retry, self._rng)
        if before is None:
            log.warning("%s cannot be reached: %s", state.name, reply)
        state.down = DestinationState(failures, before.since if before else now, until, reply, host)
        state.sweeping = before is None
        state.ramp.probe()
        changes = Changes(must=True)
        changes.put(Table.DESTINATION, state.name.encode(), encode(state.down))
        self._committer.commit_nowait(changes, must_not_fail)
        return True

    def answered(self, state: Destination) -> None:
        """It is up: it answers, or the operator wants it tried."""
        log.info("%s is tried again", state.name)
        state.down = None
        state.sweeping = False
        state.positions.clear()
        state.more = True  # what was let go of while it was down
        changes = Changes(must=True)
        changes.delete(Table.DESTINATION, state.name.encode())
        changes.rest(state.name, 0, [])  # the only WAKE may be the time to probe it: too late, after a restart
        self._committer.commit_nowait(changes, must_not_fail)

    def tell(
        self,
        state: Destination,
        defer: Callable[[Destination, Loaded, DestinationState], None],
        let_go: Callable[[Destination, Loaded], None],
    ) -> None:
        """Defer those of its batches that have never been told, some at a time, and let go of the others.

        To be called again when what was deferred is committed, until nothing is held.
        """
        assert state.down is not None
        while state.wake_lane():
            pass
        if state.sweeping and len(state.held) < SWEEP_PAGE:
            self._loader.sweep(state)
        told = 0
        for loaded in state.drop_waiting():
            if loaded.batch.deferrals:
                let_go(state, loaded)
            elif told >= _TELL_RECIPIENTS:
                state.append(loaded)
            else:
                told += len(loaded.batch.recipients)
                defer(state, loaded, state.down)
        state.more = False


def must_not_fail(error: Exception | None) -> None:
    """For changes that are kept until there is room: only a broken spool fails them."""
    if error is not None:
        raise error
