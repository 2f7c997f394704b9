"""A worker with policies of domains: a name server, hosts that serve policies, and a clock."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from postroika.config import Dns, Sts
from postroika.routing.resolver import Resolver
from postroika.sts.fetch import FetchError
from postroika.sts.policies import StsPolicies
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
