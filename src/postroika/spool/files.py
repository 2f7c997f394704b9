"""The files of a shard: where they are, who owns them, how they are made and opened.

Promise: a shard that exists is opened as it is or refused with the reason, never made anew; one process owns it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path

import lmdb

from postroika.errors import SpoolError, SpoolFormatError, SpoolFullError, SpoolIOError, SpoolLockedError
from postroika.spool.schema import MAGIC, SCHEMA, Format, Table, encode

_TABLES_BYTES = 1 << 20  # pages of the trees that one transaction rewrites, generously


def shard_path(spool: Path, shard: int) -> Path:
    """Where shard `shard` lives."""
    return spool / f"shard-{shard:02d}"


def existing_shards(spool: Path) -> list[int]:
    """Numbers of the shards that are there, in order."""
    found = []
    for path in spool.glob("shard-*"):
        suffix = path.name.removeprefix("shard-")
        if suffix.isdigit():
            found.append(int(suffix))
    return sorted(found)


def lock(path: Path, wait_s: float) -> int:
    """Take the owner's lock. It is held by an open file, so the kernel frees it when the process ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise SpoolLockedError(f"{path.parent}: another Postroika is running on this spool") from None
            time.sleep(0.05)  # before the loop runs: nothing else could
        else:
            return fd


def create(path: Path, shard: int, max_bytes: int) -> None:
    """Make a shard beside its place and move it there whole, so that a half-made one is never met."""
    fresh = path.with_name(path.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    try:
        env = lmdb.open(str(fresh), map_size=max_bytes, max_dbs=len(Table), mode=0o600)
        dbs = [env.open_db(table.name.lower().encode()) for table in Table]
        with env.begin(write=True) as txn:
            form = Format(MAGIC, SCHEMA, shard, time.time())
            txn.put(b"format", encode(form), db=dbs[Table.META])
        env.close()
    except lmdb.Error as error:
        raise translated(error) from error
    fresh.rename(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def open_env(path: Path, max_bytes: int, *, writable: bool) -> lmdb.Environment:
    data_file = path / "data.mdb"
    try:
        size = data_file.stat().st_size
    except OSError as error:
        raise SpoolFormatError(f"{data_file}: {error.strerror}; it was not made anew") from error
    if size < 2 * 4096:
        raise SpoolFormatError(f"{data_file} is too short to be a spool ({size} bytes); it was left as it is")
    try:
        env = lmdb.open(
            str(path),
            map_size=max(max_bytes, size),
            max_dbs=len(Table),
            create=False,
            readonly=not writable,
            sync=True,
            metasync=True,
            writemap=False,
            mode=0o600,
            # The backlog is read in order of due time, which is random order on disk.
            readahead=False,
            max_spare_txns=2,
        )
    except lmdb.Error as error:
        raise SpoolFormatError(f"{data_file} cannot be opened: {error}; it was left as it is") from error
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < needed and data_file.stat().st_size < needed:
        env.close()
        # Touching a page past the end would kill us with SIGBUS.
        raise SpoolFormatError(f"{data_file} is cut short: {size} bytes of {needed}; it was left as it is")
    return env


def is_full(path: Path, wanted_bytes: int) -> bool:
    """Whether the disk has no room for `wanted_bytes` and what the tables need beside it, found out by writing.

    LMDB calls a write that came out short, because the disk was full in the middle of it, by the same name (EIO) as a
    disk that fails; and the amount of free space does not tell about quotas. Only the latter failure ends the process.
    """
    probe = path / "probe"
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            left = wanted_bytes + _TABLES_BYTES
            while left > 0:
                left -= os.write(fd, bytes(min(left, 1 << 20)))
            os.fsync(fd)
        finally:
            os.close(fd)
            probe.unlink()
    except OSError as error:
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return False


def translated(error: lmdb.Error) -> SpoolError:
    """LMDB's error as one of ours."""
    if isinstance(error, lmdb.MapFullError):
        return SpoolFullError("the spool has reached spool.max_bytes")
    if isinstance(error, lmdb.DiskError) or os.strerror(errno.ENOSPC) in str(error):
        return SpoolFullError("the disk of the spool is full")
    if os.strerror(errno.EDQUOT) in str(error):
        return SpoolFullError("the disk quota of the spool is used up")
    if isinstance(error, lmdb.PanicError):
        # A page that names others could not be written: LMDB takes nothing more until it is opened anew.
        return SpoolIOError(f"the spool can only be used again after a restart: {error}")
    if os.strerror(errno.EIO) in str(error):
        return SpoolIOError(f"the disk of the spool failed: {error}")
    return SpoolError(f"the spool refused a transaction: {error}")
