"""What [policy] and [[blocklist]] may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroika.config import Blocklist, Policy, parse
from postroika.config.policy import CHECKS
from postroika.errors import ConfigError

FILE = Path("/etc/mail/p.toml")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    return [line.removeprefix("/etc/mail/p.toml: ") for line in str(caught.value).split("\n")]


def test_defaults_ask_every_check_somewhere_and_do_nothing() -> None:
    policy = parse("", FILE).policy
    assert policy == Policy()
    named = {check for stage in CHECKS for check in getattr(policy, stage)}
    assert named == {check for checks in CHECKS.values() for check in checks}
    assert all(set(getattr(policy, stage)) <= set(checks) for stage, checks in CHECKS.items())


def test_names_are_settled() -> None:
    config = parse('[policy]\nhooks = "hooks.py"\n[[blocklist]]\nzone = "ZEN.BÜCHER.example."\n', FILE)
    assert config.policy == Policy(hooks="/etc/mail/hooks.py")
    assert config.blocklist == (Blocklist(zone="zen.xn--bcher-kva.example"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[policy]\nrcpt = ["relay"]',
            "policy.rcpt[0]: 'relay' is no check of this stage; there are: rates, null_sender, blocklists, hooks",
        ),
        (
            '[policy]\ndata = ["hooks", "rates"]',
            "policy.data[1]: 'rates' is no check of this stage; there are: hooks",
        ),
        ('[policy]\nmail = ["rates", "hooks", "rates"]', "policy.mail[2]: 'rates' is named twice"),
        (
            '[policy]\nexempt = ["10.0.0.1/8"]',
            (
                "policy.exempt[0]: 10.0.0.1/8 has bits set behind its prefix; "
                "write 10.0.0.0/8, or the one address without /"
            ),
        ),
        (
            '[[blocklist]]\nzone = "a.example"\nreply = "{ip} is in {list}"\n[policy]\nrcpt = ["blocklists"]',
            "blocklist[0].reply: {list} is not filled in; {ip} and {zone} are",
        ),
        (
            "[policy]\nconnect = []\nconnections_per_minute = 1",
            'policy.connections_per_minute: has no effect: "rates" is not in policy.connect',
        ),
        (
            '[policy]\nrcpt = ["rates"]\nnull_sender_recipients = 1',
            'policy.null_sender_recipients: has no effect: "null_sender" is not in policy.rcpt',
        ),
        (
            '[policy]\nmail = ["hooks"]\nsender_domain_resolves = true',
            'policy.sender_domain_resolves: has no effect: "sender_domain" is not in policy.mail',
        ),
        (
            '[policy]\nhooks = "h.py"\nconnect = []\nehlo = []\nmail = []\nrcpt = []\ndata = []\nmessage = []',
            'policy.hooks: has no effect: no stage has "hooks" among its checks',
        ),
        (
            '[policy]\nrcpt = []\n[[blocklist]]\nzone = "a.example"',
            'blocklist: has no effect: no stage of [policy] has "blocklists" among its checks',
        ),
        ("[policy]\nipv4_net_bits = 33", "policy.ipv4_net_bits: expected a whole number <= 32"),
        ("[policy]\nmessages_per_minute = -1", "policy.messages_per_minute: expected a whole number >= 0"),
        ('[[blocklist]]\nzone = ".a.example"', "blocklist[0].zone: '.a.example' cannot be the domain of a list"),
        ('[[blocklist]]\nzone = "a b"', "blocklist[0].zone: 'a b' is not a domain or \".subdomains\""),
        (
            '[[blocklist]]\nzone = "a.example"\n[[blocklist]]\nzone = "A.example"',
            "blocklist[1].zone: is that of blocklist[0]",
        ),
        (
            '[[blocklist]]\nzone = "a.example"\nanswers = ["10.0.0.2"]',
            "blocklist[0].answers[0]: 10.0.0.2 is not in 127.0.0.0/8, where the answers of lists are (RFC 5782)",
        ),
        (
            '[[blocklist]]\nzone = "a.example"\nanswers = ["127.0.0.300"]',
            "blocklist[0].answers[0]: Octet 300 (> 255) not permitted in '127.0.0.300'",
        ),
        (
            '[[blocklist]]\nzone = "a.example"\nreply = "two\\nlines"',
            "blocklist[0].reply: has to be one line of ASCII, of at most 300 characters",
        ),
    ],
)
def test_what_cannot_be_meant(text: str, expected: str) -> None:
    assert problems(text) == [expected]
