"""Counting in a worker: what is saved when, the change of days, restarts, several workers."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.metrics import TLS_REPORT_SESSIONS
from postroika.tlsrpt.days import DAY_S, Days, parse_day
from postroika.tlsrpt.recorder import SAVE_EVERY_S, Recorder
from postroika.tlsrpt.tally import Failure, Policy, budget
from tests.component.passing_time import pass_time

NONE = Policy("no-policy-found", "a.test")
BAD = Failure("starttls-not-supported")
DAY = parse_day("2026-11-21")
NOON = DAY * DAY_S + DAY_S / 2


def days_of(path: Path) -> Days:
    return Days(path)


def recorder_at(path: Path, at: float, shard: int = 0, max_domains: int = 1000) -> Recorder:
    """One whose clock goes with Trio's, from `at` on."""
    begun = trio.current_time()
    return Recorder(days_of(path), shard, max_domains, lambda: at + trio.current_time() - begun)


def sums(path: Path, day: int = DAY) -> dict[str, tuple[int, int]]:
    return {
        domain: (sum(c.successes for c in policies.values()), sum(c.failed for c in policies.values()))
        for domain, policies in days_of(path).tally(day).domains.items()
    }


async def test_counts_are_on_disk_within_a_minute(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    recorder = recorder_at(tmp_path, NOON)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        await pass_time(mock_clock, 5)
        recorder.succeeded("a.test", NONE)
        recorder.failed("b.test", NONE, BAD)
        assert sums(tmp_path) == {}
        await pass_time(mock_clock, SAVE_EVERY_S)
        assert sums(tmp_path) == {"a.test": (1, 0), "b.test": (0, 1)}
        recorder.succeeded("a.test", NONE)
        await pass_time(mock_clock, SAVE_EVERY_S)
        assert sums(tmp_path) == {"a.test": (2, 0), "b.test": (0, 1)}
        nursery.cancel_scope.cancel()


async def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    recorder = recorder_at(tmp_path, NOON)
    assert await recorder.save()
    assert not (tmp_path / "tlsrpt").exists()
    recorder.succeeded("a.test", NONE)
    assert await recorder.save()
    (file,) = (tmp_path / "tlsrpt").iterdir()
    file.unlink()
    assert await recorder.save()
    assert not file.exists()


async def test_restart_goes_on_with_what_was_saved(tmp_path: Path) -> None:
    for _ in range(3):  # killed each time
        recorder = recorder_at(tmp_path, NOON)
        recorder.succeeded("a.test", NONE)
        assert await recorder.save()
        recorder.succeeded("a.test", NONE)  # lost
    assert sums(tmp_path) == {"a.test": (3, 0)}


async def test_workers_count_each_for_itself_and_are_joined(tmp_path: Path) -> None:
    recorders = [recorder_at(tmp_path, NOON, shard) for shard in range(3)]
    for count, recorder in enumerate(recorders, 1):
        for _ in range(count):
            recorder.succeeded("a.test", NONE)
            recorder.failed("a.test", NONE, BAD)
        assert await recorder.save()
    assert sums(tmp_path) == {"a.test": (6, 6)}
    recorder = recorder_at(tmp_path, NOON, 1)  # of which none takes what is another's
    recorder.succeeded("a.test", NONE)
    assert await recorder.save()
    assert sums(tmp_path) == {"a.test": (7, 6)}


async def test_day_changes_at_midnight_utc(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    recorder = recorder_at(tmp_path, (DAY + 1) * DAY_S - 10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.succeeded("a.test", NONE)
        await pass_time(mock_clock, 11)
        for _ in range(2):
            recorder.succeeded("a.test", NONE)
        await pass_time(mock_clock, SAVE_EVERY_S)
        assert (sums(tmp_path, DAY), sums(tmp_path, DAY + 1)) == ({"a.test": (1, 0)}, {"a.test": (2, 0)})
        await pass_time(mock_clock, DAY_S)
        recorder.succeeded("a.test", NONE)
        await pass_time(mock_clock, SAVE_EVERY_S)
        assert (sums(tmp_path, DAY + 1), sums(tmp_path, DAY + 2)) == ({"a.test": (2, 0)}, {"a.test": (1, 0)})
        nursery.cancel_scope.cancel()


async def test_start_on_another_day_begins_from_nothing(tmp_path: Path) -> None:
    recorder = recorder_at(tmp_path, NOON)
    recorder.succeeded("a.test", NONE)
    await recorder.save()
    recorder = recorder_at(tmp_path, NOON + DAY_S)
    recorder.succeeded("a.test", NONE)
    await recorder.save()
    assert (sums(tmp_path, DAY), sums(tmp_path, DAY + 1)) == ({"a.test": (1, 0)}, {"a.test": (1, 0)})


async def test_what_is_counted_while_it_is_saved_is_saved_the_next_time(tmp_path: Path) -> None:
    recorder = recorder_at(tmp_path, NOON)
    for number in range(1000):
        recorder.succeeded(f"d{number}.test", NONE)

    async def count() -> None:
        for number in range(1000):
            recorder.succeeded(f"d{number}.test", NONE)
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.save)
        nursery.start_soon(count)
    await recorder.save()
    assert set(sums(tmp_path).values()) == {(2, 0)}


async def test_disk_that_refuses_keeps_counts_in_memory_over_midnight(
    tmp_path: Path, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tlsrpt").write_text("in the way")
    recorder = recorder_at(tmp_path, (DAY + 1) * DAY_S - 150)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        recorder.succeeded("a.test", NONE)
        await pass_time(mock_clock, 200)
        recorder.succeeded("b.test", NONE)
        await pass_time(mock_clock, 200)
        assert not await recorder.save()
        (tmp_path / "tlsrpt").unlink()
        await pass_time(mock_clock, SAVE_EVERY_S + 1)
        assert (sums(tmp_path, DAY), sums(tmp_path, DAY + 1)) == ({"a.test": (1, 0)}, {"b.test": (1, 0)})
        nursery.cancel_scope.cancel()
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert "the counts for TLS reports of 2026-11-21 cannot be saved" in said[0].message


async def test_memory_is_bounded_by_the_number_of_domains(tmp_path: Path) -> None:
    recorder = recorder_at(tmp_path, NOON, max_domains=10)
    for number in range(1000):
        recorder.succeeded(f"d{number}.test", NONE)
    await recorder.save()
    assert len(sums(tmp_path)) == 10


async def test_memory_is_bounded_whatever_hosts_say(tmp_path: Path) -> None:
    recorder = recorder_at(tmp_path, NOON, max_domains=200)
    for number in range(20_000):
        said = Failure("validation-failure", mx_helo=f"{number:0100}", reason=f"{number:0100}")
        recorder.failed(f"d{number % 200}.test", NONE, said)
    await recorder.save()
    assert sums(tmp_path) == {f"d{number}.test": (0, 100) for number in range(200)}
    assert (tmp_path / "tlsrpt" / "2026-11-21-00.jsonl").stat().st_size < budget(200)


async def test_second_failure_of_a_session_is_no_second_session(tmp_path: Path) -> None:
    before = {kind: metric.value for kind, metric in TLS_REPORT_SESSIONS.items()}
    recorder = recorder_at(tmp_path, NOON)
    recorder.succeeded("a.test", NONE)
    assert await recorder.save()
    recorder.failed_besides("a.test", NONE, BAD)
    assert await recorder.save()
    assert sums(tmp_path) == {"a.test": (1, 1)}
    assert {kind: metric.value - before[kind] for kind, metric in TLS_REPORT_SESSIONS.items()} == {
        "succeeded": 1,
        "failed": 0,
    }
