"""One worker process: a whole MTA on one shard, in one Trio loop.

Promise: everything is built here and handed down; nothing below knows of a global. A task that fails with something it
did not expect ends the worker, loudly: the spool makes that safe, and the supervisor starts it again. Shutdown in
order: connections and sessions, deliveries, outbox, committer.
"""

from __future__ import annotations

import gc
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from postroika.config import Config
from postroika.control import wire
from postroika.errors import SpoolError
from postroika.inbound.accept import Door
from postroika.mail.ids import IdSource
from postroika.outbound.delivery import Deliverer
from postroika.outbound.published import Published
from postroika.outcome.events import EventWriter
from postroika.outcome.outbox import Consumer, Outbox
from postroika.outcome.settle import Settler
from postroika.outcome.sinks import Discard, EventLog
from postroika.queue.janitor import Janitor
from postroika.queue.operator import Operator
from postroika.queue.scheduler import Scheduler
from postroika.routing.resolver import Resolver
from postroika.routing.router import Router
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.inflight import InFlight
from postroika.spool.recovery import forget_old_doubts, recover
from postroika.spool.store import Store
from postroika.spool.writer import Intake
from postroika.tls.certificates import Certificates
from postroika.worker import share
from postroika.worker.optional import make_accounts, make_reports, make_signer, make_sts_policies
from postroika.worker.reception import Records, make_checks, make_listener
from postroika.worker.requests import Requests

log = logging.getLogger(__name__)

_SESSION_GRACE_S = 10.0
_DELIVERY_GRACE_S = 15.0
_COMMIT_GRACE_S = 10.0
_SPARE_SLOTS = 256
_GC_EVERY = 5_000


class Worker:
    """All objects of one worker.

    Args:
        config: checked.
        shard: its number.
        handoff: connections come from here, with the number of the listener that took them.
        channel: the supervisor's requests.

    Raises:
        PostroikaError: it cannot start; the text says why.
    """

    def __init__(self, config: Config, shard: int, handoff: socket.socket, channel: wire.Channel) -> None:
        workers = share.workers_of(config)
        config = share.own_share(config, workers)
        certificates = Certificates(config)
        self._channel = channel
        delivery = config.delivery
        self._store = Store.create_or_open(
            Path(config.server.spool), shard, max_bytes=config.spool.max_bytes, lock_wait_s=config.spool.lock_wait_s
        )
        self._inflight = InFlight(self._store.path / "inflight", 2 * delivery.max_connections + _SPARE_SLOTS)
        recovered = recover(self._store, self._inflight)
        self._recovery = recovered.changes
        if recovered.partial_messages or recovered.batches_in_doubt:
            log.warning(
                "shard %d: %d half-received messages removed, %d batches are in doubt (`postroika queue doubts`)",
                shard,
                recovered.partial_messages,
                recovered.batches_in_doubt,
            )
        ids = IdSource(shard, after=self._store.last_id())
        self._committer = Committer(self._store, ids, low_water_bytes=config.spool.low_water_bytes)
        events = EventWriter(ids)
        event_log = (
            EventLog(Path(config.log.events), rotate_bytes=config.log.rotate_bytes, keep=config.log.keep)
            if config.log.events
            else None
        )
        # What SIGHUP has opened anew, one after the other.
        reopen: list[Callable[[], Awaitable[None]]] = [] if event_log is None else [event_log.reopen]
        self._outbox = Outbox(self._store, self._committer, [Consumer("log", event_log or Discard())])
        self._committer.after_commit.append(self._outbox.wake)
        settler = Settler(
            self._store,
            self._committer,
            self._inflight,
            ids,
            events,
            hostname=config.server.hostname,
            expire_after_s=config.retry.expire_after_s,
        )
        resolver = Resolver(config.dns)
        by_config = Router(config, resolver=resolver)
        forget = [by_config.forget_failures]
        self._sts = make_sts_policies(config, resolver, shard, workers)
        if self._sts is not None:
            reopen.append(self._sts.reload)
            forget.append(self._sts.forget_failures)
        # Without either of them routes go by the config alone.
        published = config.dns.validating or self._sts is not None
        self._published = Published(config, by_config, resolver, self._sts) if published else None
        if self._published is not None:
            forget.append(self._published.forget)
        self._signer = make_signer(config, self._store)
        if self._signer is not None:
            reopen.append(self._signer.reload)
        # A domain that publishes how it wants its mail is heard; where nobody is asked, nothing stands in between.
        router = self._published or by_config
        self._reports = make_reports(config, shard, resolver, self._sts)
        recorder = None if self._reports is None else self._reports.recorder
        deliverer = Deliverer(config, router, self._store, self._inflight, self._signer, recorder)
        reopen.append(deliverer.opener.reload)
        forget.append(deliverer.opener.forget_failures)
        self._scheduler = Scheduler(
            self._store,
            self._committer,
            settler,
            deliverer.deliver,
            delivery=delivery,
            retry=config.retry,
            rng=random.Random(),
        )
        self._janitor = Janitor(self._store, self._scheduler, settler, config.retry)
        intake = Intake(
            self._store,
            self._committer,
            ids,
            max_recipients_per_batch=delivery.max_recipients_per_batch,
            commit_timeout_s=config.limits.commit_timeout_s,
            fresh=self._scheduler.fresh,
        )
        if self._reports is not None:
            self._reports.send_through(intake, events)
        self._accounts = make_accounts(config, workers)
        checks = make_checks(config)
        if checks.hooks is not None:
            reopen.append(checks.hooks.reload)
        door = Door(intake, events.received, hostname=config.server.hostname)
        records = Records(events, self._committer)
        self._listener = make_listener(config, handoff, door, checks, records, self._accounts, certificates)
        self._requests = Requests(
            channel,
            Operator(self._store, self._scheduler, settler),
            self._scheduler.snapshot,
            self._reports,
            forget=forget,
            certificates=certificates,
            reopen=reopen,
        )

    async def run(self) -> None:
        """Work until the supervisor says stop; then finish in order: what feeds ends before what it feeds.

        Raises:
            SpoolIOError: the disk failed.

        Cancellation: at once; what was under way is tried again after the next start.
        """
        async with trio.open_nursery() as root:
            root.start_soon(self._committer.run)
            root.start_soon(self._requests.obey)
            if self._accounts is not None:
                root.start_soon(self._accounts.watch)
            self._committer.commit_nowait(self._recovery, self._recovered)
            root.start_soon(forget_old_doubts, self._store, self._committer)
            if self._sts is not None:
                await root.start(self._sts.run)
            if self._published is not None:
                root.start_soon(self._published.look_at_resolver)
            async with trio.open_nursery() as logging_:
                logging_.start_soon(self._outbox.run)
                async with trio.open_nursery() as delivering:
                    await delivering.start(self._scheduler.run)
                    delivering.start_soon(self._janitor.run)
                    if self._reports is not None:
                        delivering.start_soon(self._reports.run)
                    async with trio.open_nursery() as sessions:
                        sessions.start_soon(self._listener.run, _SESSION_GRACE_S)
                        gc.collect()
                        gc.freeze()
                        # Mail makes few cycles and many objects that live for some milliseconds: looked through
                        # every 700 of them, as by default, they cost a tenth of the time.
                        gc.set_threshold(_GC_EVERY, 20, 50)
                        await self._channel.send(wire.Answer(0, {"ready": True}))
                        await self._requests.stop.wait()
                        self._listener.stop()
                    with trio.move_on_after(_DELIVERY_GRACE_S):
                        await self._scheduler.stop()
                    delivering.cancel_scope.cancel()
                if self._reports is not None:
                    await self._reports.recorder.save()
                await self._committer.commit(Changes(must=True), _COMMIT_GRACE_S)  # all outcomes are written
                self._outbox.close()
            self._committer.close()
            await self._committer.closed.wait()
            root.cancel_scope.cancel()
        if self._signer is not None:
            self._signer.close()
        self._inflight.close()
        self._store.close()

    def _recovered(self, error: SpoolError | None) -> None:
        if error is None:
            self._inflight.take_over()
