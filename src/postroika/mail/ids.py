"""Ids that sort by time: 64 bits = 42 bits of milliseconds, 8 bits of shard, 14 bits of sequence.

A message id is also its arrival time, so the spool needs no index by age. The text form is 13 characters of
Crockford's base32, which sort like the numbers and survive being read out on the telephone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_VALUES = {c: i for i, c in enumerate(_ALPHABET)}
_SHARD_SHIFT = 14
_TIME_SHIFT = 22
MAX_SHARD = 0xFF


class IdSource:
    """Gives ids that never repeat and never go back, also when the clock does.

    Args:
        shard: 0–255, unique among the writers of one spool.
        after: the largest id given before (0 if none); the next one is larger.
        clock: epoch seconds.
    """

    def __init__(self, shard: int, after: int = 0, clock: Callable[[], float] = time.time) -> None:
        if not 0 <= shard <= MAX_SHARD:
            raise ValueError(f"shard {shard} is not in 0–{MAX_SHARD}")
        self._shard_bits = shard << _SHARD_SHIFT
        self._clock = clock
        self._tick = after >> _TIME_SHIFT
        self._seq = (after & 0x3FFF) if after else -1

    @property
    def last(self) -> int:
        """The largest id given so far."""
        return self._tick << _TIME_SHIFT | self._shard_bits | max(self._seq, 0)

    def next_id(self) -> int:
        """The next id; more than 16,384 in one millisecond borrow from the next."""
        return self.next_at(int(self._clock() * 1000))

    def next_at(self, now_ms: int) -> int:
        """As `next_id`, for who has looked at the clock already."""
        if now_ms > self._tick:
            self._tick, self._seq = now_ms, 0
        elif self._seq < 0x3FFF:
            self._seq += 1
        else:
            self._tick, self._seq = self._tick + 1, 0
        return self._tick << _TIME_SHIFT | self._shard_bits | self._seq


def id_time_s(number: int) -> float:
    """Epoch seconds at which the id was made."""
    return (number >> _TIME_SHIFT) / 1000


def id_shard(number: int) -> int:
    """The shard that made the id."""
    return number >> _SHARD_SHIFT & MAX_SHARD


def first_id_at(at: float) -> int:
    """The smallest id that can be made at epoch second `at`: a bound for range scans."""
    return max(0, int(at * 1000)) << _TIME_SHIFT


@functools.lru_cache(maxsize=4096)  # that of a message is wanted in its header, its events and its reply
def id_text(number: int) -> str:
    """13 characters; text order is number order."""
    low, pairs = number & 0x3FFF_FFFF, _PAIRS  # Two characters a step: every event and every 250 has an id in it.
    return f"{_upper_text(number >> 30)}{pairs[low >> 20]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"


@functools.lru_cache(maxsize=16)  # changes four times a second
def _upper_text(upper: int) -> str:
    """The first 7 characters, of 34 bits."""
    pairs = _PAIRS
    return f"{_ALPHABET[upper >> 30]}{pairs[upper >> 20 & 1023]}{pairs[upper >> 10 & 1023]}{pairs[upper & 1023]}"


def parse_id(text: str) -> int:
    """The inverse of `id_text`; forgiving about case and the letters i, l, o.

    Raises:
        ValueError: not an id.
    """
    folded = text.strip().lower().replace("o", "0").replace("i", "1").replace("l", "1")
    if len(folded) != 13 or any(c not in _VALUES for c in folded):
        raise ValueError(f"{text!r} is not a message id (13 letters and digits)")
    number = 0
    for c in folded:
        number = number << 5 | _VALUES[c]
    if number >> 64:
        raise ValueError(f"{text!r} is not a message id (too large)")
    return number
