"""supervisor.open_files: limits fit the connections of the config, or it is said that they do not."""

from __future__ import annotations

import resource

import pytest

from postroika.config import Config, Delivery, Limits
from postroika.supervisor.open_files import needed, raise_limit

CONFIG = Config(limits=Limits(max_connections=999), delivery=Delivery(max_connections=301))
TOO_FEW = (
    "only 1500 files may be open, and 999 connections in and 301 out over 2 workers need 1675 in each: raise the limit "
    "(ulimit -n, LimitNOFILE=) or lower limits.max_connections"
)
WITHOUT_END = resource.RLIM_INFINITY


def test_each_worker_needs_its_share_of_the_connections() -> None:
    assert [needed(CONFIG, workers) for workers in (1, 2)] == [999 + 301 + 1024, 500 + 151 + 1024]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), (1675, 4096)),
        ((1024, WITHOUT_END), (1675, WITHOUT_END)),
        ((1675, 4096), None),
        ((WITHOUT_END, WITHOUT_END), None),
        ((1024, 1500), (1500, 1500)),
    ],
)
def test_limit_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    before: tuple[int, int],
    after: tuple[int, int] | None,
) -> None:
    made: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_NOFILE: before}.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: made.append((kind, limits)))
    raise_limit(CONFIG, 2)
    assert made == ([] if after is None else [(resource.RLIMIT_NOFILE, after)])
    said = [record.getMessage() for record in caplog.records]
    assert said == ([TOO_FEW] if after == (1500, 1500) else [])
