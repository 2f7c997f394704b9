"""The oracle of kernels.stuff: the whole body at once, by the book."""

from __future__ import annotations

import re


def stuffed(body: bytes) -> bytes:
    """The body as it goes after 354, terminator included (RFC 5321 §4.5.2)."""
    text = body if not body or body.endswith(b"\n") else body + b"\r\n"
    return re.sub(rb"(?:\A|(?<=\n))\.", b"..", text) + b".\r\n"


def has_bare_newline(body: bytes) -> bool:
    """A CR or LF that is not part of CRLF."""
    rest = body.replace(b"\r\n", b"")
    return b"\r" in rest or b"\n" in rest
