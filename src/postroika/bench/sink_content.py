"""The content of one message on its way into the sink: its header is read, its body is summed up, all of it is stored.

Promise: no more of a message is held than its header, and of that no more than 256 KB.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from postroika.bench.maildir import Maildir, StoredFile
from postroika.kernels import bench_sink

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
        marks: what the marks say.
        identity: what `field` says, once the message is whole.
    """

    __slots__ = ("_failed", "_field", "_file", "_head", "_maildir", "identity", "marks")

    def __init__(self, maildir: Maildir | None, field: re.Pattern[bytes] | None) -> None:
        self._maildir = maildir
        self._field = field
        self._file: StoredFile | None = None
        self._failed = False
        self._head = bytearray()
        self.marks = bench_sink.Content()
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
        self.marks.take(piece)
        if self._field is not None and len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        if self._file is not None and not self._failed:
            try:
                self._file.write(piece)
            except OSError:
                self._failed = True

    def finish(self) -> bool:
        """It is whole. False: it could not be stored."""
        self.marks.end()
        if self._field is not None:
            head = self._head
            end = 0 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n") + 2
            found = self._field.search(head, 0, end if end != 1 else len(head))
            self.identity = bytes(found[1]) if found is not None else None
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
        self._head.clear()
        self.identity = None
        self.marks.begin()
