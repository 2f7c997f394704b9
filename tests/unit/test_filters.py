"""Which mail an operator means."""

from __future__ import annotations

import pytest

from postroika.control.filters import address_test, matcher, same_address
from postroika.control.records import Filter
from postroika.control.wire import Cancel
from postroika.mail.envelope import Batch, Envelope, Recipient

BATCH = Batch(
    Envelope(1, "News@Acme.Test", 1.0, 5, 1, tenant="acme", campaign="may"),
    0,
    "xn--bcher-kva.test",
    (Recipient("Anna@bücher.test"), Recipient("ben@xn--bcher-kva.test")),
    0,
    1,
)


@pytest.mark.parametrize(
    ("wanted", "address", "same"),
    [
        ("a@shop.test", "A@Shop.Test", True),
        ("<a@shop.test>", "a@shop.test", True),
        ("a@bücher.test", "a@xn--bcher-kva.test", True),
        ("a@shop.test", "b@shop.test", False),
        ("a@shop.test", "a@sub.shop.test", False),
        ("@shop.test", "b@SHOP.test", True),
        ("@shop.test", "b@sub.shop.test", False),
        ("@shop.test", "", False),
        ("<>", "", True),
        ("<>", "a@shop.test", False),
        ("postmaster", "Postmaster", True),
        ("@", "a@shop.test", False),
    ],
)
def test_addresses_are_compared_as_operators_mean_them(wanted: str, address: str, same: bool) -> None:
    assert address_test(wanted)(address) is same


def test_spellings_of_an_address_have_one_form() -> None:
    assert {same_address(a) for a in ("<A@Bücher.Test>", "a@BÜCHER.test", "a@xn--bcher-kva.test.")} == {
        "a@xn--bcher-kva.test"
    }


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        ({}, True),
        ({"tenant": "acme", "campaign": "may", "sender": "@acme.test"}, True),
        ({"tenant": "acme", "campaign": "june"}, False),
        ({"tenant": "ACME"}, False),
        ({"destination": "bücher.test"}, True),
        ({"destination": "test"}, False),
        ({"recipient": "anna@bücher.test"}, True),
        ({"recipient": "BEN@bücher.test"}, True),
        ({"recipient": "carl@bücher.test"}, False),
        ({"recipient": "@bücher.test", "sender": "<>"}, False),
    ],
)
def test_listing_and_cancelling_mean_the_same_mail(filters: dict[str, str], matches: bool) -> None:
    assert [matcher(kind(**filters))(BATCH) for kind in (Filter, Cancel)] == [matches, matches]  # type: ignore[operator]
