"""How long a run still takes."""

import pytest

from postroika.bench.pace import Pace, duration_text


def test_what_is_left_shrinks_and_is_put_right() -> None:
    now_s = 100.0
    pace = Pace([40.0, 20.0, 30.0], lambda: now_s)
    pace.begin(0)
    assert (pace.scenario_s(), pace.left_s()) == (40.0, 90.0)
    now_s += 10
    assert pace.left_s() == 80.0
    now_s += 50
    assert pace.left_s() == 50.0  # it should have ended; the others are still to come
    pace.end()
    pace.begin(1)
    assert (pace.scenario_s(), pace.left_s()) == (30.0, 75.0)  # all take half as long again
    now_s += 30
    pace.end()
    pace.begin(2)
    now_s += 5
    assert pace.left_s() == 40.0
    pace.end()
    assert pace.left_s() == 0.0


def test_one_odd_scenario_does_not_make_the_rest_absurd() -> None:
    now_s = 0.0
    pace = Pace([10.0, 10.0], lambda: now_s)
    pace.begin(0)
    now_s = 1000.0
    pace.end()
    assert pace.left_s() == 30.0


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89.4, "89 s"), (90, "2 min"), (524, "9 min")])
def test_durations_are_rough(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
