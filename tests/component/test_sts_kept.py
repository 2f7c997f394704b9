"""sts.policies: restarts, several workers, bounds."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.sts.known import MEMORY_BYTES
from postroika.sts.store import Part
from tests.component.sts_world import BEGAN_AT, DAY_S, RECORD, UNREACHABLE, policy, publish, text, until, worker


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
        known = policies._known
        kept = [found for domain in domains if (found := known.get(domain)) is not None]
        assert known.size_bytes == sum(found.size_bytes for found in kept) <= MEMORY_BYTES
        assert 200 < len(known) == len(kept) < 400
        assert await policies.policy("d0.test") is not None  # from the store
        await world.idle()
        assert len(world.hosts.asked) == 400
