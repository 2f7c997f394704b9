"""Verdicts on chains of certificates by TLSA records."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from postroika.tls import dane
from postroika.tls.dane import judge
from postroika.tls.tlsa import Tlsa, dane_for
from tests.chains import Issued, issue, tlsa

HOST = "mx.shop.test"
NAMES = (HOST, "shop.test", "alias.test")
ROOT = issue("root", authority=True, key="rsa")
MIDDLE = issue("middle", ROOT, authority=True)
LEAF = issue("leaf", MIDDLE, HOST)
SELF = issue("self", None, HOST)
STRANGER = issue("stranger", authority=True)


def verdict(leaf: Issued | Sequence[bytes], *records: Tlsa, at: float | None = None) -> str:
    wanted = dane_for(HOST, records, NAMES)
    assert wanted is not None
    chain = leaf.chain if isinstance(leaf, Issued) else leaf
    return judge(wanted, chain, time.time() if at is None else at)


def has(reason: str, words: str) -> bool:
    return words in reason and "\n" not in reason


# --- DANE-EE: the certificate itself


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_own_certificate_matches(selector: int, matching: int) -> None:
    assert verdict(LEAF, tlsa(3, selector, matching, LEAF)) == ""
    assert verdict([LEAF.der], tlsa(3, selector, matching, LEAF)) == ""
    assert verdict(SELF, tlsa(3, selector, matching, SELF)) == ""
    reason = verdict(LEAF, tlsa(3, selector, matching, SELF))
    assert reason == f"its certificate matches no TLSA record of {HOST} (3 {selector} {matching})"


def test_names_and_dates_are_nothing_to_dane_ee() -> None:
    leaf = issue("leaf", STRANGER, "elsewhere.test", expired=True)
    assert verdict(leaf, tlsa(3, 1, 1, leaf)) == ""


def test_one_of_several_records_is_enough() -> None:
    """A key that will be used next stands beside the one that is (RFC 7671 §8.1)."""
    assert verdict(LEAF, tlsa(3, 1, 1, SELF), tlsa(3, 1, 1, LEAF)) == ""
    assert verdict(LEAF, tlsa(3, 1, 1, SELF), tlsa(2, 1, 1, ROOT)) == ""
    assert verdict(LEAF, tlsa(2, 1, 1, STRANGER), tlsa(3, 1, 1, LEAF)) == ""


def test_certificate_of_an_authority_is_not_the_servers_own() -> None:
    assert verdict(LEAF, tlsa(3, 1, 1, ROOT)) != ""
    assert verdict(LEAF, tlsa(3, 1, 1, MIDDLE)) != ""


def test_nothing_shown_is_nothing_matched() -> None:
    assert verdict([], tlsa(3, 1, 1, LEAF)) == "it showed no certificate"


# --- DANE-TA: an authority above it


@pytest.mark.parametrize("anchor", [ROOT, MIDDLE], ids=["root", "middle"])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_path_to_an_authority_that_was_sent(anchor: Issued, selector: int, matching: int) -> None:
    record = tlsa(2, selector, matching, anchor)
    assert verdict(LEAF, record) == ""
    assert verdict([LEAF.der, ROOT.der, MIDDLE.der], record) == ""  # in any order


def test_authority_above_the_anchor_need_not_be_sent() -> None:
    assert verdict([LEAF.der, MIDDLE.der], tlsa(2, 1, 1, MIDDLE)) == ""


@pytest.mark.parametrize("record", [tlsa(2, 0, 0, ROOT), tlsa(2, 1, 0, ROOT)], ids=["certificate", "key"])
def test_authority_that_is_in_the_record_need_not_be_sent(record: Tlsa) -> None:
    assert verdict([LEAF.der, MIDDLE.der], record) == ""
    assert verdict([LEAF.der], record) != ""


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_server_may_be_certified_by_a_bare_key(kind: str) -> None:
    root = issue("root", authority=True, key=kind)
    leaf = issue("leaf", root, HOST)
    assert verdict([leaf.der], tlsa(2, 1, 0, root)) == ""
    assert verdict([leaf.der], tlsa(2, 1, 0, STRANGER)) != ""


def test_digest_of_an_authority_that_was_not_sent_helps_nobody() -> None:
    reason = verdict([LEAF.der, MIDDLE.der], tlsa(2, 1, 1, ROOT))
    assert reason == f"its certificate matches no TLSA record of {HOST} (2 1 1)"


def test_authority_that_was_sent_but_has_signed_nothing() -> None:
    """Anybody can send the certificate of an authority along."""
    leaf = issue("leaf", STRANGER, HOST)
    assert has(verdict([leaf.der, STRANGER.der, ROOT.der], tlsa(2, 1, 1, ROOT)), "certificate verify failed: ")
    same_name = issue("root", authority=True)
    forged = issue("leaf", same_name, HOST)
    assert has(verdict([forged.der, ROOT.der], tlsa(2, 1, 1, ROOT)), "certificate verify failed: ")


def test_server_is_no_authority_of_its_own() -> None:
    """What the record of an authority matches has to be above the server (as OpenSSL has it, too)."""
    assert verdict(SELF, tlsa(2, 1, 1, SELF)) != ""
    root = issue("both", None, HOST, authority=True)
    assert verdict([root.der, root.der], tlsa(2, 1, 1, root)) == ""  # sent twice, it is


@pytest.mark.parametrize(
    ("names", "good"),
    [
        ([HOST], True),
        (["shop.test"], True),
        (["alias.test"], True),
        (["MX.Shop.Test"], True),
        (["*.shop.test"], True),
        (["elsewhere.test", "shop.test"], True),
        (["*.test"], False),
        (["*"], False),
        (["*.mx.shop.test"], False),
        (["m*.shop.test"], False),
        (["elsewhere.test"], False),
        (["xmx.shop.test"], False),
    ],
)
def test_name_has_to_be_one_that_the_dns_vouches_for(names: list[str], good: bool) -> None:
    leaf = issue(HOST, MIDDLE, *names)
    reason = verdict(leaf, tlsa(2, 1, 1, ROOT))
    assert reason == ("" if good else f"certificate verify failed: it is not for {' or '.join(NAMES)}")


def test_common_name_counts_where_there_are_no_other_names() -> None:
    assert verdict(issue(HOST, MIDDLE), tlsa(2, 1, 1, ROOT)) == ""
    assert verdict(issue("elsewhere.test", MIDDLE), tlsa(2, 1, 1, ROOT)) != ""


def test_everything_on_the_path_has_to_be_valid_now() -> None:
    old_leaf = issue("leaf", MIDDLE, HOST, expired=True)
    old_middle = issue("middle", ROOT, authority=True, expired=True)
    old_root = issue("root", authority=True, expired=True)
    for leaf, anchor in (
        (old_leaf, ROOT),
        (issue("leaf", old_middle, HOST), ROOT),
        (issue("leaf", old_root, HOST), old_root),
    ):
        assert has(verdict(leaf, tlsa(2, 1, 1, anchor)), "certificate verify failed: ")
    assert verdict(LEAF, tlsa(2, 1, 1, ROOT), at=time.time() - 365 * 86400) != ""


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=sign, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def test_constraints_of_authorities_hold() -> None:
    no_authority = issue("middle", ROOT)
    short = issue("root", authority=True, path_length=0)
    too_long = issue("leaf", issue("middle", short, authority=True), HOST)
    other_names = x509.NameConstraints([x509.DNSName("elsewhere.test")], None)
    constrained = issue("root", authority=True, more=[(other_names, True)])
    may_not_sign = issue("root", authority=True, more=[(_usage(sign=False), True)])
    may_sign = issue("root", authority=True, more=[(_usage(sign=True), True)])
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    clients = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
    servers = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
    for leaf, anchor, good in (
        (issue("leaf", no_authority, HOST), ROOT, False),
        (too_long, short, False),
        (issue("leaf", short, HOST), short, True),
        (issue("leaf", constrained, HOST), constrained, False),
        (issue("leaf", may_not_sign, HOST), may_not_sign, False),
        (issue("leaf", may_sign, HOST), may_sign, True),
        (issue("leaf", MIDDLE, HOST, more=[(unknown, True)]), ROOT, False),
        (issue("leaf", MIDDLE, HOST, more=[(unknown, False)]), ROOT, True),
        (issue("leaf", MIDDLE, HOST, more=[(clients, False)]), ROOT, False),
        (issue("leaf", MIDDLE, HOST, more=[(servers, False)]), ROOT, True),
    ):
        assert (verdict(leaf, tlsa(2, 1, 1, anchor)) == "") is good


def test_hostile_chains_cost_little_and_prove_nothing() -> None:
    many = [LEAF.der, *[STRANGER.der] * 5000, MIDDLE.der, ROOT.der]
    began = time.perf_counter()
    assert verdict(many, tlsa(2, 1, 1, ROOT)) != ""
    assert time.perf_counter() - began < 1.0
    assert verdict([LEAF.der, b"", b"\x30", b"x" * 100_000, MIDDLE.der, ROOT.der], tlsa(2, 1, 1, ROOT)) == ""


@given(st.lists(st.one_of(st.binary(max_size=50), st.sampled_from([LEAF.der, MIDDLE.der, ROOT.der])), max_size=4))
def test_no_chain_raises(chain: list[bytes]) -> None:
    for record in (tlsa(3, 1, 1, SELF), tlsa(2, 1, 1, ROOT), tlsa(2, 1, 0, ROOT), tlsa(2, 0, 0, ROOT)):
        assert isinstance(verdict(chain, record), str)


def _bare(numbers: rsa.RSAPublicNumbers) -> Tlsa:
    """The record for a key by itself."""
    return Tlsa(2, 1, 0, numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def test_records_that_are_costly_to_check_are_not_checked() -> None:
    """Keys with exponents as long as they are themselves: 9 ms for each signature, and each is asked of each."""
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    slow = [_bare(rsa.RSAPublicNumbers(modulus - 2 - 2 * number, modulus)) for number in range(75)]
    sent = [issue("leaf", ROOT, HOST).der for _ in range(16)]
    began = time.perf_counter()
    assert verdict(sent, *slow) == f"its certificate matches no TLSA record of {HOST} (2 1 0)"
    assert time.perf_counter() - began < 1.0


def _with_exponent(exponent: int, key: rsa.RSAPrivateKey) -> rsa.RSAPrivateKey:
    """Another key with the same modulus."""
    old = key.private_numbers()
    d = pow(exponent, -1, math.lcm(old.p - 1, old.q - 1))
    public = rsa.RSAPublicNumbers(exponent, old.public_numbers.n)
    return rsa.RSAPrivateNumbers(old.p, old.q, d, d % (old.p - 1), d % (old.q - 1), old.iqmp, public).private_key()


def test_bare_keys_are_of_the_sizes_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    none = f"its certificate matches no TLSA record of {HOST} (2 1 0)"
    key = rsa.generate_private_key(65537, 2048)
    leaf = issue("leaf", Issued(ROOT.certificate, key), HOST)
    record = _bare(key.public_key().public_numbers())
    assert verdict([leaf.der], record) == ""
    large = next(e for e in range(2**32 + 1, 2**33, 2) if math.gcd(e, _phi(key)) == 1)
    other = _with_exponent(large, key)
    signed = issue("leaf", Issued(ROOT.certificate, other), HOST)
    assert verdict([signed.der], _bare(other.public_key().public_numbers())) == none
    monkeypatch.setattr(dane, "_MODULUS_BITS_MAX", 2047)
    assert verdict([leaf.der], record) == none


def _phi(key: rsa.RSAPrivateKey) -> int:
    return (key.private_numbers().p - 1) * (key.private_numbers().q - 1)


def test_authority_with_a_key_that_is_not_in_use_is_none() -> None:
    odd = issue("odd", authority=True, key="ed25519")
    reason = verdict(issue("leaf", odd, HOST), tlsa(2, 1, 1, odd))
    assert reason == "certificate verify failed: the authority has a key of a kind or size that is not in use"


def test_only_so_many_signatures_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def is_signed_with(certificate: x509.Certificate, key: object) -> bool:
        checked.append(key)
        return False

    monkeypatch.setattr(dane, "_is_signed_with", is_signed_with)
    keys = [issue("root", authority=True) for _ in range(40)]
    sent = [issue("leaf", ROOT, HOST).der for _ in range(16)]
    assert verdict(sent, *(tlsa(2, 1, 0, key) for key in keys)) != ""
    assert (len(checked), len(set(map(id, checked)))) == (16, 1)
    checked.clear()
    assert verdict([sent[0]] + [sent[1]] * 15, *(tlsa(2, 1, 0, key) for key in keys)) != ""
    assert len(set(map(id, checked))) == 8  # what is sent again is not checked again


def test_authorities_of_one_name_do_not_make_paths_without_number() -> None:
    """Each of them can have issued each: 14 in a row of 8 are more than 10 ** 9 paths, of which none leads anywhere."""
    first = issue("same", authority=True)
    same = [first.der]
    for _ in range(13):
        # All of one key, so that each signature is good.
        made = issue("same", first, authority=True, ours=first.key)
        same.append(made.der)
    leaf = issue("leaf", first, HOST)
    began = time.perf_counter()
    reason = verdict([leaf.der, *same, ROOT.der], tlsa(2, 1, 1, ROOT))
    assert time.perf_counter() - began < 1.0
    assert has(reason, "certificate verify failed: ")
    assert "limit" not in reason  # of the library: it has not come to that
    assert verdict([leaf.der, *same], tlsa(2, 1, 1, first)) == ""


def test_paths_have_four_intermediates_at_most() -> None:
    chain = [ROOT]
    for number in range(5):
        chain.append(issue(f"middle {number}", chain[-1], authority=True))
    assert verdict(issue("leaf", chain[4], HOST), tlsa(2, 1, 1, ROOT)) == ""
    assert has(verdict(issue("leaf", chain[5], HOST), tlsa(2, 1, 1, ROOT)), "certificate verify failed: ")


def test_records_that_count_are_as_many_as_big_authorities_have_certificates() -> None:
    strangers = [Tlsa(2, 1, 1, bytes([number]) * 32) for number in range(31)]
    assert verdict(LEAF, *strangers, tlsa(2, 1, 1, ROOT)) == ""
    more = [Tlsa(2, 1, 1, bytes([0, number]) + bytes(30)) for number in range(50)]
    assert verdict(LEAF, *more, tlsa(3, 1, 1, LEAF)) == ""  # those of authorities leave room for the server's own


_ALTERNATIVES = x509.ObjectIdentifier("2.5.29.17")


def _version_6(der: bytes) -> bytes:
    return der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020105"), 1)


@pytest.mark.parametrize("names", ["3004a3020500", "3009a507a1050c03616161"], ids=["x400Address", "ediPartyName"])
def test_names_of_odd_kinds_make_a_certificate_unreadable(names: str) -> None:
    leaf = issue("leaf", MIDDLE, more=[(x509.UnrecognizedExtension(_ALTERNATIVES, bytes.fromhex(names)), False)])
    reason = verdict(leaf, tlsa(2, 1, 1, ROOT))
    assert has(reason, "its certificate cannot be read: ")


def test_a_version_that_there_is_not_makes_a_certificate_unreadable() -> None:
    bad_root = _version_6(ROOT.der)
    record = Tlsa(2, 0, 0, bad_root)
    assert has(
        verdict([_version_6(LEAF.der), MIDDLE.der, ROOT.der], tlsa(2, 1, 1, ROOT)), "its certificate cannot be read"
    )
    none = f"its certificate matches no TLSA record of {HOST} (2 0 0)"
    assert verdict([LEAF.der, bad_root], record) == none
    assert verdict([LEAF.der, MIDDLE.der], record) == none
    # Beside what is good they do no harm.
    assert verdict([LEAF.der, bad_root, MIDDLE.der, ROOT.der], record, tlsa(2, 0, 0, ROOT)) == ""


def test_whatever_is_raised_in_a_judgement_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> str:
        raise LookupError("nobody has\nthought of that")

    monkeypatch.setattr(dane, "_path_problem", fails)
    assert verdict(LEAF, tlsa(2, 1, 1, ROOT)) == "its certificates cannot be read: nobody has thought of that"


def test_records_with_keys_of_no_use_prove_nothing() -> None:
    nonsense = Tlsa(2, 1, 0, b"\x30\x03\x02\x01\x07")
    assert nonsense.usable
    assert verdict(LEAF, nonsense) != ""
    assert verdict(LEAF, Tlsa(2, 0, 0, b"\x30\x11\x30\x0f\x02\x01\x05" + b"\x30\x00" * 4 + b"\x30\x02\x05\x00")) != ""
