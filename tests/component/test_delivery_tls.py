"""Delivery under each policy on encryption, against peers of every kind. Their TLS is Trio's."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trustme

from postroika.errors import PostroikaError
from postroika.mail.outcome import Outcome, Stage
from postroika.metrics import OUTBOUND_SESSIONS
from postroika.routing.router import Host
from postroika.tls.policy import OPPORTUNISTIC, HostPolicy, Level
from tests.chains import issue, with_octets_for_names
from tests.component.delivery_world import PATIENT_S, TAKEN, World, on, world
from tests.component.outbound_fakes import BODY, FakeLane, loaded
from tests.component.scripted_peer import FULL, ScriptedPeer
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
REQUIRED, VERIFY = HostPolicy(Level.REQUIRED), HostPolicy(Level.VERIFY)
TRUSTED = HostPolicy(name_trusted=True)


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return trust_file(tmp_path)


# --- each policy, each kind of peer


PEERS: Mapping[str, Callable[[], ssl.SSLContext]] = {
    "good": good,
    "other name": of_another_name,
    "expired": expired,
    "stranger": of_a_stranger,
    "hopeless": hopeless,
}


class Row(NamedTuple):
    """What comes of it: `tls` of the event, connections by whether they ended with TLS; a reason if it is deferred."""

    tls: str
    connections: tuple[bool, ...]
    reason: str = ""


CLEAR = Row("", (False,))
_FAILED = "451 4.7.5 TLS with mx.y.test [127.0.0.1]:{port} failed: "
_NOT_TRUSTED = _FAILED + "certificate verify failed: "
_NOT_OFFERED = "451 4.7.4 mx.y.test [127.0.0.1]:{port}: TLS is required, but was not offered"
_WRONG_NAME = _NOT_TRUSTED + "Hostname mismatch, certificate is not valid for 'mx.y.test'."
_SELF_SIGNED = _NOT_TRUSTED + "unable to get local issuer certificate"
UNVERIFIED = Row(TLS, (False, True))
ROWS = [
    *[(Level.NONE, kind, CLEAR) for kind in PEERS],
    (Level.OPPORTUNISTIC, "none offered", CLEAR),
    (Level.OPPORTUNISTIC, "good", Row(f"{TLS} verified", (True,))),
    (Level.OPPORTUNISTIC, "other name", UNVERIFIED),
    (Level.OPPORTUNISTIC, "expired", UNVERIFIED),
    (Level.OPPORTUNISTIC, "stranger", UNVERIFIED),
    (Level.OPPORTUNISTIC, "hopeless", Row("", (False, False))),
    (Level.REQUIRED, "none offered", Row("", (False,), _NOT_OFFERED)),
    (Level.REQUIRED, "good", Row(f"{TLS} verified", (True,))),
    (Level.REQUIRED, "other name", UNVERIFIED),
    (Level.REQUIRED, "expired", UNVERIFIED),
    (Level.REQUIRED, "stranger", UNVERIFIED),
    (Level.REQUIRED, "hopeless", Row("", (False,), _FAILED)),
    (Level.VERIFY, "none offered", Row("", (False,), _NOT_OFFERED)),
    (Level.VERIFY, "good", Row(f"{TLS} verified", (True,))),
    (Level.VERIFY, "other name", Row("", (False,), _WRONG_NAME)),
    (Level.VERIFY, "expired", Row("", (False,), _NOT_TRUSTED + "certificate has expired")),
    (Level.VERIFY, "stranger", Row("", (False,), _SELF_SIGNED)),
    (Level.VERIFY, "hopeless", Row("", (False,), _FAILED)),
]


@pytest.mark.parametrize(("level", "kind", "row"), ROWS)
async def test_policy_decides_what_may_be_said_to_whom(level: Level, kind: str, row: Row, ca: str) -> None:
    policy = HostPolicy(level)
    peer = TlsPeer(PEERS.get(kind, good)(), policy, FULL if kind == "none offered" else OFFERS)
    before = {secrecy: metric.value for secrecy, metric in OUTBOUND_SESSIONS.items()}
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
        (attempt,) = [attempt for _, attempt in lane.attempts]
    stood = {secrecy: metric.value - before[secrecy] for secrecy, metric in OUTBOUND_SESSIONS.items()}
    secrecy = "verified" if row.tls.endswith(" verified") else "unverified" if row.tls else "clear"
    assert stood == {"clear": 0, "unverified": 0, "verified": 0} | ({} if row.reason else {secrecy: 1})
    assert (attempt.tls, tuple(peer.secure)) == (row.tls, row.connections)
    outcome, said, stage = lane.outcomes["r1@y.test"]
    if row.reason:
        assert (outcome, stage) == (Outcome.DEFERRED, Stage.TLS)
        assert said.startswith(row.reason.format(port=peer.port))
        assert peer.messages == []
        assert not any(command.startswith("MAIL") for session in peer.sessions for command in session.commands)
        assert [str(reply) for reply, _ in lane.down] == [said]
    else:
        assert lane.outcomes == {"r1@y.test": TAKEN}
        assert [message.body for message in peer.messages] == [BODY]


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED, VERIFY])
async def test_host_is_asked_for_by_its_name(policy: HostPolicy, ca: str) -> None:
    peer = TlsPeer(good(), policy)
    async with world(peer, tls_ca=ca) as w:
        await w.deliver(loaded(1))
    assert [handshake.server_name for handshake in peer.handshakes] == [NAME]


@pytest.mark.parametrize("level", [Level.OPPORTUNISTIC, Level.REQUIRED, Level.VERIFY])
async def test_implicit_tls_begins_before_the_greeting(level: Level, ca: str) -> None:
    peer = TlsPeer(good(), HostPolicy(level, implicit=True), FULL)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(*[loaded(n) for n in range(1, 6)])
    assert lane.outcomes == {f"r{n}@y.test": TAKEN for n in range(1, 6)}
    assert {attempt.tls for _, attempt in lane.attempts} == {f"{TLS} verified"}
    assert peer.sessions[0].commands[0] == "EHLO me.test"


async def test_nothing_is_said_in_clear_to_an_implicit_tls_port_that_fails(ca: str) -> None:
    peer = TlsPeer(hopeless(), HostPolicy(implicit=True), FULL)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes["r1@y.test"][::2] == (Outcome.DEFERRED, Stage.TLS)
    assert [session.commands for session in peer.sessions] == [[]]


@pytest.mark.parametrize("offers", [OFFERS, ("STARTTLS",), (*OFFERS, "CHUNKING")])
@pytest.mark.parametrize("in_memory", [True, False])
async def test_large_bodies_arrive_whole_over_tls(offers: tuple[str, ...], in_memory: bool, ca: str) -> None:
    body = b".abcdefghijklmnopqrstuvwxyz\r\n" * 100_000
    peer = TlsPeer(good(), VERIFY, offers)
    async with world(peer, tls_ca=ca) as w:
        w.bodies.chunks[1] = [body[at : at + 65536] for at in range(0, len(body), 65536)]
        chunks = len(w.bodies.chunks[1])
        big = loaded(1, body=body if in_memory else None, size_bytes=len(body), chunks=chunks)
        lane = await w.deliver(big, loaded(2))
    assert [message.body for message in peer.messages] == [body, BODY]
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}


async def test_tls_1_2_is_spoken_and_told(ca: str) -> None:
    context = good()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    peer = TlsPeer(context, VERIFY)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    assert [attempt.tls.split()[0] for _, attempt in lane.attempts] == ["TLSv1.2"]


# --- files that change


async def test_those_to_be_trusted_are_read_anew(ca: str) -> None:
    file, whole = Path(ca), Path(ca).read_bytes()
    file.write_bytes(trustme.CA().cert_pem.bytes())
    peer = TlsPeer(good(), VERIFY)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
        assert lane.outcomes["r1@y.test"][1].endswith(
            "certificate verify failed: unable to get local issuer certificate"
        )
        file.write_bytes(b"no certificate")
        with pytest.raises(
            PostroikaError, match=rf"^delivery\.tls_ca: {re.escape(ca)} holds no certificate in PEM form$"
        ):
            await w.deliverer.opener.reload()
        file.write_bytes(whole)
        lane = await w.deliver(loaded(2))
        assert lane.outcomes["r2@y.test"][0] is Outcome.DEFERRED  # what was read at first still counts
        await w.deliverer.opener.reload()
        lane = await w.deliver(loaded(3))
        assert lane.outcomes == {"r3@y.test": TAKEN}


# --- injection, stripping


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED, VERIFY])
async def test_replies_that_are_injected_behind_the_220_end_the_session(policy: HostPolicy, ca: str) -> None:
    peer = TlsPeer(good(), policy, injected=b"250-x\r\n250 PIPELINING\r\n")
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    outcome, said, _stage = lane.outcomes["r1@y.test"]
    assert outcome is Outcome.DEFERRED
    # As one packet, the client sees it; as two, TLS does.
    assert "before the handshake" in said or "TLS with" in said or policy is OPPORTUNISTIC
    assert peer.messages == []


@pytest.mark.parametrize("answer", ["454 4.7.0 not now", "502 5.5.1 what?"])
async def test_starttls_that_is_refused_counts_as_not_offered(answer: str, ca: str) -> None:
    for policy, expected in ((OPPORTUNISTIC, TAKEN), (REQUIRED, (Outcome.DEFERRED, answer, Stage.TLS))):
        peer = TlsPeer(good(), policy, decide=on({"STARTTLS": answer}))
        async with world(peer, tls_ca=ca) as w:
            lane = await w.deliver(loaded(1))
        assert lane.outcomes == {"r1@y.test": expected}
        assert peer.secure == [False]


async def test_next_host_is_tried_where_the_first_does_not_satisfy_the_policy(ca: str) -> None:
    stripped = TlsPeer(good(), REQUIRED, FULL)
    peer = TlsPeer(good(), REQUIRED)
    async with world(stripped, peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert (stripped.messages, len(peer.messages)) == ([], 1)


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, VERIFY])
async def test_certificate_that_cannot_be_read_is_not_trusted(policy: HostPolicy, tmp_path: Path) -> None:
    root = issue("root", authority=True)
    names = with_octets_for_names(NAME.encode(), b"\xff")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issue(NAME, root, more=[(names, False)]).write(tmp_path / "mx.pem"))
    peer = TlsPeer(context, policy)
    async with world(peer, tls_ca=str(root.write(tmp_path / "root.pem"))) as w:
        lane = await w.deliver(loaded(1))
    outcome, said, stage = lane.outcomes["r1@y.test"]
    if policy is VERIFY:
        reason = f"451 4.7.5 TLS with mx.y.test [127.0.0.1]:{peer.port} failed: its certificate cannot be read: 'utf-8'"
        assert (outcome, stage, said[: len(reason)]) == (Outcome.DEFERRED, Stage.TLS, reason)
        assert peer.messages == []
    else:
        assert lane.outcomes == {"r1@y.test": TAKEN}
        assert [attempt.tls for _, attempt in lane.attempts] == [TLS]


# --- what is remembered


async def test_host_with_which_tls_fails_is_spoken_to_in_clear_at_once_the_next_time(ca: str) -> None:
    peer = TlsPeer(hopeless())
    async with world(peer, tls_ca=ca) as w:
        for number in (1, 2, 3):
            await w.deliver(loaded(number))
    assert (peer.failed, len(peer.sessions)) == (1, 4)
    assert "STARTTLS" not in peer.sessions[-1].commands


async def test_certificate_that_is_not_trusted_is_not_checked_again_for_a_while(ca: str) -> None:
    peer = TlsPeer(of_a_stranger())
    async with world(peer, tls_ca=ca) as w:
        for number in (1, 2, 3):
            await w.deliver(loaded(number))
    assert (peer.failed, peer.secure) == (1, [False, True, True, True])


async def test_nothing_is_remembered_if_the_config_says_so(ca: str) -> None:
    peer = TlsPeer(of_a_stranger())
    async with world(peer, tls_ca=ca, tls_fallback_s=0.0) as w:
        for number in (1, 2):
            await w.deliver(loaded(number))
    assert peer.failed == 2


@pytest.mark.parametrize("how", ["flush", "reload"])
@pytest.mark.parametrize("broken", [hopeless, of_a_stranger], ids=["hopeless", "stranger"])
async def test_host_that_was_mended_is_spoken_to_in_the_best_way_at_once_when_an_operator_says_so(
    broken: Callable[[], ssl.SSLContext], how: str, ca: str
) -> None:
    peer = TlsPeer(broken())
    async with world(peer, tls_ca=ca) as w:
        await w.deliver(loaded(1))
        peer.show(good())
        lane = await w.deliver(loaded(2))
        assert [attempt.tls for _, attempt in lane.attempts] == ["" if broken is hopeless else TLS]
        await forget_failures(w, how)
        lane = await w.deliver(loaded(3))
    assert [attempt.tls for _, attempt in lane.attempts] == [f"{TLS} verified"]


@pytest.mark.parametrize("how", ["flush", "reload"])
async def test_connection_that_stands_in_a_worse_way_takes_no_more_then(how: str, ca: str) -> None:
    peer, lane = TlsPeer(hopeless()), FakeLane(loaded(1))
    async with world(peer, tls_ca=ca, connection_idle_s=PATIENT_S) as w:
        with trio.fail_after(PATIENT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(w.run, lane)
                await lane.idle.wait()
                peer.show(good())
                await forget_failures(w, how)
                lane.idle = trio.Event()
                lane.reported = trio.Event()
                lane.put(loaded(2))
                await lane.reported.wait()
                nursery.cancel_scope.cancel()
    assert [attempt.tls for _, attempt in lane.attempts] == ["", f"{TLS} verified"]


@pytest.mark.parametrize("remembered", [False, True])
async def test_connection_that_is_opened_in_a_worse_way_meanwhile_is_good_for_one_message(
    remembered: bool, ca: str
) -> None:
    """The certificate may have been mended after this handshake had begun, or failed."""

    def forget(verb: str, _rest: str) -> None:
        if verb == "EHLO" and len(peer.sessions) == 2 + remembered:
            peer.show(good())
            w.deliverer.opener.forget_failures()

    peer = TlsPeer(hopeless(), decide=forget)
    async with world(peer, tls_ca=ca) as w:
        if remembered:
            await w.deliver(loaded(1))
        lane = await w.deliver(loaded(2), loaded(3))
    assert [attempt.tls for _, attempt in lane.attempts] == ["", f"{TLS} verified"]


@pytest.mark.parametrize("kind", ["good", "none offered"])
async def test_connection_that_could_not_be_better_goes_on_then(kind: str, ca: str) -> None:
    def forget(verb: str, _rest: str) -> None:
        if verb == "." and len(peer.messages) == 1:
            w.deliverer.opener.forget_failures()

    peer = TlsPeer(good(), OPPORTUNISTIC, OFFERS if kind == "good" else FULL, forget)
    async with world(peer, tls_ca=ca) as w:
        await w.deliver(*[loaded(number) for number in range(1, 5)])
    assert len(peer.sessions) == 1


async def forget_failures(w: World, how: str) -> None:
    """As `postroika queue flush` does, or SIGHUP."""
    if how == "flush":
        w.deliverer.opener.forget_failures()
    else:
        await w.deliverer.opener.reload()


@pytest.mark.parametrize("policy", [REQUIRED, VERIFY])
async def test_memory_of_a_failure_never_weakens_a_stricter_policy(policy: HostPolicy, ca: str) -> None:
    peer = TlsPeer(hopeless())
    async with world(peer, tls_ca=ca) as w:
        await w.deliver(loaded(1))
        w.router.hosts = (Host(NAME, ("127.0.0.1",), peer.port, policy),)
        lane = await w.deliver(loaded(2))
    assert lane.outcomes["r2@y.test"][::2] == (Outcome.DEFERRED, Stage.TLS)
    assert len(peer.messages) == 1


async def test_handshake_that_never_ends_is_given_up_and_the_host_spoken_to_in_clear(ca: str) -> None:
    class Silent(TlsPeer):
        async def _shake_hands(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
            await trio.sleep_forever()
            raise AssertionError

    for policy, expected in ((OPPORTUNISTIC, Outcome.DELIVERED), (REQUIRED, Outcome.DEFERRED)):
        peer = Silent(good(), policy)
        async with world(peer, tls_ca=ca, tls_handshake_timeout_s=0.3) as w:
            lane = await w.deliver(loaded(1))
        outcome, said, _ = lane.outcomes["r1@y.test"]
        assert outcome is expected
        if policy is REQUIRED:
            assert said.startswith("451 4.4.2 waiting for the end of the TLS handshake of mx.y.test")


async def test_connection_that_is_cut_in_the_handshake_is_told_as_such(ca: str) -> None:
    class Rude(TlsPeer):
        async def _shake_hands(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
            raise trio.ClosedResourceError

    peer = Rude(good(), REQUIRED)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    outcome, said, stage = lane.outcomes["r1@y.test"]
    assert (outcome, stage) == (Outcome.DEFERRED, Stage.TLS)
    assert "the connection was closed in the middle of the handshake" in said or "was lost before" in said


# --- none at all


async def test_clear_peer_is_not_disturbed(ca: str) -> None:
    peer = ScriptedPeer()
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(*[loaded(n) for n in range(1, 4)])
    assert lane.outcomes == {f"r{n}@y.test": TAKEN for n in (1, 2, 3)}
    assert {attempt.tls for _, attempt in lane.attempts} == {""}
