"""A bounded map whose entries expire.

Promise: never more than `entries` of them; the least recently used goes first. Pure: the caller brings the clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TtlCache(Generic[K, V]):
    """What is known for a while.

    Args:
        entries: how many are kept at most, expired ones that nobody asked for included.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._known: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: K, now: float) -> V | None:
        """The value, unless there is none or it expired at or before `now`."""
        entry = self._known.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return entry[1]

    def put(self, key: K, value: V, now: float, expires_at: float) -> None:
        """Keep `value` until `expires_at`, in place of what was there; nothing is kept if that is already past."""
        self._known.pop(key, None)
        if expires_at <= now:
            return
        self._known[key] = (expires_at, value)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def drop(self, unwanted: Callable[[V], bool]) -> None:
        """Forget every value that is `unwanted`."""
        for key in [key for key, (_, value) in self._known.items() if unwanted(value)]:
            del self._known[key]

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
