"""From a checked config to a process that may serve: everything that needs rights, and then the end of those rights.

Promise: root, where root has started us, makes directories, listens and reads keys, and does nothing else; when `start`
returns, the process is who the config says. A start that is refused changes nothing that belongs to others.

The order matters. The lock of the spool comes before the listeners, so that a start waits for an instance that is about
to end instead of finding its ports taken. The lock is taken as the user, in whose directory root must not follow links.
Rights are given up before there is a second thread, as some of them belong to threads.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from postroika.config import Config, named_files, split_host_port
from postroika.errors import ConfigError, PostroikaError, SpoolError
from postroika.process import confinement, identity, open_files, places
from postroika.spool import files as spool_files

log = logging.getLogger(__name__)

_BACKLOG = 4096  # what the kernel allows at most, as a rule: whoever comes in a crowd is not reset


class Started(NamedTuple):
    """What there is to serve with.

    Args:
        config: with connections lowered to what the descriptors allow, and with names for files that can be opened.
        workers: how many take connections.
        listeners: bound and listening, in the order of the config.
        files: descriptors of copies that `config` names, for those who inherit them under the same numbers.
        kept: what these are copies of, which only root may read.
        closing: closes the listeners and lets go of the spool.
    """

    config: Config
    workers: int
    listeners: list[socket.socket]
    files: list[int]
    kept: list[named_files.Named]
    closing: ExitStack


def start(config: Config) -> Started:
    """Open what has to be opened, and become who we are to be. Blocks, for `spool.lock_wait_s` if need be.

    Raises:
        ConfigError: the config does not say whom to run as, or names a file that cannot be used.
        SpoolLockedError: another supervisor owns the spool.
        PostroikaError: it cannot start; the text says why.
    """
    os.umask(int(config.process.umask, 8))
    # Our children look for modules where we have found ours, not in the directory that they happen to be started in.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    confinement.leave_no_core()
    become = identity.to_assume(config.process)
    uid = os.geteuid() if become is None else become.uid
    with ExitStack() as closing:
        places.make(config, become)
        places.check_owners(config, uid)
        with identity.acting_as(become):
            closing.callback(os.close, _own(Path(config.server.spool), config.spool.lock_wait_s))
        listeners = [closing.enter_context(_listen(entry.address)) for entry in config.listener]
        contents = _read_files(config, uid)
        if become is not None:
            identity.assume(become)
            os.chdir("/")  # where root stood may be closed to us
        elif uid != 0:
            confinement.give_up_privileges()
        if config.process.user and uid != 0:
            confinement.hide_memory()
        places.check_reach(config)
        kept = [file for file in contents if not os.access(file.path, os.R_OK)]
        copies: dict[str, int] = {}
        for file in kept:
            if file.path not in copies:
                log.info("%s: %s is kept as it is now, for root alone may read it", file.key, file.path)
                copies[file.path] = fd = named_files.copy(file, contents[file])
                closing.callback(os.close, fd)
        config = named_files.renamed(config, {path: named_files.name_of_copy(fd) for path, fd in copies.items()})
        workers = config.server.workers or len(os.sched_getaffinity(0))
        config, fits = open_files.fit(config, workers)
        if fits.warning:
            log.warning("%s", fits.warning)
        if uid == 0:
            log.warning("everything runs as root, because process.user says so; do not let strangers connect")
        return Started(config, workers, listeners, list(copies.values()), kept, closing.pop_all())


def _own(spool: Path, wait_s: float) -> int:
    """Become the spool's one supervisor. Returns the lock."""
    try:
        return spool_files.lock(spool / ".supervisor.lock", wait_s)
    except PermissionError as error:
        ways = (path for path in reversed(spool.parents) if not os.access(path, os.X_OK, effective_ids=True))
        user = identity.user_name(os.geteuid())
        raise SpoolError(f"{spool} cannot be used: {next(ways, spool)} is closed to {user}") from error
    except OSError as error:
        raise SpoolError(f"{spool}: {error.strerror}") from error


def _listen(address: str) -> socket.socket:
    host, port = split_host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        hint = {
            errno.EADDRINUSE: "; another program listens there",
            errno.EACCES: "; ports below 1024 need root or CAP_NET_BIND_SERVICE",
            errno.EADDRNOTAVAIL: "; this machine has no such address",
        }.get(error.errno or 0, "")
        raise PostroikaError(f"cannot listen on {address}: {error.strerror}{hint}") from error
    return listener


def _read_files(config: Config, uid: int) -> dict[named_files.Named, bytes]:
    """What is in the files that the config names; those that are not there are told by who needs them."""
    contents: dict[named_files.Named, bytes] = {}
    problems = []
    for file in named_files.named(config):
        try:
            content = named_files.read(file, owners=(uid,))
        except ConfigError as error:
            problems.append(str(error))
        else:
            if content is not None:
                contents[file] = content
    if problems:
        raise ConfigError("\n".join(problems))
    return contents
