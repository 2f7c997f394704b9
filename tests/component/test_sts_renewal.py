"""sts.policies: policies that are known already, and what becomes of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.sts.fetch import FetchError
from postroika.sts.known import StsFailure
from postroika.sts.store import Part
from tests.component.sts_world import DAY_S, RECORD, UNREACHABLE, policy, publish, text, until, worker


async def test_new_id_brings_the_new_policy_and_nobody_waits_for_it(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        publish(world, "2")
        world.hosts.says = text("testing")
        mock_clock.jump(299)
        assert await world.policy() == policy()  # the record has not expired yet
        mock_clock.jump(1)
        world.hosts.holds = trio.Event()
        assert await world.policies.policy("shop.test") == policy()
        world.hosts.holds.set()
        await world.idle()
        assert await world.policy() == policy("2", "testing", 300)
        assert world.store.load("shop.test") == policy("2", "testing", 300)
        assert len(world.hosts.asked) == 2


async def test_policy_is_renewed_when_it_gets_old_though_its_id_is_the_same(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        mock_clock.jump(DAY_S - 1)
        assert await world.policy() == policy()
        assert len(world.hosts.asked) == 1
        mock_clock.jump(301)
        assert await world.policy() == policy()
        assert await world.policy() == policy(fetched_after_s=DAY_S + 300)
        assert len(world.hosts.asked) == 2


async def test_short_lived_policy_is_renewed_before_it_expires(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.says = text(max_age_s=1000)
        await world.policy()
        mock_clock.jump(501)
        await world.policy()
        assert await world.policy() == policy(fetched_after_s=501, max_age_s=1000)


async def test_old_policy_holds_until_it_expires_whatever_becomes_of_the_new_one(
    mock_clock: trio.testing.MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.says = text(max_age_s=DAY_S)
        await world.policy()
        publish(world, "2")
        world.hosts.says = UNREACHABLE
        for _ in range(3):
            mock_clock.jump(301)
            assert await world.policy() == policy(max_age_s=DAY_S)
        assert len(world.hosts.asked) == 4
        mock_clock.jump(299)
        await world.policy()
        assert len(world.hosts.asked) == 4  # not within five minutes
        mock_clock.jump(DAY_S - 4 * 301)
        assert await world.policy() == policy(max_age_s=DAY_S)
        mock_clock.jump(4)
        assert await world.policy() is None
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"the MTA-STS policy of shop.test could not be renewed, and the old one holds: {UNREACHABLE}"]


@pytest.mark.parametrize(
    "records",
    [
        "",  # NXDOMAIN
        '_mta-sts.shop.test. 300 IN TXT "v=spf1 -all"',
        "_mta-sts.shop.test. 300 IN A 192.0.2.1",  # NODATA
        RECORD.format(1) + "\n" + RECORD.format(3),
        RECORD.format("a-b"),
    ],
)
async def test_record_that_goes_away_takes_no_policy_with_it_and_keeps_none_from_being_renewed(
    mock_clock: trio.testing.MockClock, tmp_path: Path, records: str
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        world.dns.rrsets.clear()
        world.dns.add(records)
        mock_clock.jump(DAY_S - 1)
        assert await world.policy() == policy()
        assert len(world.hosts.asked) == 1
        mock_clock.jump(301)
        assert await world.policy() == policy()
        assert await world.policy() == policy(fetched_after_s=DAY_S + 300)
        assert len(world.hosts.asked) == 2


async def test_policy_whose_record_and_host_are_gone_holds_until_it_expires_and_is_told_of(
    mock_clock: trio.testing.MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        world.dns.rrsets.clear()
        world.hosts.says = UNREACHABLE
        mock_clock.jump(7 * DAY_S - 1)
        assert await world.policy() == policy()
        mock_clock.jump(1)
        assert await world.policy() is None
        assert len(world.hosts.asked) == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"the MTA-STS policy of shop.test could not be renewed, and the old one holds: {UNREACHABLE}"]


async def test_record_that_outlives_the_policy_does_not_keep_it_from_being_renewed(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1).replace("300", "3600")) as world:
        world.hosts.says = text(max_age_s=3000)
        await world.policy()
        mock_clock.jump(1499)
        await world.policy()
        assert len(world.hosts.asked) == 1
        mock_clock.jump(1)
        await world.policy()
        assert await world.policy() == policy(fetched_after_s=1500, max_age_s=3000)


async def test_record_that_is_kept_from_us_does_not_keep_the_policy_from_being_renewed(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        world.dns.fails.add("_mta-sts.shop.test")
        mock_clock.jump(DAY_S + 1)
        assert await world.policy() == policy()
        assert await world.policy() == policy(fetched_after_s=DAY_S + 1)


async def test_policy_without_lifetime_holds_for_those_who_wait_only(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.says = text(max_age_s=0)
        assert await world.policy() == policy(max_age_s=0)
        mock_clock.jump(1)
        assert await world.policy() == policy(max_age_s=0, fetched_after_s=1)
        assert world.store.load("shop.test") is None
        assert len(world.hosts.asked) == 2


@pytest.mark.parametrize(
    ("says", "failure"),
    [
        (UNREACHABLE, StsFailure("sts-policy-fetch-error", str(UNREACHABLE))),
        (FetchError("sts-webpki-invalid", "expired"), StsFailure("sts-webpki-invalid", "expired")),
        (
            b"<html>",
            StsFailure("sts-policy-invalid", "the policy of shop.test is broken: line 1 is not of the form key: value"),
        ),
    ],
    ids=["unreachable", "certificate", "broken"],
)
async def test_policy_that_holds_and_cannot_be_renewed_is_known_to_fail_until_it_can(
    mock_clock: trio.testing.MockClock, tmp_path: Path, says: bytes | FetchError, failure: StsFailure
) -> None:
    """RFC 8460 §4.3 knows what to tell the domain then."""
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        assert world.policies.failure("shop.test") is None
        publish(world, "2")
        world.hosts.says = says
        mock_clock.jump(301)
        assert await world.policy() == policy()
        assert world.policies.failure("Shop.test.") == failure
        mock_clock.jump(299)
        assert await world.policy() == policy()
        assert world.policies.failure("shop.test") == failure
        world.hosts.says = text()
        mock_clock.jump(1)
        await world.policy()
        assert world.policies.failure("shop.test") is None


async def test_record_that_goes_back_to_the_policy_that_holds_asks_for_no_other(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        publish(world, "2")
        world.hosts.says = UNREACHABLE
        mock_clock.jump(301)
        await world.policy()
        publish(world, "1")
        mock_clock.jump(301)
        await world.policy()
        assert world.policies.failure("shop.test") is None


async def test_failure_ends_with_the_policy_and_is_none_of_one_that_asks_for_nothing(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.says = text("none", max_age_s=DAY_S)
        await world.policy()
        world.hosts.says = UNREACHABLE
        publish(world, "2")
        mock_clock.jump(301)
        assert await world.policy() == policy(mode="none", max_age_s=DAY_S)
        assert world.policies.failure("shop.test") is None
        mock_clock.jump(DAY_S)
        assert world.policies.failure("shop.test") is None


async def test_failure_of_a_renewal_that_no_mail_has_asked_for_is_known_too(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1), Part(0, 1)) as world:
        await world.policy()
        world.hosts.says = UNREACHABLE
        mock_clock.jump(2 * DAY_S)
        await until(lambda: world.hosts.asked == ["shop.test"] * 2)
        await until(lambda: world.policies.failure("shop.test") is not None)


async def test_domain_takes_its_policy_back(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        publish(world, "2")
        world.hosts.says = text("none", max_age_s=0)
        mock_clock.jump(300)
        await world.policy()
        assert not world.store.path("shop.test").exists()
