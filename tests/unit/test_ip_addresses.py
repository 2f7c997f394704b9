"""Which IP addresses mail from outside may lead to, and the order to try them in."""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.routing.addresses import in_order, is_public, mixed, parse_literal, shares

PRIVATE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.0.9",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::192.0.2.1",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "64:ff9b:1::5db8:d822",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0.0.0.0",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.1.2.3",
    "2002:7f00:0001::1",
    "2002:0a00:0001::",
    "2001:0:5db8:d822:0:0:80ff:fffe",
]
PUBLIC = [
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.2.1",
    "198.51.100.7",
    "223.255.255.255",
    "2001:db8::1",
    "2606:4700::1111",
    "::ffff:93.184.216.34",
    "64:ff9b::93.184.216.34",
    "2002:5db8:d822::1",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_private_space_is_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_space_is_followed(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def test_allowed_networks_count_also_for_carried_addresses() -> None:
    allowed = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")]
    verdicts = {
        text: is_public(ipaddress.ip_address(text), allowed)
        for text in ("10.1.1.1", "::ffff:10.1.1.1", "127.0.0.1", "::1", "fe80::1", "192.0.2.1")
    }
    assert verdicts == {
        "10.1.1.1": True,
        "::ffff:10.1.1.1": True,
        "127.0.0.1": False,
        "::1": True,
        "fe80::1": False,
        "192.0.2.1": True,
    }


@given(st.ip_addresses(v=4))
def test_hiding_in_ipv6_does_not_make_an_address_public(address: ipaddress.IPv4Address) -> None:
    bits = int(address)
    for prefix, shift in (("::ffff:0:0", 0), ("64:ff9b::", 0), ("2002::", 80)):
        hidden = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | bits << shift)
        assert is_public(hidden) == is_public(address)


def test_literals() -> None:
    assert parse_literal("[192.0.2.1]") == ipaddress.ip_address("192.0.2.1")
    assert parse_literal("[ipv6:2001:DB8::1]") == ipaddress.ip_address("2001:db8::1")
    for text in ("192.0.2.1", "[192.0.2.1", "[192.0.2]", "[2001:db8::1]", "[IPv6:fe80::1%eth0]", "[x400:a]", "[]",
                 "[IPv6:192.0.2.1]", "[192.0.2.1:25]", "[127.1]", "[0x7f000001]", "[2130706433]"):  # fmt: skip
        with pytest.raises(ValueError):
            parse_literal(text)


@given(st.lists(st.integers(0, 40), max_size=10), st.integers(0, 60))
def test_shares_fill_the_room_evenly(counts: list[int], limit: int) -> None:
    kept = shares(counts, limit)
    assert sum(kept) == min(limit, sum(counts))
    assert all(0 <= some <= count for some, count in zip(kept, counts, strict=True))
    fullest = max(kept, default=0)
    assert all(some == count or some >= fullest - 1 for some, count in zip(kept, counts, strict=True))


def test_many_addresses_of_one_host_do_not_displace_its_backup() -> None:
    assert shares([500, 2, 1], 10) == [7, 2, 1]
    assert shares([1, 1, 1], 2) == [1, 1, 0]


V4 = tuple(f"192.0.2.{i}" for i in range(1, 7))
V6 = tuple(f"2001:db8::{i}" for i in range(1, 7))


@pytest.mark.parametrize(("policy", "expected"), [("prefer", "664444"), ("after_ipv4", "444466")])
def test_policy_orders_the_families(policy: str, expected: str) -> None:
    order = in_order(V4[:4], V6[:2], policy, 10, random.Random(1))  # type: ignore[arg-type]
    assert "".join("6" if ":" in address else "4" for address in order) == expected
    assert sorted(order) == sorted(V4[:4] + V6[:2])


@pytest.mark.parametrize("items", [(), ("a",), ("a", "b"), ("a", "b", "c")])
def test_every_order_is_as_likely_as_any_other(items: tuple[str, ...]) -> None:
    rng = random.Random(1)
    orders = Counter(tuple(mixed(items, rng)) for _ in range(6000))
    expected = set(itertools.permutations(items))
    assert set(orders) == expected
    assert all(0.9 < count * len(expected) / 6000 < 1.1 for count in orders.values())


def test_equal_policy_mixes_the_families() -> None:
    rng = random.Random(1)
    firsts = Counter(":" in in_order(V4, V6, "equal", 30, rng)[0] for _ in range(1000))
    assert 450 < firsts[True] < 550


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 14), st.sampled_from(["prefer", "equal", "after_ipv4"]))
def test_each_family_keeps_up_to_half_of_the_places(n4: int, n6: int, limit: int, policy: str) -> None:
    order = in_order(V4[:n4], V6[:n6], policy, limit, random.Random(1))  # type: ignore[arg-type]
    kept6 = sum(":" in address for address in order)
    assert len(order) == len(set(order)) == min(limit, n4 + n6)
    assert kept6 >= min(n6, limit // 2)
    assert len(order) - kept6 >= min(n4, limit // 2)
