"""Files that hold keys and credentials: which keys of the config name them, and how they are read.

Promise: a file that others on this machine may read or change is refused, for what is in it is no secret. What the
supervisor could read before it gave up its rights, its workers have as well, however often they are started: it hands
them the contents (`KeptFiles`). A file that can still be read is read anew each time, so that it can be replaced while
the server runs; one that only root may read is as it was at the start.

A key of the config that names such a file has the type `SecretFile`.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from postroika.errors import ConfigError

_MARK = "secret_file"
_MAX_BYTES = 1024 * 1024  # keys have some KB, a large file of accounts some hundred
_OF_OTHERS = stat.S_IRWXO | stat.S_IWGRP  # a group may read (ssl-cert of Debian), but not change

SecretFile = Annotated[str, Meta(extra={_MARK: True})]
"""The type of a key that names a file of secrets; "" names none."""


def paths(config: msgspec.Struct) -> Iterator[tuple[str, str]]:
    """Each key of `config` that names a file of secrets, and the path, in the order of the file."""
    for field in msgspec.structs.fields(type(config)):
        value = getattr(config, field.name)
        if isinstance(value, msgspec.Struct):
            yield from ((f"{field.name}.{key}", path) for key, path in paths(value))
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if isinstance(item, msgspec.Struct):
                    yield from ((f"{field.name}[{i}].{key}", path) for key, path in paths(item))
        elif value and _is_marked(field.type):
            yield field.name, value


def _is_marked(kind: Any) -> bool:
    notes = getattr(kind, "__metadata__", ())
    return any(isinstance(note, Meta) and (note.extra or {}).get(_MARK, False) for note in notes)


def read(path: str, *, owners: Collection[int] = ()) -> bytes:
    """The contents of a file of secrets.

    Args:
        path: absolute; links are followed.
        owners: user ids that may own it, beside root and who we are.

    Raises:
        ConfigError: it cannot be read, or it is no secret; the text names it and the mend.
    """
    try:
        # Without waiting: a named pipe would stop us here for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if problem := exposure(status, owners):
            raise ConfigError(f"{path}: {problem}")
        if status.st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: {status.st_size} bytes are too many for keys or credentials")
        with open(fd, "rb", closefd=False) as file:
            return file.read(_MAX_BYTES)
    finally:
        os.close(fd)


def exposure(status: os.stat_result, owners: Collection[int] = ()) -> str:
    """Why what is in such a file is no secret, and what to do about it; "" if all is well."""
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if status.st_uid not in {0, os.geteuid(), *owners}:
        return f"belongs to {_name(status.st_uid)}, who could put another in its place: chown it to root"
    if mode & stat.S_IROTH:
        return f"everybody may read it (mode {mode:04o}): chmod o-rwx, and see who has"
    if mode & _OF_OTHERS:
        return f"others may change it (mode {mode:04o}): chmod g-w,o-rwx"
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


class KeptFiles:
    """Reads files of secrets for a worker.

    Args:
        kept: contents by path, as the supervisor had them when it started.
    """

    def __init__(self, kept: Mapping[str, bytes] = {}) -> None:
        self._kept = kept

    def read(self, path: str) -> bytes:
        """The contents now; those of the start if only root may read the file.

        Raises:
            ConfigError: as for `read`.
        """
        try:
            return read(path)
        except ConfigError as error:
            if isinstance(error.__cause__, PermissionError) and path in self._kept:
                return self._kept[path]
            raise

    @contextmanager
    def file(self, path: str) -> Iterator[str]:
        """A name under which a library that opens files itself finds the contents, as long as the context lasts.

        Raises:
            ConfigError: as for `read`.
        """
        contents = self.read(path)
        fd = os.memfd_create("postroika-secret", os.MFD_CLOEXEC)
        with open(fd, "wb") as memory:
            memory.write(contents)
            memory.flush()
            yield f"/proc/self/fd/{fd}"
