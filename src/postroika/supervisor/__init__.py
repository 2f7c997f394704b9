"""The small process above the workers: starts, restarts, hands connections over, answers the control socket.

Promise: it holds no mail, so nothing is lost with it. A worker that dies is started again; a worker whose supervisor is
gone is killed by the kernel. One supervisor owns a spool; a second one refuses to start. Connections are dealt to the
workers in turn, so that a client that opens only a few still loads them evenly.

Shutdown in order: listeners, then (in each worker) sessions, deliveries, committer.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import trio

from postroika.config import Config, split_host_port
from postroika.config.named_files import Named
from postroika.control import api, wire
from postroika.errors import ConfigError
from postroika.process.service_manager import ServiceManager
from postroika.spool import files
from postroika.supervisor.child import WorkerProcess
from postroika.supervisor.hook_trial import try_hooks
from postroika.supervisor.process import ChildProcess
from postroika.supervisor.startup import Started, start
from postroika.supervisor.watchdog import keep_alive

log = logging.getLogger(__name__)

_SINK_WAIT_S = 15.0
_STOP_GRACE_S = 45.0  # above the worker's own, which ends by itself unless it hangs
_OVERLOADED = b"421 4.3.2 Service not available, closing transmission channel\r\n"

_SINK_CODE = """
import os, sys
from postroika.lifeline import die_with
die_with(int(sys.argv[1]))
from postroika import cli
sys.exit(cli.run(sys.argv[2:]))
"""


class Supervisor:
    """Runs Postroika.

    Args:
        config: checked.
        announce: called once when mail is accepted, with the addresses that are bound.
        manager: told how we are.
    """

    def __init__(
        self, config: Config, announce: Callable[[Sequence[str]], None], manager: ServiceManager | None = None
    ) -> None:
        self._config = config
        self._announce = announce
        self._listeners: list[socket.socket] = []
        self._kept: list[Named] = []
        self._workers: list[WorkerProcess] = []
        self._manager = manager or ServiceManager()
        self._status = ""
        self._turn = 0
        self._shutdown = trio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one ends at once.

        Raises:
            SpoolLockedError: another supervisor owns the spool.
            PostroikaError: it cannot start, or may not as who we are; the text says why.
        """
        started = start(self._config)  # blocks; nobody else runs yet
        self._listeners = started.listeners
        self._kept = started.kept
        with started.closing:
            if started.config.policy.hooks:
                _try_hooks(started.config.policy.hooks)
            self._make_workers(started)
            async with trio.open_nursery() as nursery:
                await self._serve(nursery)
                nursery.cancel_scope.cancel()

    async def _serve(self, nursery: trio.Nursery) -> None:
        await nursery.start(self._signals)
        for worker in self._workers:
            nursery.start_soon(worker.run)
        for worker in self._workers:
            await worker.ready.wait()
        await nursery.start(api.serve, self._config, self)
        if self._config.sink is not None:
            await nursery.start(self._run_sink)
        async with trio.open_nursery() as accepting:
            for number, listener in enumerate(self._listeners):
                accepting.start_soon(self._accept, number, listener)
            addresses = [_shown(listener) for listener in self._listeners]
            self._announce(addresses)
            self._status = f"Accepting mail on {', '.join(addresses)}"
            self._manager.ready(self._status)
            accepting.start_soon(keep_alive, self._manager, self.ask_all)
            await self._shutdown.wait()
            self._manager.stopping()
            accepting.cancel_scope.cancel()
        for listener in self._listeners:
            listener.close()
        with trio.move_on_after(_STOP_GRACE_S) as grace:
            async with trio.open_nursery() as stopping:
                for worker in self._workers:
                    stopping.start_soon(worker.stop)
        if grace.cancelled_caught:
            log.error("a worker did not end within %g s and is killed; nothing is lost", _STOP_GRACE_S)

    def _make_workers(self, started: Started) -> None:
        wanted = started.workers
        highest = max(files.existing_shards(Path(started.config.server.spool)), default=-1)
        for shard in range(max(wanted, highest + 1)):
            self._workers.append(
                WorkerProcess(shard, started.config, takes_connections=shard < wanted, files=started.files)
            )
        if highest >= wanted:
            log.warning("shards %d to %d are left from a run with more workers and are drained", wanted, highest)

    async def _accept(self, number: int, listener: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(64):
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                        log.error("cannot accept a connection: %s", error.strerror)
                        await trio.sleep(0.1)
                    break  # others: the client is gone already (accept(2), "Error handling")
                with connection:
                    self._deal(connection, number)

    def _deal(self, connection: socket.socket, listener: int) -> None:
        """Give the connection to the next worker that can take it."""
        count = len(self._workers)
        for step in range(count):
            worker = self._workers[(self._turn + step) % count]
            if worker.takes_connections and worker.take(connection, listener):
                self._turn = (self._turn + step + 1) % count
                return
        connection.setblocking(False)
        if self._config.listener[listener].tls == "implicit":
            return  # nothing can be said before the handshake
        try:
            connection.send(_OVERLOADED)
        except OSError:
            log.debug("a client was gone before it could be told that no worker can take it")

    async def _signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                task_status.started()
                await self._obey_signals(signals, nursery)

    async def _obey_signals(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                nursery.start_soon(self._reload)  # a worker that hangs must not delay SIGTERM
            elif self._shutdown.is_set():
                log.warning("told twice: stopping at once; what was under way is tried again after the next start")
                os._exit(128 + number)
            else:
                log.info("stopping: what is under way is finished first")
                self._shutdown.set()

    async def _reload(self) -> None:
        """Have the workers open their log files anew, and whatever else they take from files that may have changed."""
        self._manager.reloading()
        errors = (answer.error for answer in await self.ask_all(wire.Reopen()))
        for error in dict.fromkeys(errors):  # most are the same for all workers
            if error:
                log.error("after SIGHUP: %s", error)
        for file in self._kept:
            log.warning("%s: %s stays as it was at the start: root alone may read it", file.key, file.path)
        if self._status and not self._shutdown.is_set():
            self._manager.ready(self._status)

    async def _run_sink(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        sink = self._config.sink
        assert sink is not None
        arguments = ["sink", "--listen", sink.address]
        for pattern in sink.refuse:
            arguments += ["--refuse", pattern]
        for pattern in sink.defer:
            arguments += ["--defer", pattern]
        started = False
        while True:
            process = ChildProcess([sys.executable, "-c", _SINK_CODE, str(os.getpid()), *arguments])
            try:
                if not started and not await _accepts(sink.address, _SINK_WAIT_S):
                    log.error("the sink does not listen on %s", sink.address)
                if not started:
                    started = True
                    task_status.started()
                code = await process.wait()
            finally:
                await process.end()  # noqa: ASYNC102 - it shields itself, for some seconds at most
            log.error("the sink has ended with exit code %d; it is started again", code)
            await trio.sleep(1)

    async def ask_all(self, request: wire.Request) -> list[wire.Answer]:
        """Ask every worker at once; one answer each, in order of shards."""
        answers: list[wire.Answer] = [wire.Answer(0)] * len(self._workers)

        async def ask(index: int) -> None:
            answers[index] = await self._workers[index].ask(request)

        async with trio.open_nursery() as nursery:
            for index in range(len(self._workers)):
                nursery.start_soon(ask, index)
        return answers

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers, in order of shards."""
        return [worker.pid for worker in self._workers]


async def _accepts(address: str, within_s: float) -> bool:
    """Whether something accepts connections at `address`, or will within `within_s`."""
    host, port = split_host_port(address)
    with trio.move_on_after(within_s):
        while True:
            try:
                await (await trio.open_tcp_stream(host, port)).aclose()
            except OSError:
                await trio.sleep(0.02)
            else:
                return True
    return False


def _try_hooks(path: str) -> None:
    try:
        try_hooks(path, None)
    except ConfigError as error:
        raise ConfigError(f"policy.hooks: {error}") from None


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
