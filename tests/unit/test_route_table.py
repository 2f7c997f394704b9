"""The [[route]] table: patterns, first match, next hops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.config import Route, goes_by_mx
from postroika.routing.table import Hop, RouteTable

A, B, C = "smtp://a.test:1", "smtp://b.test:2", "smtp://c.test:3"


def _table(*routes: tuple[tuple[str, ...], str | tuple[str, ...]]) -> RouteTable:
    return RouteTable([Route(domains=domains, next_hop=next_hop) for domains, next_hop in routes])


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("shop.test", (Hop("a.test", 1),)),
        ("www.shop.test", (Hop("b.test", 2),)),
        ("a.b.shop.test", (Hop("b.test", 2),)),
        ("xshop.test", (Hop("c.test", 3),)),
        ("test", (Hop("c.test", 3),)),
        ("[192.0.2.1]", (Hop("a.test", 1),)),
        ("[192.0.2.2]", (Hop("c.test", 3),)),
    ],
)
def test_exact_subdomains_and_everything(destination: str, expected: tuple[Hop, ...]) -> None:
    table = _table((("shop.test", "[192.0.2.1]"), A), ((".shop.test",), B), (("*",), C))
    assert table.hops(destination) == expected


def test_first_match_wins_over_the_closer_match() -> None:
    table = _table(((".test",), A), (("shop.test",), B))
    assert table.hops("shop.test") == (Hop("a.test", 1),)


def test_mx_may_be_an_exception_to_a_smarthost() -> None:
    table = _table((("shop.test",), "mx"), (("*",), A))
    assert table.hops("shop.test") is None
    assert table.hops("other.test") == (Hop("a.test", 1),)


def test_nothing_matches() -> None:
    assert _table((("shop.test",), A)).hops("other.test") is None
    assert RouteTable([]).hops("other.test") is None


def test_list_keeps_its_order_and_default_port() -> None:
    table = _table((("*",), ("smtp://B.test", "smtp://[::1]:2525", "smtp://b.test:25")))
    assert table.hops("x.test") == (Hop("b.test", 25), Hop("::1", 2525))


def test_text_of_a_hop_tells_hosts_and_ports_apart() -> None:
    assert [Hop(*hop).text for hop in (("a.test", 25), ("a.test", 26), ("::1", 25), ("::1", 26))] == [
        "a.test", "a.test:26", "::1", "[::1]:26",
    ]  # fmt: skip


def _matches(pattern: str, domain: str) -> bool:
    return pattern == "*" or pattern == domain or (pattern.startswith(".") and domain.endswith(pattern))


_DOMAIN = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)
_PATTERN = st.one_of(_DOMAIN, _DOMAIN.map(lambda domain: "." + domain), st.just("*"))


@given(st.lists(st.lists(_PATTERN, min_size=1, max_size=3), max_size=6), _DOMAIN)
def test_table_agrees_with_a_walk_through_it(patterns: list[list[str]], domain: str) -> None:
    routes = [(tuple(domains), f"smtp://h{i}.test") for i, domains in enumerate(patterns)]
    expected = next(((Hop(f"h{i}.test", 25),) for i, domains in enumerate(patterns)
                     if any(_matches(pattern, domain) for pattern in domains)), None)  # fmt: skip
    assert _table(*routes).hops(domain) == expected


@pytest.mark.parametrize(
    ("routes", "some"),
    [
        ([], True),
        ([(("*",), "mx")], True),
        ([(("*",), "smtp://smart.test")], False),
        ([(("a.test",), "smtp://smart.test")], True),
        ([((".a.test",), "mx"), (("*",), "smtp://smart.test")], True),
        ([(("a.test",), "smtp://b.test"), (("x.test", "*"), ("smtp://a.test", "smtp://b.test"))], False),
    ],
)
def test_whether_anything_goes_by_mx(routes: list[tuple[tuple[str, ...], str | tuple[str, ...]]], some: bool) -> None:
    assert goes_by_mx([Route(domains=domains, next_hop=next_hop) for domains, next_hop in routes]) is some
