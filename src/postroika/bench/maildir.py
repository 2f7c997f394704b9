"""Keeps messages as the files of a Maildir, with their envelope.

Promise: a file in `new/` is a whole message. Its first lines are `Return-Path:` and one `Delivered-To:` for each
recipient; after them the content stands octet for octet, and its size is in the name, so that `read` can tell the two
apart. Files are not synced. All calls block as long as the file system does.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from postroika.errors import PostroikaError

_CONTENT_BYTES = re.compile(r",C=(\d+)$")


class Stored(msgspec.Struct, frozen=True):
    """One message as it was kept."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes


class StoredFile:
    """A message that is being written; made by `Maildir.begin`."""

    def __init__(self, directory: Path, name: str, envelope: bytes) -> None:
        self._directory = directory
        self._name = name
        self._content_bytes = 0
        self._path = directory / "tmp" / name
        self._file = self._path.open("xb")
        self._file.write(envelope)

    def write(self, piece: bytes) -> None:
        """More content."""
        self._file.write(piece)
        self._content_bytes += len(piece)

    def finish(self) -> None:
        """Let it appear."""
        self._file.close()
        self._path.rename(self._directory / "new" / f"{self._name},C={self._content_bytes}")

    def abandon(self) -> None:
        """Leave no trace, whatever state it is in."""
        try:
            self._file.close()
        except OSError:
            pass  # what could not be flushed is not wanted
        finally:
            self._path.unlink(missing_ok=True)


class Maildir:
    """A directory of messages.

    Args:
        path: made if it is not there.

    Raises:
        PostroikaError: it cannot be made.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._number = itertools.count()
        try:
            for part in ("tmp", "new", "cur"):
                (self.path / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PostroikaError(f"cannot store messages in {path}: {error}") from None

    def begin(self, reverse_path: str, recipients: Sequence[str]) -> StoredFile:
        """Start a file.

        Raises:
            OSError: there is no room.
        """
        name = f"{time.time_ns()}.{os.getpid()}_{next(self._number)}.sink"
        lines = [f"Return-Path: <{reverse_path}>", *(f"Delivered-To: {recipient}" for recipient in recipients), ""]
        return StoredFile(self.path, name, "\r\n".join(lines).encode())


def read(path: Path | str) -> Iterator[Stored]:
    """All whole messages of the Maildir at `path`, in the order in which they were begun."""
    files = [file for part in ("new", "cur") for file in (Path(path) / part).iterdir()]
    for file in sorted(files, key=lambda file: file.name):
        size = _CONTENT_BYTES.search(file.name)
        if size is None:
            raise PostroikaError(f"{file} was not written by the sink")
        whole = file.read_bytes()
        start = len(whole) - int(size[1])
        first, *others = whole[:start].decode().splitlines()
        yield Stored(
            reverse_path=first.removeprefix("Return-Path: <").removesuffix(">"),
            recipients=tuple(line.removeprefix("Delivered-To: ") for line in others),
            content=whole[start:],
        )
