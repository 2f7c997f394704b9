"""What the event log says of every recipient, for comparison with what peers got.

The promise under test: every accepted recipient has exactly one final outcome, or is still queued.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

FINAL = frozenset({"delivered", "bounced", "expired", "cancelled", "suppressed"})


@dataclasses.dataclass
class Accounts:
    """The sums of an event log.

    Args:
        received: recipients accepted.
        final: recipients by their final outcome.
        deferrals: how often one was put off.
        open: accepted recipients without a final outcome.
        doubled: recipients with more than one final outcome, or with one and never accepted.
    """

    received: int = 0
    final: dict[str, int] = dataclasses.field(default_factory=dict)
    deferrals: int = 0
    open: int = 0
    doubled: int = 0


def accounts(events: Iterable[dict[str, Any]]) -> Accounts:
    """Add up `events`, in which each event stands once."""
    received: collections.Counter[tuple[str, str]] = collections.Counter()
    ended: collections.Counter[tuple[str, str]] = collections.Counter()
    final: collections.Counter[str] = collections.Counter()
    sums = Accounts()
    for event in events:
        kind = event["type"]
        if kind in {"rejected", "auth_failed"}:
            continue
        recipient = (event["message"], event["recipient"])
        if kind == "received":
            received[recipient] += 1
        elif kind == "deferred":
            sums.deferrals += 1
        else:
            assert kind in FINAL, event
            ended[recipient] += 1
            final[kind] += 1
    sums.received = received.total()
    sums.final = dict(final)
    sums.open = (received - ended).total()
    sums.doubled = (ended - received).total()
    return sums
