"""Whose mail the signer signs, and what of its header: odd From fields, many fields of one name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postroika.errors import SigningError
from tests.component.signing_world import World, sent_by


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.signer.close()


@pytest.mark.parametrize(
    ("sender", "header"),
    [
        ("bounce@other.test", b"From: Shop, Inc. <news@shop.test>\r\n"),
        ("bounce@other.test", b"From: " + b"A" * 8200 + b" <news@shop.test>\r\n"),
        ("", b'From: 5" screens <news@shop.test>\r\n'),
        ("bounce@Shop.Test", b"From: Shop, Inc.\r\n"),
        ("bounce@shop.test", b"Subject: no author\r\n"),
        # Well formed, and not as it is meant.
        ("bounce@other.test", b"From: Sale @ Shop, Inc. <news@shop.test>\r\n"),
        ("bounce@other.test", b"From: Deals @ other.test, Inc. <news@shop.test>\r\n"),
        # More than one author.
        ("bounce@other.test", b"From: a@other.test, news@shop.test\r\n"),
        ("bounce@other.test", b"From: friends: a@other.test, news@shop.test;\r\n"),
        ("bounce@other.test", b"From: a@other.test\r\nFrom: news@shop.test\r\n"),
        ("bounce@other.test", b"From: nobody\r\nFrom: news@shop.test\r\n"),
        ("bounce@other.test", b"From: a@other.test\r\n" * 20 + b"From: news@shop.test\r\n"),
    ],
)
async def test_mail_is_signed_though_its_from_is_not_well_formed(world: World, sender: str, header: bytes) -> None:
    content = header + b"\r\nx\r\n"
    fields = await world.signed(sent_by(sender, content))
    assert world.verdicts(fields + content) == [True, True]


async def test_name_that_looks_like_an_address_makes_no_signature(world: World) -> None:
    """It would be of one who is no author."""
    content = b"From: news@shop.test via Other <a@other.test>\r\n\r\nx\r\n"
    assert await world.signed(sent_by("bounce@other.test", content)) == b""


async def test_broken_key_of_one_of_the_authors_defers(world: World) -> None:
    world.files["r1"].unlink()
    await world.signer.reload()
    with pytest.raises(SigningError, match="cannot be used"):
        await world.signed(sent_by("", b"From: a@other.test, news@shop.test\r\n\r\nx\r\n"))


@pytest.mark.parametrize("name", [b"From", b"To", b"Subject", b"List-Unsubscribe"])
async def test_many_fields_of_a_name_are_all_signed_and_none_can_be_added(world: World, name: bytes) -> None:
    """Readers show the topmost as a rule."""
    content = b"From: news@shop.test\r\n" + b"".join(b"%s: %d@shop.test\r\n" % (name, i) for i in range(40)) + b"\r\nx"
    fields = await world.signed(sent_by("", content))
    assert world.verdicts(fields + content) == [True, True]
    assert world.verdicts(fields + name + b": added@shop.test\r\n" + content) == [False, False]
    assert world.verdicts(fields + content.replace(name + b": 0@", name + b": changed@")) == [False, False]


async def test_too_many_fields_of_a_name_are_not_sent_with_less_than_all_of_them_signed(world: World) -> None:
    content = b"From: news@shop.test\r\n" + b"To: a@y.test\r\n" * 65 + b"\r\nx\r\n"
    with pytest.raises(SigningError, match=r"^its header has more than 64 fields To$"):
        await world.signed(sent_by("", content))


async def test_what_names_no_domain_at_all_is_not_sent(world: World) -> None:
    with pytest.raises(SigningError, match=r"^neither From nor the reverse-path names a domain$"):
        await world.signed(sent_by("", b"From: Shop, Inc.\r\n\r\nx\r\n"))
