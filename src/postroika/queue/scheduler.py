"""What is attempted next: from the schedule in the spool to lanes, and from reports back to settling.

Promise: memory is bounded by `delivery.loaded_batches`, `active_destinations` and `body_memory_bytes`, never by the
backlog; a destination that is slow, hostile or dead uses its own share of connections and nobody else's; a start costs
the same with ten messages as with ten million.

A destination is *active* while something of it is due. The wake index of the spool says when to make it active; when
nothing of it is left, it rests, and the spool is told when to wake it next. A fresh message takes the fast path: from
the commit straight to its destination, with the body still in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import trio

from postroika.config import Delivery, Retry
from postroika.mail.outcome import Attempt, Outcome, Stage
from postroika.mail.reply import Reply
from postroika.metrics import ATTEMPTS
from postroika.outcome.settle import Settled, Settler
from postroika.pump import Pump, Strand, open_pump
from postroika.queue import retry as schedule
from postroika.queue.connections import Connections
from postroika.queue.destination import Destination
from postroika.queue.down import DownKeeper, must_not_fail
from postroika.queue.lane import Lane
from postroika.queue.limits import Ramp, window
from postroika.queue.loader import Loader
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.reader import Loaded
from postroika.spool.schema import DestinationState, Table
from postroika.spool.store import Store

log = logging.getLogger(__name__)

Deliver = Callable[[Lane], Awaitable[None]]

_DELIVERED = Outcome.DELIVERED
_POLL_S = 1.0
_NO_SESSION = frozenset({Stage.CONNECT, Stage.GREETING, Stage.EHLO})
_WAKES_PER_POLL = 5_000
_WAKES_PAGE = 500


class Scheduler:
    """The queue of one worker.

    Args:
        store, committer: the shard.
        settler: records outcomes.
        deliver: runs one lane; returns when the lane gives it nothing more.
        delivery, retry: the configuration.
        rng: for jitter.
        clock: epoch seconds.
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
        self._deliver = deliver
        self._delivery = delivery
        self._retry = retry
        self._rng = rng
        self._clock = clock
        self._loader = Loader(store, clock)
        self._down = DownKeeper(committer, self._loader, retry, rng, clock)
        self._active: dict[str, Destination] = {}
        self._connections = Connections(delivery.max_connections)
        self._cancelled: set[bytes] = set()  # batch keys: of a message, some destinations may go on
        self._strands: dict[Lane, Strand] = {}
        self._body_bytes = 0
        self._body_memory_bytes = delivery.body_memory_bytes
        self.crowded = False
        self._kicked = trio.Event()
        self._all_ended = trio.Event()
        self._pump: Pump | None = None
        self.stopping = False

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Activate destinations as they become due, and run their lanes, until cancelled.

        Cancellation: lanes are interrupted; what they had not reported stays queued.
        """
        async with open_pump() as pump:
            self._pump = pump
            task_status.started()
            try:
                while True:
                    if self._delivery.enabled and not self.stopping and not self._committer.stuck:
                        self._activate_due()
                        self._look_again()
                    self._kicked = trio.Event()
                    with trio.move_on_after(self._sleep_s()):
                        await self._kicked.wait()
            finally:
                self.stopping = True  # what the lanes give back now is not for others

    async def stop(self) -> None:
        """Start nothing new, and wait until the lanes have ended, each with the batch that it has. Those without a
        session have sent nothing yet: they end at once.

        Cancellation: the lanes go on, until `run` is cancelled.
        """
        self.stopping = True
        for state in self._active.values():
            while state.wake_lane():
                pass
        for lane, strand in list(self._strands.items()):
            if not lane.has_session:
                strand.interrupt()
        if self._strands:
            await self._all_ended.wait()

    def now(self) -> float:
        """Epoch seconds."""
        return self._clock()

    @property
    def lanes(self) -> int:
        """Connections open or being opened."""
        return self._connections.open

    @property
    def unsettled(self) -> int:
        """Batches in memory, under way or being settled."""
        return sum(len(state.held) for state in self._active.values())

    def _sleep_s(self) -> float:
        now_ms = int(self._clock() * 1000)
        wake_ms = self._store.next_wake_ms(now_ms)
        return _POLL_S if wake_ms is None else min(_POLL_S, max(0.001, (wake_ms - now_ms) / 1000))

    def _activate_due(self) -> None:
        now_ms = int(self._clock() * 1000)
        position = b""
        for _ in range(_WAKES_PER_POLL // _WAKES_PAGE):
            page = self._store.wakes(position, now_ms, _WAKES_PAGE)
            for key, name in page:
                state = self._active.get(name)
                if state is None:
                    if self._is_crowded():
                        return
                    state = self._activate(name)
                elif key not in state.wakes:
                    state.more = True
                state.wakes.add(key)
                self._tend(state)
            if len(page) < _WAKES_PAGE:
                return
            position = page[-1][0]

    def _look_again(self) -> None:
        """Active destinations that have something due now that was not when they were loaded."""
        now_ms = int(self._clock() * 1000)
        for state in list(self._active.values()):
            if state.later_ms is not None and state.later_ms <= now_ms:
                state.later_ms = None
                state.more = True
                self._tend(state)
            elif state.waiting and not state.lanes:
                self._tend(state)  # left alone while the disk was full

    def _is_crowded(self) -> bool:
        """Whether no further destination may be active; if so, connections without work close at once, and others are
        looked for when half of the destinations rest."""
        if len(self._active) < self._delivery.active_destinations:
            return False
        if not self.crowded:
            self.crowded = True
            for state in self._active.values():
                while state.wake_lane():
                    pass
        return True

    def _activate(self, name: str) -> Destination:
        ramp = Ramp(self._delivery.initial_connections_per_site, self._delivery.max_connections_per_site)
        state = Destination(name, ramp, self._store.destination_state(name))
        self._active[name] = state
        return state

    # -- into memory --------------------------------------------------------------------------------------------------

    def fresh(self, batches: list[Loaded]) -> None:
        """Batches that have just been committed. What is not due, or finds no room, is found in the spool later."""
        if self.stopping or not self._delivery.enabled:
            return
        now_ms = self._clock() * 1000
        for loaded in batches:
            name = loaded.batch.destination
            state = self._active.get(name)
            if loaded.batch.due_ms > now_ms:
                if state is not None:
                    state.due_later(loaded.batch.due_ms)
                continue
            if state is None:
                if self._is_crowded():
                    continue
                state = self._activate(name)
            if loaded.key in state.held:
                continue
            if not self._in_turn(state, loaded):
                state.more = True
                self._tend(state)
                continue
            if loaded.body is not None:
                total = self._body_bytes + len(loaded.body)
                if total > self._body_memory_bytes:
                    loaded = Loaded(loaded.key, loaded.batch)
                else:
                    self._body_bytes = total
            state.append(loaded)
            self._tend(state)

    def _in_turn(self, state: Destination, loaded: Loaded) -> bool:
        """Whether a fresh batch may be next in memory: there is room, and nothing of its class waits in the spool that
        came before it. Without that, more mail than goes out would keep what is older waiting for ever."""
        if not state.more and state.waiting < 2 * state.ramp.allowed:
            return True  # no window is smaller
        window = self._window(state)
        if state.more and state.has_waiting(loaded.batch.class_id):
            state.held.add(loaded.key)  # the spool has it as well: read what is before it only
            self._loader.refill(state, window)
            state.held.discard(loaded.key)
            if state.more:
                return False
        return state.waiting < window

    def _window(self, state: Destination) -> int:
        return window(self._delivery.loaded_batches, len(self._active), state.ramp.allowed)

    def next_batch(self, state: Destination) -> Loaded | None:
        """For a lane: the next batch of its destination. None also while outcomes cannot be written: what would be
        delivered then would be delivered again after a crash."""
        if self.stopping or self._committer.stuck or (state.down is not None and state.is_down(self._clock())):
            return None
        if state.more and state.waiting < self._window(state) // 2:
            self._loader.refill(state, self._window(state))
        loaded = state.pop()
        if loaded is not None and loaded.key in self._cancelled:
            self._settle(state, loaded, self._settler.cancel(loaded))
            return self.next_batch(state)
        return loaded

    # -- lanes --------------------------------------------------------------------------------------------------------

    def _tend(self, state: Destination) -> None:
        """Do whatever the state of a destination calls for: tell, load, open lanes, or let it rest."""
        if self.stopping or self._pump is None:
            return
        if state.lanes and not state.waiting and not state.more and state.down is None:
            return  # it is up, has lanes, and nothing for them
        if not self._delivery.enabled:
            state.more = False
        elif state.down is not None and state.is_down(self._clock()):
            self._tell_down(state)
        elif not self._committer.stuck:
            state.sweeping = False
            if len(self._active) > self._delivery.active_destinations and not state.waiting and not state.lanes:
                state.more = False  # it was only held, to be changed; its turn comes
            for _ in range(2):  # from where it was, and, at the end, once more from the beginning
                if state.waiting or not state.more:
                    break
                self._loader.refill(state, self._window(state))
            while state.waiting > state.starting and state.wake_lane():
                pass
            while state.wants_lane():
                if self._connections.all_taken:
                    if self._connections.want(state.name):
                        self._evict_idle(state)
                    break
                self._open_lane(state)
        if state.at_rest():
            self._rest(state)

    def _open_lane(self, state: Destination) -> None:
        assert self._pump is not None
        self._connections.want_no_more(state.name)
        lane = Lane(self, state)
        self._connections.take()
        self._strands[lane] = self._pump.spawn(self._run_lane(lane, state))

    async def _run_lane(self, lane: Lane, state: Destination) -> None:
        try:
            await self._deliver(lane)
        finally:
            del self._strands[lane]
            for loaded in lane.close():
                # Its dot may have been sent: it stays queued in the spool, and held, so that this process does not
                # try it again by itself.
                log.warning("%r was left unreported", loaded)
            if self.stopping and not self._strands:
                self._all_ended.set()
        self._feed_hungry()
        self._tend(state)

    def lane_paused(self) -> None:
        """A lane ends, or waits for a place at its site: its connection may be had by others meanwhile."""
        self._connections.give_back()
        self._feed_hungry()

    async def lane_resumed(self) -> None:
        """A lane that was paused goes on, as soon as the total allows it.

        Interruption: it stays paused.
        """
        await self._connections.take_again()

    def others_wait(self, state: Destination) -> bool:
        """Whether another destination waits for a connection."""
        return self._connections.others_wait(state.name)

    def _evict_idle(self, hungry: Destination) -> None:
        for state in self._active.values():
            if state is not hungry and state.wake_lane():
                return

    def _feed_hungry(self) -> None:
        while not self.stopping and (name := self._connections.next_in_line()) is not None:
            state = self._active.get(name)
            if state is not None and state.wants_lane() and not state.is_down(self._clock()):
                self._open_lane(state)
                if state.wants_lane():
                    self._connections.want(name)  # one a turn

    def connected(self, state: Destination) -> None:
        """For a lane: a session stands."""
        state.ramp.granted(state.connected)
        if state.down is not None:
            self._down.answered(state)
        self._tend(state)

    def unreachable(self, state: Destination, reply: Reply, host: str) -> None:
        """For a lane: no host answered."""
        if self._down.failed(state, reply, host):
            self._tend(state)

    def _tell_down(self, state: Destination) -> None:
        self._connections.want_no_more(state.name)
        self._down.tell(state, self._defer_untried, self._release)

    def _defer_untried(self, state: Destination, loaded: Loaded, down: DestinationState) -> None:
        self._settle(state, loaded, self._settler.defer_untried(loaded, down))

    def _rest(self, state: Destination) -> None:
        """Nothing more to do now: out of memory, to be woken by the spool."""
        del self._active[state.name]
        self._connections.want_no_more(state.name)
        changes = Changes(must=True)
        down_ms = int(state.down.down_until * 1000) if state.down is not None else 0
        changes.rest(state.name, down_ms, list(state.wakes))
        self._committer.commit_nowait(changes, must_not_fail)
        if self.crowded and 2 * len(self._active) <= self._delivery.active_destinations:
            self.crowded = False
            self.kick()

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
            self._settle(state, loaded, self._settler.settle(loaded, attempt, due_at=0.0))
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
            self._settle(state, loaded, self._settler.settle(loaded, attempt, due_at=0.0))
            return
        if loaded.key in self._cancelled:
            self._settle(state, loaded, self._settler.settle(loaded, attempt, due_at=0.0, cancelled=True))
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
        self._settle(
            state, loaded, self._settler.settle(loaded, attempt, due_at=due_at, expired=expired, note_delay=late)
        )

    def give_back(self, state: Destination, loaded: Loaded) -> None:
        """For a lane: it was not tried."""
        self._settler.not_tried(loaded)
        if self.stopping:
            self._release(state, loaded)
            return
        state.push_back(loaded)
        self._tend(state)

    def _settle(
        self, state: Destination, loaded: Loaded, settled: Settled, then: Callable[[], None] | None = None
    ) -> None:
        self._settler.commit(settled, partial(self._settled, state, loaded, settled, then))

    def _settled(self, state: Destination, loaded: Loaded, settled: Settled, then: Callable[[], None] | None) -> None:
        """What `_settle` handed over is on disk."""
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
                self._settle(state, left, self._settler.cancel(left))
                return
        self._tend(state)

    def _release(self, state: Destination, loaded: Loaded) -> None:
        state.held.discard(loaded.key)
        if loaded.body is not None:
            self._body_bytes -= len(loaded.body)
            loaded.body = None

    # -- for the operator and the janitor -----------------------------------------------------------------------------

    def hold(self, seen: Loaded) -> tuple[Destination, Loaded] | None:
        """Claim a batch that is only in the spool, to change it there, and read it as it is now: what was `seen` of it
        may be out of date. None if it is gone, in memory, or under way.

        `settle_held` lets go of it.
        """
        name = seen.batch.destination
        state = self._active.get(name)
        if state is not None and seen.key in state.held:
            return None
        loaded = self._store.load(seen.key)
        if loaded is None:
            return None
        if state is None:
            state = self._activate(name)
        state.held.add(loaded.key)
        return state, loaded

    @property
    def stuck(self) -> bool:
        """Outcomes wait for room on the disk: nothing should be decided that could not be written."""
        return self._committer.stuck

    def settle_held(
        self, state: Destination, loaded: Loaded, settled: Settled, then: Callable[[], None] | None = None
    ) -> None:
        """Commit a change to a batch claimed by `hold`, and let go of it; then call `then`."""

        def committed() -> None:
            state.more = True
            if then is not None:
                then()

        self._settle(state, loaded, settled, committed)

    def take_waiting(self, keys: set[bytes]) -> list[tuple[Destination, Loaded]]:
        """Take these batches out of memory, those that no lane has. They stay held."""
        taken: list[tuple[Destination, Loaded]] = []
        for state in self._active.values():
            if keys & state.held:
                waiting = state.drop_waiting()
                for loaded in waiting:
                    if loaded.key in keys:
                        taken.append((state, loaded))
                    else:
                        state.append(loaded)
        return taken

    def cancel_in_memory(self, key: bytes) -> None:
        """If this batch is in memory, it is cancelled when its turn comes or its attempt fails."""
        self._cancelled.add(key)

    def bring_up(self, name: str) -> None:
        """Try a destination again at once, whatever is known of it."""
        state = self._active.get(name)
        if state is None:
            # It is made active when its turn comes, like others that are due.
            changes = Changes(must=True)
            changes.delete(Table.DESTINATION, name.encode())
            changes.rest(name, 0, [])
            self._committer.commit_nowait(changes, self._brought_up)
            return
        if state.down is not None:
            self._down.answered(state)
        state.ramp.answered()
        state.more = True
        self._tend(state)

    def _brought_up(self, error: Exception | None) -> None:
        must_not_fail(error)
        self.kick()

    def snapshot(self) -> dict[str, int]:
        """Figures for `queue stats` and the metrics."""
        return {
            "active_destinations": len(self._active),
            "lanes": self._connections.open,
            "idle_lanes": sum(len(state.idle) for state in self._active.values()),
            "in_memory": self.unsettled,
            "body_bytes": self._body_bytes,
            "waiting_for_connection": self._connections.waiting,
        }

    def kick(self) -> None:
        """Look at the schedule now."""
        self._kicked.set()
