"""What a run was asked for: the servers and drivers that take part, and the size. Scenarios choose their cases by it.

Promise: nothing here starts anything, so that what a run will do, and how long it will take, can be told before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from postroika.bench.scenario import OURS, POSTFIX, Case, Setup

if TYPE_CHECKING:
    from postroika.bench.peers import Peer


class Scope:
    """What was asked for.

    Args:
        peers: the servers that can run here, by name.
        quick: the small size of each scenario.
        driver_names: those to drive with.
        asked_for: the names of servers that were asked for; empty: each scenario takes its own.
        rounds: in place of what each scenario wants.
        interpreters: Postroika as run by other interpreters, by their labels; they take part in the headline scenarios.
    """

    def __init__(
        self,
        peers: Mapping[str, Peer],
        *,
        quick: bool,
        driver_names: Sequence[str],
        asked_for: Sequence[str] = (),
        rounds: int | None = None,
        interpreters: Mapping[str, Peer] = {},
    ) -> None:
        self.peers = peers
        self.quick = quick
        self.driver_names = tuple(driver_names)
        self.rounds = rounds
        self.interpreters = interpreters
        self._asked_for = frozenset(asked_for)

    @property
    def size(self) -> Literal["quick", "full"]:
        """For the report."""
        return "quick" if self.quick else "full"

    def cases(self, cases: Iterable[Case], *, others: bool, headline: bool) -> list[Case]:
        """Those whose servers are there, our first one with each further interpreter, and one for each further server
        that takes part.

        Args:
            others: whether there can be further servers.
            headline: whether they take part without having been asked for, and interpreters at all.
        """
        there = [case for case in cases if case.setup.peer in self.peers]
        known = {case.setup.peer for case in there} | {OURS, POSTFIX}
        suspended = any(case.setup.suspended for case in there)
        more = [
            Case(label=peer.title, setup=Setup(peer=name, suspended=suspended), load=peer.load_needs)
            for name, peer in self.peers.items()
            if others and name not in known and (headline or name in self._asked_for)
        ]
        return there + (self._interpreted(there) if headline else []) + more

    def _interpreted(self, cases: Iterable[Case]) -> list[Case]:
        ours = next((case for case in cases if case.setup.peer == OURS), None)
        if ours is None:
            return []
        return [
            msgspec.structs.replace(
                ours, label=f"{ours.label}, {label}", setup=msgspec.structs.replace(ours.setup, interpreter=label)
            )
            for label in self.interpreters
        ]
