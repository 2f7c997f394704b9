"""signing: keys, who signs what, the fields themselves, their DNS records, and the eyes of a verifier."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from postroika.config import Config, Dkim, Signing
from postroika.errors import ConfigError, SigningError
from postroika.kernels.dkim import Fields, RelaxedBody, relaxed_field
from postroika.signing import record, verify
from postroika.signing.field import OVERSIGNED, Names, signature_fields
from postroika.signing.key import Key, generate, load
from postroika.signing.ring import KeyRing
from postroika.signing.verify import Verdict

RSA = generate("rsa", 2048)
ED25519 = generate("ed25519", 0)
DEFAULT = Signing()
FILES = {"/rsa": RSA, "/ed": ED25519}
HEADER = b"From: Joe <joe@shop.test>\r\nTo: a@y.test,\r\n b@y.test\r\nSubject:  x \r\nTo: c@y.test\r\n"
BODY = b"Hello  you \r\n\r\nbye\r\n\r\n"


def read(path: str) -> bytes:
    try:
        return FILES[path]
    except KeyError:
        raise ConfigError("cannot read it: No such file or directory") from None


def ring(*entries: Dkim, signing: Signing = DEFAULT) -> KeyRing:
    # As the config gives them: settled.
    settled = tuple(
        msgspec.structs.replace(entry, signing_domain=entry.signing_domain or entry.domain.lstrip("."))
        for entry in entries
    )
    keys = KeyRing(Config(dkim=settled, signing=signing), read)
    keys.load()
    return keys


def entry(domain: str, selector: str = "s1", key: str = "/ed", **more: str) -> Dkim:
    return Dkim(domain=domain, selector=selector, key=key, **more)


def body_hash(body: bytes) -> bytes:
    digest = hashlib.sha256()
    relaxed = RelaxedBody(digest.update)
    relaxed.feed(body)
    relaxed.finish()
    return digest.digest()


def signed(
    keys: KeyRing, header: bytes = HEADER, body: bytes = BODY, signing: Signing = DEFAULT, tenant: str = ""
) -> bytes:
    signatures = keys.signatures(tenant, "shop.test")
    fields = signature_fields(Fields(header), body_hash(body), signatures, Names(signing), int(time.time()))
    return fields + header + b"\r\n" + body


def zone(keys: KeyRing) -> str:
    lines = []
    for signature in keys:
        assert signature.key is not None
        lines.append(record.zone_line(signature.entry.selector, signature.entry.signing_domain, signature.key))
    return "\n".join(lines)


def verdicts(keys: KeyRing, message: bytes) -> list[Verdict]:
    return verify.verify(message, record.read_zone(zone(keys)).get)


# --- keys


def pem(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"", "not a private key in PEM form"),
        (RSA[:600], "not a private key in PEM form"),
        (RSA.replace(b"PRIVATE", b"PUBLIC"), "not a private key in PEM form"),
        (pem(rsa.generate_private_key(65537, 1024)), "an RSA key of 1024 bits, where at least 2048 are wanted"),
        (
            pem(rsa.generate_private_key(65537, 1024), b"x"),
            "the key has a passphrase: the server cannot be asked for it",
        ),
        (pem(ec.generate_private_key(ec.SECP256R1())), "neither an RSA nor an Ed25519 key"),
    ],
)
def test_key_that_cannot_sign_is_refused(contents: bytes, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(contents, min_rsa_bits=2048)
    assert str(refused.value) == problem


def test_key_that_is_far_too_long_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    long = pem(rsa.generate_private_key(65537, 4096))
    proven = []
    parse = serialization.load_pem_private_key

    def counted(*arguments: Any, unsafe_skip_rsa_key_validation: bool = False) -> Any:
        proven.append(not unsafe_skip_rsa_key_validation)
        return parse(*arguments, unsafe_skip_rsa_key_validation=unsafe_skip_rsa_key_validation)

    monkeypatch.setattr(serialization, "load_pem_private_key", counted)
    with pytest.raises(ConfigError, match=r"^an RSA key of 4096 bits, where at least 5000 are wanted$"):
        load(long, min_rsa_bits=5000)
    assert proven == [False]


def test_shorter_key_is_taken_where_the_config_says_so() -> None:
    assert load(pem(rsa.generate_private_key(65537, 1024)), min_rsa_bits=1024).algorithm == "rsa-sha256"


def test_key_shows_nothing_of_itself() -> None:
    key = load(ED25519, min_rsa_bits=2048)
    assert repr(key).startswith("<postroika.signing.key.Key object at ")


def test_ed25519_signs_as_in_the_example_of_rfc_8463() -> None:
    secret = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    key = Key(Ed25519PrivateKey.from_private_bytes(secret))
    assert record.record_text(key) == "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    header = (
        b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n"
        b"Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
        b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    )
    body = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
    unsigned = (
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
        b" d=football.example.com; i=@football.example.com;\r\n"
        b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
        b" subject : date : message-id : from : subject : date;\r\n"
        b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        b" b="
    )
    assert base64.b64encode(body_hash(body)) == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    _, relaxed = Fields(header).signed((b"from", b"to", b"subject", b"date", b"message-id"), 0)
    digest = hashlib.sha256(relaxed + relaxed_field(unsigned)[:-2]).digest()
    assert base64.b64encode(key.sign(digest)) == (
        b"/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    )


# --- who signs what


def selectors(keys: KeyRing, tenant: str, domain: str) -> list[str]:
    return [signature.entry.selector for signature in keys.signatures(tenant, domain)]


def test_nearest_key_signs() -> None:
    keys = ring(
        entry("shop.test", "exact"),
        entry(".shop.test", "below"),
        entry(".news.shop.test", "news"),
        entry("*", "any", signing_domain="host.test"),
    )
    assert {
        domain: selectors(keys, "t1", domain)
        for domain in ("shop.test", "a.shop.test", "b.a.shop.test", "x.news.shop.test", "workshop.test", "")
    } == {
        "shop.test": ["exact"],
        "a.shop.test": ["below"],
        "b.a.shop.test": ["below"],
        "x.news.shop.test": ["news"],
        "workshop.test": ["any"],
        "": ["any"],
    }


def test_tenant_has_its_own_keys_and_then_those_of_nobody_else() -> None:
    keys = ring(
        entry("shop.test", "common"),
        entry("shop.test", "mine", tenant="t1"),
        entry("*", "rest", tenant="t2", signing_domain="t2.test"),
    )
    assert [selectors(keys, tenant, "shop.test") for tenant in ("", "t1", "t2", "t3")] == [
        ["common"],
        ["mine"],
        ["rest"],
        ["common"],
    ]
    assert [selectors(keys, tenant, "other.test") for tenant in ("", "t1", "t2")] == [[], [], ["rest"]]


def test_mail_of_no_domain_is_not_sent_where_a_key_could_be_for_it() -> None:
    keys = ring(entry("shop.test", tenant="t1"))
    with pytest.raises(SigningError, match=r"^neither From nor the reverse-path names a domain$"):
        keys.signatures("t1")
    assert [keys.signatures(tenant) for tenant in ("", "t2")] == [(), ()]
    keys = ring(entry("shop.test"))
    for tenant in ("", "t1"):
        with pytest.raises(SigningError, match="names a domain"):
            keys.signatures(tenant)


def test_first_author_with_a_key_of_its_own_counts_and_then_the_key_for_all() -> None:
    keys = ring(
        entry("shop.test", "shop"),
        entry(".brand.test", "brand"),
        entry("t.test", "mine", tenant="t1"),
        entry("*", "any", signing_domain="us.test"),
    )

    def found(*domains: str, tenant: str = "") -> list[str]:
        return [signature.entry.selector for signature in keys.signatures(tenant, *domains)]

    assert found("other.test", "shop.test", "a.brand.test") == ["shop"]
    assert found("a.brand.test", "shop.test") == ["brand"]
    assert found("other.test", "brand.test") == ["any"]
    assert found("shop.test", "t.test", tenant="t1") == ["mine"]
    assert found() == ["any"]


def test_all_keys_of_a_place_sign_in_the_order_of_the_config() -> None:
    keys = ring(entry("shop.test", "r1", "/rsa"), entry("shop.test", "e1"))
    message = signed(keys)
    assert verdicts(keys, message) == [
        Verdict("shop.test", "r1", "rsa-sha256", True),
        Verdict("shop.test", "e1", "ed25519-sha256", True),
    ]


def test_start_names_each_key_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError) as refused:
        ring(entry("shop.test"), entry("a.test", key="/none"), entry("b.test", "s2", key="/other"))
    assert str(refused.value).splitlines() == [
        "dkim[1].key: /none: cannot read it: No such file or directory (key s1 of a.test)",
        "dkim[2].key: /other: cannot read it: No such file or directory (key s2 of b.test)",
    ]


def test_key_that_vanished_is_broken_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ring(entry("shop.test", "r1", "/rsa"), entry("shop.test", "e1"), entry("a.test"))
    monkeypatch.delitem(FILES, "/rsa")
    keys.reload()
    with pytest.raises(SigningError, match=r"^the key r1 of shop\.test cannot be used$"):
        keys.signatures("", "shop.test")
    assert "dkim[0].key: /rsa: cannot read it: No such file or directory (key r1 of shop.test); its mail" in caplog.text
    assert selectors(keys, "", "a.test") == ["s1"]
    monkeypatch.setitem(FILES, "/rsa", generate("rsa", 2048))
    keys.reload()
    assert selectors(keys, "", "shop.test") == ["r1", "e1"]


# --- the fields


def test_field_says_what_was_signed_and_fits_its_lines() -> None:
    signing = Signing(expire_after_s=86_400)
    keys = ring(entry("shop.test", "r1", "/rsa", identity="@news.shop.test"), signing=signing)
    signatures = keys.signatures("", "shop.test")
    field = signature_fields(Fields(HEADER), body_hash(BODY), signatures, Names(signing), 1_000_000)
    assert field.endswith(b"\r\n")
    lines = field.decode().split("\r\n")[:-1]
    assert max(map(len, lines)) <= 78
    assert all(line.startswith("\t") for line in lines[1:])
    tags = dict(tag.split("=", 1) for tag in "".join("".join(lines).partition(": ")[2].split()).split(";"))
    assert len(base64.b64decode(tags.pop("b"))) == 256
    assert tags == {
        "v": "1", "a": "rsa-sha256", "c": "relaxed/relaxed", "d": "shop.test", "s": "r1", "i": "@news.shop.test",
        "t": "1000000", "x": "1086400", "bh": base64.b64encode(body_hash(BODY)).decode(),
        "h": "From:From:Reply-To:Subject:Subject:Date:To:To:To:Cc:Message-ID:MIME-Version:Content-Type:"
        "Content-Transfer-Encoding:List-Unsubscribe:List-Unsubscribe-Post",
    }  # fmt: skip


def test_names_of_the_config_are_signed_instead() -> None:
    names = Names(Signing(oversigned=("From", "X-Mine"), signed=("from", "To")))
    assert (names.names, names.oversigned) == ((b"From", b"X-Mine", b"To"), 2)
    assert Names(Signing()).oversigned == len(OVERSIGNED)


@pytest.mark.parametrize(
    "tampered",
    [
        (b"Hello", b"hello"),
        (b"bye", b"bye\r\nand more"),
        (b"Joe", b"Jim"),
        (b"Subject:  x", b"Subject: y"),
        (b"c@y.test", b"d@y.test"),
        (b"\r\n\r\nHello", b"\r\nFrom: eve@evil.test\r\n\r\nHello"),
        (b"From: Joe", b"From: eve@evil.test\r\nFrom: Joe"),
        (b"From: Joe", b"Cc: eve@evil.test\r\nFrom: Joe"),
        (b"From: Joe", b"List-Unsubscribe: <https://evil.test>\r\nFrom: Joe"),
        (b"From: Joe", b"Content-Type: text/html\r\nFrom: Joe"),
        (b"Hello  you", b"Hello y ou"),
    ],
)
@pytest.mark.parametrize("key", ["/rsa", "/ed"])
def test_tampering_is_found(tampered: tuple[bytes, bytes], key: str) -> None:
    keys = ring(entry("shop.test", key=key))
    message = signed(keys)
    assert [verdict.passed for verdict in verdicts(keys, message)] == [True]
    changed = message.replace(*tampered, 1)
    assert changed != message
    assert [verdict.passed for verdict in verdicts(keys, changed)] == [False]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Hello  you \r\n", b"Hello \t you\r\n"),
        (b"bye\r\n\r\n", b"bye\r\n"),
        (b"Subject:  x ", b"SUBJECT:\r\n\tx"),
        (b"To: a@y.test,\r\n b@y.test", b"To:  a@y.test, b@y.test"),
        (b"From: Joe", b"Received: from x\r\nX-New: y\r\nFrom: Joe"),
    ],
)
def test_what_mail_systems_change_on_the_way_does_no_harm(before: bytes, after: bytes) -> None:
    keys = ring(entry("shop.test", key="/rsa"))
    changed = signed(keys).replace(before, after, 1)
    assert changed != signed(keys)
    assert [verdict.passed for verdict in verdicts(keys, changed)] == [True]


def test_other_key_does_not_verify() -> None:
    keys = ring(entry("shop.test"))
    other = Key(Ed25519PrivateKey.generate())
    lookup = record.read_zone(record.zone_line("s1", "shop.test", other)).get
    assert [verdict.passed for verdict in verify.verify(signed(keys), lookup)] == [False]


# --- records and verifying


def test_record_is_cut_into_strings_and_read_back() -> None:
    key = load(RSA, min_rsa_bits=2048)
    line = record.zone_line("s1", "shop.test", key)
    assert line.startswith('s1._domainkey.shop.test. IN TXT ( "v=DKIM1; k=rsa; p=')
    assert max(len(string) for string in line.split('"')[1::2]) == 255
    assert record.read_zone(line) == {"s1._domainkey.shop.test": record.record_text(key).encode()}


def test_records_of_other_tools_are_read() -> None:
    text = (
        '; a comment with "quotes"\n'
        'mail._domainkey.A.test.\tIN\tTXT\t( "v=DKIM1; h=sha256; k=rsa; "\n'
        '\t  "p=MIIB"\n\t  "xyz" )  ; ----- DKIM key mail for a.test\n'
        'b._domainkey.a.test 300 TXT "v=DKIM1\\; p="\n'
        "ns.a.test. IN A 192.0.2.1\n"
    )  # fmt: skip
    assert record.read_zone(text) == {
        "mail._domainkey.a.test": b"v=DKIM1; h=sha256; k=rsa; p=MIIBxyz",
        "b._domainkey.a.test": b"v=DKIM1; p=",
    }


def test_so_many_signatures_are_looked_at_and_no_more() -> None:
    keys = ring(entry("shop.test"))
    message = signed(keys)
    many = message.removesuffix(HEADER + b"\r\n" + BODY) * 1000 + HEADER + b"\r\n" + BODY
    asked: list[str] = []

    def lookup(name: str) -> bytes | None:
        asked.append(name)
        return None

    found = verify.verify(many, lookup)
    assert [verdict.passed for verdict in found] == [False] * verify.MOST_SIGNATURES
    assert asked == ["s1._domainkey.shop.test"]
    assert verify.count(many) == 1000


BLANKS = b" " * 1_000_000


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (HEADER, b"x" + BLANKS + b"x\r\n"),
        (HEADER, b"x" + BLANKS + b"\r\n" + b"\t" * 1_000_000 + b"\r\n"),
        (HEADER, (b" " * 900 + b"x\r\n") * 1000),
        (HEADER, b"\r\n" * 500_000 + b"x"),
        (HEADER, b"x" + b"\r\n" * 500_000),
        (HEADER, b"\r\n" * 500_000),
    ],
)
def test_blanks_cost_no_time(header: bytes, body: bytes) -> None:
    """As relaxed bodies they are signed, and looked at in the time that it takes to read them. In time with their
    square it would be hours."""
    keys = ring(entry("shop.test"))
    (verdict,) = verdicts(keys, signed(keys, header, body))
    assert verdict == Verdict("shop.test", "s1", "ed25519-sha256", True)
    (verdict,) = verdicts(keys, signed(keys, header, body) + b"y")
    assert verdict == Verdict("shop.test", "s1", "ed25519-sha256", False, verdict.reason)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"Subject: x\r\n" + b" y\r\n" * 20_000, "the header has a field of more than 65536 octets"),
        (b"x: y\r\n" * 2000, "the header has more than 2000 fields"),
        ((b"x: " + b"y" * 1000 + b"\r\n") * 1999, "the header has more than 1048576 octets"),
    ],
)
def test_header_that_no_signer_makes_is_not_looked_at(header: bytes, reason: str) -> None:
    keys = ring(entry("shop.test"))
    assert verdicts(keys, signed(keys, header + HEADER)) == [Verdict("", "", "", False, reason)]
    assert verdicts(keys, header + HEADER) == [Verdict("", "", "", False, reason)]


@pytest.mark.parametrize(
    "field", [b"b" + BLANKS[:8000] + b"!", b"b=A" + BLANKS[:8000] + b"!", b"h=a" + BLANKS[:8000], b";b\r\n " * 1300]
)
def test_signature_of_blanks_costs_no_time(field: bytes) -> None:
    message = b"DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; bh=AA==; " + field + b"\r\n" + HEADER + b"\r\n" + BODY
    assert [verdict.passed for verdict in verify.verify(message, lambda _: None)] == [False]


def test_signature_that_is_too_long_is_not_looked_at() -> None:
    message = b"DKIM-Signature: d=a.test; " + BLANKS[:9000] + b"\r\n" + HEADER + b"\r\n" + BODY
    found = verify.verify(message, lambda _: None)
    assert found == [Verdict("a.test", "", "", False, "a signature field of 9013 octets")]


def test_after_a_while_no_further_signature_is_looked_at() -> None:
    keys = ring(entry("shop.test"))
    message = signed(keys)
    twice = message.removesuffix(HEADER + b"\r\n" + BODY) + message
    times = iter([0.0, 30.0, 31.0])
    found = verify.verify(twice, record.read_zone(zone(keys)).get, clock=lambda: next(times))
    late = "not looked at: those before it have taken too long"
    assert found == [
        Verdict("shop.test", "s1", "ed25519-sha256", True),
        Verdict("shop.test", "s1", "ed25519-sha256", False, late),
    ]


def test_oversize_key_is_refused_before_it_is_used() -> None:
    key = Key(rsa.generate_private_key(65537, 2048))
    assert verify.verify(signed(ring(entry("shop.test", key="/rsa"))), lambda _: b"v=DKIM1; p=" + b"A" * 1200) == [
        Verdict("shop.test", "s1", "rsa-sha256", False, "a key of more than 4096 bits")
    ]
    assert verify.verify(signed(ring(entry("shop.test", key="/rsa"))), lambda _: b"v=DKIM1; n=" + b"A" * 5000) == [
        Verdict("shop.test", "s1", "rsa-sha256", False, "a key record of 5011 octets")
    ]
    assert len(key.public_octets) < 300


def test_name_server_that_fails_is_a_verdict() -> None:
    def lookup(name: str) -> bytes | None:
        raise OSError("no name server")

    assert verify.verify(signed(ring(entry("shop.test"))), lookup) == [
        Verdict("shop.test", "s1", "ed25519-sha256", False, "the key cannot be looked up: no name server")
    ]


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"v=1",
        b"v=2; a=rsa-sha256; b=; bh=; d=; h=; s=",
        b"=;=;=",
        b"v=1; a=rsa-sha256; c=x/y; d=shop.test; s=s1; h=From; bh=A; b=A",
        b"v=1; a=rsa-sha256; d=shop.test; s=s1; h=From; bh=A=; b=*",
        b"v=1; a=none; d=shop.test; s=s1; h=From; bh=A; b=A",
        b"\xff\xfe",
        b"v=1; a=ed25519-sha256; c=relaxed; d=\xff; s=s1; h=; l=x; bh=AA==; b=AA==",
        b"x" * 100_000,
    ],
)
def test_malformed_signature_is_a_verdict(field: bytes) -> None:
    message = b"DKIM-Signature: " + field + b"\r\n" + HEADER + b"\r\n" + BODY
    keys = ring(entry("shop.test"))
    assert [verdict.passed for verdict in verdicts(keys, message)] == [False]


def test_message_without_signature_has_no_verdict() -> None:
    assert verify.verify(HEADER + b"\r\n" + BODY, lambda _: None) == []
