"""From MX records to hosts: order, null MX, ourselves, caps, site names."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from postroika.routing.mx import (
    SITE_NAME_MAX,
    Mx,
    MxProblem,
    cut,
    is_host_name,
    preference_groups,
    site_name,
)

NAMES = ("mx1.test", "mx2.test", "mx3.test", "mx4.test", "us.test")
RECORDS = st.lists(st.builds(Mx, st.integers(0, 3), st.sampled_from(NAMES)), max_size=12)
GROUPS = st.lists(st.integers(1, 5), max_size=5).map(
    lambda sizes: tuple(tuple(f"h{i}-{j}.test" for j in range(size)) for i, size in enumerate(sizes))
)


def test_hosts_are_grouped_by_rising_preference() -> None:
    records = [Mx(20, "b.test"), Mx(10, "c.test"), Mx(20, "a.test")]
    assert preference_groups(records, ()) == (("c.test",), ("a.test", "b.test"))


def test_host_listed_twice_counts_where_it_is_best() -> None:
    assert preference_groups([Mx(20, "a.test"), Mx(10, "a.test"), Mx(15, "b.test")], ()) == (("a.test",), ("b.test",))


def test_a_single_root_target_is_a_null_mx() -> None:
    assert preference_groups([Mx(0, "")], ()) is MxProblem.NULL


def test_root_target_beside_others_is_left_out() -> None:
    assert preference_groups([Mx(0, ""), Mx(10, "a.test")], ()) == (("a.test",),)


def test_ip_addresses_and_nonsense_are_left_out() -> None:
    records = [Mx(1, "192.0.2.1"), Mx(2, "mail server.test"), Mx(3, "\\032.test"), Mx(4, "a..test"), Mx(5, "a.test")]
    assert preference_groups(records, ()) == (("a.test",),)


def test_only_nonsense_is_unusable() -> None:
    assert preference_groups([Mx(1, "192.0.2.1"), Mx(2, "")], ()) is MxProblem.UNUSABLE


def test_our_name_cuts_equal_and_worse_preferences() -> None:
    records = [Mx(10, "a.test"), Mx(20, "us.test"), Mx(20, "b.test"), Mx(30, "c.test")]
    assert preference_groups(records, {"us.test"}) == (("a.test",),)


def test_our_name_as_the_best_is_a_loop() -> None:
    assert preference_groups([Mx(10, "us.test"), Mx(20, "b.test")], {"us.test"}) is MxProblem.LOOP


@given(RECORDS)
def test_nothing_as_bad_as_ourselves_is_ever_tried(records: list[Mx]) -> None:
    groups = preference_groups(records, {"us.test"})
    if isinstance(groups, MxProblem):
        return
    best = {host: min(record.preference for record in records if record.host == host) for host in NAMES[:-1]
            if any(record.host == host for record in records)}  # fmt: skip
    ours = min((record.preference for record in records if record.host == "us.test"), default=99)
    flat = [host for group in groups for host in group]
    assert sorted(flat) == sorted(host for host, preference in best.items() if preference < ours)
    assert [best[host] for host in flat] == sorted(best[host] for host in flat)
    assert all(len({best[host] for host in group}) == 1 for group in groups)


@given(GROUPS, st.integers(0, 30), st.integers())
def test_cut_keeps_the_best(groups: tuple[tuple[str, ...], ...], limit: int, seed: int) -> None:
    kept = cut(groups, limit, random.Random(seed))
    everything = [host for group in groups for host in group]
    flat = [host for group in kept for host in group]
    assert len(flat) == min(limit, len(everything))
    assert kept[:-1] == groups[: max(0, len(kept) - 1)]
    assert all(set(some) <= set(whole) for some, whole in zip(kept, groups, strict=False))


@given(st.lists(st.from_regex(r"[a-z]{1,40}\.[a-z]{1,20}\.test", fullmatch=True), min_size=1), st.randoms())
def test_site_name_is_of_the_set(hosts: list[str], rng: random.Random) -> None:
    other = hosts * 2
    rng.shuffle(other)
    assert site_name(hosts) == site_name(other)
    assert len(site_name(hosts)) <= SITE_NAME_MAX


def test_site_names_tell_long_sets_apart() -> None:
    hosts = [f"mx{i}.a-rather-long-name.test" for i in range(20)]
    assert site_name(hosts) != site_name(hosts[:-1])
    assert site_name(["b.test", "a.test"]) == "a.test,b.test"
    assert site_name(hosts).startswith("mx0.a-rather-long-name.test+19#")


def test_host_names() -> None:
    for name in ("a", "mx.shop.test", "_x.test", "1mx.test", "xn--bcher-kva.test", "a." * 126 + "b"):
        assert is_host_name(name), name
    for name in ("", ".", "a.", "-a.test", "a-.test", "192.0.2.1", "1.2", "a b", "a\n", "é.test", "a" * 64, "a." * 127):
        assert not is_host_name(name), name
