"""What all tests share. Promise: a test that did not run for want of a peer is never overlooked, and generated tests do
not fail for want of speed.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does: no test may fail for that. In CI the same examples
# come each time; to find new ones is for developers' machines.
for _name, _same in (("local", False), ("ci", True)):
    settings.register_profile(_name, deadline=None, derandomize=_same, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure() -> None:
    """A compiled module that is older than its source would be tested in its place."""
    source = Path(__file__).parent.parent / "src"
    for built in source.rglob("*.so"):
        module = built.with_name(f"{built.name.partition('.')[0]}.py")
        if module.exists() and module.stat().st_mtime > built.stat().st_mtime:
            raise pytest.UsageError(
                f"{module} was changed after it was compiled: make build, or make INTERPRETED=1 build"
            )


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
