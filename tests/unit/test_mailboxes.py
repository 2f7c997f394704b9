"""mail.mailboxes: every address that a reader could see in From, or none at all."""

from __future__ import annotations

import pytest

from postroika.mail.mailboxes import mailboxes


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("a@b", ["a@b"]),
        ("<a@b>", ["a@b"]),
        ("Ann <a@b>", ["a@b"]),
        ("Ann Other <a@b.example>, Bob <c@d>", ["a@b.example", "c@d"]),
        ('"Other, Ann" <a@b>', ["a@b"]),
        ('"x@y" <a@b>', ["a@b"]),
        ('"a \\" <x@y>" <a@b>', ["a@b"]),
        ("(x@y) a@b (<x@y>, x@y)", ["a@b"]),
        ("(a (nested) \\) comment) a@b", ["a@b"]),
        ("Ann (x) <a@(y)b>", ["a@b"]),
        ("a . c @ b . d", ["a.c@b.d"]),
        ("< a@b >", ["a@b"]),
        ('"a b"@c', ['"a b"@c']),
        ('<"a@x"@c>', ['"a@x"@c']),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"]),
        ("Team: Ann <a@b>, c@d;", ["a@b", "c@d"]),
        ("undisclosed-recipients:;", []),
        ("", []),
        (" , a@b,,", ["a@b"]),
        ("=?utf-8?q?J=C3=BCrgen?= <a@b>", ["a@b"]),
        ("Jürgen <jürgen@bücher.example>", ["jürgen@bücher.example"]),
        ("x@y <a@b>", ["a@b", "x@y"]),
        ("Mail x@y <a@b>", ["a@b", "x@y"]),
    ],
)
def test_all_addresses_are_found(value: str, addresses: list[str]) -> None:
    assert mailboxes(value) == addresses


@pytest.mark.parametrize(
    "value",
    [
        "a", "a@", "@b", "<>", "<a>", "<a@b", "a@b>", "<<a@b>>", "<a@b><c@d>", "<a@b> <c@d>", "<a@b> c@d", "<a@b> x",
        "<@r:a@b>", "<a@b,c@d>", "a b@c", "Ann a@b", "a@b c@d", "a@b@c", '"a', "(a", "a@b (", "a\\@b", "a@b;",
        "g: a@b", "g: h: a@b;", "<a@b>: c@d;", "a@[1", "a@b\\", '"\\', 'x"y"@b', "a\x07@b", "a\n@b",
    ],
)  # fmt: skip
def test_what_readers_could_read_differently_has_no_answer(value: str) -> None:
    assert mailboxes(value) is None
