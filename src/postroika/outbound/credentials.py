"""Files with the passwords that we log in with at smarthosts.

Promise: a file that others may read is refused, with words that do not tell what is in it. A file that was changed
counts from the next connection on; if the new one cannot be used, the old one goes on to count, and the log says so.
"""

from __future__ import annotations

import logging
import os
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from postroika.errors import PostroikaError
from postroika.smtp.client_auth import Credentials

log = logging.getLogger(__name__)

_MAX_BYTES = 65_536


class _Seen(NamedTuple):
    """How to tell whether a file has changed."""

    inode: int
    size: int
    changed_ns: int


class _Kept(NamedTuple):
    seen: _Seen
    credentials: Credentials


class CredentialFiles:
    """The credentials of all routes.

    Args:
        files: their names.

    Raises:
        PostroikaError: one of them cannot be used.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._kept = {file: _Kept(*read(file)) for file in dict.fromkeys(files)}

    def get(self, file: str) -> Credentials:
        """What is in the file now, as far as it can be used."""
        kept = self._kept[file]
        try:
            if _seen(Path(file).stat()) != kept.seen:
                kept = self._kept[file] = _Kept(*read(file))
        except (OSError, PostroikaError) as error:
            log.warning("%s: the credentials that were read before go on to be used: %s", file, error)
        return kept.credentials


def read(file: str) -> tuple[_Seen, Credentials]:
    """A file with `user` and `password`, and what tells whether it has changed.

    Raises:
        PostroikaError: it is not there, not such a file, or not for its owner alone.
    """
    try:
        with Path(file).open("rb") as opened:
            status = os.fstat(opened.fileno())  # The mode that counts is that of what was opened.
            if not stat.S_ISREG(status.st_mode):
                raise PostroikaError(f"{file}: not a file")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise PostroikaError(f"{file}: others than its owner may read it; mend it with: chmod 600 {file}")
            content = opened.read(_MAX_BYTES)
    except OSError as error:
        raise PostroikaError(f"{file}: cannot read it: {error.strerror}") from None
    try:
        table = tomllib.loads(content.decode())
    except ValueError:  # Its words would have a piece of the file in them.
        raise PostroikaError(f'{file}: not TOML; write user = "…" and password = "…"') from None
    user, password = table.get("user"), table.get("password")
    if not isinstance(user, str) or not isinstance(password, str) or len(table) != 2:
        raise PostroikaError(f"{file}: needs `user` and `password`, both text, and nothing else")
    try:
        return _seen(status), Credentials(user, password)
    except ValueError as error:
        raise PostroikaError(f"{file}: {error}") from None


def _seen(status: os.stat_result) -> _Seen:
    return _Seen(status.st_ino, status.st_size, status.st_mtime_ns)
