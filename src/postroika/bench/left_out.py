"""Further servers that fail in the middle of a scenario.

Promise: what a further server cannot do leaves that server out, and says nothing about ours and Postfix: their failures
pass through, and make the scenario void.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from postroika.bench.bench import Server
from postroika.bench.progress import Teller
from postroika.bench.results import Turn
from postroika.bench.scenario import OURS, POSTFIX, Case
from postroika.errors import PostroikaError

REGULARS = frozenset({OURS, POSTFIX})


class LeftOut:
    """Those of one run, and why.

    Args:
        turns: of the run; those of a server that fails are removed.
    """

    def __init__(self, teller: Teller, turns: list[Turn]) -> None:
        self._teller = teller
        self._turns = turns
        self._reasons: dict[str, str] = {}

    def __contains__(self, label: str) -> bool:
        return label in self._reasons

    def remarks(self) -> list[str]:
        """For the report."""
        return [f"{label} is left out: {why}" for label, why in self._reasons.items()]

    @contextmanager
    def unless_it_fails(
        self, case: Case | None, server: Server | None, contenders: Collection[str] = ()
    ) -> Iterator[None]:
        """The block does something with a server; with None, without any.

        Args:
            contenders: the labels of its turns, if it has others than that of the case.
        """
        try:
            yield
        except PostroikaError as error:
            if case is None or server is None or case.setup.peer in REGULARS:
                raise
            self._reasons[case.label] = str(error)
            gone = contenders or {case.label}
            self._turns[:] = [turn for turn in self._turns if turn.contender not in gone]
            self._teller.say(f"{case.label} is left out: {error}", style="yellow")
            server.running.kill()  # what it still has to do would disturb the others
