"""policy.limits and policy.lockout: pure, so time is a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.policy.limits import Rate, Rates
from postroika.policy.lockout import Failure, Lockout

MINUTE = Rate(6, 60.0)


def test_all_at_once_then_evenly() -> None:
    rates = Rates()
    assert [rates.take("a", [MINUTE], 0.0) for _ in range(6)] == [0.0] * 6
    assert rates.take("a", [MINUTE], 0.0) == pytest.approx(10.0)
    assert rates.take("a", [MINUTE], 9.9) == pytest.approx(0.1)
    assert rates.take("a", [MINUTE], 10.0) == 0.0
    assert rates.take("a", [MINUTE], 10.0) == pytest.approx(10.0)
    assert [rates.take("a", [MINUTE], 100.0) for _ in range(7)] == [0.0] * 6 + [pytest.approx(10.0)]


def test_keys_do_not_share() -> None:
    rates = Rates()
    for _ in range(6):
        rates.take("a", [MINUTE], 0.0)
    assert rates.take("a", [MINUTE], 0.0) > 0
    assert rates.take("b", [MINUTE], 0.0) == 0.0


def test_what_one_rate_refuses_is_not_taken_from_others() -> None:
    rates, both = Rates(), [Rate(2, 60.0), Rate(3, 3600.0)]
    assert [rates.take("a", both, 0.0) for _ in range(4)] == [0.0, 0.0, pytest.approx(30.0), pytest.approx(30.0)]
    assert rates.take("a", both, 30.0) == 0.0
    assert rates.take("a", both, 100.0) == pytest.approx(1100.0)


def test_several_at_once() -> None:
    rates = Rates()
    assert rates.take("a", [MINUTE], 0.0, 4) == 0.0
    assert rates.take("a", [MINUTE], 0.0, 3) == pytest.approx(10.0)
    assert rates.take("a", [MINUTE], 0.0, 2) == 0.0
    assert rates.take("a", [MINUTE], 0.0, 7) == math.inf


def test_no_rate_is_no_limit() -> None:
    rates = Rates()
    assert {rates.take("a", [], 0.0) for _ in range(1000)} == {0.0}
    assert len(rates) == 0


@given(st.integers(1, 1000), st.floats(1, 86_400), st.lists(st.floats(0, 50), max_size=200))
def test_never_more_than_the_rate_allows(count: int, period_s: float, pauses: list[float]) -> None:
    rates, rate, now = Rates(), Rate(count, period_s), 0.0
    taken = 0
    for pause in pauses:
        now += pause
        taken += not rates.take("a", [rate], now)
    assert taken <= count + now * count / period_s * (1 + 1e-6) + 1e-6


def test_memory_is_bounded() -> None:
    rates = Rates(max_keys=10)
    for key in range(1000):
        assert rates.take(key, [MINUTE], key / 100) == 0.0
        assert len(rates) <= 10
    # Those that are whole again go first.
    rates.take("old", [MINUTE], 2000.0)
    assert len(rates) == 1


def test_rates_of_several_keys_are_taken_together_or_not_at_all() -> None:
    rates, one, all_of_them = Rates(), Rate(2, 60.0), Rate(3, 60.0)

    def take(key: str) -> float:
        return rates.take_all([(key, one), ("all", all_of_them)], 0.0)

    assert [take("a"), take("a"), take("a")] == [0.0, 0.0, pytest.approx(30.0)]
    assert [take("b"), take("b")] == [0.0, pytest.approx(20.0)]
    assert rates.take("b", [one], 0.0) == 0.0  # the second was not counted


def test_a_table_full_of_keys_in_use_forgets_the_oldest() -> None:
    rates = Rates(max_keys=100)
    for key in range(10_000):
        assert rates.take(key, [MINUTE], 0.0) == 0.0
        assert len(rates) <= 100
    assert [rates.take(9_999, [MINUTE], 0.0) for _ in range(6)] == [0.0] * 5 + [pytest.approx(10.0)]


# ---- lock-out

IP, NAME = "192.0.2.7", "ann@shop.example"


def lockout(**settings: float) -> Lockout:
    return Lockout(**{"per_ip": 4, "per_account": 6, "period_s": 100.0, **settings})  # type: ignore[arg-type]


def test_address_is_locked_out_and_let_in_again() -> None:
    guard = lockout()
    told = [guard.failed(IP, f"name{i}", 10.0) for i in range(4)]
    assert told == [Failure(1.0, False), Failure(2.0, False), Failure(4.0, False), Failure(8.0, True)]
    assert guard.locks_out(IP, "anybody", 109.0)
    assert not guard.locks_out("192.0.2.8", "anybody", 109.0)
    assert not guard.locks_out(IP, "anybody", 110.0)
    assert guard.failed(IP, "name", 110.0) == Failure(1.0, False)


def test_account_is_locked_and_let_in_again() -> None:
    guard = lockout()
    locks = [guard.failed(f"192.0.2.{i}", NAME, 0.0).locks for i in range(6)]
    assert locks == [False] * 5 + [True]
    assert guard.locks_out("198.51.100.1", NAME, 99.0)
    assert not guard.locks_out("198.51.100.1", "other", 99.0)
    assert not guard.locks_out("198.51.100.1", NAME, 100.0)
    assert not guard.failed("192.0.2.9", NAME, 100.0).locks


def test_failures_of_an_account_fade_evenly() -> None:
    guard = lockout()
    locks = [guard.failed(f"192.0.2.{i}", NAME, 100.0 / 6 * i).locks for i in range(100)]
    assert locks == [False] * 100
    assert [guard.failed(f"198.51.100.{i}", NAME, 1700.0).locks for i in range(6)] == [False] * 5 + [True]
    fast = [guard.failed(f"192.0.2.{i}", "other", 0.1 * i).locks for i in range(7)]
    assert fast == [False] * 5 + [True, False]


def test_every_name_can_be_locked_where_one_failure_is_too_many() -> None:
    guard = lockout(per_account=1)
    assert guard.failed(IP, NAME, 7.0).locks
    assert [guard.locks_out("198.51.100.1", NAME, at) for at in (7.0, 106.9, 107.0)] == [True, True, False]


def test_who_has_logged_in_from_there_is_not_locked_out_by_others() -> None:
    guard = lockout()
    guard.succeeded(IP, NAME)
    for i in range(6):
        guard.failed(f"198.51.100.{i}", NAME, 0.0)
        guard.failed(IP, f"neighbour{i}", 0.0)
    assert not guard.locks_out(IP, NAME, 1.0)
    assert guard.locks_out(IP, "neighbour0", 1.0)
    assert guard.locks_out("203.0.113.1", NAME, 1.0)
    guard.failed(IP, NAME, 1.0)
    assert guard.locks_out(IP, NAME, 1.0)


def test_own_success_buys_no_guesses_at_others() -> None:
    guard = lockout()
    for i in range(4):
        guard.failed(IP, NAME, 0.0)
        guard.succeeded(IP, "mallory")
        assert guard.locks_out(IP, NAME, 0.0) == (i == 3)


def test_ipv6_network_counts_as_one() -> None:
    guard = lockout()
    for i in range(4):
        guard.failed(f"2001:db8:0:1::{i:x}", f"name{i}", 0.0)
    assert guard.locks_out("2001:db8:0:1:ffff::1", "anybody", 1.0)
    assert not guard.locks_out("2001:db8:0:2::1", "anybody", 1.0)


def test_delay_does_not_grow_for_ever() -> None:
    guard = lockout(per_ip=1000)
    delays = [guard.failed(IP, "", 0.0).delay for _ in range(2000)]
    assert delays == [1.0, 2.0, 4.0, 8.0] + [16.0] * 1996


def test_made_up_names_and_addresses_push_no_account_out() -> None:
    guard = lockout(max_entries=50)
    for i in range(6):
        guard.failed(f"192.0.2.{i}", NAME, 0.0)
    for i in range(1000):
        guard.failed(f"10.0.{i // 250}.{i % 250}", f"made-up-{i}", 0.0)
        guard.succeeded(f"10.1.{i // 250}.{i % 250}", "mallory")
    assert guard.locks_out("198.51.100.1", NAME, 1.0)
    assert len(guard) <= 2 * 50


def test_made_up_names_push_none_out_and_lock_none() -> None:
    """Or who looks at a name after that would see whether an account has it."""
    guard = lockout(max_entries=50)
    for i in range(6):
        guard.failed(f"192.0.2.{i}", NAME, 0.0)
    for i in range(20_000):
        guard.failed(f"10.0.{i // 250}.{i % 250}", f"made-up-{i}", 0.0)
    assert guard.locks_out("198.51.100.1", NAME, 1.0)
    assert not any(guard.locks_out("198.51.100.1", f"made-up-{i}", 1.0) for i in range(20_000))
