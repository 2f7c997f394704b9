"""What the values of a config are written in: hosts with ports, next hops, domains."""

from __future__ import annotations

import pytest

from postroika.config import (
    begins_with_tls,
    canonical_domain,
    parse_next_hop,
    split_host_port,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:25", ("127.0.0.1", 25)),
        ("mx.example:0", ("mx.example", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("mx.example", ("mx.example", 2525)),
        ("[::1]", ("::1", 2525)),
    ],
)
def test_host_and_port_are_split(text: str, expected: tuple[str, int]) -> None:
    assert split_host_port(text, 2525) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":25", "[", "[::1", "[127.0.0.1]:25", "[::1]x", "[::1]:", "h:", "h:p", "h:-1", "h:65536", "h:²", "a:1:2"],
)
def test_host_and_port_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError):
        split_host_port(text, 2525)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smtp://relay.example", ("relay.example", 25)),
        ("smtp://127.0.0.1:2526", ("127.0.0.1", 2526)),
        ("smtp://[2001:db8::1]:587", ("2001:db8::1", 587)),
        ("smtp://_relay.local:26", ("_relay.local", 26)),
        ("smtps://relay.example", ("relay.example", 465)),
        ("smtps://[::1]:2465", ("::1", 2465)),
    ],
)
def test_next_hop_is_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_next_hop(text) == expected


def test_scheme_says_whether_tls_comes_first() -> None:
    assert [begins_with_tls(text) for text in ("smtp://h", "smtps://h", "mx")] == [False, True, False]


@pytest.mark.parametrize(
    "text",
    ["", "mx", "smtp://", "smtps://", "smtpss://h", "SMTPS://h", "smtp:h", "smtp://1.2.3", "smtp://u@h", "smtp://h:0"],
)
def test_next_hop_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ValueError):
        parse_next_hop(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        (".Example.com", ".example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        (".BÜCHER.example", ".xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
        ("a_b.example", "a_b.example"),
        ("com", "com"),
    ],
)
def test_domain_in_canonical_form(text: str, expected: str) -> None:
    assert canonical_domain(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", ".", "*", "..a", "a..b", "-a.example", "a-.example", "1.2.3.4", f"{'a' * 64}.example", "a\n", "[]", "☃..x"],
)
def test_text_that_is_no_domain(text: str) -> None:
    with pytest.raises(ValueError):
        canonical_domain(text)
