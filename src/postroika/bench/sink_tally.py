"""Counts the messages that the sink has accepted: how many, which, whether twice, whether whole, how late.

Promise: with the marks of the load generator a recipient of a message costs one bit, so that ten million can be told
apart; a hostile mark costs no more than an honest one. How: the kernel has a bitmap over the numbers of the messages
for each index of a recipient: many small ones when messages have many recipients, else a few large ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from postroika.bench.histogram import Histogram
from postroika.bench.sink_content import Content
from postroika.bench.sink_settings import Counts
from postroika.kernels import bench_sink

# Loads that are told apart by their delays; those of all further ones are added up.
_MAX_RUNS = 16


class Tally:
    """All counts of a sink.

    Args:
        enough: how many messages it takes until `on_enough` is called, once.

    Attributes:
        others: what is not about accepted messages; written by those who know.
        kernel: what is.
        latencies: from what a marked message says of when it was sent until it was accepted, by the run of its mark;
            None has those of all runs beyond the first few.
        timeline: (seconds of CLOCK_MONOTONIC, messages until then).
    """

    def __init__(self, enough: int = -1, on_enough: Callable[[], object] | None = None) -> None:
        self.others = Counts()
        self.latencies: dict[int | None, Histogram] = {}
        self.kernel = bench_sink.Tally(self._latency_of, enough, on_enough)
        self.timeline: list[tuple[float, int]] = []
        self._identities: set[int] = set()

    @property
    def counts(self) -> Counts:
        """All of them, as they are now."""
        counts, kernel = self.others, self.kernel
        counts.messages, counts.recipients, counts.bytes = kernel.messages, kernel.recipients, kernel.bytes
        counts.unique, counts.doubled = kernel.unique, kernel.doubled
        counts.damaged, counts.unmarked = kernel.damaged, kernel.unmarked
        counts.first_at, counts.last_at = kernel.first_ns / 1e9, kernel.last_ns / 1e9
        return counts

    @property
    def latency(self) -> Histogram:
        """Of all runs."""
        if len(self.latencies) == 1:
            return next(iter(self.latencies.values()))
        total = Histogram()
        for one in self.latencies.values():
            total.merge(one)
        return total

    def add(self, recipients: Sequence[str], size_bytes: int, content: Content) -> None:
        """Note an accepted message that did not go by the express lane."""
        if content.identity is None:
            self.kernel.add(recipients, size_bytes, content.marks)
        else:
            unique = self._identify(content.identity, recipients)
            self.kernel.add_identified(unique, len(recipients) - unique, size_bytes, content.marks)

    def note_time(self) -> bool:
        """Put how many there are by now into the timeline. False: there have been no more since the last time."""
        messages = self.kernel.messages
        if messages == (self.timeline[-1][1] if self.timeline else 0):
            return False
        self.timeline.append((round(time.monotonic(), 3), messages))
        return True

    def _latency_of(self, run: int) -> Histogram:
        """The histogram of a run that is new, or has none of its own."""
        return self.latencies.setdefault(run if len(self.latencies) < _MAX_RUNS else None, Histogram())

    def _identify(self, identity: bytes, recipients: Sequence[str]) -> int:
        """How many of them are new."""
        seen = self._identities
        before = len(seen)
        # 64 bits of each are enough to tell millions apart, and cost a fraction of the text.
        seen.update(hash((identity, recipient)) for recipient in recipients)
        return len(seen) - before
