"""How many connections a destination may have."""

import pytest

from postroika.queue.limits import Ramp, in_a_row, window


def test_it_begins_with_a_few_and_gains_one_with_each_message() -> None:
    ramp = Ramp(2, 4)
    seen = [ramp.allowed]
    for _ in range(4):
        ramp.succeeded()
        seen.append(ramp.allowed)
    assert seen == [2, 3, 4, 4, 4]


def test_the_initial_number_is_never_above_the_limit() -> None:
    assert Ramp(8, 3).allowed == 3


def test_sessions_that_stand_double_it_up_to_the_limit() -> None:
    ramp = Ramp(2, 20)
    seen = []
    for connected in (1, 2, 3, 4, 8, 16):
        ramp.granted(connected)
        seen.append(ramp.allowed)
    assert seen == [2, 4, 6, 8, 16, 20]


def test_a_few_sessions_take_nothing_from_what_was_gained() -> None:
    ramp = Ramp(2, 20)
    for _ in range(10):
        ramp.succeeded()
    ramp.granted(1)
    assert ramp.allowed == 12


def test_a_host_that_wants_no_more_is_taken_at_its_word() -> None:
    ramp = Ramp(4, 20)
    ramp.granted(5)
    ramp.refused(5)
    for _ in range(3):
        ramp.granted(5)
        ramp.succeeded()
    assert ramp.allowed == 5


def test_a_host_that_grants_nothing_gets_one() -> None:
    ramp = Ramp(4, 20)
    ramp.refused(0)
    ramp.granted(1)
    assert ramp.allowed == 1


def test_a_probe_is_one_connection_until_it_answers() -> None:
    ramp = Ramp(4, 20)
    ramp.probe()
    assert ramp.allowed == 1
    ramp.granted(1)
    assert ramp.allowed == 4


def test_the_window_is_an_equal_share_with_bounds() -> None:
    assert [window(10_000, active, 20) for active in (0, 1, 20, 100, 10_000)] == [500, 500, 500, 100, 40]


@pytest.mark.parametrize(
    ("pace_s", "messages"), [(0.0, 8), (0.001, 8), (0.012, 8), (0.015, 6), (0.03, 3), (0.06, 1), (0.2, 1), (600.0, 1)]
)
def test_a_connection_is_called_for_what_it_delivers_in_a_tenth_of_a_second(pace_s: float, messages: int) -> None:
    assert in_a_row(pace_s) == messages
