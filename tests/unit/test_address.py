"""mail.address: one canonical form of a domain, for policy, routing and queues."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.address import canonical_domain, is_literal, literal_ip, routing_domain, split_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("a@b", ("a", "b")),
        ('"a@b"@c', ('"a@b"', "c")),
        ("postmaster", ("postmaster", "")),
        ("", ("", "")),
        ("a@[192.0.2.1]", ("a", "[192.0.2.1]")),
    ],
)
def test_address_is_split_at_its_last_at(address: str, parts: tuple[str, str]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    ("domain", "canonical"),
    [
        ("Shop.Example", "shop.example"),
        ("shop.example.", "shop.example"),
        ("under_score.example", "under_score.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("почта。рф", "xn--80a1acny.xn--p1ai"),
        ("ｓｈｏｐ．example", "shop.example"),
        ("☃.example", "xn--n3h.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8:0:0::1]", "[ipv6:2001:db8::1]"),
        ("x" * 63 + ".y", "x" * 63 + ".y"),
    ],
)
def test_domain_is_made_canonical(domain: str, canonical: str) -> None:
    assert canonical_domain(domain) == canonical
    assert canonical_domain(canonical) == canonical
    assert routing_domain(f"a@{domain}") == canonical


@pytest.mark.parametrize(
    "domain",
    [
        "", ".", "a..b", ".a", "a b", "a/b", "a@b", "x／y", "x\u2028y", "x" * 64, "ä" * 64, "a." * 127 + "aa", "[]",
        "[x]",
        "[192.0.2]", "[192.0.2.1", "[IPv6:]", "[IPv6:fe80::1%lo]", "[2001:db8::1]", "x\uff05y.example", "a\0b",
        "shop\u2024example", "\u2488shop.example",
    ],
)  # fmt: skip
def test_what_is_no_domain_is_refused_but_can_still_be_queued(domain: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        canonical_domain(domain)
    assert routing_domain(f"x@{domain}") in {domain.lower(), domain.rpartition("@")[2]}


def test_address_without_domain_has_no_destination() -> None:
    assert routing_domain("postmaster") == routing_domain("") == ""


@given(st.text(max_size=40))
def test_any_text_has_a_routing_domain_and_it_is_stable(text: str) -> None:
    domain = routing_domain(f"a@{text}")
    assert routing_domain(f"a@{domain}") == domain


def test_literals() -> None:
    assert (is_literal("[192.0.2.1]"), is_literal("192.0.2.1")) == (True, False)
    assert (literal_ip("[192.0.2.1]"), literal_ip("[ipV6:2001:DB8::1]")) == ("192.0.2.1", "2001:db8::1")
    with pytest.raises(ValueError, match="literal"):
        literal_ip("192.0.2.1")
