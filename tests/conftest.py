"""What all tests share. Promise: a test that did not run for want of a peer is never overlooked, and generated tests do
not fail for want of speed.
"""

import os

import pytest
from hypothesis import settings

# A busy machine is no failure. In CI the same examples come each time; new ones are for a developer to find.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does: no test may fail for that.
settings.register_profile("postroika", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("postroika")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the missing peers in the last lines of the run, where a skip would else be one letter among many."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)]
    missing = sorted({reason.partition("missing peer: ")[2] for reason in reasons if "missing peer: " in reason})
    if missing:
        count = sum("missing peer: " in reason for reason in reasons)
        terminalreporter.section("SYSTEM TESTS NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.line(f"{count} tests were skipped, because a real peer is missing:", yellow=True)
        for line in missing:
            terminalreporter.line(f"  {line}", yellow=True)
