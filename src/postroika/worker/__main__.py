"""The process of a worker, as the supervisor starts it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

import trio

from postroika.config import Config, decode_whole
from postroika.control import wire
from postroika.errors import PostroikaError, SinkError
from postroika.lifeline import call_process, die_with
from postroika.process import confinement, identity, operations_log
from postroika.worker import Worker

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the process: shard, handoff fd, control fd, supervisor's pid; the config on standard input."""
    shard, handoff_fd, control_fd, parent = (int(argument) for argument in sys.argv[1:5])
    die_with(parent)
    call_process(f"postroika/{shard}")
    # Ctrl-C reaches the whole process group; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what we start ourselves may be interrupted
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
