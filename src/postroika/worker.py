"""One worker process: a whole MTA on one shard, in one Trio loop.

Promise: everything is built here and handed down; nothing below knows of a global. A task that fails with something it
did not expect ends the worker, loudly: the spool makes that safe, and the supervisor starts it again. Shutdown in
order: connections and sessions, deliveries, outbox, committer.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import trio

from postroika import metrics
from postroika.config import Config, decode_whole
from postroika.control import wire
from postroika.control.filters import matcher
from postroika.errors import PostroikaError, SinkError, SpoolError
from postroika.inbound.accept import Door
from postroika.inbound.listener import Listener
from postroika.inbound.login import Logins, Rules
from postroika.inbound.names import ResolvedNames
from postroika.inbound.session import Services, Session
from postroika.lifeline import call_process, die_with
from postroika.mail.ids import IdSource
from postroika.outbound.delivery import Deliverer
from postroika.outbound.published import Published
from postroika.outcome.events import EventWriter, FailedLogin, Refusal
from postroika.outcome.outbox import Consumer, Outbox
from postroika.outcome.settle import Settler
from postroika.outcome.sinks import Discard, EventLog
from postroika.policy.accounts import Accounts
from postroika.policy.checks import Checks
from postroika.policy.limits import Rate, Rates
from postroika.policy.lockout import Lockout
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client
from postroika.policy.relay import RelayPolicy
from postroika.process import confinement, identity, open_files, operations_log
from postroika.queue.janitor import Janitor
from postroika.queue.operator import Operator
from postroika.queue.scheduler import Scheduler
from postroika.routing.resolver import Resolver
from postroika.routing.router import Router
from postroika.routing.table import goes_by_mx
from postroika.smtp.server_settings import ServerSettings
from postroika.spool.changes import Changes
from postroika.spool.committer import Committer
from postroika.spool.inflight import InFlight
from postroika.spool.recovery import forget_old_doubts, recover
from postroika.spool.store import Store
from postroika.spool.writer import Intake
from postroika.tls.certificates import Certificates

if TYPE_CHECKING:
    from postroika.signing.signer import Signer
    from postroika.sts.policies import StsPolicies
    from postroika.tlsrpt.reports import Reports

log = logging.getLogger(__name__)

_SESSION_GRACE_S = 10.0
_DELIVERY_GRACE_S = 15.0
_COMMIT_GRACE_S = 10.0
_SPARE_SLOTS = 256
_GC_EVERY = 5_000
_SWITCH_INTERVAL_S = 0.0005
_CONNECT_EVENTS = (Rate(100, 1.0),)  # clients that are sent away at once must not have us write without end
_TLS_AT_FIRST: Final[dict[str, Literal["none", "offered", "active"]]] = {
    "none": "none",
    "starttls": "offered",
    "implicit": "active",
}
_SHARED_RATES = (
    "max_connections_per_net", "connections_per_minute", "messages_per_minute", "recipients_per_minute",
    "net_connections_per_minute", "net_messages_per_minute", "net_recipients_per_minute",
    "null_sender_messages_per_minute",
)  # fmt: skip


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
        workers = _workers(config)
        config = _own_share(config, workers)
        self._certificates = Certificates(config)
        self._channel = channel
        self._stopping = trio.Event()
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
        self._events = EventWriter(ids)
        self._log = (
            EventLog(Path(config.log.events), rotate_bytes=config.log.rotate_bytes, keep=config.log.keep)
            if config.log.events
            else None
        )
        # What SIGHUP has opened anew, one after the other.
        self._reopened: list[Callable[[], Awaitable[None]]] = [] if self._log is None else [self._log.reopen]
        self._outbox = Outbox(self._store, self._committer, [Consumer("log", self._log or Discard())])
        self._committer.after_commit.append(self._outbox.wake)
        settler = Settler(
            self._store,
            self._committer,
            self._inflight,
            ids,
            self._events,
            hostname=config.server.hostname,
            expire_after_s=config.retry.expire_after_s,
        )
        resolver = Resolver(config.dns)
        self._router = Router(config, resolver=resolver)
        self._sts = _sts_policies(config, resolver, shard, workers)
        if self._sts is not None:
            self._reopened.append(self._sts.reload)
        # Without either of them routes go by the config alone.
        published = config.dns.validating or self._sts is not None
        self._published = Published(config, self._router, resolver, self._sts) if published else None
        self._signer = self._make_signer(config)
        if self._signer is not None:
            self._reopened.append(self._signer.reload)
        # A domain that publishes how it wants its mail is heard; where nobody is asked, nothing stands in between.
        router = self._published or self._router
        self._reports = _make_reports(config, shard, resolver, self._sts)
        recorder = None if self._reports is None else self._reports.recorder
        deliverer = Deliverer(config, router, self._store, self._inflight, self._signer, recorder)
        self._reopened.append(deliverer.opener.reload)
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
        self._operator = Operator(self._store, self._scheduler, settler)
        intake = Intake(
            self._store,
            self._committer,
            ids,
            max_recipients_per_batch=delivery.max_recipients_per_batch,
            commit_timeout_s=config.limits.commit_timeout_s,
            fresh=self._scheduler.fresh,
        )
        if self._reports is not None:
            self._reports.send_through(intake, self._events)
        self._accounts = _accounts(config, workers)
        self._checks = self._make_checks(config)
        self._connect_events = Rates()
        self._listener = self._make_listener(config, intake, handoff)

    def _make_signer(self, config: Config) -> Signer | None:
        if not config.dkim:
            return None
        from postroika.signing.ring import KeyRing  # loads much, and not everybody signs
        from postroika.signing.signer import Signer, threads_for

        ring = KeyRing(config)
        ring.reload()  # a key that broke since the start defers its mail, and stops nothing else
        # A thread that signs lets go of the interpreter for each signature, and must not wait long to get it back.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        return Signer(config, ring, self._store, threads=threads_for(config.server.workers))

    def _make_checks(self, config: Config) -> Checks:
        settings = msgspec.structs.replace(config.dns, timeout_s=config.policy.dns_timeout_s)
        most = open_files.policy_questions_now()
        names, list_names = (ResolvedNames(Resolver(settings, questions=most)) for _ in range(2))
        checks = Checks(config, names, list_names=list_names)
        if checks.hooks is not None:
            checks.hooks.load()
            self._reopened.append(checks.hooks.reload)
        return checks

    def _make_listener(self, config: Config, intake: Intake, handoff: socket.socket) -> Listener:
        relay = RelayPolicy(config.relay.networks, config.relay.domains, config.server.hostname)
        limits = config.limits
        # Where nobody can log in, nothing is said of it.
        strict = [
            ServerSettings(
                hostname=config.server.hostname,
                max_message_bytes=limits.max_message_bytes,
                max_recipients=limits.max_recipients,
                max_bad_commands=limits.max_bad_commands,
                max_received=limits.max_received,
                max_header_bytes=limits.max_header_bytes,
                tls=_TLS_AT_FIRST[listener.tls],
                tls_first=listener.client_certificates == "require",
                auth=self._accounts is not None and (listener.tls != "none" or listener.auth_without_tls),
            )
            for listener in config.listener
        ]
        # Line ends are mended only for those whom we trust: a stranger could hide a second message in them.
        trusted = [
            msgspec.structs.replace(settings, bare_newlines=listener.bare_newlines)
            for settings, listener in zip(strict, config.listener, strict=True)
        ]

        def settings_of(client: Client) -> ServerSettings:
            return (trusted if client.trusted else strict)[client.listener]

        services = Services(
            door=Door(intake, self._events.received, hostname=config.server.hostname),
            pipeline=self._checks.pipeline,
            relay=relay,
            rejected=self._rejected,
            limits=limits,
            logins=self._make_logins(config),
            xclient_from=_by_listener([listener.xclient_from for listener in config.listener]),
            settings_of=settings_of,
        )
        certificates = self._certificates.listeners

        def start_session(sock: socket.socket, client: Client) -> Session:
            client.trusted = client.known and relay.trusts(client.ip)
            return Session(sock, client, settings_of(client), services, certificates[client.listener])

        return Listener(
            handoff,
            start_session,
            self._rejected,
            hostname=config.server.hostname,
            max_connections=limits.max_connections,
            max_connections_per_ip=limits.max_connections_per_ip,
            tls_at_once=[number for number, listener in enumerate(config.listener) if listener.tls == "implicit"],
            proxies=_by_listener([listener.proxy_from for listener in config.listener]),
            proxy_timeout_s=limits.proxy_timeout_s,
        )

    def _make_logins(self, config: Config) -> Logins | None:
        settings = config.accounts
        if self._accounts is None:
            return None
        return Logins(
            self._accounts,
            Lockout(
                per_ip=settings.failures_per_ip, per_account=settings.failures_per_account, period_s=settings.lockout_s
            ),
            [Rules(listener.role == "submission", listener.auth_without_tls) for listener in config.listener],
            self._login_failed,
            failure_delay_s=settings.failure_delay_s,
            failures_per_session=settings.failures_per_session,
            check_timeout_s=config.limits.policy_timeout_s,
        )

    def _login_failed(self, failed: FailedLogin) -> None:
        """Record a failed login, as `_rejected`."""
        changes = Changes()
        changes.event(self._events.auth_failed(failed))
        self._committer.commit_later(changes)

    def _rejected(self, refusal: Refusal) -> None:
        """Record a refusal. It may be lost in a crash or on a full disk: nobody was promised anything."""
        if (counter := metrics.REJECTED.get(refusal.stage)) is not None:
            counter.value += 1
        if refusal.stage == "connect" and self._connect_events.take("", _CONNECT_EVENTS, trio.current_time()):
            return
        changes = Changes()
        changes.event(self._events.rejected(refusal))
        self._committer.commit_later(changes)

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until the supervisor says stop; then finish in order: what feeds ends before what it feeds.

        Raises:
            SpoolIOError: the disk failed.

        Cancellation: at once; what was under way is tried again after the next start.
        """
        async with trio.open_nursery() as root:
            root.start_soon(self._committer.run)
            root.start_soon(self._obey)
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
                        await self._stopping.wait()
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

    # -- the supervisor's requests ------------------------------------------------------------------------------------

    async def _obey(self) -> None:
        async with trio.open_nursery() as nursery:
            while (ask := await self._channel.receive_ask()) is not None:
                nursery.start_soon(self._answer, ask)
        # The supervisor is gone: whoever starts next must not meet us. What is under way is in the spool.
        os._exit(os.EX_UNAVAILABLE)

    async def _answer(self, ask: wire.Ask) -> None:
        try:
            answer = wire.Answer(ask.number, await self._do(ask.request))
        except (PostroikaError, ValueError) as error:
            answer = wire.Answer(ask.number, error=str(error))
        try:
            await self._channel.send(answer)
        except OSError:
            log.debug("the supervisor went away before it had its answer")

    async def _do(self, request: wire.Request) -> dict[str, Any]:
        if isinstance(request, wire.Flush):
            self._router.forget_failures()
            if self._sts is not None:
                self._sts.forget_failures()
            if self._published is not None:
                self._published.forget()
            count = await self._operator.flush_messages(request.messages)
            for name in request.destinations:
                count += await self._operator.flush_destination(name)
            if not request.messages and not request.destinations:
                count = await self._operator.flush_all()
            return {"batches": count}
        if isinstance(request, wire.Cancel):
            if request.messages:
                return {"recipients": await self._operator.cancel_messages(request.messages)}
            return {"recipients": await self._operator.cancel_where(matcher(request))}
        if isinstance(request, wire.Stats):
            return {"counters": metrics.snapshot(), "gauges": self._scheduler.snapshot()}
        if isinstance(request, wire.Reopen):
            await self._reopen()
            return {}
        if isinstance(request, wire.SaveTlsCounts):
            if self._reports is not None:
                await self._reports.save()
            return {}
        if isinstance(request, wire.SendTlsReports):
            return {} if self._reports is None else await self._reports.send(request.day)
        self._stopping.set()
        return {}

    async def _reopen(self) -> None:
        """Open anew what is in files. One that fails does not keep the others from it."""
        errors = []
        self._certificates.reload()
        for reopen in self._reopened:
            try:
                await reopen()
            except PostroikaError as error:
                errors.append(str(error))
        if errors:
            raise PostroikaError("; ".join(errors))


def _workers(config: Config) -> int:
    return config.server.workers or len(os.sched_getaffinity(0))


def _by_listener(networks: Sequence[Sequence[str]]) -> dict[int, Networks]:
    """By the number of the listener, where there are any."""
    return {number: Networks(named) for number, named in enumerate(networks) if named}


def _accounts(config: Config, workers: int) -> Accounts | None:
    """Those who may log in; None if nobody may.

    Raises:
        ConfigError: the file of accounts cannot be used.
    """
    settings = config.accounts
    if not settings.file and not config.account:
        return None
    file = Path(settings.file) if settings.file else None
    return Accounts(config.account, file, workers=workers, threads=settings.hash_threads)


def _sts_policies(config: Config, resolver: Resolver, shard: int, workers: int) -> StsPolicies | None:
    """The policies of domains; None if they are not to be heeded, or no mail goes by MX.

    Raises:
        ConfigError: the authorities for policy hosts cannot be used.
    """
    if not (config.sts.enabled and goes_by_mx(config.route)):
        return None
    from postroika.sts.fetch import Fetcher  # loads an HTTP client
    from postroika.sts.policies import StsPolicies
    from postroika.sts.store import DIRECTORY, Part, PolicyStore

    store = PolicyStore(Path(config.server.spool) / DIRECTORY)
    # A shard beyond the configured workers is only delivered from until it is empty.
    part = Part(shard, workers) if shard < workers else None
    return StsPolicies(config.sts, resolver, Fetcher(config.sts, config.dns, resolver), store, part)


def _make_reports(config: Config, shard: int, resolver: Resolver, sts: StsPolicies | None) -> Reports | None:
    """Counts sessions for other domains, and tells these; None if they are not to be told."""
    if not config.tlsrpt.contact:
        return None
    from postroika.tlsrpt.reports import Reports  # few want it

    reports = Reports(config, shard, resolver)
    if sts is not None:
        reports.recorder.policy_failures = sts.failure
    return reports


def _own_share(config: Config, workers: int) -> Config:
    """The config with one worker's part of the limits that hold over all workers, rounded up. Clients' connections
    are dealt in turn, and what they bring is delivered where it came in, so equal parts fit."""
    names: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("limits", ("max_connections", "max_connections_per_ip")),
        ("accounts", ("failures_per_ip", "failures_per_account")),
        ("policy", _SHARED_RATES),
        ("delivery", ("max_connections", "max_connections_per_site", "initial_connections_per_site")),
    )
    parts = {
        section: msgspec.structs.replace(
            getattr(config, section), **{key: -(-getattr(getattr(config, section), key) // workers) for key in keys}
        )
        for section, keys in names
    }
    return msgspec.structs.replace(config, **parts)


def main() -> None:
    """Entry point of the process: shard, handoff fd, control fd, supervisor's pid; the config on standard input."""
    shard, handoff_fd, control_fd, parent = (int(argument) for argument in sys.argv[1:5])
    die_with(parent)
    call_process(f"postroika/{shard}")
    # Ctrl-C reaches the whole process group; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    config = decode_whole(sys.stdin.buffer.read(), Config)
    operations_log.write_to_stderr(config.log.level, f"worker {shard}")
    sys.unraisablehook = _log_unraisable
    handoff = socket.socket(fileno=handoff_fd)
    control = socket.socket(fileno=control_fd)
    trio.run(_run, config, shard, handoff, control)


def _log_unraisable(failure: sys.UnraisableHookArgs) -> None:
    """Tell of an error that nobody can be told of. A name of a client (SNI) that is none is one, and not our fault: the
    `ssl` module decodes it while OpenSSL shakes hands."""
    foreign = isinstance(failure.exc_value, UnicodeError)
    log.log(logging.DEBUG if foreign else logging.ERROR, "passed over: %r in %r", failure.exc_value, failure.object)


async def _run(config: Config, shard: int, handoff: socket.socket, control: socket.socket) -> None:
    channel = wire.Channel(control)
    try:
        identity.refuse_root(config.process)
        if config.process.user and os.geteuid() != 0:
            confinement.hide_memory()
        worker = Worker(config, shard, handoff, channel)
    except (PostroikaError, SinkError, OSError) as error:
        await channel.send(wire.Answer(0, error=str(error)))
        sys.exit(os.EX_CANTCREAT)
    await worker.run()


if __name__ == "__main__":
    main()
