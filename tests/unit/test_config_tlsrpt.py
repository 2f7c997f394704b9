"""[tlsrpt]: what it comes out as, and what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroika.config import Tlsrpt, parse, to_toml
from postroika.errors import ConfigError

FILE = Path("/etc/mail/p.toml")
KEY = "[[dkim]]\nselector = 's1'\nkey = 'k.pem'\ndomain = '{}'\n"
ANY = KEY.format("*") + "signing_domain = 'x.example'\n"


def test_it_is_settled() -> None:
    config = parse(KEY.format("bücher.example") + "[tlsrpt]\ncontact = 'Tls@BÜCHER.example'", FILE)
    assert config.tlsrpt == Tlsrpt(contact="Tls@xn--bcher-kva.example", organization="xn--bcher-kva.example")
    assert parse(to_toml(config), FILE) == config


def test_by_default_nothing_is_reported() -> None:
    assert parse("", FILE).tlsrpt.contact == ""


@pytest.mark.parametrize("keys", [ANY, KEY.format("a.example"), KEY.format(".example")])
def test_a_key_that_signs_for_the_contact_is_enough(keys: str) -> None:
    text = keys + "[tlsrpt]\ncontact = 'tls@a.example'\norganization = 'Größe'"
    assert parse(text, FILE).tlsrpt == Tlsrpt(contact="tls@a.example", organization="Größe")


NO_KEY = "tlsrpt.contact: no [[dkim]] key signs for a.example, and unsigned reports do not count (RFC 8460)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tlsrpt]\ncontact = 'tls@a.example'", NO_KEY),
        (KEY.format("b.example") + "[tlsrpt]\ncontact = 'tls@a.example'", NO_KEY),
        (KEY.format(".a.example") + "[tlsrpt]\ncontact = 'tls@a.example'", NO_KEY),
        (KEY.format("a.example") + "tenant = 't'\n[tlsrpt]\ncontact = 'tls@a.example'", NO_KEY),
        (ANY + "[tlsrpt]\ncontact = 'a.example'", "tlsrpt.contact: 'a.example' is not an address, as tls-reports@shop"),
        (ANY + "[tlsrpt]\ncontact = 'a b@a.example'", "tlsrpt.contact: 'a b@a.example' is not an address"),
        (ANY + '[tlsrpt]\ncontact = "a\\r\\nBcc:b@a.example"', "tlsrpt.contact: 'a\\r\\nBcc:b@a.example' is not an"),
        (ANY + "[tlsrpt]\ncontact = 'a@[192.0.2.1]'", "tlsrpt.contact: 'a@[192.0.2.1]' is not an address"),
        (ANY + "[tlsrpt]\ncontact = 'a@b c'", "tlsrpt.contact: 'b c' is not a domain"),
        (ANY + '[tlsrpt]\ncontact = "a@a.example"\norganization = "a\\nb"', "tlsrpt.organization: has characters that"),
        ("[tlsrpt]\nmax_delay_s = 299", "tlsrpt.max_delay_s: expected a number >= 300.0"),
        ("[tlsrpt]\nmax_delay_s = 86_400", "tlsrpt.max_delay_s: expected a number <= 64800.0"),
        ("[tlsrpt]\nmax_domains = 0", "tlsrpt.max_domains: expected a whole number >= 1"),
    ],
)
def test_what_cannot_be_meant(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    assert str(caught.value).startswith(f"{FILE}: {expected}")
