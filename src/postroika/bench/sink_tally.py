"""Counts the messages that the sink has accepted: how many, which, whether twice, whether whole, how late.

Promise: with the marks of the load generator a recipient of a message costs one bit, so that ten million can be told
apart; a hostile mark costs no more than an honest one. How: a bitmap over the numbers of the messages for each index
of a recipient (`messages.recipient_index`): many small ones when messages have many recipients, else a few large ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from postroika.bench.histogram import Histogram
from postroika.bench.messages import Mark, recipient_index
from postroika.bench.sink_settings import Counts

# Loads that are told apart by their delays; those of all further ones are added up.
_MAX_RUNS = 16
# Numbers from here on are kept one by one: a bitmap for them could be made to fill the memory.
_MAX_BITMAP_NUMBER = 1 << 27


class Seen:
    """The recipients of marked messages."""

    def __init__(self) -> None:
        self._bitmaps: dict[tuple[int, int], bytearray] = {}
        self._others: set[tuple[int, int, int]] = set()

    def add(self, run: int, number: int, index: int) -> bool:
        """Note recipient `index` of message `number` of `run`. True: for the first time."""
        bitmap = self._bitmaps.get((run, index))
        if bitmap is None:
            bitmap = self._bitmaps[run, index] = bytearray(1)
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(bitmap):
            if number >= _MAX_BITMAP_NUMBER:
                return self._add_other((run, number, index))
            bitmap.extend(bytes(max(at + 1, 2 * len(bitmap)) - len(bitmap)))
        if bitmap[at] & bit:
            return False
        bitmap[at] |= bit
        return True

    def _add_other(self, key: tuple[int, int, int]) -> bool:
        known = key in self._others
        self._others.add(key)
        return not known


class Tally:
    """All counts of a sink.

    Attributes:
        latencies: from what a marked message says of when it was sent until it was accepted, by the run of its mark;
            None has those of all runs beyond the first few.
        timeline: (seconds of CLOCK_MONOTONIC, messages until then).
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.latencies: dict[int | None, Histogram] = {}
        self.timeline: list[tuple[float, int]] = []
        self._seen = Seen()
        self._identities: set[int] = set()

    def add(
        self, recipients: Sequence[str], size_bytes: int, mark: Mark | None, checksum: int, identity: bytes | None
    ) -> None:
        """Note an accepted message.

        Args:
            recipients: whom it was accepted for.
            mark: what the load generator wrote, and `checksum` what its body came to.
            identity: tells it apart in place of the mark.
        """
        counts = self.counts
        now_ns = time.monotonic_ns()
        counts.last_at = now_ns / 1e9
        if not counts.messages:
            counts.first_at = counts.last_at
        counts.messages += 1
        counts.recipients += len(recipients)
        counts.bytes += size_bytes
        if mark is not None:
            (self.latencies.get(mark.run) or self._latency_of(mark.run)).record(now_ns - mark.sent_ns)
            if mark.sum != checksum:
                counts.damaged += 1
        if identity is not None:
            self._count_identity(identity, recipients)
        elif mark is not None:
            self._count_mark(mark, recipients)
        else:
            counts.unmarked += 1

    @property
    def latency(self) -> Histogram:
        """Of all runs."""
        if len(self.latencies) == 1:
            return next(iter(self.latencies.values()))
        total = Histogram()
        for one in self.latencies.values():
            total.merge(one)
        return total

    def _latency_of(self, run: int) -> Histogram:
        """The histogram of a run that is new, or has none of its own."""
        return self.latencies.setdefault(run if len(self.latencies) < _MAX_RUNS else None, Histogram())

    def note_time(self) -> bool:
        """Put how many there are by now into the timeline. False: there have been no more since the last time."""
        messages = self.counts.messages
        if messages == (self.timeline[-1][1] if self.timeline else 0):
            return False
        self.timeline.append((round(time.monotonic(), 3), messages))
        return True

    def _count_mark(self, mark: Mark, recipients: Sequence[str]) -> None:
        counts, add = self.counts, self._seen.add
        for recipient in recipients:
            index = recipient_index(recipient)
            if index is not None:
                if add(mark.run, mark.number, index):
                    counts.unique += 1
                else:
                    counts.doubled += 1

    def _count_identity(self, identity: bytes, recipients: Sequence[str]) -> None:
        counts, seen = self.counts, self._identities
        for recipient in recipients:
            # 64 bits of each are enough to tell millions apart, and cost a fraction of the text.
            key = hash((identity, recipient))
            if key in seen:
                counts.doubled += 1
            else:
                counts.unique += 1
                seen.add(key)
