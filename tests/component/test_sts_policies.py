"""sts.policies: the first policy of a domain, and who waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.pump import Pump
from postroika.sts.fetch import FetchError
from postroika.sts.known import StsFailure
from postroika.sts.policy import StsPolicy
from tests.component.sts_world import DAY_S, RECORD, UNREACHABLE, World, policy, publish, text, until, worker


async def test_domain_without_record_has_no_policy_and_costs_one_question(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, "shop.test. 300 IN A 192.0.2.1") as world:
        assert [await world.policy() for _ in range(3)] == [None] * 3
        assert world.dns.asked == {("_mta-sts.shop.test", "TXT"): 1}
        assert world.policies.failure("shop.test") is None
        mock_clock.jump(61)
        publish(world, "1")
        assert await world.policy() == policy(fetched_after_s=61)


async def test_policy_is_fetched_once_and_kept(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    before = metrics.STS_FETCHES["fetched"].value
    async with worker(tmp_path, RECORD.format(1)) as world:
        assert await world.policy() == policy()
        mock_clock.jump(50)
        assert await world.policies.policy("Shop.Test.") == policy()
        assert world.hosts.asked == ["shop.test"]
        assert world.store.load("shop.test") == policy()
        assert metrics.STS_FETCHES["fetched"].value == before + 1


@pytest.mark.parametrize(
    "records",
    [
        RECORD.format("a-b"),
        RECORD.format(1) + "\n" + RECORD.format(2),
        '_mta-sts.shop.test. 300 IN TXT "v=spf1 -all"',
    ],
)
async def test_record_that_does_not_count_is_none(
    mock_clock: trio.testing.MockClock, tmp_path: Path, records: str
) -> None:
    async with worker(tmp_path, records) as world:
        assert await world.policy() is None
        assert world.hosts.asked == []


async def test_record_is_found_behind_an_alias_in_several_strings(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    records = '_mta-sts.shop.test. 300 IN CNAME sts.host.test.\nsts.host.test. 300 IN TXT "v=STSv1; i" "d=1;"'
    async with worker(tmp_path, records) as world:
        assert await world.policy() == policy()


async def test_broken_dns_is_no_policy_for_now(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.dns.fails.add("_mta-sts.shop.test")
        assert await world.policy() is None
        world.dns.fails.clear()
        mock_clock.jump(5)
        assert await world.policy() == policy(fetched_after_s=5)


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
)
async def test_policy_that_cannot_be_had_is_none_and_not_asked_for_again_for_a_while(
    mock_clock: trio.testing.MockClock, tmp_path: Path, says: bytes | FetchError, failure: StsFailure
) -> None:
    fetches = metrics.STS_FETCHES[failure.kind.replace("-", "_")]
    before = fetches.value
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.says = says
        assert await world.policy() is None
        assert world.policies.failure("shop.test") == failure
        mock_clock.jump(299)
        assert await world.policy() is None
        assert len(world.hosts.asked) == 1
        assert fetches.value == before + 1
        world.hosts.says = text()
        mock_clock.jump(1)
        assert await world.policy() == policy(fetched_after_s=300)
        assert world.policies.failure("shop.test") is None


async def test_operator_who_forgets_failures_has_it_tried_at_once(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.says = UNREACHABLE
        assert await world.policy() is None
        world.hosts.says = text()
        world.policies.forget_failures()
        assert await world.policy() == policy()


async def test_fifty_deliveries_wait_for_one_fetch(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    found: list[StsPolicy | None] = []

    async def deliver(world: World, scope: trio.CancelScope) -> None:
        with scope:
            found.append(await world.policies.policy("shop.test"))

    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.holds = trio.Event()
        scopes = [trio.CancelScope() for _ in range(50)]
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(deliver, world, scope)
            await until(lambda: bool(world.hosts.asked))
            for scope in scopes[:10]:
                scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            world.hosts.holds.set()
        assert found == [policy()] * 40
        assert world.hosts.asked == ["shop.test"]
        assert world.dns.asked == {("_mta-sts.shop.test", "TXT"): 1}


async def test_search_goes_on_when_nobody_waits_any_more(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.holds = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.policies.policy, "shop.test")
                await until(lambda: bool(world.hosts.asked))
                scope.cancel()
        world.hosts.holds.set()
        await world.idle()
        assert await world.policy() == policy()
        assert world.hosts.asked == ["shop.test"]


async def test_strands_may_ask(tmp_path: Path, pump: Pump) -> None:
    found: list[StsPolicy | None] = []

    async def strand(world: World) -> None:
        found.append(await world.policies.policy("shop.test"))
        found.append(await world.policies.policy("shop.test"))

    async with worker(tmp_path, RECORD.format(1)) as world:
        world.hosts.says = text(max_age_s=DAY_S)
        pump.spawn(strand(world))
        await until(lambda: len(found) == 2)
    assert [each and each.mode for each in found] == ["enforce", "enforce"]


async def test_address_literals_have_none(tmp_path: Path) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        assert await world.policies.policy("[192.0.2.1]") is None
        assert world.dns.asked.total() == 0
