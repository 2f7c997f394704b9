"""What is attempted next: from the schedule in the spool to lanes, and from reports back to settling.

Promise: a destination that is slow, hostile or dead uses its own share of connections and nobody else's; what is in
memory is bounded by `queue.active` and `delivery.body_memory_bytes`, never by the backlog; nothing is delivered while
its outcome could not be written.

A destination is *active* while something of it is due (`queue.active`). What it has to send is given to its lanes
(`queue.lanes`), and what they report is settled. A fresh message takes the fast path: from the commit straight to its
destination, with the body still in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from random import Random

import trio

from postroika.config import Delivery, Retry
from postroika.mail.outcome import Attempt, Outcome, Stage
from postroika.mail.reply import Reply
from postroika.metrics import ATTEMPTS
from postroika.outcome.settle import Settled, Settler
from postroika.pump import open_pump
from postroika.queue import retry as schedule
from postroika.queue.active import Active
from postroika.queue.destination import Destination
from postroika.queue.down import DownKeeper
from postroika.queue.lanes import Deliver, Lanes
from postroika.queue.loader import Loader
from postroika.spool.committer import Committer
from postroika.spool.reader import Loaded
from postroika.spool.schema import DestinationState
from postroika.spool.store import Store

_DELIVERED = Outcome.DELIVERED
_NO_SESSION = frozenset({Stage.CONNECT, Stage.GREETING, Stage.EHLO})


class Scheduler:
    """The queue of one worker.

    Args:
        store, committer: the shard.
        settler: records outcomes.
        deliver: runs one lane; returns when the lane gives it nothing more.
        delivery, retry: the configuration.
        rng: for jitter.
        clock: epoch seconds.

    `active`: the destinations in memory. `stopping`: lanes get nothing more.
    """

    def __init__(
        self,
        store: Store,
        committer: Committer,
        settler: Settler,
        deliver: Deliver,
        *,
        delivery: Delivery,
        retry: Retry,
        rng: Random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._committer = committer
        self._settler = settler
        self._delivery = delivery
        self._retry = retry
        self._rng = rng
        self._clock = clock
        self._loader = Loader(store, clock)
        self._down = DownKeeper(committer, self._loader, retry, rng, clock)
        self._cancelled: set[bytes] = set()  # batch keys: of a message, some destinations may go on
        self._body_bytes = 0
        self._body_memory_bytes = delivery.body_memory_bytes
        self.active = Active(store, committer, delivery, clock)
        self._lanes = Lanes(self, self.active.by_name, deliver, limit=delivery.max_connections, clock=clock)
        self.stopping = False

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Activate destinations as they become due, and run their lanes, until cancelled.

        Cancellation: lanes are interrupted; what they had not reported stays queued.
        """
        async with open_pump() as pump:
            self._lanes.pump = pump
            task_status.started()
            try:
                while True:
                    if self._delivery.enabled and not self.stopping and not self._committer.stuck:
                        for state in self.active.due():
                            self.tend(state)
                    await self.active.sleep()
            finally:
                self.stopping = True  # what the lanes give back now is not for others

    async def stop(self) -> None:
        """Start nothing new, and wait until the lanes have ended, each with the batch that it has. Those without a
        session have sent nothing yet: they end at once.

        Cancellation: the lanes go on, until `run` is cancelled.
        """
        self.stopping = True
        self.active.wake_idle_lanes()
        await self._lanes.end()

    @property
    def lanes(self) -> int:
        """Connections open or being opened."""
        return self._lanes.connections.open

    @property
    def unsettled(self) -> int:
        """Batches in memory, under way or being settled."""
        return self.active.unsettled

    # -- into memory --------------------------------------------------------------------------------------------------

    def fresh(self, batches: list[Loaded]) -> None:
        """Batches that have just been committed. What is not due, or finds no room, is found in the spool later."""
        if self.stopping or not self._delivery.enabled:
            return
        now_ms = self._clock() * 1000
        by_name = self.active.by_name
        for loaded in batches:
            name = loaded.batch.destination
            state = by_name.get(name)
            if loaded.batch.due_ms > now_ms:
                if state is not None:
                    state.due_later(loaded.batch.due_ms)
                continue
            if state is None:
                if self.active.is_full():
                    continue
                state = self.active.add(name)
            if loaded.key in state.held:
                continue
            if not self._in_turn(state, loaded):
                state.more = True
                self.tend(state)
                continue
            if loaded.body is not None:
                total = self._body_bytes + len(loaded.body)
                if total > self._body_memory_bytes:
                    loaded = Loaded(loaded.key, loaded.batch)
                else:
                    self._body_bytes = total
            state.append(loaded)
            self.tend(state)

    def _in_turn(self, state: Destination, loaded: Loaded) -> bool:
        """Whether a fresh batch may be next in memory: there is room, and nothing of its class waits in the spool that
        came before it. Without that, more mail than goes out would keep what is older waiting for ever."""
        if not state.more and state.waiting < 2 * state.ramp.allowed:
            return True  # no window is smaller
        window = self.active.window(state)
        if state.more and state.has_waiting(loaded.batch.class_id):
            state.held.add(loaded.key)  # the spool has it as well: read what is before it only
            self._loader.refill(state, window)
            state.held.discard(loaded.key)
            if state.more:
                return False
        return state.waiting < window

    def next_batch(self, state: Destination) -> Loaded | None:
        """For a lane: the next batch of its destination. None also while outcomes cannot be written: what would be
        delivered then would be delivered again after a crash."""
        if self.stopping or self._committer.stuck or (state.down is not None and state.is_down(self._clock())):
            return None
        if state.more and state.waiting < self.active.window(state) // 2:
            self._loader.refill(state, self.active.window(state))
        loaded = state.pop()
        if loaded is not None and loaded.key in self._cancelled:
            self.settle(state, loaded, self._settler.cancel(loaded))
            return self.next_batch(state)
        return loaded

    # -- lanes --------------------------------------------------------------------------------------------------------

    def tend(self, state: Destination) -> None:
        """Do whatever the state of a destination calls for: tell, load, open lanes, or let it rest."""
        if self.stopping or self._lanes.pump is None:
            return
        if state.lanes and not state.waiting and not state.more and state.down is None:
            return  # it is up, has lanes, and nothing for them
        if not self._delivery.enabled:
            state.more = False
        elif state.down is not None and state.is_down(self._clock()):
            self._tell_down(state)
        elif not self._committer.stuck:
            state.sweeping = False
            if len(self.active.by_name) > self._delivery.active_destinations and not state.waiting and not state.lanes:
                state.more = False  # it was only held, to be changed; its turn comes
            for _ in range(2):  # from where it was, and, at the end, once more from the beginning
                if state.waiting or not state.more:
                    break
                self._loader.refill(state, self.active.window(state))
            while state.waiting > state.starting and state.wake_lane():
                pass
            while state.wants_lane() and self._lanes.open(state):
                pass
        if state.at_rest():
            self._lanes.connections.want_no_more(state.name)
            self.active.rest(state)

    def must_close(self, state: Destination) -> bool:
        """For a lane: whether it would be for nothing to wait for the next batch."""
        return self.stopping or self.stuck or self.active.crowded or state.is_down(self._clock())

    def connected(self, state: Destination) -> None:
        """For a lane: a session stands."""
        state.ramp.granted(state.connected)
        if state.down is not None:
            self._down.answered(state)
        self.tend(state)

    def unreachable(self, state: Destination, reply: Reply, host: str) -> None:
        """For a lane: no host answered."""
        if self._down.failed(state, reply, host):
            self.tend(state)

    def _tell_down(self, state: Destination) -> None:
        self._lanes.connections.want_no_more(state.name)
        self._down.tell(state, self._defer_untried, self._release)

    def _defer_untried(self, state: Destination, loaded: Loaded, down: DestinationState) -> None:
        told = partial(self._told_of_down, state, loaded.key)
        self.settle(state, loaded, self._settler.defer_untried(loaded, down), told)

    def _told_of_down(self, state: Destination, key: bytes) -> None:
        """It was put off until the destination is probed; which has come up meanwhile, perhaps."""
        if state.down is None and key not in self._cancelled and (left := self._store.load(key)) is not None:
            state.held.add(left.key)
            self.settle(state, left, self._settler.make_due(left, self._clock()), partial(self._has_more, state))

    def _has_more(self, state: Destination) -> None:
        state.more = True

    # -- back from the lanes ------------------------------------------------------------------------------------------

    def report(self, state: Destination, loaded: Loaded, attempt: Attempt) -> None:
        """For a lane: the outcome of an attempt."""
        if not attempt.counted:
            self.give_back(state, loaded)
            return
        results = attempt.results
        if len(results) == 1 and results[0].outcome is _DELIVERED:  # what becomes of nearly all mail
            ATTEMPTS.value += 1
            state.ramp.succeeded()
            self.settle(state, loaded, self._settler.settle(loaded, attempt, due_at=0.0))
            return
        if state.connected and all(
            result.stage in _NO_SESSION and result.outcome is Outcome.DEFERRED for result in results
        ):
            # The destination is up, and takes no more connections than it has: that is no attempt at this batch.
            state.ramp.refused(state.connected)
            self.give_back(state, loaded)
            return
        ATTEMPTS.value += 1
        outcomes = {result.outcome for result in results}
        if Outcome.DELIVERED in outcomes:
            state.ramp.succeeded()
        if Outcome.DEFERRED not in outcomes:
            self.settle(state, loaded, self._settler.settle(loaded, attempt, due_at=0.0))
            return
        if loaded.key in self._cancelled:
            self.settle(state, loaded, self._settler.settle(loaded, attempt, due_at=0.0, cancelled=True))
            return
        now = self._clock()
        batch = loaded.batch
        due_at = schedule.next_attempt_at(batch.attempts + 1, now, self._retry, self._rng)
        if batch.envelope.expires_at > now:
            due_at = min(due_at, batch.envelope.expires_at)
        state.due_later(int(due_at * 1000))
        expired = now >= schedule.expires_at(batch.envelope, self._retry)
        noted_at = schedule.delay_noted_at(batch.envelope, self._retry)
        late = noted_at is not None and now >= noted_at and not batch.delay_noted
        self.settle(
            state, loaded, self._settler.settle(loaded, attempt, due_at=due_at, expired=expired, note_delay=late)
        )

    def give_back(self, state: Destination, loaded: Loaded) -> None:
        """For a lane: it was not tried."""
        self._settler.not_tried(loaded)
        if self.stopping:
            self._release(state, loaded)
            return
        state.push_back(loaded)
        self.tend(state)

    def settle(
        self, state: Destination, loaded: Loaded, settled: Settled, then: Callable[[], None] | None = None
    ) -> None:
        """Write what becomes of a batch that is held, and let go of it; then call `then`. Never blocks."""
        self._settler.commit(settled, partial(self._settled, state, loaded, settled, then))

    def _settled(self, state: Destination, loaded: Loaded, settled: Settled, then: Callable[[], None] | None) -> None:
        """What `settle` handed over is on disk."""
        self._release(state, loaded)
        if then is not None:
            then()
        if settled.notices:
            self.fresh(settled.notices)
        if loaded.key in self._cancelled:
            self._cancelled.discard(loaded.key)
            left = self._store.load(loaded.key)
            if left is not None:  # it was being deferred when it was cancelled
                state.held.add(left.key)
                self.settle(state, left, self._settler.cancel(left))
                return
        self.tend(state)

    def _release(self, state: Destination, loaded: Loaded) -> None:
        state.held.discard(loaded.key)
        if loaded.body is not None:
            self._body_bytes -= len(loaded.body)
            loaded.body = None

    # -- for the operator and the janitor (and see `queue.claims`) ----------------------------------------------------

    @property
    def stuck(self) -> bool:
        """Outcomes wait for room on the disk: nothing should be decided that could not be written."""
        return self._committer.stuck

    def cancel_in_memory(self, key: bytes) -> None:
        """If this batch is in memory, it is cancelled when its turn comes or its attempt fails."""
        self._cancelled.add(key)

    def bring_up(self, name: str) -> None:
        """Try a destination again at once, whatever is known of it."""
        state = self.active.by_name.get(name)
        if state is None:
            self.active.bring_up(name)
            return
        if state.down is not None:
            self._down.answered(state)
        state.ramp.answered()
        state.more = True
        self.tend(state)

    def snapshot(self) -> dict[str, int]:
        """Figures for `queue stats` and the metrics."""
        return {
            "active_destinations": len(self.active.by_name),
            "lanes": self._lanes.connections.open,
            "idle_lanes": sum(len(state.idle) for state in self.active.by_name.values()),
            "in_memory": self.unsettled,
            "body_bytes": self._body_bytes,
            "waiting_for_connection": self._lanes.connections.waiting,
        }

    def kick(self) -> None:
        """Look at the schedule now."""
        self.active.kick()
