"""The file of accounts: TOML with [[account]] tables as in the config, and a seed.

Promise: it is read only if nobody but its owner can read or write it; whoever reads it while it is being changed gets
the old or the new one, whole; two who change it at once do not lose each other's changes. What it holds (hashes, keys)
is in no error text.

How: a change is written to a new file, synced, and renamed over the old one, under a lock on a file beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from postroika.config import Account, Secret, account_problems
from postroika.config.check import conversion_problem, unknown_keys
from postroika.config.secret import secret_from
from postroika.config.text import toml_value
from postroika.errors import ConfigError

MODE = 0o600
_SEED_BYTES = 32
_HEAD = "# Written by `postroika account`; comments are not kept. For the keys see [[account]] in docs/config.md.\n"


class AccountFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says.

    Args:
        seed: base64; what SCRAM tells of names that no account has is made from it, and so is always the same.
    """

    seed: str = ""
    account: tuple[Account, ...] = ()

    @property
    def seed_bytes(self) -> bytes:
        """The seed; b"" where there is none."""
        return b64decode(self.seed)

    def text(self) -> str:
        """As TOML; keys that have their default are left out."""
        blocks = [f"{_HEAD}seed = {toml_value(self.seed)}\n"]
        for account in self.account:
            given = {
                field.name: value.reveal() if isinstance(value, Secret) else value
                for field in msgspec.structs.fields(Account)
                if (value := getattr(account, field.name)) != field.default
            }
            blocks.append("[[account]]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in given.items()))
        return "\n".join(blocks)


def read(path: Path) -> AccountFile:
    """The accounts in the file; none if there is no such file.

    Raises:
        ConfigError: it cannot be read, others than its owner may read or write it, or it makes no sense: one line a
            problem.
    """
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o077:
                raise ConfigError(f"{path}: has to be a file of mode 0600, for it holds hashes of passwords")
            text = file.read().decode()
    except FileNotFoundError:
        return AccountFile()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    return parse(text, path)


def parse(text: str, path: Path) -> AccountFile:
    """What `read` makes of the text of a file.

    Raises:
        ConfigError: it makes no sense: one line a problem.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    if unknown := list(_unknown_keys(raw)):
        raise ConfigError("\n".join(f"{path}: {key}: {problem}" for key, problem in unknown))
    try:
        found = msgspec.convert(raw, AccountFile, dec_hook=secret_from)
    except msgspec.ValidationError as problem:
        key, text = conversion_problem(problem)
        raise ConfigError(f"{path}: {key}: {text}" if key else f"{path}: {text}") from None
    problems = list(account_problems(found.account))
    try:
        b64decode(found.seed, validate=True)
    except ValueError:
        problems.append(("seed", "is not base64"))
    if problems:
        raise ConfigError("\n".join(f"{path}: {key}: {text}" for key, text in problems))
    return found


def _unknown_keys(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in raw:
        if key not in AccountFile.__struct_fields__:
            yield key, f"unknown key; known here: {', '.join(AccountFile.__struct_fields__)}"
    yield from unknown_keys({"account": raw.get("account", [])})


@contextlib.contextmanager
def locked(path: Path, owner: tuple[int, int] | None = None) -> Iterator[None]:
    """Nobody else changes the file meanwhile. When root does, the lock goes to whoever owns the file, to be of use to
    both; whoever may write to the directory cannot have it given another file.

    Args:
        owner: as for `write`.

    Raises:
        ConfigError: its directory is not there, or may not be written to, or something else stands in its place.
    """
    lock = path.with_name(f"{path.name}.lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(lock, flags, MODE)
    except OSError as error:
        raise ConfigError(f"{lock}: cannot open it: {error.strerror}") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            raise ConfigError(f"{lock}: is no file of its own")
        if os.geteuid() == 0:
            try:
                os.fchown(descriptor, *_owner(path, owner))
            except OSError as error:
                raise ConfigError(f"{lock}: cannot change its owner: {error.strerror}") from None
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(path: Path, content: AccountFile, owner: tuple[int, int] | None = None) -> None:
    """Put the file in its place, with a seed if it has none. To be called while it is `locked`. Its owner stays when
    root changes it.

    Args:
        owner: user and group id of a new one that root makes, for the server has to read it; None: those of its
            directory.

    Raises:
        ConfigError: it could not be written, or could not be read again; the old one is as it was.
    """
    if not content.seed:
        content = msgspec.structs.replace(content, seed=b64encode(secrets.token_bytes(_SEED_BYTES)).decode())
    text = content.text()
    parse(text, path)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        owner = _owner(path, owner)
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if os.geteuid() == 0:
                    os.fchown(descriptor, *owner)
                file.write(text.encode())
                file.flush()
                os.fsync(descriptor)
            new.rename(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"{path}: cannot write it: {error.strerror}") from None


def _owner(path: Path, of_new: tuple[int, int] | None) -> tuple[int, int]:
    """User and group id of the file if there is one, else those that a new one is to have."""
    if of_new is not None and not path.exists():
        return of_new
    status = (path if path.exists() else path.parent).stat()
    return status.st_uid, status.st_gid
