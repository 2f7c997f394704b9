"""kill -9 at random moments: nothing that was acknowledged is lost, nothing is doubled that is not listed."""

import random
from pathlib import Path

import pytest

from tests.system import crash_ledger


def test_every_acknowledged_recipient_is_accounted_for_after_fifty_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    books = crash_ledger.run(tmp_path, rounds=50, seed=seed)
    with capsys.disabled():
        print(f"\nseed {seed}\n{books}")
    assert books.problems == []
    assert books.rounds == 50
    assert books.acknowledged > 50
