"""Counts: what is told apart, what is joined, and where there is an end."""

from __future__ import annotations

import errno
import os
import tracemalloc
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
    budget,
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


def talkative(number: int) -> Failure:
    """One of those that no two are alike of."""
    return BAD._replace(mx_host=f"{number}.a.test", mx_helo=f"{number:0100}", reason=f"{number:0100}")


def test_words_of_peers_have_half_of_the_room_and_sums_stay_right() -> None:
    tally = Tally(1000, budget(1))
    for number in range(3000):
        lines = (f"{number:0300}",) * 2
        assert tally.failed(f"d{number % 300}.evil.test", Policy("sts", "evil.test", lines), talkative(number))
    assert tally.succeeded("good.test", STS)
    assert tally.failed("good.test", NONE, BAD)
    assert (tally.uncounted, tally.size_bytes <= budget(1)) == (0, True)
    assert sum(counts.failed for policies in tally.domains.values() for counts in policies.values()) == 3001
    assert counted(tally)["good.test"] == {
        Policy("sts", "a.test"): (1, {}),
        NONE: (0, {Failure("certificate-expired"): 1}),
    }
    assert counted(tally)["d299.evil.test"] == {
        Policy("sts", "evil.test"): (0, {Failure("certificate-expired"): 10}),
    }
    assert counted(tally)["d0.evil.test"][Policy("sts", "evil.test", ("0" * 300,) * 2)] == (0, {talkative(0): 1})


def test_domains_beyond_the_room_are_left_out_and_told() -> None:
    tally = Tally(max_bytes=budget(1))
    taken = [tally.succeeded(f"{number:0200}.test", NONE) for number in range(2000)]
    assert taken == sorted(taken, reverse=True)
    assert (len(tally.domains), tally.uncounted) == (sum(taken), 2000 - sum(taken))
    assert 500 < len(tally.domains) < 1000
    assert not tally.failed("b.test", NONE, BAD)
    assert "b.test" not in tally.domains


@pytest.mark.parametrize(
    ("domains", "failures", "lines"), [(2000, 0, 0), (2000, 1, 0), (300, 20, 0), (100, 3, 50), (5000, 0, 1)]
)
def test_memory_is_no_more_than_is_reckoned(domains: int, failures: int, lines: int) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tally = Tally()
        for number in range(domains):
            domain = f"{number}.a.test"
            policy = Policy("sts", domain, tuple([f"{number} {line} é" for line in range(lines)]), (f"*.{domain}",))
            tally.succeeded(domain, policy)
            for failure in range(failures):
                tally.failed(domain, policy, talkative(number * 1000 + failure))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= tally.size_bytes <= 2 * taken


def test_room_is_that_for_the_domains_of_the_config() -> None:
    assert (budget(1), budget(10_000), budget(1_000_000)) == (1_048_576, 40_960_000, 4_096_000_000)


def test_words_of_peers_are_made_fit() -> None:
    assert clipped("a\r\nb\x1b[0m\u2028c\ud800" + "x" * 1000) == "a  b [0m c " + "x" * 89
    assert clipped_lines("y" * 1000 for _ in range(1000)) == ("y" * 300,) * 50


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


def test_counts_of_all_workers_that_find_no_room_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    days = Days(tmp_path, budget(1))
    for shard in range(3):
        own = [DomainRecord(f"{shard}-{number:0200}.test", [PolicyRecord(NONE, 1, [])]) for number in range(500)]
        days.write(DAY, shard, map(line, own))
    tally = days.tally(DAY)
    assert tally.size_bytes <= budget(1)
    assert [record.getMessage() for record in caplog.records] == [
        f"{1500 - len(tally.domains)} sessions of 2026-11-21 find no room in TLS reports"
    ]


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
