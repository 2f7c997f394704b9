"""Which recipients the sink refuses, which connections it cuts, and how fast it reads.

Promise: what goes by share comes out the same for the same seed and the same sequence of questions, whatever the
other shares are: each has dice of its own.
"""

from __future__ import annotations

import fnmatch
import random
import re
import time
from collections.abc import Sequence

from postroika.bench.sink_settings import Counts, SinkSettings
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply, reply

# One read of a capped connection is what may come in this time: short enough to be even, long enough to be cheap.
_QUANTUM_S = 0.05
_LEAST_READ_BYTES = 64
_LARGEST_READ_BYTES = 64 * 1024


class Judge:
    """Verdicts on recipients and stages, counted.

    Args:
        settings: what to decide by.
        counts: `refused`, `deferred` and `disconnects` are counted there.
    """

    def __init__(self, settings: SinkSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._refuse = _pattern(settings.refuse)
        self._defer = _pattern(settings.defer)
        self._refusals = random.Random(f"refuse {settings.seed}")
        self._deferrals = random.Random(f"defer {settings.seed}")
        self._disconnects = random.Random(f"disconnect {settings.seed}")
        self._known: dict[int, float] = {}  # when each recipient was asked for first, by 64 bits of its hash

    def recipient(self, address: str) -> Reply | None:
        """The reply to RCPT; None accepts."""
        settings = self._settings
        if (self._refuse is not None and self._refuse.match(address)) or (
            settings.refuse_share and self._refusals.random() < settings.refuse_share
        ):
            self._counts.refused += 1
            return reply(550, "5.1.1", f"<{address}>: the sink refuses this recipient")
        if (self._defer is not None and self._defer.match(address)) or (
            settings.defer_share and self._deferrals.random() < settings.defer_share
        ):
            self._counts.deferred += 1
            return reply(451, "4.7.1", f"<{address}>: the sink defers this recipient")
        if settings.greylist and self._is_grey(address):
            self._counts.deferred += 1
            return reply(451, "4.7.1", f"<{address}>: greylisted, try again later")
        return None

    def cuts(self, stage: Stage) -> bool:
        """Whether to hang up here."""
        settings = self._settings
        if settings.disconnect_at is not stage or self._disconnects.random() >= settings.disconnect_share:
            return False
        self._counts.disconnects += 1
        return True

    def _is_grey(self, address: str) -> bool:
        now, key = time.monotonic(), hash(address.lower())
        first_at = self._known.setdefault(key, now)
        return first_at == now or now - first_at < self._settings.greylist_s


class Throttle:
    """Lets so many bytes a second through."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self.next_at = 0.0
        """When more may be read, in seconds of CLOCK_MONOTONIC."""
        self.read_bytes = int(min(max(bytes_per_s * _QUANTUM_S, _LEAST_READ_BYTES), _LARGEST_READ_BYTES))
        """The most to read at once."""

    def note(self, size_bytes: int, now: float) -> None:
        """So many bytes were read."""
        self.next_at = max(self.next_at, now) + size_bytes / self._bytes_per_s


def _pattern(globs: Sequence[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs), re.IGNORECASE)
