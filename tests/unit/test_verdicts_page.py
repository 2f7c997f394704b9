"""docs/verdicts.md has all rows of the tests that it tells of, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system import dane_rows, test_dane_and_mta_sts, test_mta_sts, test_mta_sts_delivery

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/verdicts.md").read_text()


def labels_of(function: object) -> set[str]:
    """The first parameter of each set that a test is run with."""
    marks = function.pytestmark  # type: ignore[attr-defined]
    return {values if isinstance(values, str) else values[0] for mark in marks for values in mark.args[1]}


MTA_STS = {
    label
    for test in (
        test_mta_sts.test_policy_that_is_found,
        test_mta_sts.test_domain_whose_record_does_not_count_has_none,
        test_mta_sts.test_policy_that_cannot_be_had_is_none_and_says_why,
    )
    for label in labels_of(test)
}
SECTIONS = {
    "MTA-STS: is there a policy?": MTA_STS,
    "MTA-STS: what becomes of mail": set(test_mta_sts_delivery.CASES),
    "DANE": set(dane_rows.ROWS),
    "Both": set(test_dane_and_mta_sts.CASES),
}


def rows_of(section: str) -> set[str]:
    """What stands in the last column of the section's table."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    cells = [line.rstrip("|").rpartition("|")[2] for line in text.splitlines() if line.startswith("|")]
    return set(re.findall(r"`([^`]+)`", "".join(cells)))


@pytest.mark.parametrize("section", SECTIONS)
def test_page_has_all_rows(section: str) -> None:
    assert {row for row in rows_of(section) if not row.startswith("test_")} == SECTIONS[section]


def test_tests_that_are_named_are_there() -> None:
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    named = {row for section in SECTIONS for row in rows_of(section) if row.startswith("test_")}
    assert len(named) == 6
    assert named <= defined
    for path in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).exists(), path
