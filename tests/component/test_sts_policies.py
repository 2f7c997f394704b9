"""Which policy holds for a domain, and when it is looked for: first fetch, cache, renewal, failures, restarts."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika import metrics
from postroika.config import Dns, Sts
from postroika.pump import Pump
from postroika.routing.resolver import Resolver
from postroika.sts.fetch import FetchError
from postroika.sts.policies import MEMORY_BYTES, StsFailure, StsPolicies
from postroika.sts.policy import Mode, StsPolicy
from postroika.sts.store import Part, PolicyStore
from tests.component.name_server import NameServer

BEGAN_AT = 1_800_000_000.0
DAY_S = 86_400
RECORD = '_mta-sts.shop.test. 300 IN TXT "v=STSv1; id={};"'
UNREACHABLE = FetchError("sts-policy-fetch-error", "mta-sts.shop.test has not answered within 60 s")


def text(mode: str = "enforce", mx: str = "mx.shop.test", max_age_s: int = 7 * DAY_S) -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {max_age_s}\n".encode()


def policy(
    record_id: str = "1",
    mode: Mode = "enforce",
    fetched_after_s: float = 0,
    max_age_s: int = 7 * DAY_S,
    domain: str = "shop.test",
) -> StsPolicy:
    expires_at = BEGAN_AT + fetched_after_s + max_age_s
    return StsPolicy(domain, mode, ("mx.shop.test",), max_age_s, record_id, expires_at)


class PolicyHosts:
    """Answers for all of them with the same; `holds` makes it wait."""

    def __init__(self) -> None:
        self.says: bytes | FetchError = text()
        self.asked: list[str] = []
        self.holds: trio.Event | None = None

    async def fetch(self, domain: str) -> bytes:
        self.asked.append(domain)
        if self.holds is not None:
            await self.holds.wait()
        if isinstance(self.says, FetchError):
            raise self.says
        return self.says

    def reload(self) -> None:
        """There is nothing to read."""


class World:
    """A worker's policies, with the domain's name server and policy host."""

    def __init__(self, spool: Path, dns: NameServer, settings: Sts, part: Part | None, resolver_settings: Dns) -> None:
        self.dns = dns
        self.hosts = PolicyHosts()
        trio_clock = trio.lowlevel.current_clock()  # asked in threads, too

        def clock() -> float:
            return BEGAN_AT + trio_clock.current_time()

        self.store = PolicyStore(spool / "mta-sts", clock)
        resolver = Resolver(resolver_settings)
        self.policies = StsPolicies(settings, resolver, self.hosts, self.store, part, clock)

    async def idle(self) -> None:
        """Until nothing is done in the background."""
        nursery = self.policies._nursery
        await until(lambda: nursery is None or not nursery.child_tasks)

    async def policy(self) -> StsPolicy | None:
        """As delivery gets it; what that has begun comes to its end."""
        found = await self.policies.policy("shop.test")
        await self.idle()
        return found


@contextlib.asynccontextmanager
async def worker(
    spool: Path, records: str, part: Part | None = None, negative_ttl_s: float = 60.0, **settings: float
) -> AsyncIterator[World]:
    async with NameServer(records).serve() as dns, trio.open_nursery() as nursery:
        resolver_settings = Dns(servers=(dns.address,), negative_ttl_s=negative_ttl_s)
        world = World(spool, dns, Sts(**settings), part, resolver_settings)  # type: ignore[arg-type]
        await nursery.start(world.policies.run)
        yield world
        nursery.cancel_scope.cancel()


async def until(reached: Callable[[], bool]) -> None:
    """Let threads and sockets go on until they have done something; the clock stands meanwhile."""
    while not reached():  # noqa: ASYNC110 - no event tells of it
        await trio.lowlevel.checkpoint()


def publish(world: World, record_id: str) -> None:
    """Another id than before."""
    world.dns.rrsets.clear()
    world.dns.add(RECORD.format(record_id))


# ---- the first one


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


# ---- later ones


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


async def test_domain_takes_its_policy_back(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
        publish(world, "2")
        world.hosts.says = text("none", max_age_s=0)
        mock_clock.jump(300)
        await world.policy()
        assert not world.store.path("shop.test").exists()


# ---- restarts, several workers, bounds


async def test_policy_outlives_a_restart_without_dns_and_policy_host(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        await world.policy()
    async with worker(tmp_path, "") as world:
        world.hosts.says = UNREACHABLE
        assert await world.policy() == policy()
        mock_clock.jump(7 * DAY_S)
    async with worker(tmp_path, "") as world:
        assert await world.policy() is None


async def test_what_one_worker_has_fetched_serves_the_others(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, RECORD.format(1)) as one, worker(tmp_path, RECORD.format(1)) as other:
        await one.policy()
        assert await other.policy() == policy()
        for world in (one, other):
            publish(world, "2")
        mock_clock.jump(300)
        one.hosts.says = text("testing")
        await one.policy()
        await other.policy()
        assert await other.policy() == policy("2", "testing", 300)
        assert (len(one.hosts.asked), other.hosts.asked) == (2, [])


@pytest.mark.parametrize("damage", [b"", b"{", b'{"domain":"shop.test"}', b"\xff" * 100])
async def test_damaged_file_is_no_policy(mock_clock: trio.testing.MockClock, tmp_path: Path, damage: bytes) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        world.store.directory.mkdir()
        world.store.path("shop.test").write_bytes(damage)
        assert await world.policy() == policy()
        assert world.store.load("shop.test") == policy()


async def test_file_of_another_domain_is_no_policy_and_no_clock_makes_one_last(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, "") as world:
        world.store.save(policy(domain="other.test"))
        world.store.path("other.test").rename(world.store.path("shop.test"))
        assert world.store.load("shop.test") is None
        world.store.save(policy(max_age_s=31_557_600, fetched_after_s=1))
        assert await world.policy() is None


async def test_disk_that_takes_nothing_costs_the_restart_only(
    mock_clock: trio.testing.MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mta-sts").write_text("not a directory")
    async with worker(tmp_path, RECORD.format(1)) as world:
        assert await world.policy() == policy()
        assert await world.policy() == policy()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("the MTA-STS policy of shop.test is not kept for a restart: [Errno ")


async def test_long_lived_policies_are_renewed_without_mail_if_they_were_of_use_lately(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    ages = {"lasting.test": 30 * DAY_S, "short.test": DAY_S, "expiring.test": 2 * DAY_S, "unused.test": 60 * DAY_S}
    records = "\n".join(RECORD.format(1).replace("shop.test", domain) for domain in ages)
    async with worker(tmp_path, records, Part(0, 1)) as world:
        for domain, max_age_s in ages.items():
            world.store.save(policy(domain=domain, max_age_s=max_age_s))
        os.utime(world.store.path("unused.test"), (BEGAN_AT, BEGAN_AT - 30 * DAY_S))
        world.hosts.says = text(max_age_s=30 * DAY_S)
        mock_clock.jump(DAY_S + 1)
        renewed = [
            policy(domain=domain, fetched_after_s=DAY_S + 1, max_age_s=30 * DAY_S)
            for domain in ("lasting.test", "expiring.test")
        ]
        await until(lambda: [world.store.load(each.domain) for each in renewed] == renewed)
        assert sorted(world.hosts.asked) == ["expiring.test", "lasting.test"]
        assert not world.store.path("short.test").exists()
        assert world.store.load("unused.test") == policy(domain="unused.test", max_age_s=60 * DAY_S)


async def test_store_keeps_what_was_of_use_last_and_each_worker_its_part(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with worker(tmp_path, "", Part(0, 2), cache_entries=8) as world:
        domains = [f"d{i}.test" for i in range(40)]
        for number, domain in enumerate(domains):
            world.store.save(policy(domain=domain))
            os.utime(world.store.path(domain), (BEGAN_AT, BEGAN_AT + number))
        (world.store.directory / "left.1.new").touch()
        os.utime(world.store.directory / "left.1.new", (BEGAN_AT, BEGAN_AT - 2 * DAY_S))
        ours = [domain for domain in domains if world.store.path(domain).name in world.store.names(Part(0, 2))]
        others = [domain for domain in domains if domain not in ours]
        assert min(len(ours), len(others)) > 8
        mock_clock.jump(3600)
        await until(lambda: len(list(world.store.directory.iterdir())) == len(others) + 4)
        left = [domain for domain in domains if world.store.load(domain) is not None]
        assert left == [domain for domain in domains if domain in others or domain in ours[-4:]]


async def test_use_is_noted_once_a_day(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    async with worker(tmp_path, RECORD.format(1)) as world:
        used_at = []
        for jump_s in (0, DAY_S - 10, 400):
            mock_clock.jump(jump_s)
            await world.policy()
            used_at.append(world.store.path("shop.test").stat().st_mtime - BEGAN_AT)
        assert used_at == [0, 0, DAY_S + 390]


async def test_memory_is_bounded_whatever_policies_hold(mock_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    mx = "\nmx: ".join(f"{'x' * 60}.{'y' * 60}.{'z' * 60}.h{i}.test" for i in range(256))
    domains = [f"d{i}.test" for i in range(400)]
    records = "\n".join(RECORD.format(1).replace("shop.test", domain) for domain in domains)
    async with worker(tmp_path, records) as world:
        world.hosts.says = text(mx=mx)
        for domain in domains:
            assert await world.policies.policy(domain) is not None
        policies = world.policies
        assert policies._weight == sum(known.weight for known in policies._known.values()) <= MEMORY_BYTES
        assert 200 < len(policies._known) < 400
        assert await policies.policy("d0.test") is not None  # from the store
        await world.idle()
        assert len(world.hosts.asked) == 400
