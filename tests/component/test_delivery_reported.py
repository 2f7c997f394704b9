"""What TLS reports are told of deliveries, against peers of every kind."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import pytest

from postroika.config import Route
from postroika.outbound.reported import local_address
from postroika.routing.router import Host
from postroika.tls.policy import HostPolicy, Level, PolicySource
from postroika.tls.tlsa import Tlsa, dane_for
from postroika.tlsrpt.message import CAMPAIGN
from postroika.tlsrpt.tally import Failure, Policy
from tests.chains import Issued, tlsa
from tests.component.delivery_world import on, world
from tests.component.outbound_fakes import loaded
from tests.component.reported_world import (
    DOMAIN,
    ENFORCED,
    ENFORCING,
    EXPIRED,
    LINES,
    NONE,
    NOT_OFFERED,
    OPPORTUNISTIC,
    PEERS,
    REQUIRED,
    TESTED,
    TESTING,
    TLSA,
    UNTRUSTED,
    WRONG_NAME,
    counted,
    failure,
    greeted,
    report_on,
)
from tests.component.scripted_peer import FULL
from tests.component.tls_peer import (
    LEAF,
    NAME,
    OFFERS,
    OTHER,
    TlsPeer,
    good,
    hopeless,
    of_a_stranger,
    showing,
    trust_file,
)


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return trust_file(tmp_path)


ROWS: list[tuple[HostPolicy, str, Failure | None]] = [
    # Nothing is published: a session is as it should be if it is encrypted.
    (OPPORTUNISTIC, "good", None),
    (OPPORTUNISTIC, "other name", None),
    (OPPORTUNISTIC, "expired", None),
    (OPPORTUNISTIC, "stranger", None),
    (OPPORTUNISTIC, "none offered", NOT_OFFERED),
    (REQUIRED, "good", None),
    (REQUIRED, "none offered", NOT_OFFERED),
    # A policy that is tested: the mail goes out, and the domain is told.
    (TESTING, "good", None),
    (TESTING, "other name", WRONG_NAME),
    (TESTING, "expired", EXPIRED),
    (TESTING, "stranger", UNTRUSTED),
    (TESTING, "none offered", NOT_OFFERED),
    # One that is enforced: it waits.
    (ENFORCING, "good", None),
    (ENFORCING, "other name", WRONG_NAME),
    (ENFORCING, "expired", EXPIRED),
    (ENFORCING, "stranger", UNTRUSTED),
    (ENFORCING, "none offered", NOT_OFFERED),
]


@pytest.mark.parametrize(("policy", "kind", "expected"), ROWS)
async def test_session_is_counted_once_for_what_it_came_to(
    policy: HostPolicy, kind: str, expected: Failure | None, ca: str
) -> None:
    peer = TlsPeer(PEERS.get(kind, good)(), policy, FULL if kind == "none offered" else OFFERS)
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    source = policy.source
    applied = NONE if source is None else Policy(source.kind, source.domain, source.lines, source.mx_patterns)
    helo = greeted(peer)
    assert counted(tally, applied) == ((1, {}) if expected is None else (0, {expected._replace(mx_helo=helo): 1}))


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED, TESTING, ENFORCING])
async def test_handshake_that_fails_is_told_with_its_reason(policy: HostPolicy, ca: str) -> None:
    async with world(TlsPeer(hopeless(), policy)) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    (found,) = (f for counts in tally.domains[DOMAIN].values() for f in counts.failures)
    assert (found.result, found.mx_host, found.receiving_ip) == ("validation-failure", NAME, "127.0.0.1")
    assert "handshake" in found.reason


async def test_host_that_failed_before_is_told_of_each_time_though_tls_is_not_tried_again(ca: str) -> None:
    for context, policy, applied, expected in (
        (of_a_stranger(), TESTING, Policy("sts", DOMAIN, LINES, ("*.y.test",)), "certificate-not-trusted"),
        (hopeless(), OPPORTUNISTIC, NONE, "validation-failure"),
    ):
        peer = TlsPeer(context, policy)
        async with world(peer) as w:
            tally = report_on(w, ca)
            for number in (1, 2, 3):
                await w.deliver(loaded(number))
        assert peer.failed == 1
        successes, failures = counted(tally, applied)
        assert (successes, [(f.result, count) for f, count in failures.items()]) == (0, [(expected, 3)])


async def test_host_that_offers_tls_no_more_is_told_of_as_such(ca: str) -> None:
    peer = TlsPeer(of_a_stranger())
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
        peer.offers = FULL
        await w.deliver(loaded(2))
    successes, failures = counted(tally)
    assert (successes, [(f.result, count) for f, count in failures.items()]) == (1, [("starttls-not-supported", 1)])


async def test_messages_of_one_connection_are_one_session(ca: str) -> None:
    async with world(TlsPeer(good())) as w:
        tally = report_on(w, ca)
        await w.deliver(*[loaded(number) for number in range(1, 6)])
    assert counted(tally) == (1, {})


async def test_each_host_that_is_tried_is_a_session(ca: str) -> None:
    policy = HostPolicy(Level.REQUIRED)
    async with world(TlsPeer(good(), policy, FULL), TlsPeer(good(), policy)) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    successes, failures = counted(tally)
    assert (successes, [(f.result, count) for f, count in failures.items()]) == (1, [("starttls-not-supported", 1)])


async def test_refused_starttls_is_told_in_the_words_of_the_peer(ca: str) -> None:
    peer = TlsPeer(good(), REQUIRED, decide=on({"STARTTLS": "454 4.7.0 not now"}))
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    (found,) = counted(tally)[1]
    assert (found.result, found.reason) == ("starttls-not-supported", "454 4.7.0 not now")


async def test_host_that_a_tested_policy_does_not_name_is_told_of(ca: str) -> None:
    for patterns, expected in (
        (("other.test", "*.other.y.test", "*.test", "y.test"), "validation-failure"),
        (("mx.y.test",), ""),
        (("*.y.test",), ""),
    ):
        policy = HostPolicy(source=TESTED._replace(mx_patterns=patterns))
        async with world(TlsPeer(good(), policy)) as w:
            tally = report_on(w, ca)
            await w.deliver(loaded(1))
        successes, failures = counted(tally, Policy("sts", DOMAIN, LINES, patterns))
        assert (successes, [f.result for f in failures]) == ((0, [expected]) if expected else (1, []))


async def test_session_under_no_policy_since_it_could_not_be_fetched_is_told_of(ca: str) -> None:
    async with world(TlsPeer(good())) as w:
        tally = report_on(w, ca, ("sts-policy-fetch-error", "mta-sts.y.test answered 404"))
        await w.deliver(loaded(1))
    failed = failure("sts-policy-fetch-error", "mta-sts.y.test answered 404", "oracle.test")
    assert counted(tally, Policy("sts", DOMAIN)) == (0, {failed: 1})


async def test_mail_that_waives_the_policy_is_not_counted_again(ca: str) -> None:
    peer = TlsPeer(of_a_stranger(), ENFORCING)
    body = b"Subject: x\r\nTLS-Required: No\r\n\r\nx\r\n"
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1, body=body))
    assert len(peer.messages) == 1
    successes, failures = counted(tally, Policy("sts", DOMAIN, LINES, (NAME,)))
    assert (successes, [(f.result, n) for f, n in failures.items()]) == (0, [("certificate-not-trusted", 1)])


BASE = "base.y.test"


def by_records(*records: Tlsa) -> HostPolicy:
    """Of a host with these TLSA records, below the name that it is an alias of."""
    source = PolicySource("tlsa", DOMAIN, tuple(map(str, records)), (), True)
    return HostPolicy(Level.VERIFY, published=True, dane=dane_for(BASE, records, (DOMAIN,)), source=source)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (LEAF, None),
        (OTHER, failure("certificate-not-trusted", f"its certificate matches no TLSA record of {BASE} (3 1 1)")),
    ],
)
async def test_dane_is_counted_for_the_host_that_has_the_records(
    shown: Issued, expected: Failure | None, ca: str
) -> None:
    record = tlsa(3, 1, 1, LEAF)
    peer = TlsPeer(showing(shown), by_records(record))
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    applied = Policy("tlsa", BASE, (f"3 1 1 {record.association.hex()}",))
    counts = (1, {}) if expected is None else (0, {expected._replace(mx_helo=greeted(peer)): 1})
    assert counted(tally, applied) == counts


async def test_records_that_cannot_be_used_are_told_of(ca: str) -> None:
    policy = HostPolicy(Level.REQUIRED, published=True, source=TLSA)
    peer = TlsPeer(of_a_stranger(), policy)
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    assert len(peer.messages) == 1
    expected = failure("tlsa-invalid", "no record can be used to check a certificate", greeted(peer))
    assert counted(tally, Policy("tlsa", NAME, TLSA.lines)) == (0, {expected: 1})


@pytest.mark.parametrize(
    ("source", "result"),
    [
        (TLSA._replace(lines=()), "dnssec-invalid"),
        (ENFORCED._replace(mx_patterns=("other.test",)), "validation-failure"),
    ],
)
async def test_host_that_is_refused_is_told_of(source: PolicySource, result: str, ca: str) -> None:
    peer = TlsPeer(good(), HostPolicy(published=True, refused="so it is", source=source))
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    assert peer.sessions == []
    applied = Policy(source.kind, NAME if source.kind == "tlsa" else DOMAIN, source.lines, source.mx_patterns)
    assert counted(tally, applied) == (0, {failure(result, "so it is", ""): 1})


@pytest.mark.parametrize("decide", [on({"EHLO": "421 busy", "HELO": "421 busy"}), on({"GREETING": "554 no"})])
async def test_session_that_ends_before_tls_does_not_count(decide: Any, ca: str) -> None:
    async with world(TlsPeer(good(), REQUIRED, decide=decide)) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    assert tally.domains in ({}, {DOMAIN: tally.domains.get(DOMAIN)})
    assert all(not counts.failures for policies in tally.domains.values() for counts in policies.values())


async def test_host_that_is_down_does_not_count(ca: str) -> None:
    peer = TlsPeer(good())
    port = peer.port
    async with world(peer) as w:
        w.router.hosts = (Host(NAME, ("127.0.0.1",), _closed_port(port)),)
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    assert counted(tally) == (0, {})


def _closed_port(other: int) -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    assert port != other
    return port


async def test_config_that_wants_no_tls_is_nobody_elses_business(ca: str) -> None:
    async with world(TlsPeer(good(), HostPolicy(Level.NONE))) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1))
    assert counted(tally) == (0, {})


async def test_routes_of_the_config_are_not_counted(ca: str) -> None:
    async with world(TlsPeer(good(), REQUIRED, FULL)) as w:
        tally = report_on(w, ca, route=(Route(domains=("*",), next_hop="smtp://mx.y.test"),))
        await w.deliver(loaded(1))
    assert counted(tally) == (0, {})


async def test_sessions_for_reports_are_not_counted(ca: str) -> None:
    peer = TlsPeer(good(), REQUIRED, FULL)
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1, campaign=CAMPAIGN))
        assert counted(tally) == (0, {})
        await w.deliver(loaded(2))
        assert counted(tally)[1] != {}


async def test_report_goes_out_though_the_policy_of_its_domain_cannot_be_met(ca: str) -> None:
    peer = TlsPeer(of_a_stranger(), ENFORCING)
    body = b"Subject: x\r\nTLS-Required: No\r\n\r\nreport\r\n"
    async with world(peer) as w:
        tally = report_on(w, ca)
        await w.deliver(loaded(1, body=body, campaign=CAMPAIGN))
    assert ([message.body for message in peer.messages], counted(tally)) == ([body], (0, {}))


def test_our_address_is_found_without_a_packet() -> None:
    assert (local_address("127.0.0.1"), local_address("not an address")) == ("127.0.0.1", "")


def test_system_without_ipv6_has_no_address_of_that_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return original(family, kind)

    original = socket.socket
    local_address.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr("postroika.outbound.reported.socket.socket", without_ipv6)
        assert (local_address("2001:db8::1"), local_address("127.0.0.1")) == ("", "127.0.0.1")
    local_address.cache_clear()
