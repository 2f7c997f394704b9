"""One child process of the supervisor: a worker, started again whenever it ends by itself.

Promise: what the child needs is handed to it whole (sockets and config as open files), so that nothing on disk can
change under it; it is tied to us and never outlives us.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Sequence

import trio

from postroika.config import Config, encode_whole
from postroika.control import wire
from postroika.errors import SpoolError
from postroika.supervisor.process import ChildProcess

log = logging.getLogger(__name__)

_RESTART_DELAYS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LIVED_LONG_S = 60.0
_ASK_TIMEOUT_S = 20.0  # below `control.client.ANSWER_TIMEOUT_S`: who asks is to hear which worker does not answer
_LONG = wire.Flush | wire.Cancel | wire.SendTlsReports  # whatever there is of mail or domains, one by one


class WorkerProcess:
    """A worker as the supervisor sees it.

    Args:
        shard: its number.
        config: handed to it.
        takes_connections: False for a worker that only drains a shard left over from a run with more workers.
        files: descriptors that the config names as /proc/self/fd/N; it inherits them.
    """

    def __init__(self, shard: int, config: Config, *, takes_connections: bool, files: Sequence[int] = ()) -> None:
        self.shard = shard
        self.takes_connections = takes_connections
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.pid = 0
        self.restarts = 0
        self._config = config
        self._files = tuple(files)
        self._stop = trio.Event()
        self._process: ChildProcess | None = None
        self._handoff: socket.socket | None = None
        self._channel: wire.Channel | None = None
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, wire.Answer] = {}
        self._number = 0

    async def run(self) -> None:
        """Keep the worker running until it ends after `stop`.

        Raises:
            SpoolError: it could not start the first time; the text is what it said.

        Cancellation: the process is killed.
        """
        failures = 0
        while True:
            started_at = trio.current_time()
            try:
                problem = await self._run_once()
            except OSError as error:
                problem = f"it cannot be started: {error.strerror}"
            was_ready, self.ready = self.ready.is_set(), trio.Event() if self.ready.is_set() else self.ready
            if self._stop.is_set():
                self.ended.set()
                return
            if not was_ready and self.restarts == 0:
                raise SpoolError(problem or f"worker {self.shard} could not start")
            failures = 1 if trio.current_time() - started_at > _LIVED_LONG_S else failures + 1
            log.error("worker %d has ended (%s); it is started again", self.shard, problem)
            self.restarts += 1
            with trio.move_on_after(_RESTART_DELAYS_S[min(failures, len(_RESTART_DELAYS_S)) - 1]):
                await self._stop.wait()
            if self._stop.is_set():
                self.ended.set()
                return

    async def _run_once(self) -> str:
        """Start the process and stay with it to its end. Returns why it ended."""
        handoff, its_handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with handoff, control, its_handoff, its_control:
            handoff.setblocking(False)
            inherited = (its_handoff.fileno(), its_control.fileno())
            config_fd = _config_file(self._config)
            try:
                process = ChildProcess(
                    [sys.executable, "-m", "postroika.worker", str(self.shard), *map(str, inherited), str(os.getpid())],
                    stdin=config_fd,
                    pass_fds=inherited + self._files,
                    shielded=True,
                )
            finally:
                os.close(config_fd)
            its_handoff.close()
            its_control.close()
            self.pid = process.pid
            self._process = process
            if self._stop.is_set():
                process.kill()
            self._handoff, self._channel = handoff, wire.Channel(control)
            try:
                problem = await self._listen(self._channel)
                code = await process.wait()
            finally:
                self._handoff = self._channel = self._process = None
                await process.end()  # noqa: ASYNC102 - it shields itself, for some seconds at most
                for number, arrived in self._waiting.items():
                    self._answers.setdefault(number, wire.Answer(number, error=f"worker {self.shard} has ended"))
                    arrived.set()
        if problem:
            return problem
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    async def _listen(self, channel: wire.Channel) -> str:
        while True:
            answer = await channel.receive_answer()
            if answer is None:
                return ""
            if answer.number:
                if (arrived := self._waiting.get(answer.number)) is not None:
                    self._answers[answer.number] = answer
                    arrived.set()
            elif answer.error:
                return answer.error
            else:
                self.ready.set()

    async def ask(self, request: wire.Request) -> wire.Answer:
        """Send a request and wait for its answer; a worker that is down or does not answer gives an error. One that is
        at work on a long request is waited for as long as it answers others.

        Cancellation: the worker carries out what it was asked all the same.
        """
        channel = self._channel
        if channel is None or not self.ready.is_set():
            return wire.Answer(0, error=f"worker {self.shard} is not running")
        self._number += 1
        number = self._number
        arrived = self._waiting[number] = trio.Event()
        try:
            with trio.move_on_after(_ASK_TIMEOUT_S):
                await channel.send(wire.Ask(number, request))
                await arrived.wait()
            if isinstance(request, _LONG):
                while not arrived.is_set() and not (await self.ask(wire.Stats())).error:
                    with trio.move_on_after(_ASK_TIMEOUT_S):
                        await arrived.wait()
        except OSError as error:
            return wire.Answer(number, error=f"worker {self.shard}: {error.strerror}")
        finally:
            del self._waiting[number]
            answer = self._answers.pop(number, None)
        return answer or wire.Answer(number, error=f"worker {self.shard} does not answer")

    def take(self, connection: socket.socket, listener: int) -> bool:
        """Hand a connection over. False if the worker cannot take it now."""
        if self._handoff is None or not self.ready.is_set():
            return False
        try:
            socket.send_fds(self._handoff, [bytes((listener,))], [connection.fileno()])
        except OSError as error:
            # ETOOMANYREFS: as many descriptors as a user may have are on their way to workers (unix(7)).
            if not isinstance(error, BlockingIOError | ConnectionError) and error.errno != errno.ETOOMANYREFS:
                log.error("a connection cannot be handed to worker %d: %s", self.shard, error.strerror)
            return False
        return True

    async def stop(self) -> None:
        """Ask the worker to finish what is under way and end, and wait until it has."""
        self._stop.set()
        if self.ready.is_set():
            await self.ask(wire.Stop())
        elif self._process is not None:
            self._process.kill()  # it is still starting: nothing is under way
        await self.ended.wait()


def _config_file(config: Config) -> int:
    """An open file without a name that holds the config; the child reads it as its standard input."""
    fd = os.memfd_create("postroika-config", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(encode_whole(config))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
