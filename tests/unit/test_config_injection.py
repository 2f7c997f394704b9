"""Values of the config that end up in headers, commands, replies or names of records: none of them brings a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroika.config import parse
from postroika.errors import ConfigError

_HASH = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA"
_ACCOUNT = f'[[account]]\npassword = "{_HASH}"\n'
_DKIM = '[[dkim]]\nkey = "k"\n'
_SIGNED = _DKIM + 'domain = "b.test"\nselector = "s"\n[tlsrpt]\n'
_TLS = '[[listener]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "c"\nkey = "k"\n'
_LISTS = '[policy]\nrcpt = ["blocklists"]\n[[blocklist]]\n'
VALUES = {
    "server.hostname": '[server]\nhostname = "mx{x}.test"',
    "delivery.ehlo_name": '[delivery]\nehlo_name = "mx{x}.test"',
    "account.name": _ACCOUNT + 'name = "a{x}@b.test"',
    "account.tenant": _ACCOUNT + 'name = "a@b.test"\ntenant = "t{x}"',
    "dkim.selector": _DKIM + 'domain = "a.test"\nselector = "s{x}"',
    "dkim.domain": _DKIM + 'domain = "a{x}.test"\nselector = "s"',
    "dkim.signing_domain": _DKIM + 'domain = "a.test"\nsigning_domain = "b{x}.test"\nselector = "s"',
    "dkim.identity": _DKIM + 'domain = "a.test"\nidentity = "x{x}@a.test"\nselector = "s"',
    "signing.oversigned": '[signing]\noversigned = ["From", "Sub{x}ject"]',
    "signing.signed": '[signing]\nsigned = ["Sub{x}ject"]',
    "blocklist.zone": _LISTS + 'zone = "a{x}.test"',
    "blocklist.reply": _LISTS + 'zone = "a.test"\nreply = "see{x}"',
    "tlsrpt.contact": _SIGNED + 'contact = "a{x}@b.test"',
    "tlsrpt.organization": _SIGNED + 'contact = "a@b.test"\norganization = "O{x}"',
    "route.next_hop": '[[route]]\ndomains = ["*"]\nnext_hop = "smtp://h{x}.test"',
    "route.domains": '[[route]]\ndomains = ["a{x}.test"]',
    "relay.domains": '[relay]\ndomains = ["a{x}.test"]',
    "certificate.names": _TLS + '[[certificate]]\nnames = ["a{x}.test"]\ncertificate = "c"\nkey = "k"',
}


def text_of(key: str, value: str) -> str:
    text = VALUES[key].replace("{x}", value)
    return text if key == "server.hostname" else f'server.hostname = "mx.x.test"\n{text}'


@pytest.mark.parametrize("key", VALUES)
@pytest.mark.parametrize("line_end", ["\\r\\n", "\\n", "\\r", "\\u0000", "\\u0085", "\\u2028"])
def test_value_with_a_line_end_is_refused(key: str, line_end: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text_of(key, f"{line_end}X-Injected: yes"), Path("/etc/p.toml"))
    section, _, name = key.partition(".")
    lines = str(caught.value).split("\n")
    assert any(section in line and name in line for line in lines), lines
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("key", VALUES)
def test_the_same_without_one_is_taken(key: str) -> None:
    parse(text_of(key, ""), Path("/etc/p.toml"))
