"""Counting, joining what workers counted, and telling it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroika import metrics
from postroika.mail.outcome import Outcome
from postroika.outcome.dsn import Kind

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _counts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept = {key: metric.value for key, metric in metrics.METRICS.items()}
    for metric in metrics.METRICS.values():
        metric.value = 0
        monkeypatch.setattr(metric, "read", None)
    yield
    for key, value in kept.items():
        metrics.METRICS[key].value = value


def test_reference_page_is_current() -> None:
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == metrics.render_docs()


def test_every_outcome_and_every_notice_has_its_counter() -> None:
    assert [metrics.COUNTERS[outcome].label for outcome in Outcome] == [("outcome", str(o)) for o in Outcome]
    assert [metrics.NOTICES[kind].label for kind in Kind] == [("kind", str(kind)) for kind in Kind]


def test_exposition_tells_help_and_type_once_for_each_family() -> None:
    metrics.COUNTERS["delivered"].value += 3
    metrics.COMMIT_SECONDS.value += 0.25
    text = metrics.render_prometheus()
    assert (
        "# HELP postroika_outcomes_total What attempts brought, one for each recipient; all but deferred are final.\n"
        "# TYPE postroika_outcomes_total counter\n"
        'postroika_outcomes_total{outcome="delivered"} 3\n'
        'postroika_outcomes_total{outcome="deferred"} 0\n'
        'postroika_outcomes_total{outcome="bounced"} 0\n'
        'postroika_outcomes_total{outcome="expired"} 0\n'
        'postroika_outcomes_total{outcome="cancelled"} 0\n'
        'postroika_outcomes_total{outcome="suppressed"} 0\n'
    ) in text
    assert "# TYPE postroika_commit_seconds_total counter\npostroika_commit_seconds_total 0.25\n" in text
    assert "# TYPE postroika_sessions_open gauge\npostroika_sessions_open 0\n" in text
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="\w+"\})? [0-9.e+-]+', line)
    helps = re.findall(r"# HELP (\w+)", text)
    assert len(helps) == len(set(helps))


def test_a_gauge_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics.SESSIONS_OPEN, "read", lambda: 7)
    assert metrics.snapshot()["sessions_open"] == 7


def test_workers_are_added_up_but_of_lags_the_worst_counts() -> None:
    joined = metrics.merge([{"commits": 2, "outbox_lag": 0.5}, {"commits": 3, "outbox_lag": 4.0, "of_a_later_age": 1}])
    assert (joined["commits"], joined["outbox_lag"], "of_a_later_age" in joined) == (5, 4.0, False)
    assert "postroika_outbox_lag_seconds 4\n" in metrics.render_prometheus(joined)
