"""process.open_files: connections fit the descriptors, and those for what goes out are kept aside."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from postroika.config import Blocklist, Config, Delivery, Limits, Policy, Route, Sts, Tlsrpt
from postroika.errors import PostroikaError
from postroika.process import open_files
from postroika.process.open_files import Plan

SMARTHOST = (Route(domains=("*",), next_hop="smtp://a.test"),)
CONFIG = Config(limits=Limits(max_connections=999), delivery=Delivery(max_connections=301), route=SMARTHOST)
WITHOUT_END = resource.RLIM_INFINITY


def config(inbound: int, outbound: int) -> Config:
    """One for smarthosts."""
    return replace(CONFIG, limits=Limits(max_connections=inbound), delivery=Delivery(max_connections=outbound))


def test_each_worker_needs_its_share_of_the_connections() -> None:
    assert [open_files.needed(CONFIG, workers) for workers in (1, 2)] == [999 + 301 + 608, 500 + 151 + 608]


def test_each_check_that_asks_needs_questions_of_its_own() -> None:
    lists, senders = (Blocklist(zone="bl.example"),), Policy(sender_domain_resolves=True)
    needed = [
        open_files.needed(replace(CONFIG, blocklist=blocklist, policy=policy), 1)
        for blocklist, policy in (((), senders), (lists, Policy()), (lists, senders))
    ]
    assert needed == [999 + 301 + 608 + 128, 999 + 301 + 608 + 128, 999 + 301 + 608 + 256]
    plans = [
        open_files.plan(replace(config(9999, 301), blocklist=blocklist, policy=senders), 1, 800).inbound
        for blocklist in ((), lists)
    ]
    assert plans == [290, 277]  # half of what 96, 100, and one or two times 25 leave of 800


@pytest.mark.parametrize(
    ("sts", "route", "contact", "more"),
    [
        (True, (), "", 64),
        (True, (Route(domains=("a.test",)), *SMARTHOST), "", 64),
        (True, SMARTHOST, "", 0),  # nobody asks for a policy
        (False, (), "", 0),
        (False, (), "tls@x.test", 8),
        (True, (), "tls@x.test", 72),
    ],
)
def test_policies_that_are_fetched_and_reports_that_are_posted_have_descriptors_too(
    sts: bool, route: tuple[Route, ...], contact: str, more: int
) -> None:
    asked = replace(CONFIG, sts=Sts(enabled=sts), route=route, tlsrpt=Tlsrpt(contact=contact))
    assert open_files.needed(asked, 1) == 999 + 301 + 608 + more
    plans = [open_files.plan(replace(each, limits=Limits(max_connections=9999)), 1, 2048) for each in (asked, CONFIG)]
    assert plans[1].inbound - plans[0].inbound == more


@pytest.mark.parametrize(("limit", "fetches"), [(1, 1), (160, 10), (1024, 64), (1_000_000, 64)])
def test_fetches_are_fewer_where_there_are_few_descriptors(
    monkeypatch: pytest.MonkeyPatch, limit: int, fetches: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_NOFILE: (limit, WITHOUT_END)}.__getitem__)
    assert open_files.fetches_now() == fetches


def test_what_fits_is_left_as_it_is() -> None:
    assert open_files.plan(CONFIG, 2, 1259) == Plan(1259, 999, 301)


@pytest.mark.parametrize(
    ("inbound", "outbound", "workers", "limit", "expected"),
    [
        # 800 - 96 - 100 leave 604, of which 151 are for mail going out.
        (10_000, 301, 2, 800, (906, 301)),
        # 256 - 96 - 32 leave 128: half of it each.
        (10_000, 500, 1, 256, (64, 64)),
        # Few clients leave more to the other side than half.
        (10, 5000, 1, 256, (10, 118)),
    ],
)
def test_what_does_not_fit_is_lowered_and_mail_going_out_is_served_first(
    inbound: int, outbound: int, workers: int, limit: int, expected: tuple[int, int]
) -> None:
    plan = open_files.plan(config(inbound, outbound), workers, limit)
    assert (plan.inbound, plan.outbound) == expected


def test_warning_names_what_is_lowered_and_the_mend() -> None:
    assert open_files.plan(config(10_000, 301), 2, 800).warning == (
        "each of 2 workers may have only 800 files open: limits.max_connections is 906 instead of 10000. Raise the "
        "limit to 5759 (ulimit -n, LimitNOFILE=) or lower the keys"
    )
    assert (
        "limits.max_connections is 64 instead of 10000 and delivery.max_connections is 64 instead of 500"
        in open_files.plan(config(10_000, 500), 1, 256).warning
    )


def test_too_few_to_work_at_all() -> None:
    with pytest.raises(PostroikaError) as caught:
        open_files.plan(CONFIG, 1, 100)
    assert str(caught.value) == (
        "only 100 files may be open, too few to work: raise the limit (ulimit -n, LimitNOFILE=)"
    )


@given(
    inbound=st.integers(1, 100_000),
    outbound=st.integers(1, 100_000),
    workers=st.integers(1, 64),
    limit=st.integers(160, 200_000),
    by_mx=st.booleans(),
)
def test_all_that_is_allowed_fits_at_once(inbound: int, outbound: int, workers: int, limit: int, by_mx: bool) -> None:
    asked = config(inbound, outbound)
    plan = open_files.plan(replace(asked, route=() if by_mx else SMARTHOST), workers, limit)
    shares = -(-plan.inbound // workers) + -(-plan.outbound // workers)
    assert shares + open_files.questions(limit) + (min(64, limit // 16) if by_mx else 0) + 96 <= limit
    assert 1 <= plan.inbound <= inbound
    assert 1 <= plan.outbound <= outbound
    assert bool(plan.warning) == ((plan.inbound, plan.outbound) != (inbound, outbound))


@pytest.mark.parametrize(("limit", "questions"), [(1, 1), (256, 32), (4096, 512), (1_000_000, 512)])
def test_questions_to_name_servers_are_bounded_too(limit: int, questions: int) -> None:
    assert open_files.questions(limit) == questions


@pytest.mark.parametrize(("soft", "questions"), [(1024, 128), (WITHOUT_END, 512)])
def test_questions_of_this_process(monkeypatch: pytest.MonkeyPatch, soft: int, questions: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_NOFILE: (soft, WITHOUT_END)}.__getitem__)
    assert open_files.questions_now() == questions


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ((1024, 4096), (1259, 4096), 999),
        ((1024, WITHOUT_END), (1259, WITHOUT_END), 999),
        ((1259, 4096), None, 999),
        ((2000, 4096), None, 999),
        ((WITHOUT_END, WITHOUT_END), None, 999),
        ((512, 800), (800, 800), 906),
    ],
)
def test_limit_is_raised_as_far_as_needed_and_allowed(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int] | None, allowed: int
) -> None:
    made: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_NOFILE: before}.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: made.append((kind, limits)))
    foreseen = open_files.foreseen(CONFIG, 2)
    assert made == []
    fitted, plan = open_files.fit(CONFIG, 2)
    assert made == ([] if after is None else [(resource.RLIMIT_NOFILE, after)])
    assert plan == foreseen
    assert fitted == config(allowed, 301)
