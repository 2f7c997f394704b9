"""What TLS reports are told of deliveries: a recorder, and what it is to be told."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

from postroika.config import Config, Delivery, Server
from postroika.outbound.delivery import Deliverer
from postroika.tls.policy import HostPolicy, Level, PolicySource
from postroika.tlsrpt.tally import Counts, Failure, Policy, Tally
from tests.component.delivery_world import World
from tests.component.scripted_peer import ScriptedPeer
from tests.component.tls_peer import (
    NAME,
    expired,
    good,
    hopeless,
    of_a_stranger,
    of_another_name,
)

DOMAIN = "y.test"
NONE = Policy("no-policy-found", DOMAIN)
LINES = ("version: STSv1", "mode: testing", "mx: *.y.test", "max_age: 86400")
TESTED = PolicySource("sts", DOMAIN, LINES, ("*.y.test",), False)
ENFORCED = PolicySource("sts", DOMAIN, LINES, (NAME,), True)
TLSA = PolicySource("tlsa", NAME, ("3 1 1 00",), (), True)
PEERS: Mapping[str, Callable[[], ssl.SSLContext]] = {
    "good": good,
    "other name": of_another_name,
    "expired": expired,
    "stranger": of_a_stranger,
    "hopeless": hopeless,
}


def report_on(w: World, ca: str, unknown: tuple[Any, str] | None = None, **options: Any) -> Tally:
    """Have the world's deliveries counted.

    Args:
        unknown: why no policy of the domain is known.
        options: of the config.
    """
    tally = Tally()

    class Recorder:
        def succeeded(self, domain: str, policy: Policy) -> None:
            tally.succeeded(domain, policy)

        def failed(self, domain: str, policy: Policy, failure: Failure) -> None:
            tally.failed(domain, policy, failure)

        def failed_besides(self, domain: str, policy: Policy, failure: Failure) -> None:
            assert domain in tally.domains
            tally.failed(domain, policy, failure)

        def policy_failure(self, domain: str) -> tuple[Any, str] | None:
            assert domain == DOMAIN
            return unknown

    delivery = Delivery(tls_ca=ca, connection_idle_s=0.0)
    config = Config(server=Server(hostname="me.test"), delivery=delivery, **options)
    w.deliverer = Deliverer(config, w.router, w.bodies, w.in_flight, None, Recorder())
    return tally


def counted(tally: Tally, policy: Policy = NONE) -> tuple[int, dict[Failure, int]]:
    """Of the only domain and policy that there are."""
    if not tally.domains:
        return 0, {}
    assert {domain: set(policies) for domain, policies in tally.domains.items()} == {DOMAIN: {policy}}
    counts: Counts = tally.domains[DOMAIN][policy]
    return counts.successes, counts.failures


def failure(result: Any, reason: str, helo: str = "peer.test") -> Failure:
    return Failure(result, "127.0.0.1", NAME, helo, "127.0.0.1", reason)


def greeted(peer: ScriptedPeer) -> str:
    """What the peer calls itself."""
    return peer.session().greet().decode().split()[1]


_VERIFY = "certificate verify failed: "
NOT_OFFERED = failure("starttls-not-supported", "")
UNTRUSTED = failure("certificate-not-trusted", _VERIFY + "unable to get local issuer certificate")
WRONG_NAME = failure(
    "certificate-host-mismatch", _VERIFY + "Hostname mismatch, certificate is not valid for 'mx.y.test'."
)
EXPIRED = failure("certificate-expired", _VERIFY + "certificate has expired")
OPPORTUNISTIC, REQUIRED = HostPolicy(), HostPolicy(Level.REQUIRED)
TESTING = HostPolicy(source=TESTED)
ENFORCING = HostPolicy(Level.VERIFY, name_trusted=True, published=True, source=ENFORCED)
