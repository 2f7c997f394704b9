"""inbound.submission: what an account's header lacks, and what it may not say."""

from __future__ import annotations

import pytest

from postroika import config
from postroika.inbound.submission import (
    BAD_HEADER,
    FOREIGN,
    FOREIGN_FROM,
    ILL_FORMED,
    NO_FROM,
    TOO_LARGE,
    SubmissionHeader,
)
from postroika.mail.reply import Reply
from postroika.policy.accounts import Account
from tests.unit.smtp_dialogue import cuts

DATE = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
ID = b"Message-ID: <id@mx.test>\r\n"
FROM = b"From: ann@shop.example\r\n"
FOLDED = b"Subject: x\r\n Date: y\r\n\r\nDate: z\r\n"
FOLDED_FROM = b"From:\r\n Ann <Ann@\r\n\tShop.Example>\r\n\r\n"


def account(**settings: object) -> Account:
    return Account(config.Account(**{"name": "ann@shop.example", **settings}), 1)  # type: ignore[arg-type]


def passed(pieces: list[bytes], who: Account) -> bytes | Reply:
    header = SubmissionHeader(who, "id@mx.test", 1_700_000_000.0)
    stored = b"".join(header.feed(piece) for piece in pieces) + header.finish()
    return stored if header.refusal is None else header.refusal


def in_all_cuts(content: bytes, who: Account | None = None) -> bytes | Reply:
    who = who or account()
    whole = passed([content], who)
    for pieces in cuts(content):
        assert passed(pieces, who) == whole, pieces
    return whole


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (FROM + b"\r\nhello\r\n", DATE + ID + FROM + b"\r\nhello\r\n"),
        (FROM + DATE + b"\r\n\r\n\r\nx", ID + FROM + DATE + b"\r\n\r\n\r\nx"),
        (FROM + b"message-id:<x@y>\r\ndate : then\r\n\r\n", FROM + b"message-id:<x@y>\r\ndate : then\r\n\r\n"),
        (FROM, DATE + ID + FROM),
        (FROM + FOLDED, DATE + ID + FROM + FOLDED),
        (FOLDED_FROM, DATE + ID + FOLDED_FROM),
    ],
)
def test_what_is_missing_is_put_in_front(content: bytes, stored: bytes) -> None:
    assert in_all_cuts(content) == stored


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (b"", DATE + ID),
        (b"\r\nhello\r\n", DATE + ID + b"\r\nhello\r\n"),
        (b"hello\r\n", DATE + ID + b"\r\nhello\r\n"),
        (b"hello\r\n\r\nFrom: x\r\n", DATE + ID + b"\r\nhello\r\n\r\nFrom: x\r\n"),
        (b"From: anybody\r\n\r\n", DATE + ID + b"From: anybody\r\n\r\n"),
    ],
)
def test_account_that_may_be_anybody_needs_no_header(content: bytes, stored: bytes) -> None:
    assert in_all_cuts(content, account(from_addresses=("*",))) == stored


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        (b"From: bob@shop.example\r\n\r\n", FOREIGN_FROM),
        (b"From: ann@shop.example, bob@bank.example\r\n\r\n", FOREIGN_FROM),
        (b"From: bob@bank.example <ann@shop.example>\r\n\r\n", FOREIGN_FROM),
        (b"Subject: x\r\nnonsense\r\nFrom: bob@bank.example\r\n\r\n", FOREIGN_FROM),
        (b"FROM : bob@bank.example\r\n\r\n", FOREIGN_FROM),
        (b"From: bob@bank.example", FOREIGN_FROM),
        (FROM + b"from: bob@bank.example\r\n\r\n", NO_FROM),
        (FROM + FROM + b"\r\n", NO_FROM),
        (b"Subject: x\r\n\r\n" + FROM, NO_FROM),
        (b"\r\n" + FROM, NO_FROM),
        (b"", NO_FROM),
        (b"hello\r\n", NO_FROM),
        (b"From: \r\n\r\n", NO_FROM),
        (b"From: ann@shop.example\r\nnonsense\r\n , bob@bank.example\r\n\r\n", FOREIGN_FROM),
        (b"From: ann@shop.example\r\nX: y\r\n , bob@bank.example\r\nFROM\t:\r\n\r\n", NO_FROM),
        (b"From: undisclosed:;\r\n\r\n", NO_FROM),
        (b"From: <ann@shop.example\r\n\r\n", NO_FROM),
        (b"From: Shop, Inc. <ann@shop.example>\r\n\r\n", NO_FROM),
        (b"From: Sorry :( <ann@shop.example>\r\n\r\n", NO_FROM),
        (b'From: 5" screens <ann@shop.example>\r\n\r\n', NO_FROM),
        (FROM + b"X: a\nFrom: bob@bank.example\r\n\r\n", BAD_HEADER),
        (FROM + b"X: a\rFrom: bob@bank.example\r\n\r\n", BAD_HEADER),
    ],
)
def test_what_the_account_may_not_say(content: bytes, refusal: Reply) -> None:
    assert in_all_cuts(content) == refusal


SENDER, RESENT_FROM, RESENT_SENDER = b"sender", b"resent-from", b"resent-sender"


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        (b"Sender: bob@bank.example", FOREIGN[SENDER]),
        (b"SENDER : Ann <ann@shop.example> (x), bob@bank.example", FOREIGN[SENDER]),
        (b"Sender:\r\n bob@bank.example <ann@shop.example>", FOREIGN[SENDER]),
        (b"Resent-From: bob@bank.example", FOREIGN[RESENT_FROM]),
        (b"Resent-From: ann@shop.example\r\nResent-From: bob@bank.example", FOREIGN[RESENT_FROM]),
        (b"resent-sender\t: bob@bank.example", FOREIGN[RESENT_SENDER]),
        (b"Sender: ann@shop.example\r\nSender: ann@shop.example", ILL_FORMED[SENDER]),
        (b"Sender:", ILL_FORMED[SENDER]),
        (b"Sender: <ann@shop.example", ILL_FORMED[SENDER]),
        (b"Resent-From: nobody:;", ILL_FORMED[RESENT_FROM]),
        (b'Resent-Sender: 5" screens <ann@shop.example>', ILL_FORMED[RESENT_SENDER]),
    ],
)
def test_who_sends_it_is_the_account_too(fields: bytes, refusal: Reply) -> None:
    assert in_all_cuts(FROM + fields + b"\r\n\r\nx") == refusal
    assert in_all_cuts(fields + b"\r\n" + FROM) == refusal
    anybody = account(from_addresses=("*",))
    assert isinstance(passed([FROM + fields + b"\r\n\r\nx"], anybody), bytes)


@pytest.mark.parametrize(
    "fields",
    [
        b"Sender: Ann <ANN@Shop.Example>",
        b"Sender: bounces@lists.example",
        b"Resent-From: ann@shop.example\r\nResent-To: bob@bank.example\r\nResent-From: ann@shop.example",
        b"Resent-Sender: bounces@lists.example\r\nSender: ann@shop.example",
        b"X-Sender: bob@bank.example\r\nSubject: x\r\n Sender: bob@bank.example\r\nReply-To: bob@bank.example",
        b"Subject: x\r\n\r\nSender: bob@bank.example",
    ],
)
def test_sender_may_be_what_the_account_may_use_as_reverse_path_or_in_from(fields: bytes) -> None:
    who = account(senders=("bounces@lists.example",), from_addresses=("ann@shop.example",))
    content = FROM + fields + b"\r\n\r\nx"
    assert in_all_cuts(content, who) == DATE + ID + content


@pytest.mark.parametrize("name", [SENDER, RESENT_FROM, RESENT_SENDER])
def test_who_resends_a_message_does_not_take_long_to_read(name: bytes) -> None:
    long = name + b": ann@shop.example" + b",\r\n ann@shop.example" * 1000 + b"\r\n"
    assert passed([FROM + long + b"\r\n"], account()) == ILL_FORMED[name]
    many = (name + b": ann@shop.example\r\n") * 100_000
    assert passed([FROM + many + b"\r\n"], account()) == ILL_FORMED[name]


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("@shop.example", "bob@Shop.Example", "bob@mail.shop.example"),
        ("@.shop.example", "bob@mail.shop.example", "bob@shop.example"),
        ("Bob@Shop.Example", "bob@shop.example", "ann@shop.example"),
        ("@bücher.example", "bob@xn--bcher-kva.example", "bob@bucher.example"),
    ],
)
def test_patterns_of_addresses(pattern: str, allowed: str, refused: str) -> None:
    who = account(senders=(pattern,))
    assert allowed in who.senders
    assert refused not in who.senders
    assert in_all_cuts(f"From: {refused}\r\n\r\n".encode(), who) == FOREIGN_FROM
    assert isinstance(in_all_cuts(f"From: {allowed}\r\n\r\n".encode(), who), bytes)


def test_message_that_is_too_large_for_the_account() -> None:
    who = account(max_message_bytes=100)
    assert isinstance(in_all_cuts(FROM + b"\r\n" + b"x" * (100 - len(FROM) - 2), who), bytes)
    assert in_all_cuts(FROM + b"\r\n" + b"x" * (101 - len(FROM) - 2), who) == TOO_LARGE


@pytest.mark.parametrize("more", [b",\r\n ann@shop.example", b" (x)", b"\r\n\t", b"\r\nnonsense"])
def test_author_field_that_would_take_long_to_read_is_refused(more: bytes) -> None:
    authors = FROM.removesuffix(b"\r\n") + more * (16 * 1024 // len(more))
    assert passed([authors + b"\r\n\r\n"], account()) == NO_FROM
    assert (
        passed([FROM + b"X: y" + more.replace(b"\r\nnon", b"\r\n non") * 100_000 + b"\r\n\r\n"], account()) != NO_FROM
    )


def test_header_without_end_is_not_kept() -> None:
    header = SubmissionHeader(account(), "id@mx.test", 0.0)
    for _ in range(100):
        header.feed(b"X: y\r\n" * 10_000)
    assert header.refusal is not None
    assert header.refusal.code == 552
