"""postroika.hooks: what a hooks.py is written with."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from postroika.hooks import Client, Envelope, Mail, Message, Recipient, Verdict, accept, defer, reject


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (accept(), Verdict(2)),
        (reject("no"), Verdict(5, "no", 0, "5.7.1")),
        (reject("no such user", code=550, enhanced="5.1.1"), Verdict(5, "no such user", 550, "5.1.1")),
        (defer("later"), Verdict(4, "later", 0, "4.7.1")),
        (defer("go away", code=421, enhanced="4.3.2"), Verdict(4, "go away", 421, "4.3.2")),
    ],
)
def test_verdicts(verdict: Verdict, expected: Verdict) -> None:
    assert verdict == expected


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (5.0, {}), (5, {"code": 550.0}), (5, {"code": True}), (5, {"text": b"no"}), (5, {"text": 7}),
        (3, {}), (0, {}), ("5", {}), (5, {"code": 450}), (4, {"code": 550}), (2, {"code": 354}), (5, {"code": 600}),
        (5, {"enhanced": "4.7.1"}), (5, {"enhanced": "5.7"}), (5, {"enhanced": "5.7.1\r\n250 Ok"}),
        (5, {"enhanced": "5.7.1\n"}), (4, {"enhanced": "4.7.1000"}), (5, {"code": "550\r\n"}),
    ],
)  # fmt: skip
def test_replies_that_there_are_not(kind: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Verdict(kind, **{"text": "x", **given})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no", "no"),
        ("no\r\n250 2.1.5 Ok", "no  250 2.1.5 Ok"),
        ("a\x00b\x1b[2Jc\x7fd\te", "a b [2Jc d e"),
        ("für \ud800 alle\u2028", "f?r ? alle?"),
        ("x" * 1000, "x" * 400),
    ],
)
def test_text_is_one_line_of_ascii(text: str, line: str) -> None:
    assert reject(text).line == line


@pytest.mark.parametrize(
    ("address", "domain"),
    [("a@b.example", "b.example"), ('"a@b"@c.example', "c.example"), ("", ""), ("postmaster", "")],
)
def test_domains(address: str, domain: str) -> None:
    assert (Mail(address).domain, Recipient(address).domain) == (domain, domain)


def test_facts_do_not_change() -> None:
    message = Message(Envelope(Mail(""), ()), b"", 0)
    for facts in (Client("192.0.2.1"), Mail(""), Recipient("a@b"), message.envelope, message, reject("x")):
        for field in dataclasses.fields(facts):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(facts, field.name, "other")


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        (b"Subject: hello\r\n you\r\n", "hello\r\n you"),
        (b"X: y\r\nsubject:x\r\n", "x"),
        (b"", None),
        (b"\xff\xfe no header at all\r\n\x00", None),
    ],
)
def test_header_can_be_read(header: bytes, subject: str | None) -> None:
    assert Message(Envelope(Mail(""), ()), header, 100).parsed()["Subject"] == subject
