"""Counts: what is told apart, what is joined, and where there is an end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from postroika.tlsrpt.days import Days, Ledger, day_at, day_text, line, parse_day
from postroika.tlsrpt.tally import (
    MAX_FAILURES,
    MAX_POLICIES,
    DomainRecord,
    Failure,
    Policy,
    PolicyRecord,
    Tally,
    clipped,
    clipped_lines,
)

NONE = Policy("no-policy-found", "a.test")
STS = Policy("sts", "a.test", ("version: STSv1",), ("*.a.test",))
BAD = Failure("certificate-expired", "192.0.2.1", "mx.a.test", "mx", "192.0.2.9", "expired")
DAY = parse_day("2026-11-21")


def counted(tally: Tally) -> dict[str, dict[Policy, tuple[int, dict[Failure, int]]]]:
    return {
        domain: {policy: (counts.successes, counts.failures) for policy, counts in policies.items()}
        for domain, policies in tally.domains.items()
    }


def test_sessions_are_counted_by_domain_policy_and_failure() -> None:
    tally = Tally(10)
    for _ in range(3):
        assert tally.succeeded("a.test", NONE)
    assert tally.failed("a.test", STS, BAD)
    assert tally.failed("a.test", STS, BAD)
    assert tally.failed("b.test", NONE, BAD._replace(mx_host="other"))
    assert counted(tally) == {
        "a.test": {NONE: (3, {}), STS: (0, {BAD: 2})},
        "b.test": {NONE: (0, {BAD._replace(mx_host="other"): 1})},
    }
    assert tally.domains["a.test"][STS].failed == 2


def test_domains_beyond_the_limit_are_left_out_and_told() -> None:
    tally = Tally(2)
    assert [tally.succeeded(domain, NONE) for domain in ("a", "b", "c", "a")] == [True, True, False, True]
    assert not tally.failed("c", NONE, BAD)
    assert (set(tally.domains), tally.uncounted) == ({"a", "b"}, 2)


def test_policies_beyond_the_limit_are_left_out() -> None:
    tally = Tally(2)
    taken = [tally.succeeded("a", Policy("sts", "a", (str(n),))) for n in range(MAX_POLICIES + 5)]
    assert taken == [True] * MAX_POLICIES + [False] * 5


def test_failures_beyond_the_limit_lose_their_particulars_only() -> None:
    tally = Tally(2)
    for number in range(MAX_FAILURES + 40):
        assert tally.failed("a", NONE, BAD._replace(reason=str(number)))
    counts = tally.domains["a"][NONE]
    assert (counts.failed, counts.failures[Failure("certificate-expired")]) == (MAX_FAILURES + 40, 40)
    assert len(counts.failures) == MAX_FAILURES + 1


def test_words_of_peers_are_made_fit() -> None:
    assert clipped("a\r\nb\x1b[0m\u2028c\ud800" + "x" * 1000) == "a  b [0m c " + "x" * 289
    assert len(clipped_lines("line" for _ in range(1000))) == 100


# --- on disk


def test_counts_of_all_workers_are_joined(tmp_path: Path) -> None:
    days = Days(tmp_path)
    assert (days.counted(), days.tally(DAY).domains) == ([], {})
    one = DomainRecord("a.test", [PolicyRecord(NONE, 3, []), PolicyRecord(STS, 0, [(BAD, 2)])])
    two = DomainRecord("a.test", [PolicyRecord(STS, 1, [(BAD, 1), (Failure("validation-failure"), 4)])])
    days.write(DAY, 0, [line(one)])
    days.write(DAY, 117, [line(two), line(DomainRecord("b.test", [PolicyRecord(NONE, 1, [])]))])
    days.write(DAY + 1, 0, [line(DomainRecord("c.test", [PolicyRecord(NONE, 9, [])]))])
    assert days.counted() == [DAY, DAY + 1]
    assert counted(days.tally(DAY)) == {
        "a.test": {NONE: (3, {}), STS: (1, {BAD: 3, Failure("validation-failure"): 4})},
        "b.test": {NONE: (1, {})},
    }
    assert list(days.records(DAY, 0)) == [one]
    assert list(days.records(DAY, 1)) == []
    days.write(DAY, 0, [])
    assert list(days.records(DAY, 0)) == []
    days.ledger(DAY).begin(1.0)
    days.forget(DAY)
    assert days.counted() == [DAY + 1]
    assert [path.name for path in (tmp_path / "tlsrpt").iterdir()] == ["2026-11-22-00.jsonl"]


def test_files_that_make_no_sense_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    days = Days(tmp_path)
    good = line(DomainRecord("a.test", [PolicyRecord(NONE, 3, [])]))
    days.write(DAY, 0, [good, b"{broken\n", good])
    folder = tmp_path / "tlsrpt"
    (folder / "2026-11-21-01.jsonl").write_bytes(b'{"format":2}\n' + good)
    (folder / "2026-13-99-01.jsonl").write_bytes(b'{"format":1}\n' + good)
    (folder / "2026-11-21-02.new").write_bytes(b'{"format":1}\n' + good)
    (folder / "2026-11-21-03.jsonl").mkdir()
    assert counted(days.tally(DAY)) == {"a.test": {NONE: (3, {})}}
    assert days.counted() == [DAY]
    assert [record.message.partition(".jsonl")[2][:24] for record in caplog.records] == [
        " cannot be read, as far ",
        " is of another version, ",
        " cannot be read, as far ",
    ]


def test_what_was_sent_outlives_the_process_but_for_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "day.sent"
    ledger = Ledger(path)
    assert (ledger.begun_at, ledger.settled) == (0.0, set())
    ledger.begin(5.5)
    ledger.sent("a.test", "mailto:x@a.test")
    ledger.settle("b.test")
    with path.open("ab") as file:
        file.write(b'{"domain":"c.te')
    for _ in range(2):
        again = Ledger(path)
        assert (again.begun_at, again.settled) == (5.5, {"b.test"})
        assert again.was_sent("a.test", "mailto:x@a.test")
        assert not again.was_sent("a.test", "mailto:y@a.test")
    again.settle("d.test")
    assert Ledger(path).settled == {"b.test", "d.test"}


def test_what_the_disk_has_not_taken_counts_and_is_written_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "day.sent"
    ledger = Ledger(path)
    ledger.begin(5.5)
    write = os.write
    left = [10, 0]

    def full(fd: int, content: bytes) -> int:
        room = left.pop(0)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, content[:room])

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(os, "write", full)
        ledger.sent("a.test", "mailto:x@a.test")
    assert ledger.was_sent("a.test", "mailto:x@a.test")
    ledger.flush()
    ledger.settle("b.test")
    again = Ledger(path)
    assert (again.begun_at, again.settled) == (5.5, {"b.test"})
    assert again.was_sent("a.test", "mailto:x@a.test")


def test_days_are_those_of_utc() -> None:
    assert (day_text(DAY), day_at(DAY * 86_400), day_at(DAY * 86_400 + 86_399.9)) == ("2026-11-21", DAY, DAY)
    for text in ("", "today", "2026-11-31", "2026-11-21x", "21.11.2026"):
        with pytest.raises(ValueError, match="is not a day"):
            parse_day(text)
