"""Routes from the table, MX records and addresses, against a DNS server in the same process."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
import trio
import trio.testing

from postroika.config import Config, Delivery, Dns, Listener, Route, Server
from postroika.mail.reply import Reply
from postroika.routing.finder import GRACE_S, INCOMPLETE_S
from postroika.routing.router import Host, NoRoute, Router
from postroika.routing.router import Route as Found
from postroika.tls.policy import HostPolicy, Level
from tests.component.name_server import NameServer

NAMED = HostPolicy(name_trusted=True)
ZONE = """
shop.test. 300 IN MX 20 mx2.shop.test.
shop.test. 300 IN MX 10 mx1.shop.test.
same.test. 300 IN MX 5 mx2.shop.test.
same.test. 300 IN MX 5 mx1.shop.test.
mx1.shop.test. 300 IN A 192.0.2.1
mx2.shop.test. 300 IN A 192.0.2.2
null.test. 300 IN MX 0 .
bare.test. 300 IN A 192.0.2.9
alias.test. 300 IN CNAME bare.test.
text.test. 300 IN TXT "no mail here"
backup.test. 300 IN MX 10 mx1.shop.test.
backup.test. 300 IN MX 20 us.test.
backup.test. 300 IN MX 30 mx2.shop.test.
ours.test. 300 IN MX 10 us.test.
gone.test. 300 IN MX 10 mx.nowhere.test.
gone.test. 300 IN MX 20 text.test.
half.test. 300 IN MX 10 mx.nowhere.test.
half.test. 300 IN MX 20 mx2.shop.test.
numeric.test. 300 IN MX 10 192.0.2.1.
inside.test. 300 IN MX 10 inside1.test.
inside.test. 300 IN MX 20 inside2.test.
inside1.test. 300 IN A 127.0.0.1
inside2.test. 300 IN AAAA ::ffff:10.0.0.1
mixed.test. 300 IN MX 10 inside1.test.
mixed.test. 300 IN MX 20 mixed1.test.
mixed1.test. 300 IN A 10.0.0.1
mixed1.test. 300 IN A 192.0.2.3
dual.test. 300 IN MX 10 dual1.test.
dual1.test. 300 IN A 192.0.2.4
dual1.test. 300 IN AAAA 2001:db8::4
six.test. 300 IN MX 10 six1.test.
six1.test. 300 IN AAAA 2001:db8::6
other-name.test. 300 IN MX 10 mx1.shop.test.
other-name.test. 300 IN MX 20 us-too.test.
us-too.test. 300 IN A 192.0.2.200
"""


def _router(server: NameServer, *, route: tuple[Route, ...] = (), seed: int = 1, **dns: object) -> Router:
    config = Config(
        server=Server(hostname="us.test"),
        delivery=Delivery(ehlo_name="out.us.test"),
        listener=(Listener(address="192.0.2.200:25"), Listener(address="127.0.0.1:2525")),
        dns=Dns(servers=(server.address,), **dns),  # type: ignore[arg-type]
        route=route,
    )
    return Router(config, rng=random.Random(seed))


async def _refusal(router: Router, destination: str) -> tuple[bool, Reply]:
    with pytest.raises(NoRoute) as caught:
        await router.route(destination)
    return caught.value.permanent, caught.value.reply


MX1, MX2 = Host("mx1.shop.test", ("192.0.2.1",)), Host("mx2.shop.test", ("192.0.2.2",))


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("shop.test", Found("mx1.shop.test,mx2.shop.test", (MX1, MX2))),
        ("SHOP.test.", Found("mx1.shop.test,mx2.shop.test", (MX1, MX2))),
        ("bare.test", Found("bare.test", (Host("bare.test", ("192.0.2.9",)),))),
        ("alias.test", Found("bare.test", (Host("alias.test", ("192.0.2.9",)),))),
        ("backup.test", Found("mx1.shop.test,mx2.shop.test,us.test", (MX1,))),
        ("half.test", Found("mx.nowhere.test,mx2.shop.test", (MX2,))),
        ("mixed.test", Found("inside1.test,mixed1.test", (Host("mixed1.test", ("192.0.2.3",)),))),
        ("other-name.test", Found("mx1.shop.test,us-too.test", (MX1,))),
        ("[192.0.2.7]", Found("[192.0.2.7]", (Host("192.0.2.7", ("192.0.2.7",)),))),
        ("[IPv6:2001:DB8::7]", Found("[ipv6:2001:db8::7]", (Host("2001:db8::7", ("2001:db8::7",)),))),
    ],
)
async def test_route(destination: str, expected: Found) -> None:
    async with NameServer(ZONE).serve() as server:
        assert await _router(server).route(destination) == expected


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("null.test", Reply(556, "5.1.10", ("domain null.test accepts no mail (null MX)",))),
        ("nowhere.test", Reply(550, "5.1.2", ("domain nowhere.test does not exist",))),
        ("a..test", Reply(550, "5.1.2", ("domain a..test does not exist",))),
        ("text.test", Reply(550, "5.4.4", ("no mail host of text.test has an address (tried text.test)",))),
        ("ours.test", Reply(554, "5.4.6", ("mail for ours.test loops back to myself",))),
        ("us-too.test", Reply(554, "5.4.6", ("mail for us-too.test loops back to myself",))),
        ("[192.0.2.200]", Reply(554, "5.4.6", ("mail for [192.0.2.200] loops back to myself",))),
        (
            "gone.test",
            Reply(550, "5.4.4", ("no mail host of gone.test has an address (tried mx.nowhere.test, text.test)",)),
        ),
        ("numeric.test", Reply(550, "5.4.4", ("no MX record of numeric.test names a host",))),
        ("inside.test", Reply(550, "5.4.4", ("inside1.test is refused: 127.0.0.1 is not a public address",))),
        ("inside2.test", Reply(550, "5.4.4", ("inside2.test is refused: ::ffff:10.0.0.1 is not a public address",))),
        ("[127.0.0.1]", Reply(550, "5.4.4", ("[127.0.0.1] is refused: not a public address",))),
        ("[IPv6:::1]", Reply(550, "5.4.4", ("[ipv6:::1] is refused: not a public address",))),
        ("[x]", Reply(550, "5.1.3", ("[x] is not an address",))),
    ],
)
async def test_what_can_never_be_delivered_fails(destination: str, expected: Reply) -> None:
    async with NameServer(ZONE).serve() as server:
        assert await _refusal(_router(server), destination) == (True, expected)


async def test_failing_dns_defers(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.fails |= {"shop.test", "bare.test"}
        server.silent.add("half.test")
        router = _router(server, timeout_s=7.0)
        assert await _refusal(router, "shop.test") == (
            False,
            Reply(451, "4.4.3", ("DNS look-up of MX for shop.test failed: SERVFAIL",)),
        )
        assert await _refusal(router, "half.test") == (
            False,
            Reply(
                451, "4.4.3", (f"DNS look-up of MX for half.test failed: no answer within 7 s from {server.address}",)
            ),
        )


async def test_address_that_failed_defers_unless_another_host_is_known(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE).serve() as server:
        server.fails |= {"mx1.shop.test", "six1.test"}
        router = _router(server)
        assert (await router.route("shop.test")).hosts == (MX2,)
        assert await _refusal(router, "six.test") == (
            False,
            Reply(451, "4.4.3", ("DNS look-up of six1.test failed: SERVFAIL",)),
        )
        # mx.nowhere.test does not exist, but for mx2.shop.test that is not certain.
        server.fails.add("mx2.shop.test")
        assert (await _refusal(_router(server), "half.test"))[0] is False


async def test_failed_better_host_makes_a_loop_doubtful(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.fails.add("mx1.shop.test")
        assert (await _refusal(_router(server), "other-name.test"))[0] is False


async def test_allowed_private_networks_are_followed() -> None:
    async with NameServer(ZONE).serve() as server:
        router = _router(server, allow_private=("127.0.0.0/8", "10.0.0.0/24"))
        assert (await router.route("inside.test")).hosts == (
            Host("inside1.test", ("127.0.0.1",)),
            Host("inside2.test", ("::ffff:10.0.0.1",)),
        )
        assert (await router.route("[127.0.0.1]")).hosts == (Host("127.0.0.1", ("127.0.0.1",)),)
        assert (await _refusal(router, "[192.168.0.1]"))[0] is True


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("prefer", {("2001:db8::4", "192.0.2.4")}),
        ("after_ipv4", {("192.0.2.4", "2001:db8::4")}),
        ("equal", {("2001:db8::4", "192.0.2.4"), ("192.0.2.4", "2001:db8::4")}),
        ("never", {("192.0.2.4",)}),
    ],
)
async def test_ipv6_policy(policy: str, expected: set[tuple[str, ...]]) -> None:
    async with NameServer(ZONE).serve() as server:
        router = _router(server, ipv6=policy)
        orders = {host.addresses for _ in range(50) for host in (await router.route("dual.test")).hosts}
        assert orders == expected


async def test_ipv6_switched_off_asks_for_no_aaaa_and_takes_no_ipv6_destination() -> None:
    async with NameServer(ZONE).serve() as server:
        router = _router(server, ipv6="never")
        assert (await _refusal(router, "six.test"))[1].enhanced == "5.4.4"
        assert (await _refusal(router, "[IPv6:2001:db8::7]"))[1].enhanced == "5.4.4"
        assert server.questions("AAAA") == 0


async def test_equal_hosts_are_shuffled_at_every_call_without_asking_again() -> None:
    async with NameServer(ZONE).serve() as server:
        router = _router(server)
        firsts = Counter([(await router.route("same.test")).hosts[0].name for _ in range(1000)])
        assert set(firsts) == {"mx1.shop.test", "mx2.shop.test"}
        assert 450 < firsts["mx1.shop.test"] < 550
        assert set(server.asked.values()) == {1}


async def test_domains_with_the_same_hosts_are_one_site() -> None:
    async with NameServer(ZONE).serve() as server:
        router = _router(server)
        assert (await router.route("shop.test")).site == (await router.route("same.test")).site


async def test_plan_is_made_anew_when_its_first_answer_expires(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer("a.test. 300 IN MX 1 mx.a.test.\nmx.a.test. 20 IN A 192.0.2.1").serve() as server:
        router = _router(server)
        await router.route("a.test")
        server.rrsets.clear()
        server.add("a.test. 300 IN MX 1 mx.a.test.\nmx.a.test. 20 IN A 192.0.2.2")
        await trio.sleep(19)
        assert (await router.route("a.test")).hosts[0].addresses == ("192.0.2.1",)
        await trio.sleep(2)
        assert (await router.route("a.test")).hosts[0].addresses == ("192.0.2.2",)


async def test_what_is_known_is_told_without_asking(mock_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE + "short.test. 20 IN MX 1 mx1.shop.test.").serve() as server:
        router = _router(server)
        assert router.known("short.test") is None
        found = await router.route("short.test")
        assert router.known("short.test") == router.known("SHORT.test.") == found
        await _refusal(router, "null.test")
        assert router.known("null.test") is None
        mock_clock.jump(19)
        assert router.known("short.test") == found
        mock_clock.jump(2)
        assert router.known("short.test") is None
        assert await router.route("short.test") == router.known("short.test") == found
        router.forget_failures()
        assert router.known("short.test") is None
        assert server.asked["short.test", "MX"] == 2


async def test_equal_hosts_are_shuffled_in_what_is_known_too() -> None:
    async with NameServer(ZONE).serve() as server:
        router = _router(server)
        await router.route("same.test")
        firsts = Counter(route.hosts[0].name for _ in range(1000) if (route := router.known("same.test")) is not None)
        assert set(firsts) == {"mx1.shop.test", "mx2.shop.test"}
        assert 450 < firsts["mx1.shop.test"] < 550


async def test_many_hosts_are_cut_to_the_best() -> None:
    zone = "\n".join(
        f"many.test. 300 IN MX {i} mx{i}.many.test.\nmx{i}.many.test. 300 IN A 192.0.2.{i}" for i in range(100)
    )
    async with NameServer(zone).serve() as server:
        route = await _router(server, max_mx=20, max_addresses=30).route("many.test")
        assert route.hosts == tuple(Host(f"mx{i}.many.test", (f"192.0.2.{i}",)) for i in range(20))
        route = await _router(server, max_mx=20, max_addresses=12).route("many.test")
        assert route.hosts == tuple(Host(f"mx{i}.many.test", (f"192.0.2.{i}",)) for i in range(12))
        # Windows of five: what there is no room for is not asked for.
        assert server.asked["mx14.many.test", "A"] == 2
        assert server.asked["mx15.many.test", "A"] == 1


async def test_many_addresses_leave_room_for_the_backup() -> None:
    zone = "a.test. 300 IN MX 1 mx1.a.test.\na.test. 300 IN MX 2 mx2.a.test.\nmx2.a.test. 300 IN A 198.51.100.1\n"
    zone += "\n".join(f"mx1.a.test. 300 IN A 192.0.2.{i}" for i in range(60))
    async with NameServer(zone).serve() as server:
        (first, second) = (await _router(server, max_addresses=10).route("a.test")).hosts
        assert (first.name, len(first.addresses)) == ("mx1.a.test", 9)
        assert second == Host("mx2.a.test", ("198.51.100.1",))


async def test_broken_name_server_of_a_backup_costs_the_grace_once(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE, soa_ttl_s=300).serve() as server:
        server.silent.add("mx2.shop.test")
        router = _router(server, negative_ttl_s=300.0)
        began = trio.current_time()
        assert (await router.route("shop.test")).hosts == (MX1,)
        assert trio.current_time() == began + GRACE_S
        await trio.sleep(INCOMPLETE_S - 1)
        assert (await router.route("shop.test")).hosts == (MX1,)
        assert trio.current_time() == began + GRACE_S + INCOMPLETE_S - 1
        server.silent.clear()
        await trio.sleep(2)
        assert (await router.route("shop.test")).hosts == (MX1, MX2)


async def test_silent_best_host_is_waited_for_to_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.silent.add("mx1.shop.test")
        began = trio.current_time()
        assert (await _router(server, timeout_s=7.0).route("shop.test")).hosts == (MX2,)
        assert trio.current_time() == began + 7


async def test_whole_route_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.silent |= {"mx1.shop.test", "mx2.shop.test"}
        server.held["shop.test"] = trio.Event()
        began = trio.current_time()

        async def release() -> None:
            await trio.sleep(5)
            server.held["shop.test"].set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(release)
            refusal = await _refusal(_router(server, timeout_s=7.0), "shop.test")
        assert trio.current_time() == began + 7
        assert refusal == (False, Reply(451, "4.4.3", ("DNS look-up of mx1.shop.test failed: no answer in time",)))


async def test_what_was_mended_is_used_when_failures_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    """As `postroika queue flush` does: half of a route, and none at all, are otherwise remembered for a while."""
    async with NameServer(ZONE).serve() as server:
        server.fails |= {"mx1.shop.test", "bare.test"}
        router = _router(server)
        assert (await router.route("shop.test")).hosts == (MX2,)
        failed = (False, Reply(451, "4.4.3", ("DNS look-up of MX for bare.test failed: SERVFAIL",)))
        assert await _refusal(router, "bare.test") == failed
        server.fails.clear()
        assert (await router.route("shop.test")).hosts == (MX2,)
        assert await _refusal(router, "bare.test") == failed
        router.forget_failures()
        assert (await router.route("shop.test")).hosts == (MX1, MX2)
        assert (await router.route("bare.test")).hosts == (Host("bare.test", ("192.0.2.9",)),)
        assert server.questions("MX") == 3  # those of shop.test are not asked for again


async def test_smarthosts_are_tried_in_order_wherever_they_are() -> None:
    async with NameServer(ZONE).serve() as server:
        route = Route(domains=("*",), next_hop=("smtp://inside1.test:2526", "smtp://[::1]:26", "smtp://mx2.shop.test"))
        assert await _router(server, route=(route,)).route("anything.test") == Found(
            "[::1]:26,inside1.test:2526,mx2.shop.test",
            tuple(
                msgspec.structs.replace(host, tls=NAMED)
                for host in (Host("inside1.test", ("127.0.0.1",), 2526), Host("::1", ("::1",), 26), MX2)
            ),
        )
        assert server.questions("MX") == 0


async def test_smarthost_that_cannot_be_found_is_passed_over() -> None:
    async with NameServer(ZONE).serve() as server:
        route = Route(domains=("*",), next_hop=("smtp://mx.nowhere.test", "smtp://127.0.0.1:2526"))
        assert (await _router(server, route=(route,)).route("x.test")).hosts == (
            Host("127.0.0.1", ("127.0.0.1",), 2526, NAMED),
        )


async def test_no_mail_fails_for_a_smarthost_that_does_not_exist() -> None:
    async with NameServer(ZONE).serve() as server:
        route = Route(domains=("*",), next_hop="smtp://mx.nowhere.test")
        assert await _refusal(_router(server, route=(route,)), "x.test") == (
            False,
            Reply(451, "4.4.4", ("no configured next hop has an address: mx.nowhere.test: no such host",)),
        )


async def test_localhost_as_a_smarthost_needs_no_dns() -> None:
    async with NameServer(ZONE).serve() as server:
        route = Route(domains=(".test",), next_hop="smtp://localhost:2526")
        router = _router(server, route=(route,), ipv6="after_ipv4")
        assert await router.route("x.test") == Found(
            "localhost:2526", (Host("localhost", ("127.0.0.1", "::1"), 2526, NAMED),)
        )
        assert server.asked.total() == 0


async def test_literal_may_have_a_route() -> None:
    async with NameServer(ZONE).serve() as server:
        route = Route(domains=("[127.0.0.1]",), next_hop="smtp://127.0.0.1:2526")
        assert (await _router(server, route=(route,)).route("[127.0.0.1]")).site == "127.0.0.1:2526"


async def test_wildcard_listener_on_the_mx_port_makes_local_addresses_ours() -> None:
    async with NameServer("a.test. 9 IN A 127.0.0.1\nb.test. 9 IN A 192.0.2.1").serve() as server:
        config = Config(
            listener=(Listener(address="0.0.0.0:2500"),),
            dns=Dns(servers=(server.address,), mx_port=2500, allow_private=("127.0.0.0/8",)),
        )
        assert (await _refusal(Router(config), "a.test"))[1].enhanced == "5.4.6"
        assert (await Router(config).route("b.test")).hosts == (Host("b.test", ("192.0.2.1",), 2500),)


# --- what encryption has to be


async def test_certificate_of_ours_goes_with_all_mail_by_mx_and_with_no_other() -> None:
    """A last [[route]] for "*" says so."""
    smarthost = Route(domains=("bare.test",), next_hop="smtp://mx2.shop.test")
    rest = Route(domains=("*",), certificate="/mx.pem", key="/mx.key")
    shown = HostPolicy(certificate="/mx.pem", key="/mx.key")
    async with NameServer(ZONE).serve() as server:
        router = _router(server, route=(smarthost, rest))
        for destination, policy in (("shop.test", shown), ("[192.0.2.7]", shown), ("bare.test", NAMED)):
            assert {host.tls for host in (await router.route(destination)).hosts} == {policy}


@pytest.mark.parametrize("level", list(Level))
async def test_route_says_what_encryption_has_to_be(level: Level) -> None:
    async with NameServer(ZONE).serve() as server:
        by_mx = Route(domains=("shop.test",), tls=level.value)
        smarthost = Route(domains=("*",), next_hop=("smtp://mx1.shop.test", "smtps://mx2.shop.test"), tls=level.value)
        router = _router(server, route=(by_mx, smarthost))
        assert {host.tls for host in (await router.route("shop.test")).hosts} == {HostPolicy(level)}
        if level is not Level.NONE:
            assert [(host.port, host.tls) for host in (await router.route("x.test")).hosts] == [
                (25, HostPolicy(level, name_trusted=True)),
                (465, HostPolicy(level, implicit=True, name_trusted=True)),
            ]


async def test_logging_in_asks_for_encryption_unless_told_otherwise() -> None:
    async with NameServer(ZONE).serve() as server:
        hop = "smtp://mx1.shop.test"
        for without, level in ((False, Level.REQUIRED), (True, Level.OPPORTUNISTIC)):
            route = Route(domains=("*",), next_hop=hop, auth="/a", auth_without_tls=without)
            found = await _router(server, route=(route,)).route("x.test")
            assert (found.auth, found.auth_without_tls, found.hosts[0].tls.level) == ("/a", without, level)


def test_identity_tells_policies_and_logins_apart_and_not_the_order_of_hosts() -> None:
    def identity(*policies: HostPolicy, auth: str = "", auth_without_tls: bool = False) -> str:
        hosts = tuple(Host(f"h{i}.test", ("192.0.2.1",), 25, policy) for i, policy in enumerate(policies))
        one, other = Found("s", hosts, auth, auth_without_tls), Found("s", hosts[::-1], auth, auth_without_tls)
        assert one.identity == other.identity
        return one.identity

    usual, verify = HostPolicy(), HostPolicy(Level.VERIFY)
    assert identity(usual) == identity(usual, usual) == identity(HostPolicy(name_trusted=True)) == ""
    told = [
        identity(verify),
        identity(usual, verify),
        identity(verify, usual),
        identity(HostPolicy(Level.VERIFY, certificate="/c")),
        identity(HostPolicy(Level.VERIFY, published=True)),
        identity(HostPolicy(implicit=True)),
        identity(usual, auth="/a"),
        identity(usual, auth="/b"),
        identity(usual, auth="/a", auth_without_tls=True),
    ]
    assert len(set(told)) == len(told)
    assert "" not in told


def test_identity_names_the_hosts_where_a_policy_is_published() -> None:
    """A connection to a host that only one of two domains vouches for is not for the other."""

    def identity(*hosts: tuple[str, HostPolicy]) -> str:
        return Found("s", tuple(Host(name, ("192.0.2.1",), 25, policy) for name, policy in hosts)).identity

    usual, published = HostPolicy(), HostPolicy(Level.VERIFY, published=True)
    assert identity(("a.test", published)) == "a.test:25 verify published"
    assert identity(("b.test", usual), ("a.test", published)) == "a.test:25 verify published; b.test:25"
    assert identity(("b.test", published), ("a.test", published)) == (
        "a.test:25 verify published; b.test:25 verify published"
    )
