"""policy.relay: strangers get mail in for our domains only, whatever the syntax of the address."""

from __future__ import annotations

import pytest

from postroika.mail.address import routing_domain
from postroika.mail.reply import Reply
from postroika.policy.pipeline import Client
from postroika.policy.relay import Domains, RelayPolicy, canonical_ip
from postroika.smtp.server_events import Event, Rcpt
from tests.unit.smtp_dialogue import talk

POLICY = RelayPolicy(
    ["10.0.0.0/8", "2001:db8::/32"],
    ["ours.example", ".sub.example", "bücher.example", "[198.51.100.7]", "mx.ours.example"],
    "mx.ours.example",
)
STRANGER = Client("203.0.113.9", local_ip="192.0.2.1")
TRUSTED = Client("10.1.2.3", local_ip="192.0.2.1", trusted=True)


def replies_to(path: str, client: Client, policy: RelayPolicy = POLICY) -> str:
    """What a RCPT TO with this path gets, through the real server."""

    def judge(event: Event) -> Reply | None:
        return policy(client, event) if isinstance(event, Rcpt) else None

    wire = f"EHLO c\r\nMAIL FROM:<a@b> SMTPUTF8\r\nRCPT TO:{path}\r\n".encode()
    return talk([wire], judge=judge).replies.splitlines()[-1]


DENIED = "550 5.7.1 relay access denied"
ROUTED = "550 5.7.1 relay access denied: the local part names a route"
FROM_STRANGERS = {
    "<a@ours.example>": "250 2.1.5 Ok",
    "<a@OURS.Example>": "250 2.1.5 Ok",
    "<a@x.sub.example>": "250 2.1.5 Ok",
    "<a@y.x.sub.example>": "250 2.1.5 Ok",
    "<a@bücher.example>": "250 2.1.5 Ok",
    "<a@BÜCHER.example>": "250 2.1.5 Ok",
    "<a@xn--bcher-kva.example>": "250 2.1.5 Ok",
    "<a@[198.51.100.7]>": "250 2.1.5 Ok",
    '<"a b"@ours.example>': "250 2.1.5 Ok",
    "<@elsewhere.example:a@ours.example>": "250 2.1.5 Ok",
    "<@elsewhere.example,@other.example:a@ours.example>": "250 2.1.5 Ok",
    "<postmaster>": "250 2.1.5 Ok",
    "<POSTMASTER>": "250 2.1.5 Ok",
    "<postmaster@[192.0.2.1]>": "250 2.1.5 Ok",
    "<a@elsewhere.example>": DENIED,
    "<a@sub.example>": DENIED,
    "<a@xsub.example>": DENIED,
    "<a@ours.example.elsewhere.example>": DENIED,
    "<a@notours.example>": DENIED,
    "<a@ours.example.x>": DENIED,
    "<a@example>": DENIED,
    "<@ours.example:a@elsewhere.example>": DENIED,
    "<@ours.example,@sub.example:a@elsewhere.example>": DENIED,
    "<@[192.0.2.1]:a@elsewhere.example>": DENIED,
    "<a%elsewhere.example@ours.example>": ROUTED,
    "<a%b%c@ours.example>": ROUTED,
    "<elsewhere.example!a@ours.example>": ROUTED,
    "<ours.example!elsewhere.example!a@x.sub.example>": ROUTED,
    '<"a@elsewhere.example"@ours.example>': ROUTED,
    '<"a%elsewhere.example"@ours.example>': ROUTED,
    '<"a\\@elsewhere.example"@ours.example>': ROUTED,
    '<"elsewhere.example!a"@ours.example>': ROUTED,
    '<"@elsewhere.example:a"@ours.example>': ROUTED,
    "<a\uff05elsewhere.example@ours.example>": ROUTED,
    "<a\uff20elsewhere.example@ours.example>": ROUTED,
    "<a\ufe6belsewhere.example@ours.example>": ROUTED,
    "<a\ufe6aelsewhere.example@ours.example>": ROUTED,
    "<elsewhere.example\u203ca@ours.example>": ROUTED,
    "<a%elsewhere.example@[198.51.100.7]>": ROUTED,
    "<@elsewhere.example:a%b@ours.example>": ROUTED,
    '<"a@ours.example"@elsewhere.example>': DENIED,
    "<a@[192.0.2.1]>": DENIED,
    "<a%elsewhere.example@[192.0.2.1]>": DENIED,
    "<postmaster@[192.0.2.2]>": DENIED,
    "<postmaster%elsewhere.example@[192.0.2.1]>": DENIED,
    "<postmaster@elsewhere.example>": DENIED,
    "<a@[IPv6:::ffff:198.51.100.7]>": DENIED,
    "<a@[127.0.0.1]>": DENIED,
    "<a@ours。elsewhere。example>": DENIED,
    "<a@elsewhere.example@ours.example>": "501",
    "<a@ours.example@elsewhere.example>": "501",
    "<a@ours.example,b@elsewhere.example>": "501",
    "<a@elsewhere.example(@ours.example)>": "501",
    "<a@elsewhere.example\u0085ours.example>": "501",
    "<a@elsewhere.example/ours.example>": "501",
    "<a@elsewhere.example>@ours.example": "501",
    "<a@elsewhere.example <a@ours.example>": "501",
    "<ours.example:a@elsewhere.example>": "501",
    "<a@ours.example.>": "501",
    "a@ours.example": "501",
}


@pytest.mark.parametrize("path", FROM_STRANGERS)
def test_stranger_gets_only_to_our_domains(path: str) -> None:
    said, expected = replies_to(path, STRANGER), FROM_STRANGERS[path]
    assert (said[:3] if expected == "501" else said) == expected


@pytest.mark.parametrize("path", [path for path, verdict in FROM_STRANGERS.items() if verdict != "501"])
def test_trusted_network_gets_everywhere(path: str) -> None:
    assert replies_to(path, TRUSTED) == "250 2.1.5 Ok"


@pytest.mark.parametrize("path", [path for path, verdict in FROM_STRANGERS.items() if verdict.startswith("250")])
def test_what_strangers_get_in_is_routed_to_our_domains(path: str) -> None:
    seen: list[Rcpt] = []

    def judge(event: Event) -> None:
        if isinstance(event, Rcpt):
            seen.append(event)

    talk([f"EHLO c\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:{path}\r\n".encode()], judge=judge)
    (rcpt,) = seen
    domain = routing_domain(POLICY.mailbox(rcpt, STRANGER.local_ip))
    assert domain in {
        "ours.example", "x.sub.example", "y.x.sub.example", "xn--bcher-kva.example", "[198.51.100.7]",
        "mx.ours.example",
    }  # fmt: skip


def test_postmaster_is_at_our_name_and_keeps_its_case() -> None:
    assert POLICY.mailbox(Rcpt("PostMaster", "PostMaster", ""), "") == "PostMaster@mx.ours.example"
    literal = Rcpt("postmaster@[192.0.2.1]", "postmaster", "[192.0.2.1]")
    assert POLICY.mailbox(literal, "192.0.2.1") == "postmaster@mx.ours.example"
    assert POLICY.mailbox(literal, "192.0.2.2") == "postmaster@[192.0.2.1]"
    assert POLICY.mailbox(literal, "") == "postmaster@[192.0.2.1]"


def test_postmaster_of_a_relay_without_that_domain_is_for_trusted_networks() -> None:
    policy = RelayPolicy(["10.0.0.0/8"], ["ours.example"], "mx.elsewhere.example")
    assert replies_to("<postmaster>", STRANGER, policy) == DENIED
    assert replies_to("<postmaster>", TRUSTED, policy) == "250 2.1.5 Ok"


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.0.0.1", True),
        ("::1", False),
    ],
)
def test_networks(ip: str, trusted: bool) -> None:
    assert POLICY.trusts(canonical_ip(ip)) is trusted


def test_ip_is_shown_in_one_form() -> None:
    assert [canonical_ip(ip) for ip in ("::ffff:192.0.2.1", "2001:DB8:0::1", "fe80::1%eth0", "192.0.2.1")] == [
        "192.0.2.1", "2001:db8::1", "fe80::1", "192.0.2.1",
    ]  # fmt: skip


def test_star_is_every_domain_but_still_no_routes() -> None:
    policy = RelayPolicy([], ["*"], "mx.test")
    assert replies_to("<a@elsewhere.example>", STRANGER, policy) == "250 2.1.5 Ok"
    assert replies_to("<a%b@elsewhere.example>", STRANGER, policy) == ROUTED


def test_without_domains_strangers_get_nowhere() -> None:
    policy = RelayPolicy([], [], "mx.test")
    assert replies_to("<a@mx.test>", STRANGER, policy) == DENIED


def test_subdomains_do_not_hold_for_literals() -> None:
    assert "[192.0.2.1]" not in Domains([".1"])
