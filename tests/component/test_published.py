"""What domains publish becomes a policy for each host: DANE by a name server in the same process, MTA-STS by a fake."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from postroika.config import Config, Dns, Route
from postroika.outbound.published import Published
from postroika.routing.resolver import FAILURE_TTL_S, Resolver
from postroika.routing.router import NoRoute, Router
from postroika.tls.policy import OPPORTUNISTIC, HostPolicy, Level, PolicySource
from postroika.tls.tlsa import Dane, Tlsa, dane_for
from tests.component.name_server import NameServer
from tests.component.sts_fakes import Policies, Policy

KEY = "ab" * 32
# A name as the DNS can have it, but that no server can be asked for: with its escapes it is too long for SNI.
ODD = ".".join([r"\000" * 15] * 5)
OWN = Tlsa(3, 1, 1, bytes.fromhex(KEY))
AUTHORITY = Tlsa(2, 1, 1, bytes.fromhex(KEY))
ZONE = f"""
shop.test. 300 IN MX 10 mx1.shop.test.
shop.test. 300 IN MX 20 mx2.shop.test.
mx1.shop.test. 300 IN A 192.0.2.1
mx1.shop.test. 300 IN AAAA 2001:db8::1
mx2.shop.test. 300 IN A 192.0.2.2
_25._tcp.mx1.shop.test. 300 IN TLSA 3 1 1 {KEY}
one.test. 300 IN MX 10 mx1.shop.test.
alias.test. 300 IN CNAME one.test.
bare.test. 300 IN A 192.0.2.3
_25._tcp.bare.test. 300 IN TLSA 2 1 1 {KEY}
other-port.test. 300 IN MX 10 mx2.shop.test.
_26._tcp.mx2.shop.test. 300 IN TLSA 3 1 1 {KEY}
pkix.test. 300 IN MX 10 mx.pkix.test.
mx.pkix.test. 300 IN A 192.0.2.4
_25._tcp.mx.pkix.test. 300 IN TLSA 1 1 1 {KEY}
_25._tcp.mx.pkix.test. 300 IN TLSA 0 0 1 {KEY}
ta.test. 300 IN MX 10 mx.ta.test.
mx.ta.test. 300 IN A 192.0.2.5
_25._tcp.mx.ta.test. 300 IN CNAME ca.ta.test.
ca.ta.test. 300 IN TLSA 2 1 1 {KEY}
ta-alias.test. 300 IN CNAME ta.test.
moved.test. 300 IN MX 10 mx.moved.test.
mx.moved.test. 300 IN CNAME mx1.shop.test.
first.test. 300 IN MX 10 mx.first.test.
mx.first.test. 300 IN CNAME mx2.shop.test.
_25._tcp.mx.first.test. 300 IN TLSA 3 1 1 {KEY}
[192.0.2.9]. 300 IN A 192.0.2.9
odd.test. 300 IN MX 10 mx.odd.test.
mx.odd.test. 300 IN CNAME {ODD}.odd.test.
{ODD}.odd.test. 300 IN A 192.0.2.10
_25._tcp.{ODD}.odd.test. 300 IN TLSA 3 1 1 {KEY}
_25._tcp.mx.odd.test. 300 IN TLSA 2 1 1 {KEY}
odd-alias.test. 300 IN CNAME {ODD}.test.
{ODD}.test. 300 IN MX 10 mx.ta.test.
odd-host.test. 300 IN CNAME {ODD}.host.test.
{ODD}.host.test. 300 IN A 192.0.2.11
"""
ALL = {"test"}


def published(
    server: NameServer, sts: Policies | None = None, *, tls: str = "opportunistic", **dns: object
) -> Published:
    settings: dict[str, object] = {"servers": (server.address,), "validating": True, **dns}
    config = Config(dns=Dns(**settings), route=(Route(domains=("*",), tls=tls),))  # type: ignore[arg-type]
    resolver = Resolver(config.dns)
    return Published(config, Router(config, resolver=resolver, rng=random.Random(1)), resolver, sts)


async def policies_of(router: Published, destination: str) -> dict[str, HostPolicy]:
    return {host.name: host.tls for host in (await router.route(destination)).hosts}


def dane(base: str, *names: str, record: Tlsa = OWN) -> Dane:
    made = dane_for(base, [record], names)
    assert made is not None
    return made


def with_dane(domain: str, base: str, *names: str, record: Tlsa = OWN, own: Level = Level.OPPORTUNISTIC) -> HostPolicy:
    return HostPolicy(
        Level.VERIFY,
        name_trusted=True,
        published=True,
        own=own,
        dane=dane(base, *names, record=record),
        demand=f"the TLSA records of {base} ask for it",
        source=PolicySource("tlsa", domain, (str(record),), (), enforced=True),
    )


PLAIN = OPPORTUNISTIC
VOUCHED = HostPolicy(name_trusted=True)


def refused(
    domain: str, words: str, kind: str = "tlsa", *, trusted: bool = True, sts: Policy | None = None
) -> HostPolicy:
    lines, patterns = (sts.lines(), sts.patterns) if sts is not None else ((), ())
    return HostPolicy(
        name_trusted=trusted,
        published=True,
        refused=words,
        source=PolicySource("sts" if kind == "sts" else "tlsa", domain, lines, patterns, enforced=True),
    )


# --- DANE: what the DNS says, and what becomes of it


@pytest.mark.parametrize(
    ("signed", "destination", "expected"),
    [
        # MX, addresses and TLSA are all signed: per host, whoever has records.
        (ALL, "shop.test", {"mx1.shop.test": with_dane("shop.test", "mx1.shop.test"), "mx2.shop.test": VOUCHED}),
        (ALL, "alias.test", {"mx1.shop.test": with_dane("alias.test", "mx1.shop.test")}),
        # The MX records are not, or an alias that leads to them: no DANE (RFC 7672 §2.2.1).
        ({"shop.test"}, "one.test", {"mx1.shop.test": PLAIN}),
        ({"one.test", "shop.test"}, "alias.test", {"mx1.shop.test": PLAIN}),
        # They are, but the host is somebody's who signs nothing: no DANE, and nobody is asked (§2.2.2).
        ({"one.test"}, "one.test", {"mx1.shop.test": VOUCHED}),
        # Without MX records, which has to be signed, too.
        (ALL, "bare.test", {"bare.test": with_dane("bare.test", "bare.test", record=AUTHORITY)}),
        (set(), "bare.test", {"bare.test": PLAIN}),
        # Records of another port.
        (ALL, "other-port.test", {"mx2.shop.test": VOUCHED}),
        # Only such as cannot be used: TLS without a check.
        (
            ALL,
            "pkix.test",
            {
                "mx.pkix.test": HostPolicy(
                    Level.REQUIRED,
                    name_trusted=True,
                    published=True,
                    demand="the TLSA records of mx.pkix.test ask for it, though none of them can be used to check a "
                    "certificate",
                    source=PolicySource("tlsa", "pkix.test", (f"0 0 1 {KEY}", f"1 1 1 {KEY}"), (), enforced=True),
                )
            },
        ),
        # An alias at the end of which the records are; it is all signed, or it is nothing.
        (ALL, "ta.test", {"mx.ta.test": with_dane("ta.test", "mx.ta.test", "ta.test", record=AUTHORITY)}),
        (
            ALL,
            "ta-alias.test",
            {"mx.ta.test": with_dane("ta-alias.test", "mx.ta.test", "ta-alias.test", "ta.test", record=AUTHORITY)},
        ),
        # Hosts that are an alias: the records of what they are come first, then those of the name itself …
        (ALL, "moved.test", {"mx.moved.test": with_dane("moved.test", "mx1.shop.test")}),
        (ALL, "first.test", {"mx.first.test": with_dane("first.test", "mx.first.test")}),
        # … which can be signed though the end of the chain is not.
        ({"first.test"}, "first.test", {"mx.first.test": with_dane("first.test", "mx.first.test")}),
        ({"moved.test"}, "moved.test", {"mx.moved.test": VOUCHED}),
        # Aliases of what is no name of a host: only their own names count.
        (ALL, "odd.test", {"mx.odd.test": with_dane("odd.test", "mx.odd.test", "odd.test", record=AUTHORITY)}),
        (
            ALL,
            "odd-alias.test",
            {"mx.ta.test": with_dane("odd-alias.test", "mx.ta.test", "odd-alias.test", record=AUTHORITY)},
        ),
        (ALL, "odd-host.test", {"odd-host.test": VOUCHED}),
    ],
)
async def test_verdict_of_the_dns(signed: set[str], destination: str, expected: dict[str, HostPolicy]) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = signed
        assert await policies_of(published(server), destination) == expected


async def test_alias_of_what_is_no_name_of_a_host_goes_by_its_own() -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        route = await published(server).route("odd-host.test")
        assert (route.site, route.authentic) == ("odd-host.test", ("odd-host.test",))


async def test_nobody_is_asked_for_tlsa_records_where_they_could_not_count() -> None:
    """Name servers that do not know the type fail in strange ways, as a rule those that sign nothing (§2.2.2)."""
    async with NameServer(ZONE).serve() as server:
        server.signed = {"one.test", "alias.test"}
        for destination in ("one.test", "alias.test", "shop.test", "bare.test"):
            await policies_of(published(server), destination)
        assert server.questions("TLSA") == 0


@pytest.mark.parametrize("how", ["fails", "silent"])
async def test_host_is_not_used_while_its_records_cannot_be_had(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        getattr(server, how).add("_25._tcp.mx1.shop.test")
        router = published(server)
        found = await policies_of(router, "shop.test")
        why = "SERVFAIL" if how == "fails" else f"no answer within 10 s from {server.address}"
        words = f"DNS look-up of the TLSA records of mx1.shop.test failed: {why}"
        assert found == {"mx1.shop.test": refused("shop.test", words), "mx2.shop.test": VOUCHED}
        getattr(server, how).clear()
        # The other host takes the mail, which is not to wait for this one every few seconds.
        await trio.sleep(15)
        assert await policies_of(router, "shop.test") == found
        router.forget()
        router._resolver.forget_failures()
        assert (await policies_of(router, "shop.test"))["mx1.shop.test"] == with_dane("shop.test", "mx1.shop.test")


async def test_failure_is_not_remembered_for_long_where_no_other_host_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        server.fails.add("_25._tcp.mx1.shop.test")
        router = published(server)
        assert (await policies_of(router, "one.test"))["mx1.shop.test"].refused != ""
        server.fails.clear()
        await trio.sleep(FAILURE_TTL_S)
        assert await policies_of(router, "one.test") == {"mx1.shop.test": with_dane("one.test", "mx1.shop.test")}


async def test_host_is_not_used_while_it_cannot_be_known_whether_its_name_is_signed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = {"first.test"}
        router = published(server)
        await router._resolver.ipv4("mx.first.test")
        await router._resolver.ipv6("mx.first.test")
        server.fails.add("mx.first.test")
        found = await policies_of(router, "first.test")
        assert found == {"mx.first.test": refused("first.test", "DNS look-up of mx.first.test failed: SERVFAIL")}


async def test_bogus_mx_records_defer_as_ever(autojump_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE).serve() as server:
        server.fails.add("shop.test")
        with pytest.raises(NoRoute) as caught:
            await published(server).route("shop.test")
        assert (caught.value.permanent, caught.value.reply.enhanced) == (False, "4.4.3")


async def test_resolver_that_is_not_trusted_is_not_believed() -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        assert set((await policies_of(published(server, validating=False), "shop.test")).values()) == {PLAIN}
        assert server.questions("TLSA") == 0


@pytest.mark.parametrize(
    ("tls", "destination", "expected"),
    [
        ("none", "one.test", HostPolicy(Level.NONE)),
        ("required", "one.test", with_dane("one.test", "mx1.shop.test", own=Level.REQUIRED)),
        ("verify", "one.test", with_dane("one.test", "mx1.shop.test", own=Level.VERIFY)),
        ("required", "other-port.test", HostPolicy(Level.REQUIRED, name_trusted=True)),
        ("verify", "other-port.test", HostPolicy(Level.VERIFY, name_trusted=True)),
    ],
)
async def test_config_is_never_weakened(tls: str, destination: str, expected: HostPolicy) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        assert list((await policies_of(published(server, tls=tls), destination)).values()) == [expected]


@pytest.mark.parametrize("tls", ["required", "verify"])
async def test_records_that_cannot_be_used_add_nothing_to_a_stricter_config(tls: str) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        (policy,) = (await policies_of(published(server, tls=tls), "pkix.test")).values()
        assert policy._replace(source=None) == HostPolicy(Level(tls), name_trusted=True)
        assert policy.waived() == policy


async def test_sender_who_waives_it_gets_what_the_config_asks_for() -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        for tls in ("opportunistic", "required", "verify"):
            (policy,) = (await policies_of(published(server, tls=tls), "one.test")).values()
            assert policy.waived() == HostPolicy(Level(tls), name_trusted=True)
            assert policy.stricter().dane == policy.dane


async def test_smarthosts_and_literals_are_nothing_to_it() -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        config = Config(
            dns=Dns(servers=(server.address,), validating=True),
            route=(Route(domains=("shop.test",), next_hop="smtp://mx1.shop.test"),),
        )
        resolver = Resolver(config.dns)
        sts = Policies(shop=Policy("enforce", ("mx9.shop.test",)))
        router = Published(config, Router(config, resolver=resolver), resolver, sts)
        assert set((await policies_of(router, "shop.test")).values()) == {HostPolicy(name_trusted=True)}
        assert set((await policies_of(router, "[192.0.2.9]")).values()) == {PLAIN}
        assert (server.questions("TLSA"), sts.asked) == (0, [])
        assert [(await router.route(name)).published for name in ("shop.test", "[192.0.2.9]")] == [False, False]
        assert (await router.route("one.test")).published


# --- MTA-STS


ENFORCE = Policy("enforce", ("mx1.shop.test", "mx.pkix.test"))
TESTING = Policy("testing", ("mx1.shop.test",))


def sts_source(domain: str, policy: Policy) -> PolicySource:
    return PolicySource("sts", domain, policy.lines(), policy.patterns, policy.mode == "enforce")


def enforced(domain: str, policy: Policy = ENFORCE) -> HostPolicy:
    return HostPolicy(
        Level.VERIFY,
        name_trusted=True,
        published=True,
        demand=f"the MTA-STS policy of {domain} asks for it",
        source=sts_source(domain, policy),
    )


OTHER_HOST = "the MTA-STS policy of shop.test does not name this host"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (None, {"mx1.shop.test": PLAIN, "mx2.shop.test": PLAIN}),
        (Policy("none", ()), {"mx1.shop.test": PLAIN, "mx2.shop.test": PLAIN}),
        (
            ENFORCE,
            {
                "mx1.shop.test": enforced("shop.test"),
                "mx2.shop.test": refused("shop.test", OTHER_HOST, "sts", trusted=False, sts=ENFORCE),
            },
        ),
        (
            TESTING,
            {
                "mx1.shop.test": HostPolicy(source=sts_source("shop.test", TESTING)),
                "mx2.shop.test": HostPolicy(source=sts_source("shop.test", TESTING)),
            },
        ),
    ],
)
@pytest.mark.parametrize("validating", [True, False])
async def test_verdict_of_mta_sts(policy: Policy | None, expected: dict[str, HostPolicy], validating: bool) -> None:
    async with NameServer(ZONE).serve() as server:
        sts = Policies(shop=policy) if policy is not None else Policies()
        assert await policies_of(published(server, sts, validating=validating), "shop.test") == expected


async def test_dane_beats_mta_sts() -> None:
    """Host by host: records decide, also where they cannot be had; what has none goes by MTA-STS (RFC 8461 §2)."""
    only_second = Policy("enforce", ("mx2.shop.test",))
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        sts = Policies(shop=only_second, one=only_second, pkix=ENFORCE)
        router = published(server, sts)
        assert await policies_of(router, "shop.test") == {
            "mx1.shop.test": with_dane("shop.test", "mx1.shop.test"),
            "mx2.shop.test": enforced("shop.test", only_second),
        }
        # Nothing is left to be asked.
        assert await policies_of(router, "one.test") == {"mx1.shop.test": with_dane("one.test", "mx1.shop.test")}
        assert sts.asked == ["shop.test"]
        # Records that only ask for TLS are less than a policy that asks for a good certificate.
        assert await policies_of(router, "pkix.test") == {"mx.pkix.test": enforced("pkix.test")}


async def test_mta_sts_does_not_help_a_host_whose_records_cannot_be_had() -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        server.fails.add("_25._tcp.mx1.shop.test")
        found = await policies_of(published(server, Policies(one=ENFORCE)), "one.test")
        words = "DNS look-up of the TLSA records of mx1.shop.test failed: SERVFAIL"
        assert found == {"mx1.shop.test": refused("one.test", words)}


async def test_policy_belongs_to_the_recipients_domain() -> None:
    async with NameServer(ZONE).serve() as server:
        sts = Policies(one=ENFORCE)
        found = await policies_of(published(server, sts), "ALIAS.test.")
        assert (found, sts.asked) == ({"mx1.shop.test": PLAIN}, ["alias.test"])


# --- what is remembered


async def test_route_is_known_until_the_first_of_its_answers_expires(mock_clock: trio.testing.MockClock) -> None:
    async with NameServer(ZONE.replace("_25._tcp.mx1.shop.test. 300", "_25._tcp.mx1.shop.test. 20")).serve() as server:
        server.signed = ALL
        sts = Policies()
        router = published(server, sts)
        assert router.known("shop.test") is None
        route = await router.route("shop.test")
        for _ in range(3):
            for again in (router.known("Shop.test"), await router.route("shop.test")):
                assert again is not None
                assert [(host.name, host.tls) for host in again.hosts] == [
                    (host.name, host.tls) for host in route.hosts
                ]
        asked = server.asked.total()
        mock_clock.jump(21)
        assert router.known("shop.test") is None
        await router.route("shop.test")
        assert server.asked.total() == asked + 1
        assert sts.asked == ["shop.test", "shop.test"]


async def test_policies_are_looked_up_again_within_a_minute_or_when_they_are_forgotten(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with NameServer(ZONE).serve() as server:
        sts = Policies()
        router = published(server, sts)
        assert set((await policies_of(router, "shop.test")).values()) == {PLAIN}
        sts.policies["shop.test"] = ENFORCE
        assert router.known("shop.test") is not None
        mock_clock.jump(60)
        assert (await policies_of(router, "shop.test"))["mx1.shop.test"] == enforced("shop.test")
        sts.policies.clear()
        router.forget()
        assert set((await policies_of(router, "shop.test")).values()) == {PLAIN}


async def test_policy_of_hosts_that_were_there_before_says_nothing_of_those_that_are_there_now(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The MX records change, and whether they are signed, while a policy is remembered."""
    async with NameServer(ZONE.replace("one.test. 300", "one.test. 10")).serve() as server:
        router = published(server, negative_ttl_s=1.0)
        assert await policies_of(router, "one.test") == {"mx1.shop.test": PLAIN}
        mock_clock.jump(11)
        server.signed = ALL
        router._resolver._cache.clear()
        assert router.known("one.test") is None
        assert await policies_of(router, "one.test") == {"mx1.shop.test": with_dane("one.test", "mx1.shop.test")}


async def test_equal_policies_of_two_domains_share_connections_and_others_do_not() -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = ALL
        only_first = Policy("enforce", ("mx1.shop.test",))
        router = published(server, Policies(**{"other-port": Policy("enforce", ("mx2.shop.test",))}))
        one, alias = await router.route("one.test"), await router.route("alias.test")
        assert (one.site, one.identity) == (alias.site, alias.identity)
        assert one.identity != ""
        without = await published(server, validating=False).route("one.test")
        assert (without.site, without.identity) == (one.site, "")
        refusing = await published(server, Policies(shop=only_first), validating=False).route("shop.test")
        verifying = await published(
            server, Policies(shop=Policy("enforce", ("mx1.shop.test", "mx2.shop.test"))), validating=False
        ).route("shop.test")
        assert refusing.site == verifying.site
        assert refusing.identity != verifying.identity


@pytest.mark.parametrize(
    ("signed", "fails", "told"),
    [({"."}, False, False), (set(), False, True), ({"test"}, False, True), (set(), True, False)],
)
async def test_resolver_that_does_not_validate_is_told_of(
    signed: set[str], fails: bool, told: bool, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with NameServer(ZONE).serve() as server:
        server.signed = signed
        if fails:
            server.fails.add(".")
        await published(server).look_at_resolver()
    assert ("DANE is of no effect" in caplog.text) is told
