"""A black hole costs nobody else anything. By hand, with figures: python -m tests.system.fairness."""

from pathlib import Path

import pytest

from tests.system import fairness

MESSAGES = 12


# 60 are fewer than there are destinations: connections have to go from one to the next.
@pytest.mark.parametrize("max_connections", [500, 60])
def test_others_are_served_while_black_holes_wait(tmp_path: Path, max_connections: int) -> None:
    found = fairness.load(tmp_path / "with", MESSAGES, holes=True, max_connections=max_connections)
    assert found.delivered == {f"d{number}.test": MESSAGES for number in range(fairness.HEALTHY)}
    assert found.open == MESSAGES * len(fairness.HOLES)
    assert found.deferred_or_bounced == 0
