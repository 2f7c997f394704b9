"""The directories and files that the server needs on its machine: made where they are missing, refused where they are
somebody else's.

Promise: what is made for the user is made by the user, or by root in a directory that root alone can change, so that no
link set by anyone leads root astray. Nothing that is there is given to another owner. The spool is closed to others.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import postroika
from postroika.config import Config
from postroika.errors import PostroikaError
from postroika.process.identity import Identity, acting_as, user_name

log = logging.getLogger(__name__)

_PRIVATE = 0o700


def make(config: Config, identity: Identity | None) -> None:
    """Make the directories of the spool, of the control socket and of the event log if they are missing.

    Args:
        identity: whose they are to be, where root makes them; None: those of who we are.

    Raises:
        PostroikaError: they cannot be made; the text names the directory that is in the way.
    """
    # Outer ones first: with the paths of the default config the control socket's directory has the others in it.
    wanted = {Path(config.server.control).parent, Path(config.server.spool)}
    if config.log.events:
        wanted.add(Path(config.log.events).parent)
    for directory in sorted(wanted, key=lambda path: len(path.parts)):
        missing = list(_missing(directory))
        if not missing:
            continue
        try:
            with acting_as(identity):
                _make_all(missing, None)
        except PermissionError as error:
            there = missing[0].parent
            user = identity.user if identity else user_name(os.geteuid())
            problem = f"{directory} cannot be made: {there} is not open to {user}"
            if identity is None:
                raise PostroikaError(problem) from error
            if foreign := _not_roots_alone(there):
                raise PostroikaError(f"{problem}, and others may change {foreign}: root makes nothing there") from error
            _make_all(missing, identity)
        except OSError as error:
            raise PostroikaError(f"{directory} cannot be made: {error.strerror}") from error


def _missing(directory: Path) -> Iterator[Path]:
    """The directories on the way to `directory` that are not there, from the outermost."""
    if not os.path.lexists(directory):
        yield from _missing(directory.parent)
        yield directory


def _not_roots_alone(directory: Path) -> Path | None:
    """The outermost part of the way to `directory`, links included, that somebody other than root may change. (In a
    sticky directory, as /tmp, that is what is in it, which is looked at by itself.)"""
    really = directory.resolve()
    for path in sorted({directory, *directory.parents, really, *really.parents}, key=lambda path: len(path.parts)):
        status = path.lstat()
        open_to_others = stat.S_ISDIR(status.st_mode) and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if status.st_uid != 0 or open_to_others:
            return path
    return None


def _make_all(missing: list[Path], identity: Identity | None) -> None:
    """Make them, the last one for `identity`; the others are root's, and everyone may pass."""
    for directory in missing:
        directory.mkdir(mode=_PRIVATE, exist_ok=True)
    if identity is not None:
        for directory in missing[:-1]:
            directory.chmod(0o755)
        os.chown(missing[-1], identity.uid, identity.gid, follow_symlinks=False)


def check_owners(config: Config, uid: int) -> None:
    """See that what is there is the user's, and close the spool to others.

    Raises:
        PostroikaError: something is somebody else's; the text names the mend.
    """
    spool = Path(config.server.spool)
    try:
        for path in _of_spool(spool):
            _is_of(path, path.stat() if path == spool else path.lstat(), uid, f"chown -R {user_name(uid)}: {spool}")
        mode = stat.S_IMODE(spool.stat().st_mode)
        if mode != _PRIVATE:
            spool.chmod(_PRIVATE)
            log.info("%s had the mode %04o and is private now", spool, mode)
        control = Path(config.server.control)
        if control.is_socket():
            _is_of(control, control.lstat(), uid, "stop the server that listens there, or remove it")
        if config.log.events:
            events = Path(config.log.events)
            for path in (events, events.with_name(events.name + ".lock")):
                if path.is_file():
                    _is_of(path, path.stat(), uid, f"chown {user_name(uid)}: {path}")
            if events.is_file() and events.stat().st_mode & stat.S_IRWXO:
                log.warning("%s holds addresses, and everybody may read it: chmod o-rwx", events)
    except OSError as error:
        raise PostroikaError(f"{error.filename or spool}: {error.strerror}") from error


def _of_spool(spool: Path) -> Iterator[Path]:
    """The spool, its locks, its shards and their files, and where policies of domains and counts of TLS are kept."""
    yield spool
    for path in sorted(spool.iterdir()):
        if path.name.endswith(".lock") or path.name in {"mta-sts", "tlsrpt"}:
            yield path
        elif path.name.startswith("shard-"):
            yield path
            if stat.S_ISDIR(path.lstat().st_mode):
                yield from sorted(path.iterdir())


def _is_of(path: Path, status: os.stat_result, uid: int, mend: str) -> None:
    if status.st_uid != uid:
        raise PostroikaError(
            f"{path} belongs to {user_name(status.st_uid)}, and the server runs as {user_name(uid)}: {mend}"
        )


def check_reach(config: Config) -> None:
    """As the user that we now are: see that the directories can be used, and that workers can be started.

    Raises:
        PostroikaError: something is out of reach.
    """
    user = user_name(os.geteuid())
    for directory in (Path(config.server.spool), Path(config.server.control).parent):
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            owner = user_name(directory.stat().st_uid) if directory.exists() else "nobody"
            raise PostroikaError(f"{directory} is not open to {user}; it belongs to {owner}")
    program = Path(postroika.__file__)
    for path, how in ((Path(sys.executable), os.X_OK), (program, os.R_OK)):
        if not os.access(path, how):
            raise PostroikaError(
                f"{user} cannot use {path}, from which the workers are started: install Postroika where everybody may "
                "read it, as in /opt"
            )
    if config.log.events:
        events = Path(config.log.events)
        if not os.access(events.parent, os.W_OK | os.X_OK):
            log.warning("%s may not write in %s: events wait in the spool until it may", user, events.parent)
