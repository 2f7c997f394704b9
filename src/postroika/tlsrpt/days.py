"""The counts on disk: in the folder `tlsrpt` of the spool, a file for each worker and UTC day; and what was sent.

Promise: a file of counts is whole: it is written beside its place, synced, and moved there. What was sent is noted as
soon as it was, so that a restart sends no report twice but the one that was under way. What cannot be read is told in
the log and passed over. Everything here blocks.

A file of counts is `2026-11-21-03.jsonl` (shard 3): a line with the form and then one for each domain. What was sent is
in `2026-11-21.sent`. A day whose reports are done has no files.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from math import inf
from pathlib import Path

import msgspec

from postroika.config import Config
from postroika.tlsrpt.tally import DomainRecord, Tally, budget

log = logging.getLogger(__name__)

DAY_S = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_JOINED = 4  # times the memory for the counts of a worker: all of them know about the same domains
_HEAD = b'{"format":1}'
_COUNTS = re.compile(r"(\d{4}-\d{2}-\d{2})-(\d{2,3})\.jsonl")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DomainRecord).decode


def day_at(at: float) -> int:
    """The UTC day of epoch second `at`, in days since 1970."""
    return int(at // DAY_S)


def day_text(day: int) -> str:
    """As "2026-11-21"."""
    return date.fromordinal(_EPOCH + day).isoformat()


def parse_day(text: str) -> int:
    """The inverse of `day_text`.

    Raises:
        ValueError: it is no day.
    """
    try:
        return day_at(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise ValueError(f"{text!r} is not a day, as 2026-11-21") from None


class Days:
    """The folder.

    Args:
        spool: where it is in.
        max_bytes: of memory, for the counts of a day; see `tally.budget`.
    """

    def __init__(self, spool: Path, max_bytes: float = inf) -> None:
        self._folder = spool / "tlsrpt"
        self._max_bytes = max_bytes

    # -- counts -------------------------------------------------------------------------------------------------------

    def write(self, day: int, shard: int, lines: Iterable[bytes]) -> None:
        """Replace the counts of a worker.

        Args:
            lines: of `line`.

        Raises:
            OSError: it cannot be written; what was there stays.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._path(day, shard)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(_HEAD + b"\n")
            file.writelines(lines)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)

    def counted(self) -> list[int]:
        """The days of which there are counts, in order."""
        return sorted({day for day, _, _ in self._files()})

    def tally(self, day: int) -> Tally:
        """The counts of a day, of all workers, as far as there is room for them."""
        tally = Tally(max_bytes=self._max_bytes)
        for at, _, path in self._files():
            if at == day:
                tally.add(_records(path))
        if tally.uncounted:
            log.warning("%d sessions of %s find no room in TLS reports", tally.uncounted, day_text(day))
        return tally

    def records(self, day: int, shard: int) -> Iterator[DomainRecord]:
        """The counts of one worker."""
        path = self._path(day, shard)
        if path.exists():
            yield from _records(path)

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        try:
            paths = sorted(self._folder.iterdir())
        except OSError:
            return
        for path in paths:
            if match := _COUNTS.fullmatch(path.name):
                with suppress(ValueError):
                    yield parse_day(match[1]), int(match[2]), path

    def _path(self, day: int, shard: int) -> Path:
        return self._folder / f"{day_text(day)}-{shard:02d}.jsonl"

    # -- what was sent ------------------------------------------------------------------------------------------------

    def ledger(self, day: int) -> Ledger:
        """What was sent of a day.

        Raises:
            OSError: it cannot be read or written.
        """
        return Ledger(self._folder / f"{day_text(day)}.sent")

    def forget(self, day: int) -> None:
        """The reports of a day are done: remove all there is of it. What was sent goes last, or a restart would send it
        again.

        Raises:
            OSError: something cannot be removed.
        """
        for at, _, path in self._files():
            if at == day:
                path.unlink(missing_ok=True)
        (self._folder / f"{day_text(day)}.sent").unlink(missing_ok=True)


def days_of(config: Config) -> Days:
    """The folder that a config means."""
    return Days(Path(config.server.spool), _JOINED * budget(config.tlsrpt.max_domains))


def line(record: DomainRecord) -> bytes:
    """A line of a file of counts."""
    return _encode(record) + b"\n"


def _records(path: Path) -> Iterator[DomainRecord]:
    try:
        with path.open("rb") as file:
            if file.readline().rstrip(b"\n") != _HEAD:
                log.error("%s is of another version, and is passed over", path)
                return
            for text in file:
                yield _decode(text)
    except (OSError, msgspec.DecodeError) as error:
        log.error("%s cannot be read, as far as it is left: %s", path, error)


class _Sent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a ledger.

    Args:
        begun_at: of the first line: epoch seconds.
        domain, uri: a report that was sent; without a URI: nothing is left to be done for the domain.
    """

    begun_at: float = 0.0
    domain: str = ""
    uri: str = ""


_decode_sent = msgspec.json.Decoder(_Sent).decode


class Ledger:
    """What was sent of a day. Lines are added as it is done; one that a crash has left half does not count. What the
    disk does not take counts all the same, and goes there with the next line that it takes.

    Args:
        path: of the file; it need not be there.

    Attributes:
        begun_at: when the first try was made; 0.0: none was.
        settled: the domains of which nothing is left to be done.
    """

    def __init__(self, path: Path) -> None:
        self.begun_at = 0.0
        self.settled: set[str] = set()
        self._path = path
        self._sent: set[tuple[str, str]] = set()
        self._unwritten = b""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        for text in content.splitlines(keepends=True):
            if text.endswith(b"\n"):
                with suppress(msgspec.DecodeError):
                    self._take(_decode_sent(text))
        if not content.endswith(b"\n") and content:
            self._append(b"\n")

    def _take(self, sent: _Sent) -> None:
        if sent.begun_at:
            self.begun_at = sent.begun_at
        elif sent.uri:
            self._sent.add((sent.domain, sent.uri))
        else:
            self.settled.add(sent.domain)

    def was_sent(self, domain: str, uri: str) -> bool:
        """Whether this report is where it is to go."""
        return (domain, uri) in self._sent

    def begin(self, at: float) -> None:
        """The first try is made now. Raises OSError."""
        self._note(_Sent(begun_at=at))

    def sent(self, domain: str, uri: str) -> None:
        """A report is where it is to go. Raises OSError."""
        self._note(_Sent(domain=domain, uri=uri))

    def settle(self, domain: str) -> None:
        """Nothing is left to be done for a domain. Raises OSError."""
        self._note(_Sent(domain=domain))

    def flush(self) -> None:
        """Write what the disk has not taken before. Raises OSError."""
        if self._unwritten:
            self._append(b"")

    def _note(self, sent: _Sent) -> None:
        self._take(sent)  # It is so, whatever the disk says.
        self._append(_encode(sent) + b"\n")

    def _append(self, text: bytes) -> None:
        self._unwritten += text
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            while self._unwritten:
                written = os.write(fd, self._unwritten)  # A disk that gets full may take a part.
                self._unwritten = self._unwritten[written:]
        finally:
            os.close(fd)
