"""From what a domain publishes to its mail: name server, router, policies, delivery and peers in one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trio
import trio.testing

from postroika.config import Config, Dns
from postroika.mail.outcome import Outcome, Stage
from postroika.mail.reply import reply
from postroika.outbound.published import Published
from postroika.routing.resolver import Resolver
from postroika.routing.router import NoRoute, Router
from postroika.spool.reader import Loaded
from postroika.tls.policy import HostPolicy, Level
from tests.chains import issue, tlsa
from tests.component.delivery_world import PATIENT_S, TAKEN, World, world
from tests.component.name_server import NameServer
from tests.component.outbound_fakes import FakeLane, in_strand, loaded
from tests.component.scripted_peer import FULL, ScriptedPeer
from tests.component.sts_fakes import Policies, Policy
from tests.component.tls_peer import (
    NAME,
    OFFERS,
    TlsPeer,
    expired,
    good,
    hopeless,
    of_a_stranger,
    of_another_name,
    showing,
    trust_file,
)
from tests.reference.smtp_server import DROP

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


# --- a policy that comes while there is a connection


class Requeueing(FakeLane):
    """Gives what was given back again, as the queue does."""

    def give_back(self, loaded: Loaded) -> None:
        super().give_back(loaded)
        self.waiting.appendleft(loaded)


VOUCHED = HostPolicy(Level.VERIFY, name_trusted=True, published=True)


def refused(peer: ScriptedPeer) -> tuple[Outcome, str, Stage]:
    """What becomes of mail then."""
    words = f"451 4.7.4 {peer.host} [127.0.0.1]:{peer.port}: TLS is required, but was not offered"
    return Outcome.DEFERRED, words, Stage.TLS


def begin_to_ask_for_tls(w: World) -> None:
    """Which the peer does not have."""
    w.router.hosts = tuple(msgspec.structs.replace(host, tls=VOUCHED) for host in w.router.hosts)


async def test_connection_in_clear_ends_when_a_policy_came_while_it_was_idle() -> None:
    peer, lane = ScriptedPeer(), Requeueing(loaded(1))
    async with world(peer, connection_idle_s=PATIENT_S) as w:
        w.router.published = True
        with trio.fail_after(PATIENT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(w.run, lane)
                await lane.idle.wait()
                begin_to_ask_for_tls(w)
                lane.put(loaded(2))
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": refused(peer)}
    assert len(peer.messages) == 1


async def test_connection_in_clear_ends_when_a_policy_came_while_it_was_busy() -> None:
    """After so many messages at most."""

    def decide(verb: str, _rest: str) -> None:
        if verb == "DATA" and len(peer.messages) == 2:
            begin_to_ask_for_tls(w)

    peer, lane = ScriptedPeer(decide=decide), Requeueing(*[loaded(number) for number in range(1, 61)])
    async with world(peer) as w:
        w.router.published = True
        with trio.fail_after(PATIENT_S):
            await w.run(lane)
    assert list(lane.outcomes.values()) == [TAKEN] * 20 + [refused(peer)]
    assert [(len(session.messages), session.closed) for session in peer.sessions] == [(20, True), (0, True)]


async def test_policy_that_came_while_there_was_no_place_counts() -> None:
    peer, lane = ScriptedPeer(), FakeLane(loaded(1))
    async with world(peer, max_connections_per_site=1) as w:
        w.router.published = True
        await in_strand(w.pump, w.deliverer.pool.acquire, "site")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, lane)
            await trio.testing.wait_all_tasks_blocked()
            assert lane.pauses == 1
            begin_to_ask_for_tls(w)
            w.deliverer.pool.release("site")
    assert lane.outcomes == {"r1@y.test": refused(peer)}
    assert peer.messages == []


async def test_domain_that_is_gone_when_there_is_a_place_is_told_of() -> None:
    gone = NoRoute(True, reply(550, "5.1.2", "domain y.test does not exist"))
    peer, lane = ScriptedPeer(), FakeLane(loaded(1))
    async with world(peer, max_connections_per_site=1) as w:
        w.router.published = True
        await in_strand(w.pump, w.deliverer.pool.acquire, "site")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, lane)
            await trio.testing.wait_all_tasks_blocked()
            w.router.looked_up.clear()
            w.router.error = gone
            w.deliverer.pool.release("site")
        assert not w.deliverer.pool.is_full("site")
    assert lane.outcomes == {"r1@y.test": (Outcome.FAILED, str(gone.reply), Stage.ROUTING)}


async def test_policy_that_is_no_longer_known_is_looked_up_before_more_goes_out() -> None:
    peer, lane = ScriptedPeer(), Requeueing(loaded(1))
    async with world(peer, connection_idle_s=PATIENT_S) as w:
        w.router.published = True
        with trio.fail_after(PATIENT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(w.run, lane)
                await lane.idle.wait()
                w.router.looked_up.clear()
                lane.reported = trio.Event()
                lane.put(loaded(2))
                await lane.reported.wait()
                lane.hurry()
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
    assert w.router.looked_up == {"y.test"}
    assert [len(session.messages) for session in peer.sessions] == [1, 1]


@pytest.mark.parametrize(("published", "asked"), [(False, 1), (True, 4)])
async def test_routes_are_asked_for_once_a_connection_where_no_policy_can_be_published(
    published: bool, asked: int
) -> None:
    """A batch after each wait is one of the occasions."""
    peer, lane = ScriptedPeer(), FakeLane(*[loaded(number) for number in range(1, 31)])
    async with world(peer, connection_idle_s=PATIENT_S) as w:
        w.router.published = published
        w.router.looked_up.add("y.test")
        with trio.fail_after(PATIENT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(w.run, lane)
                await lane.idle.wait()
                lane.idle = trio.Event()
                lane.put(loaded(31))
                await lane.idle.wait()
                lane.hurry()
    assert len(lane.outcomes) == 31
    assert (w.router.asked, len(peer.sessions)) == (asked, 1)


# --- a policy that comes between two connections of one attempt


async def test_batch_in_hand_when_a_connection_breaks_goes_by_the_policy_that_came_meanwhile() -> None:
    def decide(verb: str, _rest: str) -> str | None:
        if verb == "MAIL" and len(peer.messages) == 1:
            begin_to_ask_for_tls(w)
            return DROP
        return None

    peer, lane = ScriptedPeer(decide=decide), Requeueing(loaded(1), loaded(2), loaded(3))
    async with world(peer) as w:
        w.router.published = True
        with trio.fail_after(PATIENT_S):
            await w.run(lane)
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": refused(peer)}
    assert [len(session.messages) for session in peer.sessions] == [1, 0]


async def test_policy_that_came_while_the_first_host_was_asked_holds_for_the_next_one() -> None:
    def decide(_verb: str, _rest: str) -> str:
        begin_to_ask_for_tls(w)
        return DROP

    first, second, lane = ScriptedPeer(decide=decide), ScriptedPeer(host="mx2.y.test"), Requeueing(loaded(1))
    async with world(first, second) as w:
        w.router.published = True
        with trio.fail_after(PATIENT_S):
            await w.run(lane)
    assert lane.outcomes["r1@y.test"][::2] == (Outcome.DEFERRED, Stage.GREETING)
    assert (len(first.sessions), second.sessions) == (1, [])


async def test_what_one_host_defers_is_offered_to_no_other_by_a_policy_of_before() -> None:
    def decide(verb: str, rest: str) -> str | None:
        if verb == "RCPT" and rest.startswith("TO:<b@"):
            begin_to_ask_for_tls(w)
            return "451 4.3.0 later"
        return None

    first, second = ScriptedPeer(decide=decide), ScriptedPeer(host="mx2.y.test")
    lane = Requeueing(loaded(1, "a@y.test", "b@y.test"))
    async with world(first, second) as w:
        w.router.published = True
        with trio.fail_after(PATIENT_S):
            await w.run(lane)
    assert lane.outcomes == {"a@y.test": TAKEN, "b@y.test": (Outcome.DEFERRED, "451 4.3.0 later", Stage.RCPT)}
    assert (lane.given_back, second.sessions) == ([], [])


async def test_those_who_found_no_room_in_the_first_transaction_wait_when_the_policy_is_another() -> None:
    def decide(verb: str, rest: str) -> str | None:
        if verb == "RCPT" and rest.startswith("TO:<b@"):
            return "452 4.5.3 too many recipients"
        if verb == "MAIL" and len(peer.messages) == 1:
            begin_to_ask_for_tls(w)
            return DROP
        return None

    peer, lane = ScriptedPeer(decide=decide), Requeueing(loaded(1, "a@y.test", "b@y.test"))
    async with world(peer) as w:
        w.router.published = True
        with trio.fail_after(PATIENT_S):
            await w.run(lane)
    words = "451 4.4.0 y.test has come to ask for other encryption in the middle of the attempt"
    assert lane.outcomes == {"a@y.test": TAKEN, "b@y.test": (Outcome.DEFERRED, words, Stage.ROUTING)}
    assert lane.given_back == []


async def test_requiretls_does_not_rely_on_names_that_are_no_longer_vouched_for(tmp_path: Path) -> None:
    def decide(verb: str, _rest: str) -> None:
        if verb == "." and not peer.messages:
            w.router.hosts = (peer.as_host,)

    peer = TlsPeer(good(), decide=decide, secure_offers=(*FULL, "REQUIRETLS"))
    lane = Requeueing(loaded(1), loaded(2, requiretls=True))
    async with world(peer, tls_ca=trust_file(tmp_path)) as w:
        w.router.published = True
        w.router.hosts = (msgspec.structs.replace(peer.as_host, tls=VOUCHED),)
        with trio.fail_after(PATIENT_S):
            await w.run(lane)
    outcome, said, _ = lane.outcomes["r2@y.test"]
    assert (outcome, said[:9], len(peer.messages)) == (Outcome.FAILED, "550 5.7.30"[:9], 1)


async def test_route_that_has_to_be_looked_up_again_and_is_the_same_serves_on() -> None:
    def decide(_verb: str, _rest: str) -> str:
        w.router.looked_up.clear()
        return DROP

    first, second = ScriptedPeer(decide=decide), ScriptedPeer(host="mx2.y.test")
    async with world(first, second) as w:
        w.router.published = True
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert (len(second.messages), w.router.looked_up) == (1, {"y.test"})


async def test_route_that_is_another_each_time_does_not_keep_a_lane_going() -> None:
    def decide(_verb: str, _rest: str) -> str:
        w.router.hosts = tuple(
            msgspec.structs.replace(host, tls=host.tls._replace(published=not host.tls.published))
            for host in w.router.hosts
        )
        return DROP

    peers = [ScriptedPeer(decide=decide), ScriptedPeer(decide=decide, host="mx2.y.test")]
    async with world(*peers) as w:
        w.router.published = True
        lane = await w.deliver(loaded(1))
    assert [outcome for outcome, _, _ in lane.outcomes.values()] == [Outcome.DEFERRED]
    assert sum(len(peer.sessions) for peer in peers) == 1
