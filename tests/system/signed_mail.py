"""Mail of all kinds, to be signed: real-looking, made of one seed, and as odd as may pass."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator

_WORDS = [
    "order",
    "parcel",
    "Grüße",
    "invoice",
    "your",
    "the",
    "of",
    "and",
    "new",
    "season",
    "café",
    "sale",
    "now",
    "until",
    "Friday",
    "receipt",
    "thank",
    "you",
    "—",
    "for",
    "https://shop.test/a?b=c&d=e",
    "12.50",
    "EUR",
    "..dots",
    "=3D",
    "equals",
    "From",
    "the",
]
_FROM = (
    "news@shop.test",
    "<news@shop.test>",
    "Shop <news@shop.test>",
    '"Shop, Inc. <not@this.test>" <news@shop.test>',
    "=?utf-8?q?Gr=C3=BC=C3=9Fe?= <news@shop.test>",
    "Grüße <news@shop.test>",
    "Shop\r\n <news@shop.test>",
    "\t  Shop  of   many\t blanks \r\n\t <news@SHOP.Test> ",
    "news@shop.test (the (nested) shop)",
    "news@shop.test, other@else.test",
)
_OPTIONAL = (
    "Reply-To: help@shop.test",
    "CC: c@y.test, \r\n\td@y.test",
    "mime-version: 1.0",
    "Content-Type: text/plain; charset=utf-8;\r\n format=flowed",
    "Content-Transfer-Encoding: 8bit",
    "List-Unsubscribe: <https://shop.test/u/1>,\r\n   <mailto:u@shop.test>",
    "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    "List-Id: The list <l.shop.test>",
    "X-Empty:",
    "X-Blank:   \t ",
    "X-Folded:\r\n\tall of it\r\n on\r\n\t\tnext lines",
    "In-Reply-To: <a@b>\r\n (and a comment)",
    "References: <a@b>\r\n\t<c@d>\r\n\t<e@f>",
    "Sender: robot@shop.test",
    "Received: from a by b; Sun, 22 Nov 2026 01:02:03 +0000",
    "X-Long: " + "long " * 150,
    "Comments: once",
    "Comments: twice",
    "To: another@y.test",
    "Feedback-ID: 1:2:3:shop",
)


def messages(count: int, seed: int = 1) -> Iterator[bytes]:
    """So many, with CRLF; each ends with CRLF as mail by DATA does."""
    rng = random.Random(seed)
    for number in range(count):
        body = _BODIES[number % len(_BODIES)](rng)
        yield _header(rng, number) + b"\r\n" + (body if not body or body.endswith(b"\r\n") else body + b"\r\n")


def large_message(size_bytes: int) -> bytes:
    """One of that size, with lines that the canonical form shortens."""
    line = b"A line of  a large \t message with trailing blanks \t \r\n"
    body = line * (size_bytes // len(line)) + b"\r\n" * 100
    return b"From: news@shop.test\r\nTo: a@y.test\r\nSubject: large\r\n\r\n" + body


def _header(rng: random.Random, number: int) -> bytes:
    fields = [
        f"From: {_FROM[number % len(_FROM)]}",
        f"To: r{number}@y.test" + ",\r\n   more@y.test" * rng.randint(0, 20),
        f"Subject: {' ' * rng.randint(0, 3)}{_text(rng, 8)}"
        + rng.choice(["", " ", "\t", "\r\n ", "\r\n\tfolded"])
        + "x",
        "Date: Sun, 22 Nov 2026 01:02:03 +0000",
        f"Message-ID: <{number}@shop.test>",
        *rng.sample(_OPTIONAL, rng.randint(0, len(_OPTIONAL))),
    ]
    rng.shuffle(fields)
    return "".join(field + "\r\n" for field in fields).encode()


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))


def _prose(rng: random.Random) -> bytes:
    return "".join(_text(rng, rng.randint(0, 14)) + "\r\n" for _ in range(rng.randint(1, 60))).encode()


def _blanks(rng: random.Random) -> bytes:
    pieces = ["a", "word", " ", "\t", "  ", " \t ", "\r\n", "\r\n\r\n", " \r\n", "\t\r\n"]
    return "".join(rng.choices(pieces, k=rng.randint(1, 200))).encode()


def _trailing(rng: random.Random) -> bytes:
    return _prose(rng) + b"".join(rng.choices([b"\r\n", b" \r\n", b"\t \r\n"], k=rng.randint(1, 40)))


def _empty(rng: random.Random) -> bytes:
    return rng.choice([b"", b"\r\n", b"\r\n" * 7, b" \r\n", b"\t\r\n \r\n"])


def _octets(rng: random.Random) -> bytes:
    octets = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    return b"".join(bytes(rng.choices(octets, k=rng.randint(0, 200))) + b"\r\n" for _ in range(rng.randint(1, 30)))


def _dots(rng: random.Random) -> bytes:
    return b"".join(rng.choices([b".\r\n", b"..\r\n", b". \r\n", b".a\r\n", b"a.\r\n"], k=rng.randint(1, 50)))


def _encoded(rng: random.Random) -> bytes:
    return base64.encodebytes(rng.randbytes(rng.randint(0, 60_000))).replace(b"\n", b"\r\n")


def _long_lines(rng: random.Random) -> bytes:
    return b"".join(b"x " * rng.randint(1, 498) + b"\r\n" for _ in range(rng.randint(1, 90)))


_BODIES = (_prose, _blanks, _trailing, _empty, _octets, _dots, _encoded, _long_lines)
