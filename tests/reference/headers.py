"""The plain twin of kernels.headers: line by line, with regular expressions, on all that has come so far."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_UNDECIDED = re.compile(rb"[!-9;-~]+[ \t]*|\r")


@dataclass(frozen=True)
class Header:
    ended: bool
    size: int
    received: int
    eight_bit: bool


def scan(content: bytes) -> Header:
    size, received, eight_bit = 0, 0, False
    for number, line in enumerate(re.findall(rb"[^\n]*\n|[^\n]+", content)):
        if line in {b"\n", b"\r\n"}:
            return Header(True, size + len(line), received, eight_bit)
        if field := _FIELD.match(line):
            received += field[1].lower() == b"received"
        elif not (
            (line[0] in b" \t" and number > 0)
            or (number == 0 and re.match(rb"From[ \t]", line))
            or (_UNDECIDED.fullmatch(line) and not line.endswith(b"\n"))
        ):
            return Header(True, size, received, eight_bit)
        size += len(line)
        eight_bit |= not line.isascii()
    return Header(False, size, received, eight_bit)
