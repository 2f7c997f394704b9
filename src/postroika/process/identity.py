"""Who the processes run as: from root to the configured user, and not back.

Promise: after `assume` all threads of the process are the user and its one group, in every kind of id there is, without
further groups or capabilities; that was looked at and not only asked for, and an attempt to be root again has failed.

Source: setresuid(2), setgroups(2), credentials(7), and Chen, Wagner, Dean: Setuid Demystified (2002), for the order
(groups, group, user: each needs the rights that the next one gives up) and for the looking.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from postroika.config import Process
from postroika.errors import ConfigError, PostroikaError
from postroika.process import confinement

_THREADS = Path("/proc/self/task")
_ROOT_WITHOUT_USER = (
    'process.user: root has started the server, and the config names nobody to run as: write user = "postroika" below '
    "[process] (`useradd --system --user-group --shell /usr/sbin/nologin postroika` makes that user), or "
    'user = "root" to try things out as root'
)


class Identity(NamedTuple):
    """A user and a group, by number and name."""

    uid: int
    gid: int
    user: str
    group: str
    home: str = "/"


def look_up(process: Process) -> Identity | None:
    """The user and group of [process]; None if it names no user.

    Raises:
        ConfigError: the system does not know them.
    """
    if not process.user:
        return None
    try:
        entry = pwd.getpwuid(int(process.user)) if process.user.isdecimal() else pwd.getpwnam(process.user)
    except (KeyError, OverflowError):
        entry = None
    if entry is None and not process.user.isdecimal():
        raise ConfigError(f"process.user: there is no user {process.user!r}")
    if process.group:
        gid = _group_id(process.group)
    elif entry is not None:
        gid = entry.pw_gid
    else:
        raise ConfigError(f"process.group: user {process.user} has no entry that says its group, so it must be given")
    uid = int(process.user) if entry is None else entry.pw_uid
    if (gid == 0) != (uid == 0):
        raise ConfigError("process.group: root's group is for root, and no other is")
    return Identity(uid, gid, user_name(uid), group_name(gid), "/" if entry is None else entry.pw_dir or "/")


def _group_id(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"process.group: there is no group {name!r}") from None


def user_name(uid: int) -> str:
    """Its name for people; the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def group_name(gid: int) -> str:
    """Its name for people; the number if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def to_assume(process: Process) -> Identity | None:
    """Whom this process has to become before it serves; None: it is already who it is to be.

    Raises:
        ConfigError: it must not run as who it is, or cannot become another.
    """
    wanted = look_up(process)
    now = os.geteuid()
    if wanted is None:
        if 0 in os.getresuid():
            raise ConfigError(_ROOT_WITHOUT_USER)
        return None
    if now == 0:
        return wanted if wanted.uid else None
    if wanted.uid != now or (process.group and wanted.gid != os.getegid()):
        raise ConfigError(
            f"process.user: {user_name(now)} has started the server and cannot become {wanted.user}:{wanted.group}; "
            "start it as root, or as that user"
        )
    if 0 in os.getresuid():
        raise ConfigError("process.user: started by a program that left a way back to root (a saved user id)")
    return None


def refuse_root(process: Process) -> None:
    """For a worker, before it does anything.

    Raises:
        ConfigError: it runs as root or could, and the config does not name root.
    """
    if 0 in os.getresuid() or 0 in os.getresgid():
        wanted = look_up(process)
        if wanted is None or wanted.uid != 0:
            raise ConfigError("a worker was started as root, which the config does not say; it does not run")


@contextlib.contextmanager
def acting_as(identity: Identity | None) -> Iterator[None]:
    """Let root act as `identity` for a while: what that user may not do fails, and what is made is its own.

    It is no protection from code that runs inside: root is kept. None: nothing changes.
    """
    if identity is None:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(identity.gid)
    os.seteuid(identity.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def assume(identity: Identity) -> None:
    """Become `identity` for good. Called by root, best before there are threads.

    Raises:
        PostroikaError: it did not come about; the process must end.
    """
    try:
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        confinement.give_up_privileges()  # the kernel has done so by itself, unless somebody has told it not to
    except OSError as error:
        raise PostroikaError(f"cannot become {identity.user}:{identity.group}: {error.strerror}") from error
    if left := _left_of_root(identity):
        raise PostroikaError(f"cannot become {identity.user}:{identity.group} for good: {left}")
    os.environ.update(HOME=identity.home, USER=identity.user, LOGNAME=identity.user)


def _left_of_root(identity: Identity) -> str:
    """What is still there of another identity; "" if nothing is."""
    uid, gid = identity.uid, identity.gid
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or os.getgroups():
        return f"user ids {os.getresuid()}, group ids {os.getresgid()}, further groups {os.getgroups()}"
    attempts: tuple[Callable[[], None], ...] = (
        lambda: os.setresuid(-1, 0, -1),
        lambda: os.setresgid(-1, 0, -1),
        lambda: os.setgroups([0]),
    )
    for regain in attempts:
        with contextlib.suppress(PermissionError):
            regain()
            return "root can be had back"
    expected = {"Uid": [str(uid)] * 4, "Gid": [str(gid)] * 4, "Groups": [], "CapPrm": ["0" * 16], "CapEff": ["0" * 16]}
    for thread in _THREADS.iterdir() if _THREADS.is_dir() else ():
        facts = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines() if ":" in line)
        for fact, value in expected.items():
            if facts[fact].split() != value:
                return f"thread {thread.name} has {fact}: {facts[fact].strip()}"
    return ""
