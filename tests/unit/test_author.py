"""mail.author: whose mail it is, whatever stands in From."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.author import author_domain


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
    assert author_domain(value) == domain


@given(st.binary(max_size=60) | st.lists(st.sampled_from(list(b'<>"(),:;@\\ ax.\r\n\t')), max_size=60).map(bytes))
def test_no_value_is_too_odd(value: bytes) -> None:
    domain = author_domain(value)
    assert domain == domain.lower()
    assert not set(domain) & set("\r\n \t")


@pytest.mark.parametrize("piece", [b"(", b'"', b"<", b"a@", b"\\", b":", b",", b" ", b"a ", b"@:", b"a"])
def test_long_values_take_no_long_time(piece: bytes) -> None:
    began = time.process_time()
    author_domain(piece * 200_000)
    author_domain(piece * 200_000 + b"<a@b.test>")
    assert time.process_time() - began < 1.0
