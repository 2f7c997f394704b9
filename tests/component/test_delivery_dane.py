"""Delivery to hosts with TLSA records, and to hosts that a policy refuses. The peers' TLS is Trio's."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika.mail.outcome import Outcome, Stage
from postroika.routing.router import Host
from postroika.tls.policy import HostPolicy, Level
from postroika.tls.tlsa import Tlsa, dane_for
from tests.chains import Issued, issue, tlsa
from tests.component.delivery_world import PATIENT_S, TAKEN, on, world
from tests.component.outbound_fakes import loaded
from tests.component.scripted_peer import FULL
from tests.component.tls_peer import LEAF, NAME, OFFERS, OTHER, ROOT, TlsPeer, hopeless, of_a_stranger, showing

TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"
EXPIRED = issue("leaf", ROOT, "elsewhere.test", expired=True)
ELSEWHERE = issue("leaf", ROOT, "elsewhere.test")


def policy_of(*records: Tlsa, base: str = NAME, names: Sequence[str] = ("y.test",)) -> HostPolicy:
    dane = dane_for(base, records, names)
    assert dane is not None
    demand = f"the TLSA records of {base} ask for it"
    return HostPolicy(Level.VERIFY, name_trusted=True, published=True, dane=dane, demand=demand)


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("leaf", "above", "record"),
    [
        (LEAF, (), tlsa(3, 1, 1, LEAF)),
        (LEAF, (ROOT,), tlsa(3, 0, 2, LEAF)),
        (EXPIRED, (), tlsa(3, 1, 1, EXPIRED)),
        (OTHER, (), tlsa(3, 0, 0, OTHER)),
        (LEAF, (ROOT,), tlsa(2, 1, 1, ROOT)),
        (LEAF, (), tlsa(2, 0, 0, ROOT)),
    ],
)
async def test_server_that_shows_what_its_records_say_gets_the_mail(
    leaf: Issued, above: tuple[Issued, ...], record: Tlsa, version: ssl.TLSVersion
) -> None:
    peer = TlsPeer(showing(leaf, *above, version=version), policy_of(record))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    (attempt,) = [attempt for _, attempt in lane.attempts]
    assert attempt.tls.startswith(version.name.replace("_", "."))
    assert attempt.tls.endswith(" verified dane")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("leaf", "above", "record", "reason"),
    [
        (LEAF, (), tlsa(3, 1, 1, OTHER), f"its certificate matches no TLSA record of {NAME} (3 1 1)"),
        (LEAF, (), tlsa(2, 1, 1, ROOT), f"its certificate matches no TLSA record of {NAME} (2 1 1)"),
        (ELSEWHERE, (ROOT,), tlsa(2, 1, 1, ROOT), f"certificate verify failed: it is not for {NAME} or y.test"),
        (EXPIRED, (ROOT,), tlsa(2, 1, 1, ROOT), "certificate verify failed: cert is not valid at validation time"),
    ],
)
async def test_server_that_shows_anything_else_hears_nothing_and_the_mail_waits(
    leaf: Issued, above: tuple[Issued, ...], record: Tlsa, reason: str, version: ssl.TLSVersion
) -> None:
    peer = TlsPeer(showing(leaf, *above, version=version), policy_of(record))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1))
    said = f"451 4.7.5 TLS with {NAME} [127.0.0.1]:{peer.port} failed: {reason}; the TLSA records of {NAME} ask for it"
    assert lane.outcomes == {"r1@y.test": (Outcome.DEFERRED, said, Stage.TLS)}
    assert [str(reply) for reply, _ in lane.down] == [said]
    assert [session.commands for session in peer.sessions] == [["EHLO me.test", "STARTTLS"]]


@pytest.mark.parametrize(
    ("make", "offers", "answers", "words"),
    [
        (lambda: showing(LEAF), FULL, {}, "451 4.7.4 {whom}: TLS is required, but was not offered; {demand}"),
        (
            lambda: showing(LEAF),
            OFFERS,
            {"STARTTLS": "454 4.7.0 not now"},
            "451 4.7.4 {whom} refuses TLS (454 4.7.0 not now); {demand}",
        ),
        (hopeless, OFFERS, {}, "451 4.7.5 TLS with {whom} failed: "),
    ],
)
async def test_nothing_goes_in_clear_to_a_host_with_records(
    make: Callable[[], ssl.SSLContext], offers: Sequence[str], answers: dict[str, str], words: str
) -> None:
    peer = TlsPeer(make(), policy_of(tlsa(3, 1, 1, LEAF)), offers, decide=on(answers))
    async with world(peer) as w:
        lane = await w.deliver(loaded(1))
    outcome, said, stage = lane.outcomes["r1@y.test"]
    whom, demand = f"{NAME} [127.0.0.1]:{peer.port}", f"the TLSA records of {NAME} ask for it"
    assert (outcome, stage) == (Outcome.DEFERRED, Stage.TLS)
    assert said.startswith(words.format(whom=whom, demand=demand))
    assert said.endswith(demand)
    assert peer.messages == []


async def test_next_host_is_tried_each_by_its_own_policy() -> None:
    wrong = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, OTHER)))
    clear = TlsPeer(showing(LEAF), HostPolicy(), FULL, host="mx2.y.test")
    async with world(wrong, clear) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert (wrong.messages, len(clear.messages)) == ([], 1)


async def test_server_is_asked_for_by_the_name_that_the_records_belong_to() -> None:
    peer = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, LEAF), base="base.test"))
    async with world(peer) as w:
        await w.deliver(loaded(1))
    assert [handshake.server_name for handshake in peer.handshakes] == ["base.test"]


async def test_our_certificate_is_not_shown_to_who_is_not_authentic(tmp_path: Path) -> None:
    ours = issue("ours", None, "client.test").write(tmp_path / "ours.pem")
    context = showing(LEAF)
    context.verify_mode = ssl.CERT_OPTIONAL
    policy = policy_of(tlsa(3, 1, 1, OTHER))._replace(certificate=str(ours))
    peer = TlsPeer(context, policy)
    async with world(peer) as w:
        lane = await w.deliver(loaded(1))
        with trio.fail_after(PATIENT_S):
            while not (peer.handshakes or peer.failed):  # it learns of the end a little later
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert lane.outcomes["r1@y.test"][0] is Outcome.DEFERRED
    assert (peer.handshakes, peer.failed) == ([], 1)


# --- refused


WORDS = "the MTA-STS policy of y.test does not name this host"


async def test_host_that_a_policy_refuses_is_not_even_connected_to() -> None:
    refusing = TlsPeer(showing(LEAF), HostPolicy(published=True, refused=WORDS))
    async with world(refusing) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    said = f"451 4.7.5 {NAME} [127.0.0.1]:{refusing.port}: {WORDS}"
    assert lane.outcomes["r1@y.test"] == (Outcome.DEFERRED, said, Stage.TLS)
    assert [str(reply) for reply, _ in lane.down] == [said]
    assert refusing.sessions == []


async def test_host_that_is_not_refused_gets_the_mail() -> None:
    refusing = TlsPeer(showing(LEAF), HostPolicy(published=True, refused=WORDS))
    peer = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, LEAF), base="mx2.y.test"), host="mx2.y.test")
    async with world(refusing, peer) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert refusing.sessions == []


# --- what senders can ask for


WAIVING = b"TLS-Required: No\r\nSubject: x\r\n\r\nx\r\n"


@pytest.mark.parametrize(
    "policy", [policy_of(tlsa(3, 1, 1, OTHER)), HostPolicy(published=True, refused=WORDS)], ids=["dane", "refused"]
)
async def test_sender_may_waive_it(policy: HostPolicy) -> None:
    peer = TlsPeer(of_a_stranger(), policy)
    async with world(peer) as w:
        lane = await w.deliver(loaded(1, body=WAIVING), loaded(2))
    assert lane.outcomes["r1@y.test"] == TAKEN
    assert lane.outcomes["r2@y.test"][::2] == (Outcome.DEFERRED, Stage.TLS)
    assert len(peer.messages) == 1


@pytest.mark.parametrize("own", [Level.REQUIRED, Level.VERIFY])
async def test_sender_cannot_waive_what_the_config_asks_for(own: Level) -> None:
    peer = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, LEAF))._replace(own=own), FULL)
    async with world(peer) as w:
        lane = await w.deliver(loaded(1, body=WAIVING))
    assert lane.outcomes["r1@y.test"][::2] == (Outcome.DEFERRED, Stage.TLS)
    assert peer.messages == []


async def test_requiretls_goes_to_who_is_authentic_by_records() -> None:
    promises = (*FULL, "REQUIRETLS")
    good = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, LEAF)), secure_offers=promises)
    wrong = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, OTHER)), secure_offers=promises)
    for peer, outcome in ((good, Outcome.DELIVERED), (wrong, Outcome.DEFERRED)):
        async with world(peer) as w:
            lane = await w.deliver(loaded(1, requiretls=True))
        assert lane.outcomes["r1@y.test"][0] is outcome
    assert (len(good.messages), wrong.messages) == (1, [])


# --- sessions and connections


async def test_session_is_resumed_under_the_same_records_only() -> None:
    records = policy_of(tlsa(3, 1, 1, LEAF))
    peer = TlsPeer(showing(LEAF), records)
    both = policy_of(tlsa(3, 1, 1, LEAF), tlsa(3, 1, 1, OTHER))
    none = HostPolicy(Level.REQUIRED)
    async with world(peer) as w:
        for number, policy in enumerate((records, records, both, none, both, records), 1):
            w.router.hosts = (Host(NAME, ("127.0.0.1",), peer.port, policy),)
            lane = await w.deliver(loaded(number))
            assert lane.outcomes == {f"r{number}@y.test": TAKEN}
            told = [attempt.tls for _, attempt in lane.attempts]
            assert told == [TLS if policy is none else f"{TLS} verified dane"]
    resumed = [handshake.resumed for handshake in peer.handshakes]
    assert resumed == [False, True, False, False, True, True]


async def test_session_of_another_key_is_not_resumed_when_the_records_change() -> None:
    """The server keeps the key that its new records no longer name."""
    peer = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, LEAF)))
    async with world(peer) as w:
        await w.deliver(loaded(1))
        w.router.hosts = (Host(NAME, ("127.0.0.1",), peer.port, policy_of(tlsa(3, 1, 1, OTHER))),)
        lane = await w.deliver(loaded(2))
    assert lane.outcomes["r2@y.test"][::2] == (Outcome.DEFERRED, Stage.TLS)
    assert len(peer.messages) == 1


async def test_failure_under_records_is_not_remembered_against_the_host() -> None:
    """What has failed under a policy that allows nothing less leads to nothing less anywhere else."""
    peer = TlsPeer(showing(LEAF), policy_of(tlsa(3, 1, 1, OTHER)))
    async with world(peer) as w:
        await w.deliver(loaded(1))
        w.router.hosts = (Host(NAME, ("127.0.0.1",), peer.port, policy_of(tlsa(3, 1, 1, LEAF))),)
        lane = await w.deliver(loaded(2))
    assert lane.outcomes == {"r2@y.test": TAKEN}
