"""Routes found through real name servers: Unbound as the resolver, Knot as the authority."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from postroika.config import Config, Dns, Server
from postroika.mail.reply import Reply
from postroika.routing.mx import Mx
from postroika.routing.resolver import Resolver, Status
from postroika.routing.router import Host, NoRoute, Route, Router
from tests.system.dns_server import DnsServer

ZONE = """
shop        MX 10 primary.shop
shop        MX 20 backup.shop
primary.shop A 192.0.2.1
primary.shop AAAA 2001:db8::1
backup.shop A 192.0.2.2
null        MX 0 .
bare        A 192.0.2.3
alias       CNAME shop
chain       CNAME alias
dangling    CNAME nowhere
text        TXT "no mail here"
halfbroken  MX 10 mx.broken
halfbroken  MX 20 backup.shop
allbroken   MX 10 mx.broken
private     MX 10 inside1
private     MX 20 inside2
inside1     A 127.0.0.1
inside2     A 192.168.1.1
inside2     AAAA fd00::1
us          A 192.0.2.4
ours        MX 10 backup.shop
ours        MX 20 us
missing     MX 10 nowhere
""" + "".join(
    f"many MX {i} mx{i}.a-name-long-enough-to-need-tcp.many\nmx{i}.a-name-long-enough-to-need-tcp.many A 192.0.2.{i}\n"
    for i in range(100)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsServer]:
    server = DnsServer(ZONE, tmp_path_factory.mktemp("dns"))
    yield server
    server.stop()


def _router(server: DnsServer, *, allow_private: tuple[str, ...] = ()) -> Router:
    dns = Dns(servers=(server.address,), ipv6="after_ipv4", timeout_s=20.0, allow_private=allow_private)
    return Router(Config(server=Server(hostname="us.test"), dns=dns))


BACKUP = Host("backup.shop.test", ("192.0.2.2",))
SHOP = (Host("primary.shop.test", ("192.0.2.1", "2001:db8::1")), BACKUP)


@pytest.mark.parametrize(
    ("destination", "site", "hosts"),
    [
        ("shop.test", "backup.shop.test,primary.shop.test", SHOP),
        ("alias.test", "backup.shop.test,primary.shop.test", SHOP),
        ("chain.test", "backup.shop.test,primary.shop.test", SHOP),
        ("bare.test", "bare.test", (Host("bare.test", ("192.0.2.3",)),)),
        ("halfbroken.test", "backup.shop.test,mx.broken.test", (BACKUP,)),
        ("ours.test", "backup.shop.test,us.test", (BACKUP,)),
    ],
)
async def test_route(server: DnsServer, destination: str, site: str, hosts: tuple[Host, ...]) -> None:
    assert await _router(server).route(destination) == Route(site, hosts)


@pytest.mark.parametrize(
    ("destination", "permanent", "reply"),
    [
        ("null.test", True, Reply(556, "5.1.10", ("domain null.test accepts no mail (null MX)",))),
        ("nowhere.test", True, Reply(550, "5.1.2", ("domain nowhere.test does not exist",))),
        ("dangling.test", True, Reply(550, "5.1.2", ("domain dangling.test does not exist",))),
        ("broken.test", False, Reply(451, "4.4.3", ("DNS look-up of MX for broken.test failed: SERVFAIL",))),
        ("allbroken.test", False, Reply(451, "4.4.3", ("DNS look-up of mx.broken.test failed: SERVFAIL",))),
        ("text.test", True, Reply(550, "5.4.4", ("no mail host of text.test has an address (tried text.test)",))),
        (
            "missing.test",
            True,
            Reply(550, "5.4.4", ("no mail host of missing.test has an address (tried nowhere.test)",)),
        ),
        ("private.test", True, Reply(550, "5.4.4", ("inside1.test is refused: 127.0.0.1 is not a public address",))),
    ],
)
async def test_no_route(server: DnsServer, destination: str, permanent: bool, reply: Reply) -> None:
    with pytest.raises(NoRoute) as caught:
        await _router(server).route(destination)
    assert (caught.value.permanent, caught.value.reply) == (permanent, reply)


async def test_private_addresses_are_followed_where_allowed(server: DnsServer) -> None:
    router = _router(server, allow_private=("127.0.0.0/8", "192.168.0.0/16"))
    assert (await router.route("private.test")).hosts == (
        Host("inside1.test", ("127.0.0.1",)),
        Host("inside2.test", ("192.168.1.1",)),
    )


async def test_hundred_mx_hosts_come_over_tcp_and_are_cut_to_the_best(server: DnsServer) -> None:
    answer = await Resolver(Dns(servers=(server.address,))).mx("many.test")
    names = [f"mx{i}.a-name-long-enough-to-need-tcp.many.test" for i in range(100)]
    assert answer.records == tuple(Mx(i, name) for i, name in enumerate(names))
    route = await _router(server).route("many.test")
    assert route.hosts == tuple(Host(name, (f"192.0.2.{i}",)) for i, name in enumerate(names[:20]))


async def test_authority_without_recursion_will_do(server: DnsServer) -> None:
    resolver = Resolver(Dns(servers=(server.authority,)))
    assert (await resolver.mx("chain.test")).canonical == "shop.test"
    assert (await resolver.mx("broken.test")).status is Status.FAILED


async def test_two_hundred_destinations_at_once(dns_server: Callable[[str], DnsServer]) -> None:
    zone = "".join(f"d{i} MX 10 mx.d{i}\nmx.d{i} A 192.0.2.{i}\n" for i in range(200))
    router = _router(dns_server(zone))
    routes: dict[int, Route] = {}

    async def route(i: int) -> None:
        routes[i] = await router.route(f"d{i}.test")

    async with trio.open_nursery() as nursery:
        for i in range(200):
            nursery.start_soon(route, i)
    assert routes == {i: Route(f"mx.d{i}.test", (Host(f"mx.d{i}.test", (f"192.0.2.{i}",)),)) for i in range(200)}


async def test_second_server_serves_when_the_first_is_gone(server: DnsServer, tmp_path: Path) -> None:
    gone = DnsServer("", tmp_path)
    gone.stop()
    resolver = Resolver(Dns(servers=(gone.address, server.address)))
    assert (await resolver.ipv4("bare.test")).records == ("192.0.2.3",)
