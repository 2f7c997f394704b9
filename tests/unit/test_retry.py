"""queue.retry: the schedule on one screen."""

from __future__ import annotations

from random import Random

import pytest

from postroika.config import Retry
from postroika.mail.envelope import Envelope
from postroika.queue import retry as schedule

NOW = 1_800_000_000.0
EXACT = Retry(delays_s=(300, 900, 1800), down_delays_s=(30, 60), jitter=0.0)


class Chance(Random):
    """Always the same."""

    def __init__(self, always: float) -> None:
        super().__init__()
        self._always = always

    def random(self) -> float:
        return self._always


def envelope(**fields: float) -> Envelope:
    return Envelope(1, "a@news.test", NOW, 5, 1, **fields)  # type: ignore[arg-type]


def test_waits_follow_the_schedule_and_the_last_one_repeats() -> None:
    waits = [schedule.next_attempt_at(attempts, NOW, EXACT, Random()) - NOW for attempts in range(1, 7)]
    assert waits == [300, 900, 1800, 1800, 1800, 1800]


def test_probes_follow_their_own_schedule() -> None:
    assert [schedule.down_until(failures, NOW, EXACT, Random()) - NOW for failures in range(1, 5)] == [30, 60, 60, 60]


@pytest.mark.parametrize(("chance", "wait_s"), [(0.0, 270), (0.25, 285), (0.5, 300), (0.75, 315), (1.0, 330)])
def test_jitter_stretches_and_cuts_by_its_share(chance: float, wait_s: float) -> None:
    retry = Retry(delays_s=(300,), down_delays_s=(300,), jitter=0.1)
    assert schedule.next_attempt_at(1, NOW, retry, Chance(chance)) == pytest.approx(NOW + wait_s, abs=1e-6)
    assert schedule.down_until(1, NOW, retry, Chance(chance)) == pytest.approx(NOW + wait_s, abs=1e-6)


def test_what_failed_together_does_not_come_back_together() -> None:
    rng = Random(1)
    assert len({schedule.next_attempt_at(1, NOW, Retry(), rng) for _ in range(100)}) == 100


def test_a_message_is_given_up_at_the_configured_age_or_at_its_own_time() -> None:
    retry = Retry(expire_after_s=1000)
    assert schedule.expires_at(envelope(), retry) == NOW + 1000
    assert schedule.expires_at(envelope(expires_at=NOW + 5), retry) == NOW + 5
    assert schedule.expires_at(envelope(expires_at=NOW + 5000), retry) == NOW + 5000


def test_a_sender_is_told_of_lateness_at_the_configured_age_or_never() -> None:
    assert schedule.delay_noted_at(envelope(), Retry(delay_dsn_after_s=500)) == NOW + 500
    assert schedule.delay_noted_at(envelope(), Retry(delay_dsn_after_s=0)) is None
