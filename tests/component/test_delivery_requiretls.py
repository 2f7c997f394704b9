"""What senders may ask for: REQUIRETLS and "TLS-Required: No" (RFC 8689)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from postroika.mail.outcome import Outcome, Stage
from postroika.tls.policy import HostPolicy, Level
from tests.component.delivery_world import TAKEN, world
from tests.component.outbound_fakes import loaded
from tests.component.scripted_peer import FULL, refused_port
from tests.component.tls_peer import TlsPeer, good, of_a_stranger, trust_file

NOT_OFFERED = "The message requires TLS all the way and the next host offers no REQUIRETLS"
VERIFY = HostPolicy(Level.VERIFY)
TRUSTED = HostPolicy(name_trusted=True)


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return trust_file(tmp_path)


async def test_requiretls_goes_over_a_connection_of_its_own_to_a_host_that_keeps_it(ca: str) -> None:
    peer = TlsPeer(good(), TRUSTED, secure_offers=(*FULL, "REQUIRETLS"))
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1), loaded(2, requiretls=True), loaded(3))
    assert lane.outcomes == {f"r{n}@y.test": TAKEN for n in (1, 2, 3)}
    mails = [[message.mail.partition(" SIZE")[0] for message in session.messages] for session in peer.sessions]
    assert mails == [["FROM:<s1@x.test>"], ["FROM:<s2@x.test>"], ["FROM:<s3@x.test>"]]
    assert [message.mail.endswith(" REQUIRETLS") for message in peer.messages] == [False, True, False]


async def test_requiretls_as_the_first_message_of_a_lane(ca: str) -> None:
    peer = TlsPeer(good(), TRUSTED, secure_offers=(*FULL, "REQUIRETLS"))
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1, requiretls=True), loaded(2))
    assert lane.outcomes == {"r1@y.test": TAKEN, "r2@y.test": TAKEN}
    assert [message.mail.endswith(" REQUIRETLS") for message in peer.messages] == [True, False]


async def test_requiretls_is_not_sent_to_a_host_without_a_good_certificate_though_other_mail_is(ca: str) -> None:
    peer = TlsPeer(of_a_stranger(), TRUSTED, secure_offers=(*FULL, "REQUIRETLS"))
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1), loaded(2, requiretls=True), loaded(3))
    outcomes = dict(lane.outcomes)
    outcome, said, stage = outcomes.pop("r2@y.test")
    assert (outcome, stage) == (Outcome.DEFERRED, Stage.TLS)
    assert "certificate verify failed" in said
    assert outcomes == {"r1@y.test": TAKEN, "r3@y.test": TAKEN}
    assert lane.down == []


async def test_requiretls_fails_where_nobody_promises_it(ca: str) -> None:
    peer = TlsPeer(good(), TRUSTED)
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1, requiretls=True))
    said = f"550 5.7.30 mx.y.test [127.0.0.1]:{peer.port}: {NOT_OFFERED}"
    assert lane.outcomes == {"r1@y.test": (Outcome.FAILED, said, Stage.MAIL)}
    assert peer.messages == []


async def test_requiretls_goes_to_the_first_host_that_promises_it(ca: str) -> None:
    without, promises = TlsPeer(good(), TRUSTED), TlsPeer(good(), TRUSTED, secure_offers=(*FULL, "REQUIRETLS"))
    async with world(without, promises, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1, requiretls=True))
    assert lane.outcomes == {"r1@y.test": TAKEN}
    assert (without.messages, len(promises.messages)) == ([], 1)


async def test_requiretls_waits_as_long_as_some_host_may_yet_promise_it(ca: str) -> None:
    down, without = refused_port(), TlsPeer(good(), TRUSTED)
    async with world(msgspec.structs.replace(down, tls=TRUSTED), without, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1, requiretls=True))
    assert lane.outcomes["r1@y.test"][::2] == (Outcome.DEFERRED, Stage.CONNECT)


async def test_requiretls_fails_where_the_name_of_the_host_may_be_forged(ca: str) -> None:
    peer = TlsPeer(good(), VERIFY, secure_offers=(*FULL, "REQUIRETLS"))
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1, requiretls=True))
    said = "550 5.7.30 The message requires TLS all the way, and nothing vouches for the names of the next hosts"
    assert lane.outcomes == {"r1@y.test": (Outcome.FAILED, said, Stage.ROUTING)}
    assert peer.sessions == []


@pytest.mark.parametrize(
    ("published", "header", "arrives"),
    [
        (True, b"TLS-Required: No\r\n", True),
        (True, b"tls-required:\r\n no\r\n", True),
        (True, b"", False),
        (True, b"TLS-Required: Yes\r\n", False),
        (False, b"TLS-Required: No\r\n", False),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
async def test_sender_may_waive_what_the_recipients_domain_asks_for_and_nothing_else(
    published: bool, header: bytes, arrives: bool, in_memory: bool, ca: str
) -> None:
    body = header + b"Subject: x\r\n\r\nTLS-Required: No\r\n"
    peer = TlsPeer(of_a_stranger(), HostPolicy(Level.VERIFY, published=published))
    async with world(peer, tls_ca=ca) as w:
        w.bodies.chunks[1] = [body]
        lane = await w.deliver(loaded(1, body=body if in_memory else None, size_bytes=len(body)))
    assert lane.outcomes["r1@y.test"][0] is (Outcome.DELIVERED if arrives else Outcome.DEFERRED)
    assert len(peer.messages) == arrives


async def test_those_who_waive_it_do_not_wait_for_those_who_do_not(ca: str) -> None:
    waiving = b"TLS-Required: No\r\n\r\nx\r\n"
    peer = TlsPeer(of_a_stranger(), HostPolicy(Level.VERIFY, published=True))
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1, body=waiving), loaded(2, body=waiving), loaded(3), loaded(4, body=waiving))
    told = {address: outcome for address, (outcome, _, _) in lane.outcomes.items()}
    assert told == {
        "r1@y.test": Outcome.DELIVERED,
        "r2@y.test": Outcome.DELIVERED,
        "r3@y.test": Outcome.DEFERRED,
    }
    assert len(lane.down) == 1


async def test_requiretls_beats_tls_required_no(ca: str) -> None:
    body = b"TLS-Required: No\r\n\r\nx\r\n"
    policy = HostPolicy(Level.VERIFY, published=True, name_trusted=True)
    peer = TlsPeer(of_a_stranger(), policy, secure_offers=(*FULL, "REQUIRETLS"))
    async with world(peer, tls_ca=ca) as w:
        lane = await w.deliver(loaded(1, body=body, size_bytes=len(body), requiretls=True))
    assert lane.outcomes["r1@y.test"][0] is Outcome.DEFERRED
    assert peer.messages == []
