"""From what a domain publishes to its mail: name server, router, policies, delivery and peers in one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from postroika.config import Config, Dns
from postroika.mail.outcome import Outcome, Stage
from postroika.outbound.published import Published
from postroika.routing.resolver import Resolver
from postroika.routing.router import Router
from tests.chains import issue, tlsa
from tests.component.delivery_world import TAKEN, World, world
from tests.component.name_server import NameServer
from tests.component.outbound_fakes import FakeLane, loaded
from tests.component.scripted_peer import FULL
from tests.component.test_delivery_dane import showing
from tests.component.test_published import Policies, Policy
from tests.component.tls_peer import (
    NAME,
    OFFERS,
    TlsPeer,
    expired,
    good,
    hopeless,
    of_a_stranger,
    of_another_name,
    trust_file,
)

TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"
ZONE = f"y.test. 300 IN MX 10 {NAME}.\n{NAME}. 300 IN A 127.0.0.1\n"
ENFORCE = Policy("enforce", (NAME,))


async def deliver(server: NameServer, w: World, sts: Policies | None, *, requiretls: bool = False) -> FakeLane:
    """One message to y.test, whose MX host is the peer of the world."""
    dns = Dns(servers=(server.address,), validating=True, mx_port=w.peers[0].port, allow_private=("127.0.0.0/8",))
    config = Config(dns=dns)
    resolver = Resolver(dns)
    w.deliverer.router = Published(config, Router(config, resolver=resolver), resolver, sts)
    return await w.deliver(loaded(1, requiretls=requiretls))


class Row(NamedTuple):
    """A policy, a peer, and what comes of it: `tls` of the delivery, or what the reply to a deferral ends with."""

    policy: Policy
    context: Callable[[], ssl.SSLContext]
    offers: tuple[str, ...]
    tls: str | None
    words: str = ""


ASKED = "; the MTA-STS policy of y.test asks for it"
ROWS = {
    "good": Row(ENFORCE, good, OFFERS, f"{TLS} verified"),
    "other name": Row(
        ENFORCE, of_another_name, OFFERS, None, f"Hostname mismatch, certificate is not valid for '{NAME}'.{ASKED}"
    ),
    "expired": Row(ENFORCE, expired, OFFERS, None, f"certificate has expired{ASKED}"),
    "stranger": Row(ENFORCE, of_a_stranger, OFFERS, None, f"unable to get local issuer certificate{ASKED}"),
    "hopeless": Row(ENFORCE, hopeless, OFFERS, None, ASKED),
    "stripped": Row(ENFORCE, good, FULL, None, f"TLS is required, but was not offered{ASKED}"),
    "not named": Row(
        Policy("enforce", ("mx2.y.test",)), good, OFFERS, None, ": the MTA-STS policy of y.test does not name this host"
    ),
    "testing, good": Row(Policy("testing", (NAME,)), good, OFFERS, f"{TLS} verified"),
    "testing, expired": Row(Policy("testing", (NAME,)), expired, OFFERS, TLS),
    "testing, stripped": Row(Policy("testing", (NAME,)), good, FULL, ""),
    "testing, not named": Row(Policy("testing", ("mx2.y.test",)), good, OFFERS, f"{TLS} verified"),
    "none": Row(Policy("none", ()), expired, OFFERS, TLS),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
async def test_every_row_of_mta_sts(row: Row, tmp_path: Path) -> None:
    """RFC 8461 §5: with "enforce", what is not as the policy says waits; with "testing" it goes as it would without."""
    peer = TlsPeer(row.context(), offers=row.offers)
    async with NameServer(ZONE).serve() as server, world(peer, tls_ca=trust_file(tmp_path)) as w:
        lane = await deliver(server, w, Policies(y=row.policy))
    (attempt,) = [attempt for _, attempt in lane.attempts]
    if row.tls is not None:
        assert (lane.outcomes, attempt.tls) == ({"r1@y.test": TAKEN}, row.tls)
    else:
        outcome, said, stage = lane.outcomes["r1@y.test"]
        assert (outcome, stage) == (Outcome.DEFERRED, Stage.TLS)
        assert said.startswith("451 4.7.")
        assert said.endswith(row.words)
        assert peer.messages == []


@pytest.mark.parametrize("policy", [None, ENFORCE, Policy("enforce", ("mx2.y.test",))])
async def test_dane_decides_whatever_mta_sts_says(policy: Policy | None, tmp_path: Path) -> None:
    leaf, other = issue("leaf", None, "elsewhere.test"), issue("other", None, NAME)
    sts = Policies(y=policy) if policy is not None else None
    for named, outcome in ((leaf, Outcome.DELIVERED), (other, Outcome.DEFERRED)):
        peer = TlsPeer(showing(leaf))
        async with NameServer(ZONE).serve() as server, world(peer, tls_ca=trust_file(tmp_path)) as w:
            server.signed = {"test"}
            record = tlsa(3, 1, 1, named)
            server.add(f"_{peer.port}._tcp.{NAME}. 300 IN TLSA {record}")
            lane = await deliver(server, w, sts)
        assert lane.outcomes["r1@y.test"][0] is outcome


@pytest.mark.parametrize(
    ("signed", "sts", "outcome"),
    [
        ({"test"}, None, Outcome.DELIVERED),
        (set(), Policies(y=ENFORCE), Outcome.DELIVERED),
        (set(), Policies(y=Policy("testing", (NAME,))), Outcome.FAILED),
        (set(), None, Outcome.FAILED),
    ],
)
async def test_requiretls_trusts_names_that_dnssec_or_a_policy_vouches_for(
    signed: set[str], sts: Policies | None, outcome: Outcome, tmp_path: Path
) -> None:
    """RFC 8689 §4.2.1."""
    peer = TlsPeer(good(), secure_offers=(*FULL, "REQUIRETLS"))
    async with NameServer(ZONE).serve() as server, world(peer, tls_ca=trust_file(tmp_path)) as w:
        server.signed = signed
        lane = await deliver(server, w, sts, requiretls=True)
    assert lane.outcomes["r1@y.test"][0] is outcome
    assert [message.mail.endswith(" REQUIRETLS") for message in peer.messages] == [True] * (
        outcome is Outcome.DELIVERED
    )
