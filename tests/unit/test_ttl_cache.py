"""The bounded map whose entries expire."""

from __future__ import annotations

from postroika.routing.cache import TtlCache


def test_entry_expires_at_its_time() -> None:
    cache: TtlCache[str, int] = TtlCache(10)
    cache.put("a", 1, now=0.0, expires_at=5.0)
    assert cache.get("a", 4.9) == 1
    assert cache.get("a", 5.0) is None
    assert len(cache) == 0


def test_what_has_expired_is_not_kept_and_drops_the_old() -> None:
    cache: TtlCache[str, int] = TtlCache(10)
    cache.put("a", 1, now=0.0, expires_at=5.0)
    cache.put("a", 2, now=1.0, expires_at=1.0)
    assert cache.get("a", 2.0) is None


def test_least_recently_used_goes_first() -> None:
    cache: TtlCache[str, int] = TtlCache(2)
    cache.put("a", 1, 0.0, 9.0)
    cache.put("b", 2, 0.0, 9.0)
    cache.get("a", 1.0)
    cache.put("c", 3, 1.0, 9.0)
    assert [cache.get(key, 2.0) for key in "abc"] == [1, None, 3]


def test_what_is_not_wanted_any_more_is_dropped() -> None:
    cache: TtlCache[str, int] = TtlCache(10)
    for key, value in (("a", 1), ("b", 2), ("c", 3)):
        cache.put(key, value, 0.0, 9.0)
    cache.drop(lambda value: value % 2 == 1)
    assert [cache.get(key, 1.0) for key in "abc"] == [None, 2, None]
    cache.clear()
    assert len(cache) == 0
