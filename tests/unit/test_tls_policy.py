"""What a policy allows, and what it is told from others by."""

from __future__ import annotations

import pytest

from postroika.tls.policy import OPPORTUNISTIC, HostPolicy, Level, PolicySource, Rung
from postroika.tls.tlsa import Dane, Tlsa

DANE = Dane("mx.y.test", (Tlsa(3, 1, 1, bytes(32)),), (), "digest")
SOURCE = PolicySource("tlsa", "y.test", ("3 1 1 00",), (), enforced=True)


@pytest.mark.parametrize(
    ("level", "rungs", "implicit"),
    [
        (Level.NONE, (Rung.CLEAR,), (Rung.UNVERIFIED,)),
        (Level.OPPORTUNISTIC, (Rung.VERIFIED, Rung.UNVERIFIED, Rung.CLEAR), (Rung.VERIFIED, Rung.UNVERIFIED)),
        (Level.REQUIRED, (Rung.VERIFIED, Rung.UNVERIFIED), (Rung.VERIFIED, Rung.UNVERIFIED)),
        (Level.VERIFY, (Rung.VERIFIED,), (Rung.VERIFIED,)),
    ],
)
def test_nothing_in_clear_and_nobody_unverified_where_it_is_forbidden(
    level: Level, rungs: tuple[Rung, ...], implicit: tuple[Rung, ...]
) -> None:
    assert HostPolicy(level).rungs == rungs
    assert HostPolicy(level, implicit=True).rungs == implicit


def test_words_tell_what_asks_for_different_things_apart() -> None:
    policies = [
        *(HostPolicy(level) for level in Level),
        HostPolicy(implicit=True),
        HostPolicy(published=True),
        HostPolicy(certificate="/a"),
        HostPolicy(certificate="/b"),
        HostPolicy(Level.VERIFY, published=True),
        HostPolicy(Level.VERIFY, published=True, dane=DANE),
        HostPolicy(Level.VERIFY, published=True, dane=DANE._replace(digest="other")),
        HostPolicy(published=True, refused="why"),
    ]
    assert len({policy.words for policy in policies}) == len(policies)
    assert OPPORTUNISTIC.words == HostPolicy(name_trusted=True).words == ""


def test_requiretls_and_its_contrary() -> None:
    published = HostPolicy(Level.REQUIRED, published=True, name_trusted=True)
    assert published.stricter() == HostPolicy(Level.VERIFY, name_trusted=True)
    assert published.waived() == HostPolicy(name_trusted=True)
    assert published._replace(own=Level.REQUIRED, demand="who").waived() == HostPolicy(
        Level.REQUIRED, name_trusted=True
    )
    dane = HostPolicy(Level.VERIFY, certificate="/a", published=True, dane=DANE, demand="who", source=SOURCE)
    assert dane.waived() == HostPolicy(certificate="/a")
    assert (dane.stricter().dane, dane.stricter().waived()) == (DANE, dane.stricter())
    refused = HostPolicy(published=True, refused="why", source=SOURCE)
    assert refused.waived() == HostPolicy()
    assert refused.stricter().waived().refused == "why"
    ours = HostPolicy(Level.VERIFY)
    assert ours.waived() is ours
