"""Decides how many messages the next turn of a contender sends.

Promise: what can move a scenario's messages in `turn_s` gets all of them, and so the same work as every other that can;
what cannot gets as many as it is known to move in that time. Otherwise either the slow would make a run last for hours
or the fast would be measured over a few hundredths of a second.
"""

from __future__ import annotations

from postroika.bench.scenario import Size

# The warm-up is too short to show the speed; the first turn corrects what it makes too low.
_WARM_UP_SHOWS = 1.5


class Plan:
    """Knows the speed of each contender as far as it has been seen.

    Args:
        size: what the scenario wants.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._guesses: dict[tuple[str, str], float] = {}
        self._rates: dict[tuple[str, str], float] = {}

    def warmed_up(self, contender: str, driver: str, messages: int, elapsed_s: float) -> None:
        """What the warm-up showed."""
        self._guesses[contender, driver] = _WARM_UP_SHOWS * messages / elapsed_s

    def moved(self, contender: str, driver: str, messages: int, elapsed_s: float) -> None:
        """What a turn showed."""
        rate = messages / elapsed_s
        self._rates[contender, driver] = max(rate, self._rates.get((contender, driver), 0.0))

    def messages(self, contender: str, driver: str, least: int) -> int:
        """For the next turn; as the warm-up suggests if there was none before."""
        size, key = self._size, (contender, driver)
        rate = self._rates.get(key) or self._guesses.get(key)
        if not size.turn_s or rate is None:
            return size.messages
        return min(size.messages, max(least, round(rate * size.turn_s)))
