"""What becomes of mail to domains with MTA-STS policies: real name servers, policy hosts and next hops."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from postroika.signing.key import generate
from tests.system.certificates import Authority
from tests.system.dns_server import DnsServer
from tests.system.https_peer import PLAIN, PolicyHosts, response
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.starttls_hop import Hop

_CONFIG = """
[dns]
servers = ["{dns}"]
timeout_s = 30
ipv6 = "never"
allow_private = ["127.0.0.0/8"]
mx_port = {mx_port}
[sts]
port = {port}
ca = "{ca}"
[delivery]
tls_ca = "{ca}"
connection_idle_s = 0
[[dkim]]
domain = "sender.test"
selector = "s1"
key = "key.pem"
[tlsrpt]
contact = "tls-reports@sender.test"
[retry]
delays_s = [600]
down_delays_s = [600]
"""
_VERIFIED, _ENCRYPTED, _CLEAR = (
    "TLSv1.3 TLS_AES_256_GCM_SHA384 verified",
    "TLSv1.3 TLS_AES_256_GCM_SHA384",
    None,
)
_WAITS = "waits"


class Case(NamedTuple):
    """A domain.

    Args:
        mode, mx: of its policy; "" if it cannot be fetched.
        shows: the certificate of its host: "good", for an "other" name or for a "wildcard", "expired", of a "stranger";
            "hopeless" if no handshake succeeds; or "" for no TLS.
        outcome: `tls` of the event "delivered", or that it is deferred.
        second: what its second MX host, back.LABEL.test, shows; None: there is none.
        by: the host that it is delivered to.
    """

    mode: str
    mx: str
    shows: str
    outcome: str | None
    max_age_s: int = 86_400
    second: str | None = None
    by: str = "mx"


CASES = {
    "held": Case("enforce", "mx.held.test", "good", _VERIFIED),
    "wild": Case("enforce", "*.wild.test", "good", _VERIFIED),
    "stripped": Case("enforce", "mx.stripped.test", "", _WAITS),
    "impostor": Case("enforce", "mx.impostor.test", "other", _WAITS),
    "expired": Case("enforce", "mx.expired.test", "expired", _WAITS),
    "stranger": Case("enforce", "mx.stranger.test", "stranger", _WAITS),
    "hopeless": Case("enforce", "mx.hopeless.test", "hopeless", _WAITS),
    # A pattern is for names of hosts, a certificate is for the host: either may have a wildcard, each for itself.
    "wildcert": Case("enforce", "mx.wildcert.test", "wildcard", _VERIFIED),
    "both-wild": Case("enforce", "*.both-wild.test", "wildcard", _VERIFIED),
    "wild-other": Case("enforce", "*.wild-other.test", "other", _WAITS),
    "too-deep": Case("enforce", "*.test", "good", _WAITS),
    "apex": Case("enforce", "*.mx.apex.test", "good", _WAITS),
    # Each host for itself, in the order of the MX records.
    "second": Case("enforce", "back.second.test", "good", _VERIFIED, second="good", by="back"),
    "second-good": Case("enforce", "*.second-good.test", "expired", _VERIFIED, second="good", by="back"),
    "second-none": Case("enforce", "*.second-none.test", "", _WAITS, second="other"),
    "elsewhere": Case("enforce", "mx2.elsewhere.test", "good", _WAITS),
    "fleeting": Case("enforce", "mx2.fleeting.test", "good", _WAITS, max_age_s=0),
    "tested": Case("testing", "mx.tested.test", "other", _ENCRYPTED),
    "tested-clear": Case("testing", "mx.tested-clear.test", "", _CLEAR),
    "tested-elsewhere": Case("testing", "mx2.tested-elsewhere.test", "good", _VERIFIED),
    "tested-expired": Case("testing", "mx.tested-expired.test", "expired", _ENCRYPTED),
    "tested-hopeless": Case("testing", "mx.tested-hopeless.test", "hopeless", _CLEAR),
    "waived": Case("none", "mx2.waived.test", "other", _ENCRYPTED),
    "unpublished": Case("", "", "other", _ENCRYPTED),
}


class World:
    """Everything outside."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        (path / "hosts").mkdir()
        self.policies = stack.enter_context(PolicyHosts(path / "hosts"))
        self.mx_port = free_port()
        self.hops: dict[str, Hop] = {}
        self.second_hops: dict[str, Hop] = {}
        (path / "stranger").mkdir()
        self.stranger = Authority(path / "stranger")
        self.policy_hosts = {}
        zone = ""
        for number, (label, case) in enumerate(CASES.items(), 1):
            text = f"version: STSv1\nmode: {case.mode}\nmx: {case.mx}\nmax_age: {case.max_age_s}\n"
            answer = response(text, PLAIN) if case.mode else response("", status="404 Not Found")
            self.policy_hosts[label] = self.policies.start(label).answers(answer)
            zone += f"{label} MX 10 mx.{label}\nmx.{label} A 127.0.1.{number}\n"
            self.hops[label] = Hop(f"127.0.1.{number}", self.mx_port, self._context(f"mx.{label}.test", case.shows))
            stack.callback(self.hops[label].stop)
            if case.second is not None:
                zone += f"{label} MX 20 back.{label}\nback.{label} A 127.0.2.{number}\n"
                context = self._context(f"back.{label}.test", case.second)
                self.second_hops[label] = Hop(f"127.0.2.{number}", self.mx_port, context)
                stack.callback(self.second_hops[label].stop)
        self.hosts_zone = zone
        self.dns = DnsServer(zone + self.policies.zone, path / "dns")
        stack.callback(self.dns.stop)
        (path / "key.pem").write_bytes(generate("ed25519", 0))
        (path / "key.pem").chmod(0o600)
        config = _CONFIG.format(
            dns=self.dns.address, mx_port=self.mx_port, port=self.policies.port, ca=self.policies.authority.file
        )
        self.server = stack.enter_context(Postroika(path, config, workers=1))

    def _context(self, host: str, shows: str) -> ssl.SSLContext | None:
        if not shows:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        domain = host.partition(".")[2]
        name = {"other": f"other.{domain}", "wildcard": f"*.{domain}"}.get(shows, host)
        authority = self.stranger if shows == "stranger" else self.policies.authority
        context.load_cert_chain(authority.issue(name, expired=shows == "expired"))
        if shows == "hopeless":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("PSK")
        return context

    def served(self, label: str) -> list[str]:
        """The hosts of a domain that have got messages."""
        hops = {"mx": self.hops[label], "back": self.second_hops.get(label)}
        return [name for name, hop in hops.items() if hop is not None and hop.messages]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def _send(server: Postroika, local: str) -> dict[str, str | None]:
    """What becomes of a message to each domain."""
    with server.dialogue() as client:
        for label in CASES:
            reply = client.message("s@x.test", [f"{local}@{label}.test"], b"Subject: x\r\n\r\nx\r\n")
            assert reply.startswith("250")

    found: dict[str, str | None] = {}

    def settled() -> bool:
        for event in server.events_of("delivered", "deferred"):
            name, _, domain = event["recipient"].partition("@")
            if name == local:
                waits = event["type"] == "deferred"
                assert not waits or f"MTA-STS policy of {domain}" in event["reply"]["text"]
                found[domain.removesuffix(".test")] = _WAITS if waits else event.get("tls")
        return len(found) == len(CASES)

    wait_until(settled, "an outcome for each", 60)
    return found


def test_mail_goes_as_policies_want_it_and_also_when_they_can_no_longer_be_fetched(world: World) -> None:
    server = world.server
    assert _send(server, "first") == {label: case.outcome for label, case in CASES.items()}
    for label, case in CASES.items():
        assert world.served(label) == ([] if case.outcome == _WAITS else [case.by]), label
    assert world.hops["elsewhere"].names == []
    fetches = {key: value for key, value in server.metrics().items() if "sts_fetches" in key and value}
    assert fetches == {
        'postroika_sts_fetches_total{result="fetched"}': len(CASES) - 1,
        'postroika_sts_fetches_total{result="sts_policy_fetch_error"}': 1,
    }
    (shown,) = json.loads(server.run("tlsrpt", "show", "--json", "--domain", "unpublished.test"))["shown"]
    ((failure,),) = [policy["failures"] for policy in shown["policies"]]
    said = failure["result"], failure["reason"], failure["count"]
    assert said == ("sts-policy-fetch-error", "mta-sts.unpublished.test answered 404", 1)
    # Somebody takes the records away and silences the policy hosts; then the server is started again.
    server.stop()
    world.dns.start(world.hosts_zone)
    for host in world.policy_hosts.values():
        host.process.kill()
    server.start()
    server.flush()
    wait_until(lambda: bool(world.hops["fleeting"].messages), "what no policy holds back any more", 60)
    again = _send(server, "second")
    assert again == {**{label: case.outcome for label, case in CASES.items()}, "fleeting": _VERIFIED}

    waiting = {label for label, case in CASES.items() if case.outcome == _WAITS} - {"fleeting"}
    assert {label for label in CASES if not world.served(label)} == waiting
