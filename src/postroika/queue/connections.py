"""Who gets the next connection, when there are fewer than are wanted.

Promise: never more than `limit` connections at once. A lane that holds a place at its site already goes first; then the
destinations that have none, one connection a turn, in the order in which they asked.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from postroika.pump import Interrupted, Wake


class Connections:
    """The total of one worker.

    Args:
        limit: connections at once.
        given_back: called when one may be had by whoever is next in line.
    """

    def __init__(self, limit: int, given_back: Callable[[], None]) -> None:
        self._limit = limit
        self._given_back = given_back
        self._hungry: OrderedDict[str, None] = OrderedDict()
        self._returning: deque[Wake] = deque()
        self.open = 0

    @property
    def all_taken(self) -> bool:
        """Whether no further one may be opened now."""
        return self.open >= self._limit

    @property
    def waiting(self) -> int:
        """Destinations that want one and got none."""
        return len(self._hungry)

    def want(self, destination: str) -> bool:
        """Stand in line. Whether it was not in line before."""
        if destination in self._hungry:
            return False
        self._hungry[destination] = None
        return True

    def want_no_more(self, destination: str) -> None:
        """Leave the line, if in it."""
        self._hungry.pop(destination, None)

    def others_wait(self, destination: str) -> bool:
        """Whether anybody but this destination waits."""
        if self._returning:
            return True
        return bool(self._hungry) and not (len(self._hungry) == 1 and destination in self._hungry)

    def take(self) -> None:
        """One is being opened; there must be room."""
        self.open += 1

    def give_back(self) -> None:
        """One was closed, or its lane waits for a place at its site."""
        if self._returning:
            self._returning.popleft().set()  # Theirs from now on: nobody gets it before they have looked.
        else:
            self.open -= 1
        self._given_back()

    async def take_again(self) -> None:
        """A lane that gave its connection back while it waited for its site goes on, once there is room.

        Interruption: it has none.
        """
        if not self.all_taken:
            self.open += 1
            return
        called = Wake()
        self._returning.append(called)
        try:
            await called.wait()
        except Interrupted:
            self._returning.remove(called)  # Once it is set, the wait is not interrupted.
            raise

    def next_in_line(self) -> str | None:
        """The destination whose turn it is; None if there is no room for it, or nobody waits."""
        if not self._hungry or self.all_taken:
            return None
        return self._hungry.popitem(last=False)[0]
