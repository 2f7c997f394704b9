"""Sending reports: when, to whom, how often, and what a restart makes of it."""

from __future__ import annotations

import gzip
import json
import random
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from postroika.errors import SpoolFullError
from postroika.routing.resolver import Answer, Status
from postroika.tlsrpt.days import DAY_S, Days, line, parse_day
from postroika.tlsrpt.post import PostError
from postroika.tlsrpt.report import Submitter
from postroika.tlsrpt.reporter import GIVE_UP_S, LEAST_DELAY_S, RETRY_DELAYS_S, Reporter
from postroika.tlsrpt.tally import DomainRecord, Policy, PolicyRecord
from tests.component.passing_time import pass_time

DAY = parse_day("2026-11-21")
MIDNIGHT = (DAY + 1) * DAY_S
MAX_DELAY_S = 7200.0
US = Submitter("Us", "tls@us.test", "mx.us.test")
PUBLISHED = {
    "mail.test": (b"v=TLSRPTv1; rua=mailto:r@mail.test",),
    "both.test": (b"v=spf1 -all", b"v=TLSRPTv1; rua=mailto:r@both.test,https://both.test/r"),
    "two.test": (b"v=TLSRPTv1; rua=mailto:r@two.test", b"v=TLSRPTv1; rua=mailto:s@two.test"),
    "none.test": (),
}
BOTH = {"mailto:r@both.test", "https://both.test/r"}


def records(*domains: str, count: int = 1) -> list[bytes]:
    policy = Policy("no-policy-found", "x.test")
    return [line(DomainRecord(domain, [PolicyRecord(policy, count, [])])) for domain in domains]


class Outside:
    """Where reports go: what arrived, by destination; and what refuses."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.mailed: list[tuple[str, bytes]] = []
        self.posted: list[tuple[str, bytes]] = []
        self.at: list[float] = []
        self.full = False
        self.refuses = False
        self.tries = 0

    async def put(self, address: str, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.full:
            raise SpoolFullError("no room")
        self.mailed.append((address, message))
        self.at.append(self.clock())

    async def post(self, url: str, content: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.tries += 1
        if self.refuses:
            raise PostError(f"{url}: HTTP 500")
        self.posted.append((url, content))
        self.at.append(self.clock())

    @property
    def uris(self) -> list[str]:
        return sorted([f"mailto:{address}" for address, _ in self.mailed] + [url for url, _ in self.posted])

    def reports(self) -> list[dict[str, Any]]:
        """All that arrived, taken apart."""
        contents = [
            message_from_bytes(message).get_payload()[1].get_payload(decode=True)  # type: ignore[union-attr,index]
            for _, message in self.mailed
        ]
        return [json.loads(gzip.decompress(content)) for content in contents + [content for _, content in self.posted]]


class Dns:
    """What is published, by domain; and of whom nothing can be found out."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[bytes, ...]] = dict(PUBLISHED)
        self.fails: set[str] = set()

    async def txt(self, name: str) -> Answer[bytes]:
        await trio.lowlevel.checkpoint()
        domain = name.removeprefix("_smtp._tls.")
        assert domain != name
        if domain in self.fails:
            return Answer(Status.FAILED, detail="SERVFAIL")
        if domain not in self.records:
            return Answer(Status.NXDOMAIN)
        found = self.records[domain]
        return Answer(Status.FOUND if found else Status.NODATA, found)


class Clock:
    """Epoch seconds that go with Trio's clock."""

    def __init__(self, at: float) -> None:
        self._offset = at - trio.current_time()

    def __call__(self) -> float:
        return self._offset + trio.current_time()


class World:
    def __init__(self, path: Path, mock_clock: MockClock, at: float = MIDNIGHT - 60) -> None:
        self.path = path
        self.days = Days(path)
        self.clock = Clock(at)
        self.outside = Outside(self.clock)
        self.dns = Dns()
        self.mock_clock = mock_clock

    def reporter(self, seed: int = 1) -> Reporter:
        return Reporter(
            US,
            self.days,
            self.dns,
            self.outside,
            self.outside,
            max_delay_s=MAX_DELAY_S,
            rng=random.Random(seed),
            clock=self.clock,
        )

    async def run_for(self, seconds: float, seed: int = 1) -> None:
        """A process that lives so long."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reporter(seed).run)
            await pass_time(self.mock_clock, seconds)
            nursery.cancel_scope.cancel()

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.path / "tlsrpt").iterdir())


async def test_report_of_a_day_is_sent_to_all_who_want_it_after_a_while(tmp_path: Path, mock_clock: MockClock) -> None:
    w = World(tmp_path, mock_clock)
    w.days.write(DAY, 0, records("mail.test", "both.test", "two.test", "none.test"))
    w.days.write(DAY, 1, records("mail.test", "absent.test", count=41))
    await w.run_for(60 + LEAST_DELAY_S - 1)
    assert w.outside.uris == []
    await w.run_for(MAX_DELAY_S)
    assert w.outside.uris == sorted(["mailto:r@mail.test", *BOTH])
    assert all(MIDNIGHT + LEAST_DELAY_S <= at <= MIDNIGHT + MAX_DELAY_S + 1 for at in w.outside.at)
    assert w.left() == []
    found = {report["report-id"]: report for report in w.outside.reports()}
    assert {report["date-range"]["end-datetime"] for report in found.values()} == {"2026-11-21T23:59:59Z"}
    sums = [report["policies"][0]["summary"]["total-successful-session-count"] for report in found.values()]
    assert sorted(sums) == [1, 42]  # of both.test there are two copies
    await w.run_for(3 * DAY_S)
    assert w.outside.tries == 3


async def test_moment_is_a_matter_of_chance(tmp_path: Path, mock_clock: MockClock) -> None:
    moments = set()
    for seed in range(5):
        w = World(tmp_path, mock_clock)
        w.days.write(DAY, 0, records("mail.test"))
        await w.run_for(MAX_DELAY_S + 120, seed)
        moments |= {round(at) for at in w.outside.at}
    assert len(moments) == 5


async def test_day_that_is_not_over_is_left_alone(tmp_path: Path, mock_clock: MockClock) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT + 10 * 3600)
    w.days.write(DAY + 1, 0, records("mail.test"))
    await w.run_for(13 * 3600)
    assert w.outside.tries == 0
    await w.run_for(2 * 3600 + MAX_DELAY_S)
    assert w.outside.uris == ["mailto:r@mail.test"]


async def test_what_cannot_be_sent_is_tried_again_and_nothing_twice(tmp_path: Path, mock_clock: MockClock) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT + MAX_DELAY_S)
    w.outside.refuses = True
    w.dns.fails.add("mail.test")
    w.days.write(DAY, 0, records("both.test", "mail.test"))
    await w.run_for(60)
    assert w.outside.uris == ["mailto:r@both.test"]
    w.outside.refuses = False
    w.dns.fails.clear()
    # Another process, which finds what was sent.
    await w.run_for(RETRY_DELAYS_S[0] + 60)
    assert w.outside.uris == sorted(["mailto:r@mail.test", *BOTH])
    assert w.left() == []


async def test_tries_grow_rare_and_end_after_a_day(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT + MAX_DELAY_S)
    w.outside.full = True
    w.days.write(DAY, 0, records("mail.test"))
    await w.run_for(GIVE_UP_S - 60)
    assert w.outside.tries == 2 + len(RETRY_DELAYS_S)  # the longest of them twice
    assert w.left() == ["2026-11-21-00.jsonl", "2026-11-21.sent"]
    await w.run_for(RETRY_DELAYS_S[-1])
    assert w.left() == []
    assert "TLS reports about 2026-11-21 could not be sent to 1 domains, and are dropped" in caplog.text
    tries = w.outside.tries
    w.outside.full = False
    await w.run_for(DAY_S)
    assert w.outside.tries == tries


async def test_process_that_ends_in_the_middle_goes_on_after_a_restart(tmp_path: Path, mock_clock: MockClock) -> None:
    domains = [f"d{n:03}.test" for n in range(60)]
    w = World(tmp_path, mock_clock, MIDNIGHT + MAX_DELAY_S)
    w.dns.records = {domain: (f"v=TLSRPTv1; rua=mailto:r@{domain}".encode(),) for domain in domains}
    w.days.write(DAY, 0, records(*domains))
    with trio.CancelScope() as killed:
        original = w.outside.put

        async def put(address: str, message: bytes) -> None:
            await original(address, message)
            if len(w.outside.mailed) == 25:
                killed.cancel()

        w.outside.put = put  # type: ignore[method-assign]
        await w.reporter().run()
    assert 25 <= len(w.outside.mailed) < 60
    w.outside.put = original  # type: ignore[method-assign]
    await w.run_for(60)
    assert w.outside.uris == [f"mailto:r@{d}" for d in domains]
    assert w.left() == []


async def test_days_that_the_server_was_down_are_reported_at_the_next_start(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT + 2 * DAY_S + MAX_DELAY_S)
    for day in (DAY, DAY + 1):
        w.days.write(day, 0, records("mail.test"))
    await w.run_for(60)
    begins = [report["date-range"]["start-datetime"] for report in w.outside.reports()]
    assert begins == ["2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"]


async def test_operator_has_a_day_sent_at_once(tmp_path: Path, mock_clock: MockClock) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT + 1)
    w.days.write(DAY, 0, records("mail.test", "none.test"))
    reporter = w.reporter()
    done = await reporter.send(DAY)
    assert (done.domains, done.reports, done.failed, done.problems) == (2, 1, 0, [])
    assert w.left() == []
    done = await reporter.send(DAY)
    assert (done.domains, done.reports) == (0, 0)


async def test_day_that_is_not_over_is_told_of_so_far_and_whole_when_it_is(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT - 3600)
    w.days.write(DAY, 0, records("mail.test"))
    reporter = w.reporter()
    assert (await reporter.send(DAY)).reports == 1
    w.days.write(DAY, 0, records("mail.test", count=2))
    await w.run_for(3600 + MAX_DELAY_S + 60)
    so_far, whole = w.outside.reports()
    assert [report["date-range"]["end-datetime"] for report in (so_far, whole)] == [
        "2026-11-21T23:00:00Z",
        "2026-11-21T23:59:59Z",
    ]
    assert [r["policies"][0]["summary"]["total-successful-session-count"] for r in (so_far, whole)] == [1, 2]
    assert so_far["report-id"] != whole["report-id"]


async def test_problems_are_told_in_words(tmp_path: Path, mock_clock: MockClock) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT + 1)
    w.days.write(DAY, 0, records("both.test", "mail.test"))
    w.outside.refuses = True
    w.dns.fails.add("mail.test")
    done = await w.reporter().send(DAY)
    assert (done.domains, done.reports, done.failed) == (2, 1, 2)
    assert sorted(done.problems) == [
        "both.test: https://both.test/r: HTTP 500",
        "mail.test: DNS look-up of _smtp._tls.mail.test failed: SERVFAIL",
    ]


async def test_disk_that_does_not_take_what_was_sent_ends_nothing_and_has_nothing_sent_twice(
    tmp_path: Path, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    domains = [f"d{n:03}.test" for n in range(60)]
    w = World(tmp_path, mock_clock, MIDNIGHT + MAX_DELAY_S)
    w.dns.records = {domain: (f"v=TLSRPTv1; rua=mailto:r@{domain}".encode(),) for domain in domains}
    w.days.write(DAY, 0, records(*domains))
    ledger, aside = tmp_path / "tlsrpt" / "2026-11-21.sent", tmp_path / "aside"
    original = w.outside.put

    async def put(address: str, message: bytes) -> None:
        await original(address, message)
        if len(w.outside.mailed) == 25:
            ledger.rename(aside)
            ledger.mkdir()

    w.outside.put = put  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(w.reporter().run)
        await pass_time(mock_clock, 60)
        sent = list(w.outside.uris)
        assert 25 <= len(sent) <= 25 + 8  # that were under way
        await pass_time(mock_clock, 5 * RETRY_DELAYS_S[0])
        assert w.outside.uris == sent
        ledger.rmdir()
        aside.rename(ledger)
        await pass_time(mock_clock, RETRY_DELAYS_S[0])
        assert w.outside.uris == [f"mailto:r@{domain}" for domain in domains]
        assert w.left() == []
        nursery.cancel_scope.cancel()
    why = "what was sent cannot be noted: [Errno 21]"
    assert f"TLS reports about 2026-11-21 cannot be sent for now: {why}" in caplog.text


async def test_operator_is_told_of_a_disk_that_does_not_take_what_was_sent(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    w = World(tmp_path, mock_clock, MIDNIGHT + 1)
    w.days.write(DAY, 0, records("mail.test"))
    original = w.outside.put

    async def put(address: str, message: bytes) -> None:
        await original(address, message)
        (tmp_path / "tlsrpt" / "2026-11-21.sent").unlink()
        (tmp_path / "tlsrpt" / "2026-11-21.sent").mkdir()

    w.outside.put = put  # type: ignore[method-assign]
    done = await w.reporter().send(DAY)
    assert (done.domains, done.reports, done.failed) == (1, 1, 1)
    assert [problem.partition(" [")[0] for problem in done.problems] == ["mail.test: what was sent cannot be noted:"]
