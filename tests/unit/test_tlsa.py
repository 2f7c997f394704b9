"""TLSA records: which are usable, which count, what they match; and the public key in a certificate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.tls.tlsa import Dane, Tlsa, dane_for, public_key
from tests.chains import Issued, issue, tlsa

LEAF = issue("leaf", None, "mx.shop.test")
RSA = issue("rsa", None, "mx.shop.test", key="rsa")
ED = issue("ed", None, "mx.shop.test", key="ed25519")
OTHER = issue("other", None, "mx.shop.test")


@pytest.mark.parametrize("usage", range(5))
@pytest.mark.parametrize("selector", range(3))
@pytest.mark.parametrize("matching", range(4))
def test_what_smtp_can_use(usage: int, selector: int, matching: int) -> None:
    """RFC 7672 §3.1: DANE-TA and DANE-EE, of selectors and matchings that are known."""
    part = LEAF.public_key if selector == 1 else LEAF.der
    data = {0: part, 1: bytes(32), 2: bytes(64), 3: bytes(48)}[matching]
    usable = usage in {2, 3} and selector in {0, 1} and matching in {0, 1, 2}
    assert Tlsa(usage, selector, matching, data).usable is usable


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(Tlsa(3, 1, 1, bytes(31)), id="SHA-256, an octet short"),
        pytest.param(Tlsa(3, 1, 1, bytes(33)), id="SHA-256, an octet long"),
        pytest.param(Tlsa(3, 1, 1, b""), id="SHA-256, empty"),
        pytest.param(Tlsa(3, 1, 2, bytes(32)), id="SHA-512, half of it"),
        pytest.param(Tlsa(3, 0, 0, b""), id="certificate, empty"),
        pytest.param(Tlsa(3, 0, 0, b"no certificate"), id="certificate, words"),
        pytest.param(Tlsa(3, 0, 0, LEAF.der[:-1]), id="certificate, an octet short"),
        pytest.param(Tlsa(3, 0, 0, LEAF.der + b"\0"), id="certificate, an octet long"),
        pytest.param(Tlsa(3, 1, 0, b""), id="key, empty"),
        pytest.param(Tlsa(3, 1, 0, LEAF.public_key[:-1]), id="key, an octet short"),
        pytest.param(Tlsa(2, 1, 0, LEAF.public_key + b"\0"), id="key of an authority, an octet long"),
        pytest.param(Tlsa(255, 1, 1, bytes(32)), id="private usage"),
    ],
)
def test_malformed_records_are_not_usable(record: Tlsa) -> None:
    assert not record.usable
    assert dane_for("mx.shop.test", [record], ("shop.test",)) is None


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize("issued", [LEAF, RSA, ED], ids=["ec", "rsa", "ed25519"])
def test_record_matches_its_certificate_and_no_other(selector: int, matching: int, issued: Issued) -> None:
    record = tlsa(3, selector, matching, issued)
    assert record.usable
    assert record.matches(issued.der)
    assert not record.matches(OTHER.der)
    assert not record.matches(b"")


def test_strongest_digest_alone_counts_for_each_usage_and_selector() -> None:
    full, one, two = tlsa(3, 1, 0, LEAF), tlsa(3, 1, 1, LEAF), tlsa(3, 1, 2, LEAF)
    other_selector, authority = tlsa(3, 0, 1, LEAF), tlsa(2, 1, 1, OTHER)
    weak_of_another_key = tlsa(3, 1, 1, OTHER)

    def counting(*records: Tlsa) -> set[Tlsa]:
        dane = dane_for("mx.shop.test", records, ())
        assert dane is not None
        return set(dane.records)

    assert counting(one) == {one}
    assert counting(one, weak_of_another_key) == {one, weak_of_another_key}
    assert counting(one, two, weak_of_another_key) == {two}
    assert counting(full, one) == {full, one}
    assert counting(full, one, two, other_selector, authority) == {full, two, other_selector, authority}
    assert counting(one, Tlsa(3, 1, 2, b"malformed")) == {one}
    assert counting(one, Tlsa(1, 1, 2, bytes(64)), Tlsa(3, 1, 9, bytes(99))) == {one}


def test_names_count_for_authorities_only() -> None:
    own = dane_for("mx.shop.test", [tlsa(3, 1, 1, LEAF)], ("shop.test",))
    authority = dane_for("mx.shop.test", [tlsa(3, 1, 1, LEAF), tlsa(2, 1, 1, OTHER)], ("shop.test", "mx.shop.test"))
    assert own is not None
    assert authority is not None
    assert own.names == ()
    assert authority.names == ("mx.shop.test", "shop.test")


def test_digest_tells_what_asks_for_different_things_apart_and_not_the_order() -> None:
    one, two, authority = tlsa(3, 1, 1, LEAF), tlsa(3, 1, 1, OTHER), tlsa(2, 1, 1, OTHER)
    sets = [
        dane_for("mx.shop.test", [one], ("shop.test",)),
        dane_for("mx2.shop.test", [one], ("shop.test",)),
        dane_for("mx.shop.test", [two], ("shop.test",)),
        dane_for("mx.shop.test", [one, two], ("shop.test",)),
        dane_for("mx.shop.test", [authority], ("shop.test",)),
        dane_for("mx.shop.test", [authority], ("else.test",)),
    ]
    assert None not in sets
    assert len({dane.digest for dane in sets if isinstance(dane, Dane)}) == len(sets)
    assert dane_for("mx.shop.test", [two, one, two], ()) == dane_for("mx.shop.test", [one, two], ("shop.test",))


# --- the public key


@pytest.mark.parametrize("issued", [LEAF, RSA, ED], ids=["ec", "rsa", "ed25519"])
def test_public_key_is_cut_out_as_it_stands(issued: Issued) -> None:
    assert public_key(issued.der) == issued.public_key


def test_public_key_of_a_certificate_without_a_version_field() -> None:
    """X.509 version 1 leaves the field out; nothing else has to be well formed."""
    key = b"\x30\x03\x02\x01\x07"
    fields = b"\x02\x01\x05" + b"\x30\x00" * 4 + key
    whole = b"\x30" + bytes([len(fields)]) + fields
    assert public_key(b"\x30" + bytes([len(whole)]) + whole) == key


@pytest.mark.parametrize("issued", [LEAF, RSA])
def test_certificate_that_is_cut_or_goes_on_has_none(issued: Issued) -> None:
    der = issued.der
    for end in range(len(der)):
        assert public_key(der[:end]) is None
    assert public_key(der + b"\0") is None


@given(st.binary(max_size=80))
def test_any_octets_do_no_harm(octets: bytes) -> None:
    key = public_key(octets)
    assert key is None or key in octets
    for selector in (0, 1):
        for matching in (0, 1, 2):
            record = Tlsa(3, selector, matching, octets)
            assert record.usable in {True, False}
            assert record.matches(octets) in {True, False}


@given(st.integers(0, len(LEAF.der) - 1), st.integers(1, 255))
def test_certificate_that_was_changed_anywhere_matches_no_record_of_the_whole(at: int, by: int) -> None:
    changed = bytearray(LEAF.der)
    changed[at] ^= by
    for matching in (0, 1, 2):
        assert not tlsa(3, 0, matching, LEAF).matches(bytes(changed))
    key = public_key(bytes(changed))
    assert key is None or key == LEAF.public_key or key in bytes(changed)
