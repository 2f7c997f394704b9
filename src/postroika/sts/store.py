"""Policies on disk, in the directory `mta-sts` of the spool: for all workers, and for the time after a restart.

Promise: a policy is there whole or not at all; what cannot be read is none. Workers do not get into each other's way:
whoever fetches a policy puts its file in place by renaming, the last one counts, and each has its own part of all
domains to tidy.

How: a file for each domain, named after a hash of it, so that no name that a stranger chose is ever a path. The time of
the file says when the policy was last of use, to a day.

All of it waits for the disk: call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from postroika.sts.policy import LONGEST_MAX_AGE_S, Mode, StsPolicy

DIRECTORY = "mta-sts"

_SUFFIX = ".json"
_NEW = ".new"
_DAY_S = 86_400.0
_MOST_BYTES = 256 * 1024


class StoredPolicy(msgspec.Struct, frozen=True):
    """What a file says. New fields get a default.

    Args:
        mx: the patterns.
        fetched_at: epoch seconds.
    """

    domain: str
    id: str
    mode: Mode
    mx: tuple[str, ...]
    max_age_s: int
    fetched_at: float

    @classmethod
    def of(cls, policy: StsPolicy) -> StoredPolicy:
        """What to write of a policy."""
        fetched_at = policy.expires_at - policy.max_age_s
        return cls(policy.domain, policy.id, policy.mode, policy.patterns, policy.max_age_s, fetched_at)

    @property
    def policy(self) -> StsPolicy:
        """The policy."""
        expires_at = self.fetched_at + self.max_age_s
        return StsPolicy(self.domain, self.mode, self.mx, self.max_age_s, self.id, expires_at)


class Part(NamedTuple):
    """Which domains one worker tidies: those whose number, divided by `workers`, leaves `number`."""

    number: int
    workers: int


class Found(NamedTuple):
    """A policy that a worker has come by in its part.

    Args:
        name: of its file.
        used_at: epoch seconds, to a day.
    """

    name: str
    policy: StsPolicy
    used_at: float


class PolicyStore:
    """The directory.

    Args:
        directory: made when there is something to put into it.
        clock: epoch seconds.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._clock = clock

    def path(self, domain: str) -> Path:
        """Where the policy of a domain is, if there is one."""
        return self.directory / f"{_number(domain):032x}{_SUFFIX}"

    def load(self, domain: str) -> StsPolicy | None:
        """The policy of a domain; None if there is none that still holds."""
        policy = self._read(self.path(domain))
        return policy if policy is not None and policy.domain == domain and self._holds(policy) else None

    def save(self, policy: StsPolicy) -> None:
        """Keep a policy in place of what was there; nothing, if it does not hold any more.

        Raises:
            OSError: it could not be written; what was there is as it was.
        """
        path = self.path(policy.domain)
        if not self._holds(policy):
            path.unlink(missing_ok=True)
            return
        self.directory.mkdir(mode=0o700, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}{_NEW}")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(StoredPolicy.of(policy)))
                file.flush()
                os.fsync(file.fileno())
            self._use(new)
            new.rename(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def touch(self, domain: str) -> None:
        """Note that the policy of a domain is of use."""
        path = self.path(domain)
        with suppress(OSError):
            if path.stat().st_mtime < self._clock() - _DAY_S:
                self._use(path)

    def names(self, part: Part) -> list[str]:
        """The files of a part, to be given to `tidy` in pieces; what was begun and never came to its end is removed."""
        names = []
        with suppress(FileNotFoundError):
            for path in self.directory.iterdir():
                if path.name.endswith(_NEW):
                    self._remove_left(path)
                elif path.name.endswith(_SUFFIX) and _in_part(path.name, part):
                    names.append(path.name)
        return names

    def tidy(self, names: list[str]) -> list[Found]:
        """The policies in some files. Those that do not hold any more, or cannot be read, are removed."""
        found = []
        for name in names:
            path = self.directory / name
            with suppress(OSError):
                used_at = path.stat().st_mtime
                policy = self._read(path)
                if policy is None or not self._holds(policy):
                    path.unlink()
                else:
                    found.append(Found(name, policy, used_at))
        return found

    def remove(self, names: list[str]) -> None:
        """Remove some files."""
        for name in names:
            (self.directory / name).unlink(missing_ok=True)

    def _use(self, path: Path) -> None:
        now = self._clock()
        os.utime(path, (now, now))

    def _read(self, path: Path) -> StsPolicy | None:
        try:
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(_MOST_BYTES), type=StoredPolicy).policy
        except (OSError, msgspec.DecodeError):
            return None

    def _holds(self, policy: StsPolicy) -> bool:
        # A clock that was far ahead once does not make a policy hold for longer than any may.
        now = self._clock()
        return now < policy.expires_at <= now + LONGEST_MAX_AGE_S

    def _remove_left(self, path: Path) -> None:
        with suppress(OSError):
            if path.stat().st_mtime < self._clock() - _DAY_S:
                path.unlink()


def _number(domain: str) -> int:
    return int.from_bytes(hashlib.sha256(domain.encode()).digest()[:16], "big")


def _in_part(name: str, part: Part) -> bool:
    try:
        return int(name.removesuffix(_SUFFIX), 16) % part.workers == part.number
    except ValueError:
        return False
