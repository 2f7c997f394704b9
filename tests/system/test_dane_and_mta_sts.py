"""Domains that publish both: where a host has TLSA records that can be used, or that cannot be had, these alone count.

RFC 8461 §2. Knot signs, Unbound validates, OpenSSL serves the policies, aiosmtpd is the next hop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chains import Issued, issue, tlsa
from tests.system.https_peer import PLAIN, PolicyHosts, response
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.signed_dns import SignedDns
from tests.system.starttls_hop import Hop, showing

_CONFIG = """
[dns]
servers = ["{dns}"]
validating = true
ipv6 = "never"
allow_private = ["127.0.0.0/8"]
mx_port = {mx_port}
[sts]
port = {port}
ca = "{sts_ca}"
[delivery]
tls_ca = "{ca}"
connection_idle_s = 0
[retry]
delays_s = [600]
down_delays_s = [600]
"""
TRUSTED = issue("trusted", authority=True)
STRANGER = issue("stranger", authority=True)
DANE, STS, UNVERIFIED = " verified dane", " verified", ""


class Case(NamedTuple):
    """A domain.

    Args:
        policy: the mode, and the host that is named.
        records: usage, selector, matching type and whose, or where an alias leads.
        shows: the certificate of the host is of "trusted", whom delivery trusts, or of a "stranger".
        comes: the end of `tls` in the event of the delivery; or words of the reply that it waits with.
    """

    policy: tuple[str, str]
    records: str
    shows: str
    comes: str


NAMED, NOT_NAMED = "mx.LABEL.test", "mx2.LABEL.test"
TLSA_ASKS, STS_ASKS = "the TLSA records of mx.LABEL.test ask for it", "the MTA-STS policy of LABEL.test asks for it"
NOT_FOR_IT = "the MTA-STS policy of LABEL.test does not name this host"
NOT_KNOWN = "DNS look-up of the TLSA records of mx.LABEL.test failed: SERVFAIL"
CASES = {
    # Usable records decide: for the host …
    "dane-only": Case(("enforce", NAMED), "3 1 1 leaf", "stranger", DANE),
    "not-named": Case(("enforce", NOT_NAMED), "3 1 1 leaf", "stranger", DANE),
    "authority": Case(("enforce", NOT_NAMED), "2 1 1 issuer", "stranger", DANE),
    # … and against it.
    "sts-only": Case(("enforce", NAMED), "3 1 1 other", "trusted", TLSA_ASKS),
    "testing": Case(("testing", NAMED), "3 1 1 other", "trusted", TLSA_ASKS),
    # Records that cannot be had stop the host, whatever the policy says.
    "unknown": Case(("enforce", NAMED), "CNAME x.broken", "trusted", NOT_KNOWN),
    # Without usable records the policy counts.
    "none-good": Case(("enforce", NAMED), "", "trusted", STS),
    "none-bad": Case(("enforce", NAMED), "", "stranger", STS_ASKS),
    "none-not-named": Case(("enforce", NOT_NAMED), "", "trusted", NOT_FOR_IT),
    "unusable-good": Case(("enforce", NAMED), "1 1 1 other", "trusted", STS),
    "unusable-bad": Case(("enforce", NAMED), "1 1 1 leaf", "stranger", STS_ASKS),
    "unusable-not-named": Case(
        ("enforce", NOT_NAMED), "1 1 1 leaf", "trusted", NOT_FOR_IT
    ),
    "unusable-testing": Case(("testing", NAMED), "1 1 1 leaf", "stranger", UNVERIFIED),
}  # fmt: skip


class World:
    """Everything outside, and a server."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        (path / "hosts").mkdir()
        policies = stack.enter_context(PolicyHosts(path / "hosts"))
        port = free_port("127.5.0.1")
        self.hops: dict[str, Hop] = {}
        zone = ""
        for number, (label, case) in enumerate(CASES.items(), 1):
            mode, host = case.policy
            host = host.replace("LABEL", label)
            text = f"version: STSv1\nmode: {mode}\nmx: {host}\nmax_age: 86400\n"
            policies.start(label).answers(response(text, PLAIN))
            issuer = TRUSTED if case.shows == "trusted" else STRANGER
            leaf = issue("leaf", issuer, f"mx.{label}.test")
            context = showing(path / f"{label}.pem", leaf, issuer)
            self.hops[label] = Hop(f"127.5.{number}.1", port, context)
            stack.callback(self.hops[label].stop)
            zone += f"{label} MX 10 mx.{label}\nmx.{label} A 127.5.{number}.1\n"
            zone += _records(case.records, f"_{port}._tcp.mx.{label}", {"leaf": leaf, "issuer": issuer})
        dns = SignedDns(zone + policies.zone, path / "dns")
        stack.callback(dns.close)
        config = _CONFIG.format(
            dns=dns.address, mx_port=port, port=policies.port, sts_ca=policies.authority.file,
            ca=TRUSTED.write(path / "ca.pem"),
        )  # fmt: skip
        self.server = stack.enter_context(Postroika(path, config, workers=1))


def _records(text: str, owner: str, certificates: dict[str, Issued]) -> str:
    if not text:
        return ""
    if text.startswith("CNAME"):
        return f"{owner} {text}\n"
    usage, selector, matching, whose = text.split()
    certificate = certificates.get(whose) or issue("other", None, "other.test")
    return f"{owner} TLSA {tlsa(int(usage), int(selector), int(matching), certificate)}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("both"), stack)


@pytest.mark.parametrize("label", CASES)
def test_dane_goes_before_mta_sts(world: World, label: str) -> None:
    case = CASES[label]
    recipient = f"you@{label}.test"
    with world.server.dialogue() as client:
        assert client.message("me@x.test", [recipient], b"Subject: x\r\n\r\nx\r\n").startswith("250")

    def outcomes() -> list[dict[str, object]]:
        return [e for e in world.server.events_of("delivered", "deferred", "bounced") if e["recipient"] == recipient]

    wait_until(outcomes, "the outcome", 30)
    (event,) = outcomes()[:1]
    if case.comes in {DANE, STS, UNVERIFIED}:
        assert (event["type"], event.get("tls")) == ("delivered", f"TLSv1.3 TLS_AES_256_GCM_SHA384{case.comes}")
        assert len(world.hops[label].messages) == 1
    else:
        reply = event["reply"]
        assert isinstance(reply, dict)
        assert (event["type"], reply["code"], reply["stage"], reply["local"]) == ("deferred", 451, "tls", True)
        assert case.comes.replace("LABEL", label) in reply["text"]
        assert world.hops[label].messages == []
