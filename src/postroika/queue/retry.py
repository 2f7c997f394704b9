"""When to try again, and when to give up. Pure: times in epoch seconds, randomness passed in."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from postroika.config import Retry
from postroika.mail.envelope import Envelope


def next_attempt_at(attempts: int, now: float, retry: Retry, rng: Random) -> float:
    """When a batch that has been tried `attempts` times (≥ 1) is due again: the schedule's next delay, its last one
    for ever after, jittered so that what failed together does not come back together."""
    return now + _jittered(_entry(retry.delays_s, attempts - 1), retry.jitter, rng)


def down_until(failures: int, now: float, retry: Retry, rng: Random) -> float:
    """Until when a destination that could not be reached `failures` (≥ 1) times in a row is left alone."""
    return now + _jittered(_entry(retry.down_delays_s, failures - 1), retry.jitter, rng)


def expires_at(envelope: Envelope, retry: Retry) -> float:
    """When a message is given up: the time it brought with it, or the configured age."""
    return envelope.expires_at or envelope.received_at + retry.expire_after_s


def delay_noted_at(envelope: Envelope, retry: Retry) -> float | None:
    """When its sender hears that it is late; None: never."""
    return envelope.received_at + retry.delay_dsn_after_s if retry.delay_dsn_after_s else None


def _entry(delays_s: Sequence[float], index: int) -> float:
    return delays_s[min(index, len(delays_s) - 1)]


def _jittered(delay_s: float, jitter: float, rng: Random) -> float:
    return delay_s * (1 + jitter * (2 * rng.random() - 1))
