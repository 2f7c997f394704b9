"""Files that the config names and that root may have to read for the user: keys, credentials, certificates.

Promise: a file of secrets that others on this machine may read or change is refused, for what is in it is no secret.
What root could read before it became the user, the user's processes find as well (see `supervisor.startup`): in a
copy in memory, under another name that `renamed` puts into the config, so that nobody who opens such a file has to know
of it; `told` has the name for people.

A key of the config that names such a file has the type `SecretFile`, or `PublicFile` if everybody may read it, or
`CertificateFile` where a private key may stand in the same file.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from postroika.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

_MARK = "file"
_MAX_BYTES = 16 * 1024 * 1024  # keys have some KB, a file of many accounts some MB
_COPIES = "/proc/self/fd/"
_MAX_NAME_BYTES = 249  # memfd_create(2)
_OF_OTHERS = stat.S_IRWXO | stat.S_IWGRP  # a group may read (ssl-cert of Debian), but not change

SecretFile = Annotated[str, Meta(extra={_MARK: "secret"})]
"""The type of a key that names a file of secrets; "" names none."""
PublicFile = Annotated[str, Meta(extra={_MARK: "public"})]
"""The type of a key that names a file which may stand where only root can go, as certificates do; "" names none."""
CertificateFile = Annotated[str, Meta(extra={_MARK: "certificate"})]
"""The same, for one that has the private key in it as well, unless `key` of the same table names a file."""


class Named(NamedTuple):
    """A file that the config names.

    Args:
        key: of the config, as errors name it.
        path: absolute.
        secret: whether others must not read it.
    """

    key: str
    path: str
    secret: bool


def named(config: msgspec.Struct) -> Iterator[Named]:
    """Each file that `config` names, in the order of the keys."""
    for field in msgspec.structs.fields(type(config)):
        value = getattr(config, field.name)
        if isinstance(value, msgspec.Struct):
            yield from (file._replace(key=f"{field.name}.{file.key}") for file in named(value))
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if isinstance(item, msgspec.Struct):
                    yield from (file._replace(key=f"{field.name}[{i}].{file.key}") for file in named(item))
        elif value and (mark := _mark(field.type)):
            secret = mark == "secret" or (mark == "certificate" and not getattr(config, "key", ""))
            yield Named(field.name, value, secret)


def renamed(config: S, names: Mapping[str, str]) -> S:
    """The same config with other names for the files that are keys of `names`."""
    changed: dict[str, Any] = {}
    for field in msgspec.structs.fields(type(config)):
        value = getattr(config, field.name)
        if isinstance(value, msgspec.Struct):
            changed[field.name] = renamed(value, names)
        elif isinstance(value, tuple):
            changed[field.name] = tuple(
                renamed(item, names) if isinstance(item, msgspec.Struct) else item for item in value
            )
        elif _mark(field.type):
            changed[field.name] = names.get(value, value)
    return msgspec.structs.replace(config, **changed)


def _mark(kind: Any) -> str:
    notes = [note.extra or {} for note in getattr(kind, "__metadata__", ()) if isinstance(note, Meta)]
    return next((note[_MARK] for note in notes if _MARK in note), "")


def read(file: Named, *, owners: Collection[int] = ()) -> bytes | None:
    """What is in it; None if it cannot be opened, which is told by who needs it.

    Args:
        owners: user ids that a file of secrets may belong to, beside root and who we are.

    Raises:
        ConfigError: it is no secret and ought to be, or is not what keys are kept in; the text names the mend.
    """
    try:
        # Without waiting: a named pipe would stop us here for ever.
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{file.key}: {file.path} is not a file")
        if file.secret and (problem := exposure(status, owners)):
            raise ConfigError(f"{file.key}: {file.path} {problem}")
        if status.st_size > _MAX_BYTES:
            raise ConfigError(f"{file.key}: {file.path} has {status.st_size} bytes, too many for what it is for")
        with open(fd, "rb", closefd=False) as opened:
            return opened.read(_MAX_BYTES)
    finally:
        os.close(fd)


def copy(file: Named, content: bytes) -> int:
    """A copy in memory. Called as the user, to whom it then belongs, or it could not be opened again.

    Returns:
        Its descriptor, for `name_of_copy`; the caller closes it.
    """
    fd = os.memfd_create(os.fsdecode(os.fsencode(file.path)[-_MAX_NAME_BYTES:]), os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as opened:
        opened.write(content)
    os.fchmod(fd, 0o400)
    return fd


def name_of_copy(fd: int) -> str:
    """Under which the copy is opened by who has the descriptor under this number."""
    return f"{_COPIES}{fd}"


def is_copy(path: str) -> bool:
    """Whether that is a name of a copy: it never changes."""
    return path.startswith(_COPIES)


def told(path: str) -> str:
    """The name for people: of a copy, that of the file that it was made of."""
    if not is_copy(path):
        return path
    try:
        name = str(Path(path).readlink())
    except OSError:
        return path
    return name.removeprefix("/memfd:").removesuffix(" (deleted)")


def exposure(status: os.stat_result, owners: Collection[int] = ()) -> str:
    """Why what is in such a file is no secret, and what to do about it; "" if all is well."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in {0, os.geteuid(), *owners}:
        return f"belongs to {_name(status.st_uid)}, who could put another in its place: chown it to root"
    if mode & stat.S_IROTH:
        return f"may be read by everybody (mode {mode:04o}): chmod o-rwx, and see who has"
    if mode & _OF_OTHERS:
        return f"may be changed by others (mode {mode:04o}): chmod g-w,o-rwx"
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
