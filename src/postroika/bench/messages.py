"""The messages that the load generator sends, and how the sink knows them again.

Promise: a message is exactly as long as asked for, is ordinary mail in every other way (header, lines below 998 octets,
some that begin with a dot), and bears marks by which a message that was lost, doubled or damaged on the way is told:

    X-Bench-Id: <run>.<number>    run: 8 hex digits; number: decimal with leading zeros, dense from 0
    X-Bench-Sent: <nanoseconds>   CLOCK_MONOTONIC, 20 digits: when MAIL was sent, or should have been (open loop)
    X-Bench-Sum: <CRC-32>         8 hex digits, of the octets after the empty line, before dot-stuffing

and in each recipient's local part its index in the message: r0@…, r1@….

How: the marks and Message-ID stand at the head of the content and have a fixed width, so that a message is a template
in which a few digits are patched; all that follows, and its sum, is the same for all messages of one size.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from postroika.errors import PostroikaError
from postroika.kernels.stuff import Stuffer

NUMBER_DIGITS = 10
SENT_DIGITS = 20
MAX_MESSAGES: int = 10**NUMBER_DIGITS
_MAX_WEIGHTS = 10_000
_MAX_SIZE_BYTES = 1 << 30

_MARK = re.compile(
    rb"X-Bench-Id: ([0-9a-f]{8})\.([0-9]{1,10})\r?\nX-Bench-Sent: ([0-9]{20})\r?\nX-Bench-Sum: ([0-9a-f]{8})\r?\n"
)
_RECIPIENT = re.compile(r"r([0-9]{1,9})@")
_SIZE = re.compile(r"(\d{1,10})([kKmM]?)(?::(\d{1,6}))?")
_FACTORS = {"": 1, "k": 1024, "m": 1024 * 1024}
_LINE_END = re.compile(rb"\r?\n")

# Prose, markup, an encoded part, lines that begin with dots, short and empty lines: what relays have to deal with.
_TEXT = (
    b"Dear reader, the parcel that you ordered has left our house this morning.\r\n"
    b"\r\n"
    b".. and if it does not arrive within three days, please tell us:\r\n"
    b'  <a href="https://shop.test/track?parcel=4711&amp;lang=en">where it is</a>\r\n'
    b"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcms7IG1hbnkgc2lzdGVycyBtYWtlIGEgaG91c2UgZnVsbC4K\r\n"
    b".\r\n"
    b"> On Monday somebody wrote that the mail coach with three horses was late again,\r\n"
    b"> and nobody could say why, for the letters were all there.\r\n"
    b"From the road between the two towns, with kind regards and many thanks =3D 100 %\r\n"
    b"-- \r\n"
    b".signature\r\n"
)


class Mark(NamedTuple):
    """What a message says of itself."""

    run: int
    number: int
    sent_ns: int
    sum: int


def parse_mark(head: bytes | bytearray) -> Mark | None:
    """The marks in the header of a message; None when it has none, as other people's mail and bounces.

    Args:
        head: the content from its beginning, cut anywhere after the header.
    """
    start = head.find(b"X-Bench-Id: ")
    if start < 0 or (start > 0 and head[start - 1] != 0x0A) or head.find(b"\r\n\r\n", 0, start) >= 0:
        return None
    found = _MARK.match(head, start)
    if found is None:
        return None
    run, number, sent_ns, checksum = found.groups()
    return Mark(int(run, 16), int(number), int(sent_ns), int(checksum, 16))


def recipient_index(address: str) -> int | None:
    """Which recipient of its message this is, from 0; None when the load generator did not make the address."""
    found = _RECIPIENT.match(address)
    return int(found[1]) if found is not None else None


class Template(NamedTuple):
    """All messages of one size.

    `head` has zeros where the number (`number_at`, and in Message-ID `message_id_at`) and the time (`sent_at`) are to
    be patched in, in digits with leading zeros. `rest` follows it, as it goes over the wire: with dots stuffed for
    DATA, as it is for BDAT. `content_bytes` is the size of both without stuffing.
    """

    head: bytes
    number_at: int
    sent_at: int
    message_id_at: int
    rest: bytes
    content_bytes: int


def make_template(run: int, content: bytes, *, stuffed: bool) -> Template:
    """The template of messages that have the marks and then `content`.

    Args:
        run: 0 to 2**32 - 1.
        content: more header fields, an empty line, a body; the last line has its end.
        stuffed: for DATA.
    """
    body = content[_body_at(content) :]
    number = f"{run:08x}." + "0" * NUMBER_DIGITS
    head = f"X-Bench-Id: {number}\r\nX-Bench-Sent: {'0' * SENT_DIGITS}\r\nX-Bench-Sum: {zlib.crc32(body):08x}\r\n"
    head += f"Message-ID: <{number}@load.test>\r\n"
    return Template(
        head=head.encode(),
        number_at=head.index(number) + 9,
        sent_at=head.index("Sent: ") + 6,
        message_id_at=head.rindex(number) + 9,
        rest=Stuffer().feed(content) if stuffed else content,
        content_bytes=len(head) + len(content),
    )


def render(template: Template, number: int, sent_ns: int) -> bytes:
    """One message as it goes over the wire, without what ends it. The kernel does the same."""
    head = bytearray(template.head)
    digits = f"{number:0{NUMBER_DIGITS}}".encode()
    for at in (template.number_at, template.message_id_at):
        head[at : at + NUMBER_DIGITS] = digits
    head[template.sent_at : template.sent_at + SENT_DIGITS] = f"{sent_ns:0{SENT_DIGITS}}".encode()
    return bytes(head) + template.rest


def templates(size: str, *, run: int, sender: str, date: str, stuffed: bool) -> tuple[list[Template], list[int]]:
    """The templates for a size, and in which order they are to be used: message n is of template order[n % len(order)].

    Args:
        size: octets, as "4096", "100k" or "1m"; sizes with weights, as "4k:70,100k:25,1m:5"; or "file:PATH": a message
            of that content, below the marks. Sizes come in their shares, evenly mixed.
        date: of the Date field, the same for all.

    Raises:
        PostroikaError: it is none of these, too small for the header, or the file cannot be read.
    """
    if size.startswith("file:"):
        return [make_template(run, _read(Path(size[5:])), stuffed=stuffed)], [0]
    fields = (
        f"Subject: Your parcel is on its way\r\nFrom: Shop <{sender or 'postmaster@load.test'}>\r\n"
        f"To: Readers <readers@load.test>\r\nDate: {date}\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n\r\n"
    ).encode()
    least = make_template(run, fields, stuffed=False).content_bytes + 2
    made, weights = [], []
    for text in size.split(","):
        found = _SIZE.fullmatch(text.strip())
        if found is None or (("," in size) and found[3] is None):
            raise PostroikaError(f"size {text!r} is not a number of octets, as 4096 or 4k, nor SIZE:WEIGHT,…")
        size_bytes = int(found[1]) * _FACTORS[found[2].lower()]
        if not least <= size_bytes <= _MAX_SIZE_BYTES:
            raise PostroikaError(f"size {text!r} is not within {least} (the header) to {_MAX_SIZE_BYTES} octets")
        made.append(make_template(run, fields + _body(size_bytes - least + 2), stuffed=stuffed))
        weights.append(int(found[3] or 1))
    return made, spread(weights)


def spread(weights: Sequence[int]) -> list[int]:
    """The shortest sequence of indexes in which each appears in the share of its weight, spread evenly.

    Raises:
        PostroikaError: no weight is above zero, or the sequence would be too long.
    """
    divisor = math.gcd(*weights)
    if divisor == 0:
        raise PostroikaError("all sizes have the weight 0")
    wanted = [weight // divisor for weight in weights]
    total = sum(wanted)
    if total > _MAX_WEIGHTS:
        raise PostroikaError(f"the weights add up to {total}, more than {_MAX_WEIGHTS}: use smaller ones")
    # Smooth weighted round robin: each turn all gain their weight, and the richest pays for the turn.
    credit = [0] * len(wanted)
    order = []
    for _ in range(total):
        for index, weight in enumerate(wanted):
            credit[index] += weight
        richest = max(range(len(credit)), key=credit.__getitem__)
        credit[richest] -= total
        order.append(richest)
    return order


def _body(size_bytes: int) -> bytes:
    """Text of exactly this size, at least 2, that ends with a line end."""
    text = (_TEXT * (size_bytes // len(_TEXT) + 1))[: size_bytes - 2]
    if text.endswith(b"\r"):
        text = text[:-1] + b"-"
    return text + b"\r\n"


def _read(path: Path) -> bytes:
    """A file as the content of a message: line ends are CR LF, and there is one at its end and after its header."""
    try:
        content = _LINE_END.sub(b"\r\n", path.read_bytes())
    except OSError as error:
        raise PostroikaError(f"cannot read {path}: {error.strerror}") from None
    if b"\r" in content.replace(b"\r\n", b""):
        raise PostroikaError(f"{path} has a CR without LF")
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    return content if _body_at(content) >= 0 else content + b"\r\n"


def _body_at(content: bytes) -> int:
    """Where the body begins below the marks and these header fields, of which there may be none; -1: nowhere."""
    if content.startswith(b"\r\n"):
        return 2
    end = content.find(b"\r\n\r\n")
    return end + 4 if end >= 0 else -1
