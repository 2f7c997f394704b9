"""Where the reports about a domain go, from its TXT records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.tlsrpt.record import MAX_DESTINATIONS, Destination, destinations

MAIL = Destination("mailto", "tls@shop.example")
POST = Destination("https", "https://r.shop.example/v1/tlsrpt?a=b")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("v=TLSRPTv1;rua=mailto:tls@shop.example", [MAIL]),
        ("v=TLSRPTv1; rua=https://r.shop.example/v1/tlsrpt?a=b", [POST]),
        ("v=TLSRPTv1 ;\t rua=mailto:tls@shop.example ; ", [MAIL]),
        ("v=TLSRPTv1; rua=mailto:tls@shop.example,https://r.shop.example/v1/tlsrpt?a=b;", [MAIL, POST]),
        ("v=TLSRPTv1; rua=mailto:tls@shop.example , mailto:tls@shop.example", [MAIL]),
        ("v=TLSRPTv1; new_one=1; rua=mailto:tls@shop.example; x.y-z=a:b", [MAIL]),
        ("v=TLSRPTv1; rua=MAILTO:tls@SHOP.example?subject=x", [MAIL]),
        ("v=TLSRPTv1; rua=mailto:t%6Cs@shop.example", [MAIL]),
        ("v=TLSRPTv1; rua=mailto:tls%21x@b%C3%BCcher.example", [Destination("mailto", "tls!x@xn--bcher-kva.example")]),
        ("v=TLSRPTv1; rua=ftp://shop.example/,mailto:tls@shop.example", [MAIL]),
        ("v=TLSRPTv1; rua=http://shop.example/", []),
        ("v=TLSRPTv1; rua=https:///nowhere,https://u:p@x.example/,https://x.example:0/,https://x.example:x/", []),
        ("v=TLSRPTv1; rua=https://x.example/#part,https://[::1/", []),
        ("v=TLSRPTv1; rua=https://[2001:db8::1]:8443/r", [Destination("https", "https://[2001:db8::1]:8443/r")]),
        ("v=TLSRPTv1; rua=mailto:tls@shop.example!10m", []),
        ("v=TLSRPTv1; rua=mailto:tls@[192.0.2.1],mailto:@x.example,mailto:tls,mailto:a@b@", []),
        ("v=TLSRPTv1; rua=mailto:a%0D%0ABcc:b@shop.example,mailto:%22a b%22@shop.example", []),
        ("v=TLSRPTv1; rua=mailto:a..b@shop.example,mailto:%FF@shop.example,mailto:b%C3%BC@shop.example", []),
        ("v=TLSRPTv1; rua=mailto:a@shop.example%0D%0Ax,mailto:a%40b@shop.example", []),
        (f"v=TLSRPTv1; rua=mailto:{'a' * 65}@shop.example,https://x.example/{'a' * 2000}", []),
        ("v=TLSRPTv1; rua=", []),
        ("v=TLSRPTv1; rua=,", []),
        ("v=TLSRPTv1;", []),
        ("v=TLSRPTv1", []),
        ("v=TLSRPTv1; mailto:tls@shop.example", []),
        ("v=TLSRPTv1; rua=mailto:tls@shop.example; broken", []),
        ("v=TLSRPTv1; rua=mailto:tls@shop.example;; x=1", []),
        ("v=TLSRPTv1; rua=mailto:tls@shop.example; rua=mailto:other@shop.example", []),
        ("v=TLSRPTv2; rua=mailto:tls@shop.example", []),
        ("V=TLSRPTv1; rua=mailto:tls@shop.example", []),
        (" v=TLSRPTv1; rua=mailto:tls@shop.example", []),
        ("rua=mailto:tls@shop.example; v=TLSRPTv1;", []),
    ],
)
def test_one_record(record: str, expected: list[Destination]) -> None:
    assert list(destinations([record.encode()])) == expected


def test_only_records_of_the_kind_count_and_two_of_them_are_none() -> None:
    good = b"v=TLSRPTv1; rua=mailto:tls@shop.example"
    assert destinations([b"v=spf1 -all", good, b"\xff\xfe", b""]) == (MAIL,)
    assert destinations([good, b"v=TLSRPTv1; rua=mailto:other@shop.example"]) == ()
    assert destinations([good, b"v=TLSRPTv1; broken"]) == ()
    assert destinations([]) == ()


def test_there_is_an_end_to_whom_a_domain_can_have_mail_sent_to() -> None:
    record = "v=TLSRPTv1; rua=" + ",".join(f"mailto:r{n}@shop.example" for n in range(100))
    assert len(destinations([record.encode()])) == MAX_DESTINATIONS


@given(st.binary(max_size=200))
def test_whatever_is_published_can_be_used_or_is_left_out(text: bytes) -> None:
    for found in destinations([b"v=TLSRPTv1; rua=" + text, text]):
        assert found.target.isascii()
        assert found.target.isprintable()
        assert " " not in found.target
