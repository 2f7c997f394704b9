"""What TLS reports are told of policies that hold and cannot be renewed."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroika.tls.policy import HostPolicy
from postroika.tlsrpt.tally import Failure, Policy
from tests.component.delivery_world import world
from tests.component.outbound_fakes import loaded
from tests.component.reported_world import (
    DOMAIN,
    ENFORCED,
    ENFORCING,
    LINES,
    PEERS,
    TESTING,
    TLSA,
    UNTRUSTED,
    counted,
    failure,
    greeted,
    report_on,
)
from tests.component.tls_peer import (
    NAME,
    TlsPeer,
    good,
    trust_file,
)


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return trust_file(tmp_path)


RENEWAL = ("sts-webpki-invalid", "the certificate of mta-sts.y.test [192.0.2.1] is not good: expired")


@pytest.mark.parametrize(
    ("policy", "kind", "expected"),
    [
        (ENFORCING, "good", None),
        (TESTING, "good", None),
        (ENFORCING, "stranger", UNTRUSTED),
        (TESTING, "stranger", UNTRUSTED),
    ],
    ids=["enforced, good", "tested, good", "enforced, stranger", "tested, stranger"],
)
async def test_policy_that_holds_and_cannot_be_renewed_is_told_of_besides(
    policy: HostPolicy, kind: str, expected: Failure | None, ca: str
) -> None:
    """RFC 8460 §4.3: one session may count with more than one failure."""
    peer = TlsPeer(PEERS[kind](), policy)
    async with world(peer) as w:
        tally = report_on(w, ca, RENEWAL)
        await w.deliver(loaded(1))
    assert policy.source is not None
    told = [failure(*RENEWAL), *([] if expected is None else [expected])]
    assert counted(tally, Policy("sts", DOMAIN, LINES, policy.source.mx_patterns)) == (
        int(expected is None),
        {each._replace(mx_helo=greeted(peer)): 1 for each in told},
    )


async def test_host_that_the_kept_policy_does_not_name_is_told_of_with_the_failure_to_renew_it(ca: str) -> None:
    """It may be the reason why."""
    refused = HostPolicy(refused="the policy does not name it", published=True, source=ENFORCED)
    async with world(TlsPeer(good(), refused)) as w:
        tally = report_on(w, ca, RENEWAL)
        await w.deliver(loaded(1))
    told = {failure("validation-failure", "the policy does not name it", ""): 1, failure(*RENEWAL, ""): 1}
    assert counted(tally, Policy("sts", DOMAIN, LINES, (NAME,))) == (0, told)


async def test_tlsa_records_have_nothing_to_do_with_policies_that_cannot_be_renewed(ca: str) -> None:
    async with world(TlsPeer(good(), HostPolicy(source=TLSA))) as w:
        tally = report_on(w, ca, RENEWAL)
        await w.deliver(loaded(1))
    told = tally.domains[DOMAIN][Policy("tlsa", NAME, TLSA.lines)].failures
    assert [found.result for found in told] == ["tlsa-invalid"]
