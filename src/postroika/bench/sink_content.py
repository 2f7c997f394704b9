"""The content of one message on its way into the sink: its header is read, its body is summed up, all of it is stored.

Promise: no more of a message is held than its header, and of that no more than 256 KB.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

from postroika.bench.maildir import Maildir, StoredFile
from postroika.bench.messages import Mark, parse_mark

_HEAD_BYTES = 256 * 1024


def identity_field(name: str) -> re.Pattern[bytes]:
    """Finds the value of a header field; fold and all."""
    return re.compile(rb"(?im)^%b:[ \t]*([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)" % re.escape(name.encode()))


class Content:
    """One message after the other.

    Args:
        maildir: where to keep them.
        field: tells messages apart (see `identity_field`); without it the marks of the load generator do.

    Attributes:
        mark, checksum, identity: what is known once the message is whole.
    """

    __slots__ = ("_failed", "_field", "_file", "_head", "_in_head", "_maildir", "checksum", "identity", "mark")

    def __init__(self, maildir: Maildir | None, field: re.Pattern[bytes] | None) -> None:
        self._maildir = maildir
        self._field = field
        self._file: StoredFile | None = None
        self._failed = False
        self._begin()

    def _begin(self) -> None:
        self._head = bytearray()
        self._in_head = True
        self.mark: Mark | None = None
        self.checksum = 0
        self.identity: bytes | None = None

    def begin(self, reverse_path: str, recipients: Sequence[str]) -> bool:
        """Make room for a message. False: there is none."""
        if self._maildir is not None:
            try:
                self._file = self._maildir.begin(reverse_path, recipients)
            except OSError:
                return False
        return True

    def take(self, piece: bytes) -> None:
        """More of it."""
        if self._in_head:
            self._take_head(piece)
        elif self.mark is not None:
            self.checksum = zlib.crc32(piece, self.checksum)
        if self._file is not None and not self._failed:
            try:
                self._file.write(piece)
            except OSError:
                self._failed = True

    def finish(self) -> bool:
        """It is whole. False: it could not be stored."""
        if self._in_head:
            self._read(self._head)
        if self._file is not None and not self._failed:
            try:
                self._file.finish()
                self._file = None
            except OSError:
                self._failed = True
        return not self._failed

    def forget(self) -> None:
        """The transaction is over, one way or the other."""
        if self._file is not None:
            self._file.abandon()
            self._file = None
        self._failed = False
        self._begin()

    def _take_head(self, piece: bytes) -> None:
        seen = len(self._head)
        head: bytes | bytearray = piece
        if seen:
            self._head += piece
            head = self._head
        # An empty line at the very beginning ends a header without fields.
        end = -2 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n", max(seen - 3, 0))
        if end == -1 and len(head) <= _HEAD_BYTES:
            if not seen:
                self._head += piece
            return
        self._in_head = False
        self._read(head[: end + 2] if end != -1 else head)
        if self.mark is not None:
            self.checksum = zlib.crc32(memoryview(head)[end + 4 :])
        self._head = bytearray()

    def _read(self, header: bytes | bytearray) -> None:
        if self._field is not None:
            found = self._field.search(header)
            self.identity = bytes(found[1]) if found is not None else None
        else:
            self.mark = parse_mark(header)
