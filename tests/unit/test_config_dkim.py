"""[[dkim]] and [signing]: what they come out as, and what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroika.config import Dkim, parse, to_toml
from postroika.errors import ConfigError

FILE = Path("/etc/mail/p.toml")
KEY = "[[dkim]]\nselector = 's1'\nkey = 'k.pem'\n"


def test_key_is_settled() -> None:
    text = (
        KEY + "domain = '.BÜCHER.Example.'\n" + KEY + "domain = '*'\nsigning_domain = 'Host.example'\ntenant = 'Shop'"
    )
    config = parse(text, FILE)
    assert config.dkim == (
        Dkim(
            domain=".xn--bcher-kva.example",
            selector="s1",
            key="/etc/mail/k.pem",
            signing_domain="xn--bcher-kva.example",
        ),
        Dkim(domain="*", selector="s1", key="/etc/mail/k.pem", signing_domain="host.example", tenant="Shop"),
    )
    assert parse(to_toml(config), FILE) == config


def test_by_default_nothing_is_signed() -> None:
    assert parse("", FILE).dkim == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[dkim]]\ndomain = 'a.example'\nselector = 's'", "dkim[0]: the key 'key' is missing"),
        (KEY + "domain = '*'", 'dkim[0].signing_domain: must be given with domain = "*"'),
        (KEY + "domain = '[192.0.2.1]'", "dkim[0].signing_domain: '[192.0.2.1]' cannot have a key in the DNS"),
        (KEY + "domain = 'a b'", "dkim[0].domain: 'a b' is not a domain or \".subdomains\""),
        (
            KEY + "domain = 'a.example'\nsigning_domain = '.a.example'",
            "dkim[0].signing_domain: '.a.example' cannot have a key in the DNS",
        ),
        (
            "[[dkim]]\ndomain = 'a.example'\nkey = 'k'\nselector = 's;1'",
            "dkim[0].selector: 's;1' is not a selector: labels of a domain name",
        ),
        (
            KEY + "domain = 'a.example'\nidentity = '@b.example'",
            "dkim[0].identity: '@b.example' is not in a.example (RFC 6376 section 3.5, i=)",
        ),
        (
            KEY + "domain = 'a.example'\nidentity = '@xa.example'",
            "dkim[0].identity: '@xa.example' is not in a.example (RFC 6376 section 3.5, i=)",
        ),
        (
            KEY + "domain = 'a.example'\nidentity = 'a; b=@a.example'",
            'dkim[0].identity: \'a; b=@a.example\' is not "@domain" or "name@domain"',
        ),
        (
            KEY + "domain = 'a.example'\n" + KEY + "domain = 'A.Example'",
            "dkim[1].selector: is that of dkim[0], for the same mail",
        ),
        (
            "".join(f"[[dkim]]\ndomain = 'a.example'\nkey = 'k'\nselector = 's{i}'\n" for i in range(5)),
            "dkim[4]: more than 4 keys sign the same mail",
        ),
        ("[signing]\noversigned = ['To']", "signing.oversigned: must have From (RFC 6376 section 5.4)"),
        ("[signing]\nsigned = ['a:b']", "signing.signed[0]: 'a:b' is not the name of a header field"),
        ("[signing]\nsigned = ['Cc', 'cC']", "signing.signed[1]: cC is named twice"),
        (
            "[signing]\nsigned = ['received']",
            "signing.signed[0]: received changes on the way: signatures would break (RFC 6376 section 5.4)",
        ),
        (
            "[signing]\nexpire_after_s = 60",
            "signing.expire_after_s: less than 3600 s are too few for mail that waits on its way",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, FILE)
    assert str(refused.value) == f"{FILE}: {expected}"


def test_same_selector_may_sign_for_others() -> None:
    parse(
        KEY + "domain = 'a.example'\n" + KEY + "domain = 'b.example'\n" + KEY + "domain = 'a.example'\ntenant = 't'",
        FILE,
    )
