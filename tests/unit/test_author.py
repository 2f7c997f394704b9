"""mail.author: whose mail it is, whatever stands in From."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.address import canonical_domain
from postroika.mail.author import author_domains
from postroika.mail.mailboxes import mailboxes


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        (b" shop@shop.test\r\n", "shop.test"),
        (b" The Shop <shop@Shop.TEST>\r\n", "shop.test"),
        (b" =?utf-8?q?Caf=C3=A9?= <a@b.test>", "b.test"),
        (b' "a@evil.test, Inc." <a@b.test>\r\n', "b.test"),
        (b' "a \\" <x@evil.test>" <a@b.test>\r\n', "b.test"),
        (b" a@b.test (comment with x@evil.test (nested \\) too))\r\n", "b.test"),
        (b" (first <x@evil.test>) a@b.test\r\n", "b.test"),
        (b' "quoted local"@b.test', "b.test"),
        (b' Name <"a@c.test"@b.test>', "b.test"),
        (b" one@b.test, two@c.test\r\n", "b.test"),
        (b" one@b.test, Two <two@c.test>\r\n", "b.test"),
        (b" One <one@b.test>, Two <two@c.test>\r\n", "b.test"),
        (b" friends: one@b.test, two@c.test;\r\n", "b.test"),
        (b" friends: One <one@b.test>;\r\n", "b.test"),
        (b" folded\r\n <a@b.test>\r\n", "b.test"),
        (b" <@relay.test:a@b.test>", "b.test"),
        (b" a @ b.test", "b.test"),
        (" a@bücher.test".encode(), "xn--bcher-kva.test"),
        (" Jürgen <a@bücher.test>".encode(), "xn--bcher-kva.test"),
        (b" a@b.test.", "b.test"),
        (b" a@[192.0.2.1]", "[192.0.2.1]"),
        (b"", ""),
        (b" nobody\r\n", ""),
        (b" undisclosed: ;", ""),
        (b" a@", ""),
        (b" a@b..test", ""),
        (b" a@\xff\xfe", ""),
        (b" <a@b.test", "b.test"),
    ],
)
def test_first_author_counts(value: bytes, domain: str) -> None:
    assert author_domains(value)[:1] == ((domain,) if domain else ())


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        (b" Shop, Inc. <news@shop.test>\r\n", "shop.test"),
        (b" Sorry :( <news@shop.test>\r\n", "shop.test"),
        (b' 5" screens <news@shop.test>\r\n', "shop.test"),
        (b' Deals @ 5" each <news@shop.test>\r\n', "shop.test"),
        (b" Back\\slash <news@shop.test>\r\n", "shop.test"),
        (b" Sales: May <news@shop.test>\r\n", "shop.test"),
        (b" Shop <3 you <news@Shop.TEST>\r\n", "shop.test"),
        (b" Shop, Inc. < news@shop.test >\r\n", "shop.test"),
        (b" Shop, Inc. <news@shop.test (us)>\r\n", "shop.test"),
        (b" Shop, Inc. <news@shop.test> <see below>\r\n", "shop.test"),
        (b" Shop, Inc. <old@b.test> <news@shop.test>\r\n", "shop.test"),
        (b" " + b"A" * 8200 + b" <news@shop.test>\r\n", "shop.test"),
        (b' "' + b"A" * 20_000 + b'" <news@shop.test>\r\n', "shop.test"),
        (b" " + b"a@b.test, " * 2000 + b"<news@shop.test>\r\n", "shop.test"),
        (b" news@shop.test;\r\n", "shop.test"),
        (b" news@shop.test :( or @shop\r\n", "shop.test"),
        (b" Shop, Inc.\r\n", ""),
        (b" Shop, Inc. <news>\r\n", ""),
        (b" :( <@> <a@b..test> <a@\xff>\r\n", ""),
    ],
)
def test_where_from_is_not_well_formed_the_last_address_counts(value: bytes, domain: str) -> None:
    assert author_domains(value)[:1] == ((domain,) if domain else ())


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        (b" a@b.test, Shop <news@shop.test>, c@B.test\r\n", ("b.test", "shop.test")),
        (b" friends: one@b.test, two@c.test;\r\n", ("b.test", "c.test")),
        (b" a@b..test, news@shop.test\r\n", ("shop.test",)),
        # Well formed all the same: a mailbox "Sale@Shop", which nobody has meant, and another one. Those that have
        # blanks around their @ come last.
        (b" Sale @ Shop, Inc. <news@shop.test>\r\n", ("shop.test", "shop")),
        (b" Deals @ brand.test, Inc. <news@shop.test>\r\n", ("shop.test", "brand.test")),
        (b" Deals @brand.test, Inc. <news@shop.test>\r\n", ("shop.test", "brand.test")),
        (b" Deals (all)@ brand.test, news@shop.test\r\n", ("shop.test", "brand.test")),
        (b" Sale\r\n @ Shop, Inc. <news@shop.test>\r\n", ("shop.test", "shop")),
        (b" news @ shop.test, b @ c.test\r\n", ("shop.test", "c.test")),
        (b" Name <news @ shop.test>, b@c.test\r\n", ("shop.test", "c.test")),
        # Words of a name are no authors.
        (b" bob@b.test via Shop <news@shop.test>\r\n", ("shop.test",)),
        (b" Sale @ Shop <news@shop.test>\r\n", ("shop.test",)),
        (b" bob@b.test, Inc. via <old@c.test> <news@shop.test>\r\n", ("shop.test",)),
    ],
)
def test_all_authors_are_told_those_first_who_are_meant_for_sure(value: bytes, domains: tuple[str, ...]) -> None:
    assert author_domains(value) == domains


def canonical(address: str) -> str:
    try:
        return canonical_domain(address.rpartition("@")[2])
    except ValueError:
        return ""


@given(st.lists(st.sampled_from(["a@b.test", "c@d.test", "x", " ", *'<>"(),:;@\\[].'])).map("".join))
def test_authors_that_count_are_some_that_an_account_was_checked_for(value: str) -> None:
    """Where readers could differ there is none, and an account that may not write as everybody is refused."""
    addresses = mailboxes(value)
    if addresses is not None:
        assert set(author_domains(value.encode())) <= set(map(canonical, addresses))


@given(st.binary(max_size=60) | st.lists(st.sampled_from(list(b'<>"(),:;@\\ ax.\r\n\t')), max_size=60).map(bytes))
def test_no_value_is_too_odd(value: bytes) -> None:
    for domain in author_domains(value):
        assert domain == domain.lower() != ""
        assert not set(domain) & set("\r\n \t")


@pytest.mark.parametrize(
    "piece", [b"(", b'"', b"<", b"a@", b"\\", b":", b",", b" ", b"a ", b"@:", b"a", b"<@", "ü@ü ".encode()]
)
def test_long_values_take_no_long_time(piece: bytes) -> None:
    began = time.process_time()
    author_domains(piece * 200_000)
    author_domains(piece * 200_000 + b"<a@b.test>")
    assert time.process_time() - began < 1.0
