"""MTA-STS with software that we did not write: Unbound and Knot for the records, OpenSSL's server for the policies."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from postroika.config import Dns, Sts
from postroika.routing.resolver import Resolver
from postroika.sts.fetch import Fetcher
from postroika.sts.policies import StsPolicies
from postroika.sts.policy import StsPolicy
from postroika.sts.store import PolicyStore
from tests.system.dns_server import DnsServer
from tests.system.https_peer import PLAIN, PolicyHosts, response
from tests.system.mta_sts_hosts import ANSWERS, BROKEN, ENFORCE, GOOD, PATTERNS, WEEK_S, ZONE, start_all
from tests.system.process import run
from tests.system.server import Postroika

TIMEOUT_S = 8.0
REDIRECTED = " (redirects are not followed)"
_FETCH, _TLS, _INVALID = "sts-policy-fetch-error", "sts-webpki-invalid", "sts-policy-invalid"
EXPIRED = (
    "published  id 1; the policy counts as none: "
    "the certificate of mta-sts.expired.test [127.0.0.100] is not good: certificate has expired"
)


@asynccontextmanager
async def worker(dns_server: DnsServer, hosts: PolicyHosts, spool: Path) -> AsyncIterator[StsPolicies]:
    """The policies as a worker has them."""
    dns = Dns(servers=(dns_server.address,), allow_private=("127.0.0.0/8", "::1/128"))
    sts = Sts(port=hosts.port, ca=str(hosts.authority.file), timeout_s=TIMEOUT_S)
    resolver = Resolver(dns)
    policies = StsPolicies(sts, resolver, Fetcher(sts, dns, resolver), PolicyStore(spool / "mta-sts"))
    async with trio.open_nursery() as nursery:
        await nursery.start(policies.run)
        yield policies
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyHosts]:
    directory = tmp_path_factory.mktemp("hosts")
    with PolicyHosts(directory) as hosts:
        start_all(hosts, directory)
        yield hosts


@pytest.fixture(scope="module")
def dns(hosts: PolicyHosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsServer]:
    server = DnsServer(ZONE + hosts.zone, tmp_path_factory.mktemp("dns"))
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("label", "mode", "patterns", "max_age_s"),
    [
        ("enforce", "enforce", PATTERNS, WEEK_S),
        ("crlf", "enforce", PATTERNS, WEEK_S),
        ("endless", "enforce", PATTERNS, WEEK_S),
        ("testing", "testing", PATTERNS, WEEK_S),
        ("none", "none", (), 86_400),
        ("zero", "enforce", PATTERNS, 0),
        ("wildcert", "enforce", PATTERNS, WEEK_S),
        ("beside", "enforce", PATTERNS, WEEK_S),
        ("unknown", "enforce", PATTERNS, WEEK_S),
        ("alias", "enforce", PATTERNS, WEEK_S),
        ("largest", "enforce", PATTERNS, WEEK_S),
        ("v6", "enforce", PATTERNS, WEEK_S),
    ],
)
async def test_policy_that_is_found(
    dns: DnsServer, hosts: PolicyHosts, tmp_path: Path, label: str, mode: str, patterns: tuple[str, ...], max_age_s: int
) -> None:
    domain, before = f"{label}.test", time.time()
    async with worker(dns, hosts, tmp_path) as policies:
        found = await policies.policy(domain)
        assert found is not None
        assert found == (domain, mode, patterns, max_age_s, "1", found.expires_at)
        assert before <= found.expires_at - max_age_s <= time.time()
        assert policies.failure(domain) is None


@pytest.mark.parametrize(
    "label",
    [
        "one", "nowhere", "two", "badid", "longid", "noid", "emptyid", "later", "next", "lower", "clutter", "blank",
        "spf", "sub.broken",
    ],
)  # fmt: skip
async def test_domain_whose_record_does_not_count_has_none(
    dns: DnsServer, hosts: PolicyHosts, tmp_path: Path, label: str
) -> None:
    async with worker(dns, hosts, tmp_path) as policies:
        assert await policies.policy(f"{label}.test") is None
        assert policies.failure(f"{label}.test") is None


@pytest.mark.parametrize(
    ("label", "kind", "text"),
    [
        ("nohost", _FETCH, "mta-sts.nohost.test has no address"),
        ("inside", _FETCH, "mta-sts.inside.test is refused: 10.0.0.1 is not a public address"),
        ("lost", _FETCH, "DNS look-up of mta-sts.lost.test failed: SERVFAIL"),
        ("dead", _FETCH, "mta-sts.dead.test [127.0.0.9]: all attempts to connect to 127.0.0.9:"),
        *(
            (label, _FETCH, f"mta-sts.{label}.test answered {status[:3]}" + REDIRECTED * status.startswith("3"))
            for label, status in ANSWERS.items()
        ),
        ("html", _FETCH, "mta-sts.html.test sent 'text/html' and not text/plain"),
        ("untyped", _FETCH, "mta-sts.untyped.test sent '' and not text/plain"),
        ("gzip", _FETCH, "mta-sts.gzip.test sent it encoded as 'gzip'"),
        ("large", _FETCH, "mta-sts.large.test sent more than 65536 octets"),
        ("flood", _FETCH, "mta-sts.flood.test sent more than 65536 octets"),
        ("cut", _FETCH, "mta-sts.cut.test [127.0.0."),
        ("noise", _FETCH, "mta-sts.noise.test [127.0.0."),
        ("slow", _FETCH, f"mta-sts.slow.test has not answered within {TIMEOUT_S:g} s"),
        *((label, _INVALID, f"the policy of {label}.test is broken: ") for label in BROKEN),
        ("old", _FETCH, "[SSL: TLSV1_ALERT_PROTOCOL_VERSION]"),
        ("syntax", _INVALID, "the policy of syntax.test is broken: line 1 is not of the form key: value"),
        ("othername", _TLS, "Hostname mismatch, certificate is not valid for 'mta-sts.othername.test'."),
        ("parent", _TLS, "Hostname mismatch, certificate is not valid for 'mta-sts.parent.test'."),
        ("expired", _TLS, "certificate has expired"),
        ("stranger-ca", _TLS, "unable to get local issuer certificate"),
    ],
)
async def test_policy_that_cannot_be_had_is_none_and_says_why(
    dns: DnsServer, hosts: PolicyHosts, tmp_path: Path, label: str, kind: str, text: str
) -> None:
    domain = f"{label}.test"
    async with worker(dns, hosts, tmp_path) as policies:
        assert await policies.policy(domain) is None
        failure = policies.failure(domain)
        assert failure is not None
        assert (failure.kind, text in failure.text) == (kind, True), failure
    assert not (tmp_path / "mta-sts").exists()


async def _until(policies: StsPolicies, domain: str, wanted: Callable[[StsPolicy | None], bool]) -> StsPolicy | None:
    """What holds for a domain, once that is what is wanted."""
    with trio.fail_after(30):
        while not wanted(found := await policies.policy(domain)):
            policies.forget_failures()
            await trio.sleep(0.05)  # between looks: the record's TTL runs out in another process
    return found


async def test_new_id_brings_a_new_policy_and_what_was_fetched_outlives_record_and_host(tmp_path: Path) -> None:
    with PolicyHosts(tmp_path) as hosts:
        host = hosts.start("shop").answers(GOOD)
        dns = DnsServer(hosts.zone, tmp_path / "dns")
        async with worker(dns, hosts, tmp_path) as policies:
            first = await policies.policy("shop.test")
            assert first is not None
            host.answers(response(ENFORCE.replace("enforce", "testing"), PLAIN))
            assert await _until(policies, "shop.test", lambda found: found is not None) == first
            dns.start(hosts.zone.replace("id=1", "id=2"))
            second = await _until(policies, "shop.test", lambda found: found is not None and found.id == "2")
            assert second == ("shop.test", "testing", PATTERNS, WEEK_S, "2", second and second.expires_at)
            # A new id whose policy cannot be had, and then neither record nor host: the last one holds.
            host.answers(response("", status="503 Service Unavailable"))
            asked = host.times_asked()
            dns.start(hosts.zone.replace("id=1", "id=3"))
            assert await _until(policies, "shop.test", lambda _: host.times_asked() > asked) == second
            dns.start("")
            host.process.kill()
            assert await _until(policies, "shop.test", lambda found: found is not None) == second
        dns.stop()
        async with worker(dns, hosts, tmp_path) as policies:
            assert await policies.policy("shop.test") == second


async def test_policy_holds_no_longer_than_it_says(tmp_path: Path) -> None:
    """Its host and its record are gone, and then it is."""
    with PolicyHosts(tmp_path) as hosts:
        host = hosts.start("shop").answers(response(ENFORCE.replace(str(WEEK_S), "3"), PLAIN))
        dns = DnsServer(hosts.zone, tmp_path / "dns")
        async with worker(dns, hosts, tmp_path) as policies:
            first = await policies.policy("shop.test")
            assert first is not None
            dns.start("")
            host.process.kill()
            assert await policies.policy("shop.test") == first
            assert await _until(policies, "shop.test", lambda found: found is None) is None
            assert time.time() >= first.expires_at
        dns.stop()


@pytest.fixture(scope="module")
def operator(dns: DnsServer, hosts: PolicyHosts, tmp_path_factory: pytest.TempPathFactory) -> Postroika:
    """Who asks on the command line, with a server's config."""
    config = (
        f'[dns]\nservers = ["{dns.address}"]\nallow_private = ["127.0.0.0/8"]\n'
        f'[sts]\nport = {hosts.port}\nca = "{hosts.authority.file}"\n'
        '[[route]]\ndomains = ["testing.test"]\nnext_hop = "smtp://127.0.0.1:2526"\n'
        '[[route]]\ndomains = ["*"]\n'
    )
    return Postroika(tmp_path_factory.mktemp("operator"), config)


def test_operator_sees_what_is_published_and_what_becomes_of_each_host(operator: Postroika) -> None:
    lines = operator.run("sts", "show", "Enforce.Test").splitlines()
    assert lines[0].startswith("published  id 1, until 20")
    assert [line.rstrip() for line in lines[1:]] == [
        "           version: STSv1",
        "           mode: enforce",
        "           mx: mx1.shop.test",
        "           mx: *.mail.shop.test",
        "           max_age: 604800",
        "kept       nothing",
        "heeded     what is published; it is fetched with the first mail",
        "",
        "MX host             named  what that means",
        "mx1.shop.test       yes    gets mail over TLS with a good certificate only, or the mail waits",
        "a.mail.shop.test    yes    gets mail over TLS with a good certificate only, or the mail waits",
        "b.a.mail.shop.test  NO     gets no mail",
    ]


def test_operator_sees_what_is_kept(operator: Postroika) -> None:
    store = PolicyStore(operator.spool / "mta-sts")
    operator.spool.mkdir(exist_ok=True)
    kept = StsPolicy("none.test", "enforce", ("mx2.shop.test",), 1000, "0", time.time() + 500)
    store.save(kept)
    shown = json.loads(operator.run("sts", "show", "--json", "none.test"))
    published = shown["published"]["policy"]
    assert shown == {
        "domain": "none.test",
        "passed_over": "",
        "published": {
            "id": "1",
            "policy": {
                "domain": "none.test",
                "mode": "none",
                "patterns": [],
                "max_age_s": 86_400,
                "id": "1",
                "expires_at": published["expires_at"],
            },
            "problem": "",
        },
        "kept": {**kept._asdict(), "patterns": ["mx2.shop.test"]},
        "kept_in": str(store.path("none.test")),
        "kept_problem": "",
        "heeded": {**kept._asdict(), "patterns": ["mx2.shop.test"]},
        "hosts": [{"name": "mx1.shop.test", "named": False, "verdict": "gets no mail"}],
        "hosts_problem": "",
    }
    text = operator.run("sts", "show", "none.test").splitlines()
    assert [line for line in text if line.startswith("heeded")] == [
        "heeded     what is kept, until it is renewed or expires"
    ]


@pytest.mark.parametrize(
    ("label", "status", "lines"),
    [
        (
            "two",
            1,
            [
                "published  the record counts as none: 2 records begin with v=STSv1, and only one may",
                "kept       nothing",
                "heeded     nothing: mail is encrypted where it works",
                "",
                "MX host        named  what that means",
                "mx1.shop.test  -      no policy asks for anything of it",
            ],
        ),
        (
            "expired",
            1,
            [
                EXPIRED,
                "kept       nothing",
                "heeded     nothing: mail is encrypted where it works",
                "",
                "MX host       named  what that means",
                "expired.test  -      no policy asks for anything of it",
            ],
        ),
        (
            "one",
            0,
            [
                "published  nothing: there is no record",
                "kept       nothing",
                "heeded     nothing: mail is encrypted where it works",
                "",
                "MX host   named  what that means",
                "one.test  -      no policy asks for anything of it",
            ],
        ),
        ("nowhere", 1, ["published  nothing: there is no record", "hosts      nowhere.test does not exist"]),
        ("testing", 0, ["heeded     nothing: a [[route]] names the next hop: 127.0.0.1:2526"]),
    ],
)
def test_operator_sees_why_there_is_none(operator: Postroika, label: str, status: int, lines: list[str]) -> None:
    command = [sys.executable, "-m", "postroika", "sts", "show", "-c", str(operator.config_file), f"{label}.test"]
    done = run(command, within_s=60)
    said = [line.rstrip() for line in done.stdout.splitlines()]
    assert (done.returncode, [line for line in lines if line not in said]) == (status, []), done.stdout
