"""What is kept apart when mail goes out encrypted: policies, certificates, logins; and logging in itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from postroika.config import Delivery, Route
from postroika.errors import PostroikaError
from postroika.mail.outcome import Outcome, Stage
from postroika.routing.router import Host
from postroika.tls.policy import OPPORTUNISTIC, HostPolicy, Level
from tests.component.delivery_world import PATIENT_S, TAKEN, World, on, world
from tests.component.outbound_fakes import FakeLane, loaded
from tests.component.scripted_peer import FULL
from tests.component.tls_peer import CA, NAME, TlsPeer, good, server_context, trust_file
from tests.reference.smtp_server import LoggedIn

TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"
REQUIRED, VERIFY = HostPolicy(Level.REQUIRED), HostPolicy(Level.VERIFY)
PUBLISHED = HostPolicy(Level.VERIFY, name_trusted=True, published=True)


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return trust_file(tmp_path)


# --- identities are kept apart


async def test_sessions_are_resumed_for_the_same_host_policy_and_certificate_only(ca: str) -> None:
    peer = TlsPeer(good())
    async with world(peer, tls_ca=ca) as w:
        for policy in (OPPORTUNISTIC, OPPORTUNISTIC, VERIFY, VERIFY, REQUIRED):
            w.router.hosts = (Host(NAME, ("127.0.0.1",), peer.port, policy),)
            lane = await w.deliver(loaded(1))
            assert [attempt.tls for _, attempt in lane.attempts] == [f"{TLS} verified"]
    assert [handshake.resumed for handshake in peer.handshakes] == [False, True, False, True, False]


async def test_session_of_a_connection_that_was_open_at_a_reload_is_not_resumed(ca: str) -> None:
    """It is kept when the connection ends, which is after the reload."""
    peer = TlsPeer(good())
    async with world(peer, tls_ca=ca, connection_idle_s=PATIENT_S) as w:
        lane = FakeLane(loaded(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, lane)
            await lane.idle.wait()
            await w.deliverer.opener.reload()
            lane.hurry()
        w.deliverer.config = Delivery(connection_idle_s=0.0)
        for number in (2, 3):
            lane = await w.deliver(loaded(number))
            assert [(attempt.results[0].outcome, attempt.tls) for _, attempt in lane.attempts] == [
                (Outcome.DELIVERED, f"{TLS} verified")
            ]
    assert [handshake.resumed for handshake in peer.handshakes] == [False, False, True]


async def test_idle_connection_is_not_used_under_another_policy(ca: str) -> None:
    peer = TlsPeer(good())
    async with world(peer, tls_ca=ca, connection_idle_s=PATIENT_S, max_connections_per_site=1) as w:
        lane = FakeLane(loaded(1))
        w.nursery.start_soon(w.run, lane)
        await lane.idle.wait()
        w.router.hosts = (Host(NAME, ("127.0.0.1",), peer.port, VERIFY),)
        other = FakeLane(loaded(2))
        w.nursery.start_soon(w.run, other)
        with trio.fail_after(PATIENT_S):
            await other.idle.wait()
        assert (lane.outcomes, other.outcomes) == ({"r1@y.test": TAKEN}, {"r2@y.test": TAKEN})
    assert [len(session.messages) for session in peer.sessions] == [1, 1]


async def test_idle_connection_is_used_under_the_same_policy(ca: str) -> None:
    peer = TlsPeer(good(), VERIFY)
    async with world(peer, tls_ca=ca, connection_idle_s=PATIENT_S, max_connections_per_site=1) as w:
        lane, other = FakeLane(loaded(1)), FakeLane(loaded(2))
        w.nursery.start_soon(w.run, lane)
        await lane.idle.wait()
        w.nursery.start_soon(w.run, other)
        with trio.fail_after(PATIENT_S):
            await other.idle.wait()
    assert [len(session.messages) for session in peer.sessions] == [2]
    assert {attempt.tls for _, attempt in (*lane.attempts, *other.attempts)} == {f"{TLS} verified"}


def showing(host: str) -> TlsPeer:
    """A host with a certificate for its name, of a domain that asks for that."""
    return TlsPeer(server_context(CA.issue_cert(host)), PUBLISHED, host=host)


async def test_idle_connection_is_not_used_for_a_domain_whose_policy_does_not_name_the_host(ca: str) -> None:
    """Both have the same MX records; but at the one this host can be used now, at the other that."""
    theirs, ours = showing("mx.other.test"), showing(NAME)
    async with world(theirs, ours, tls_ca=ca, connection_idle_s=PATIENT_S, max_connections_per_site=1) as w:
        lane, other = FakeLane(loaded(1)), FakeLane(loaded(2))
        for peer, used in ((theirs, lane), (ours, other)):
            w.router.hosts = (peer.as_host,)
            w.nursery.start_soon(w.run, used)
            with trio.fail_after(PATIENT_S):
                await used.idle.wait()
    assert [attempt.peer for _, attempt in (*lane.attempts, *other.attempts)] == [theirs.peer, ours.peer]
    assert [len(peer.messages) for peer in (theirs, ours)] == [1, 1]


@pytest.mark.parametrize("published", [True, False])
async def test_idle_connection_to_a_host_that_is_not_to_be_tried_is_used_only_where_no_policy_speaks(
    published: bool, ca: str
) -> None:
    last, first = showing("mx.other.test"), showing(NAME)
    policy = PUBLISHED if published else OPPORTUNISTIC
    between = tuple(Host(f"mx{number}.y.test", ("127.0.0.1",), 1, policy) for number in range(4))
    ends = [Host(peer.host, ("127.0.0.1",), peer.port, policy) for peer in (last, first)]
    async with world(last, first, tls_ca=ca, connection_idle_s=PATIENT_S, max_connections_per_site=1) as w:
        lane, other = FakeLane(loaded(1)), FakeLane(loaded(2))
        for hosts, used in (((ends[0], *between, ends[1]), lane), ((ends[1], *between, ends[0]), other)):
            w.router.hosts = hosts
            w.nursery.start_soon(w.run, used)
            with trio.fail_after(PATIENT_S):
                await used.idle.wait()
    expected = [last.peer, first.peer] if published else [last.peer, last.peer]
    assert [attempt.peer for _, attempt in (*lane.attempts, *other.attempts)] == expected


async def test_idle_connection_to_another_address_of_a_host_is_used_and_the_next_host_stays_the_next(ca: str) -> None:
    peer, backup = showing(NAME), showing("mx2.y.test")
    peer.decide = on({"RCPT TO:<r2@y.test>": "450 4.3.2 not now"})
    async with world(peer, backup, tls_ca=ca, connection_idle_s=PATIENT_S, max_connections_per_site=1) as w:
        lane, other = FakeLane(loaded(1)), FakeLane(loaded(2))
        w.router.hosts = (Host(NAME, ("127.0.0.1",), peer.port, PUBLISHED), backup.as_host)
        w.nursery.start_soon(w.run, lane)
        with trio.fail_after(PATIENT_S):
            await lane.idle.wait()
            w.router.hosts = (Host(NAME, ("127.0.0.2",), peer.port, PUBLISHED), backup.as_host)
            await w.run(other)
    assert [attempt.peer for _, attempt in (*lane.attempts, *other.attempts)] == [peer.peer, backup.peer]
    assert len(peer.sessions) == 1


async def test_our_certificate_is_shown_to_who_asks(ca: str, tmp_path: Path) -> None:
    leaf = CA.issue_cert("client.test")
    file = tmp_path / "client.pem"
    file.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    policy = HostPolicy(Level.VERIFY, certificate=str(file))
    peer = TlsPeer(server_context(CA.issue_cert(NAME), clients=CA), policy)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert [handshake.client_names for handshake in peer.handshakes] == [("client.test",)]


async def test_host_that_insists_on_a_certificate_that_we_have_not_gets_nothing_under_required(ca: str) -> None:
    peer = TlsPeer(server_context(CA.issue_cert(NAME), clients=CA), REQUIRED)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes["r1@y.test"][0] is Outcome.DEFERRED
    assert peer.messages == []


def test_files_that_cannot_be_used_refuse_the_start(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    bad = str(tmp_path / "x.pem")
    for options, route in (
        ({"tls_ca": bad}, None),
        ({"tls_ca": str(tmp_path / "missing")}, None),
        ({}, Route(domains=("*",), certificate=bad)),
        ({}, Route(domains=("*",), auth=bad)),
    ):
        with pytest.raises(PostroikaError, match=r"x\.pem|missing"):
            World(None, None, route=route, **options)  # type: ignore[arg-type]


# --- AUTH


def credentials(directory: Path, text: str = 'user = "alice"\npassword = "s3cret"\n') -> str:
    file = directory / "smarthost.toml"
    file.write_text(text)
    file.chmod(0o600)
    return str(file)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_it_logs_in_at_a_smarthost(mechanism: str, ca: str, tmp_path: Path) -> None:
    route = Route(domains=("*",), auth=credentials(tmp_path))
    peer = TlsPeer(good(), VERIFY, secure_offers=(*FULL, f"AUTH {mechanism}"))
    async with world(peer, route=route, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1), loaded(2))
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
    assert [session.logins for session in peer.sessions] == [[LoggedIn(mechanism, "alice", "s3cret", True)]]


async def test_password_that_is_refused_defers_the_mail(ca: str, tmp_path: Path) -> None:
    route = Route(domains=("*",), auth=credentials(tmp_path))
    decide = on({"AUTH": "535 5.7.8 wrong"})
    peer = TlsPeer(good(), VERIFY, decide=decide, secure_offers=(*FULL, "AUTH PLAIN"))
    async with world(peer, route=route, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1))
    assert lane.outcomes == {"r1@y.test": (Outcome.DEFERRED, "535 5.7.8 wrong", Stage.AUTH)}
    assert peer.messages == []


async def test_changed_password_counts_from_the_next_connection_on(ca: str, tmp_path: Path) -> None:
    file = credentials(tmp_path)
    peer = TlsPeer(good(), VERIFY, secure_offers=(*FULL, "AUTH PLAIN"))
    async with world(peer, route=Route(domains=("*",), auth=file), tls_ca=ca) as w:
        await w.deliver(loaded(1))
        credentials(tmp_path, 'user = "alice"\npassword = "another one"\n')
        await w.deliver(loaded(2))
        Path(file).write_text("broken")
        await w.deliver(loaded(3))
    passwords = [login.password for session in peer.sessions for login in session.logins]
    assert passwords == ["s3cret", "another one", "another one"]


async def test_session_is_not_resumed_by_who_logs_in_as_somebody_else(ca: str, tmp_path: Path) -> None:
    """Nor by who does not log in at all."""
    file = credentials(tmp_path)
    peer = TlsPeer(good(), VERIFY, secure_offers=(*FULL, "AUTH PLAIN"))
    async with world(peer, route=Route(domains=("*",), auth=file), tls_ca=ca) as w:
        await w.deliver(loaded(1))
        await w.deliver(loaded(2))
        credentials(tmp_path, 'user = "bobby"\npassword = "s3cret"\n')
        await w.deliver(loaded(3))
        w.router.auth = ""
        await w.deliver(loaded(4))
    users = [[login.user for login in session.logins] for session in peer.sessions]
    assert users == [["alice"], ["alice"], ["bobby"], []]
    assert [handshake.resumed for handshake in peer.handshakes] == [False, True, False, False]


async def test_logged_in_connection_is_not_used_by_who_is_not(ca: str, tmp_path: Path) -> None:
    route = Route(domains=("*",), auth=credentials(tmp_path))
    peer = TlsPeer(good(), VERIFY, secure_offers=(*FULL, "AUTH PLAIN"))
    async with world(peer, route=route, tls_ca=ca, connection_idle_s=PATIENT_S, max_connections_per_site=1) as w:
        lane = FakeLane(loaded(1))
        w.nursery.start_soon(w.run, lane)
        await lane.idle.wait()
        w.router.auth = ""
        other = FakeLane(loaded(2))
        w.nursery.start_soon(w.run, other)
        with trio.fail_after(PATIENT_S):
            await other.idle.wait()
    assert [(len(session.logins), len(session.messages)) for session in peer.sessions] == [(1, 1), (0, 1)]
