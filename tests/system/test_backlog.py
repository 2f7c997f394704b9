"""A backlog, small. By hand with more: python -m tests.system.backlog."""

from pathlib import Path

from tests.system import backlog
from tests.system.accounts import Accounts

MESSAGES = 8_000


def test_backlog_costs_no_memory_outlives_a_kill_and_goes_out_once(tmp_path: Path) -> None:
    found = backlog.run(tmp_path, MESSAGES, size_bytes=4096)
    assert found.counts == {"messages": MESSAGES, "recipients": MESSAGES, "doubled": 0}
    assert found.said == Accounts(MESSAGES, {"delivered": MESSAGES}, found.said.deferrals)
    assert found.said.deferrals >= MESSAGES  # each was told once
    # All of it in memory would be 4 KB and more for each; what grows here is the warming up of the processes.
    assert found.private_bytes_per_message < 1500
