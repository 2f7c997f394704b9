"""The plain twin of kernels.datastream: takes all input at once, and finds things with search and split."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Scan:
    content: bytes
    ended: bool
    consumed: int
    bare_cr: bool
    bare_lf: bool
    nul: bool
    eight_bit: bool
    longest_line: int


def scan(octets: bytes, *, dotted: bool, normalise: bool) -> Scan:
    content, ended, consumed, bare_cr, bare_lf, longest = (_normalised if normalise else _strict)(octets, dotted)
    used = octets[:consumed]
    return Scan(content, ended, consumed, bare_cr, bare_lf, 0 in used, any(octet >= 128 for octet in used), longest)


def _strict(octets: bytes, dotted: bool) -> tuple[bytes, bool, int, bool, bool, int]:
    end = (b"\r\n" + octets).find(b"\r\n.\r\n") if dotted else -1
    ended = end >= 0
    raw = octets[:end] if ended else octets
    lines = raw.split(b"\r\n")
    if dotted:
        if lines[-1] == b".\r":
            lines[-1] = b""  # may become the final dot
        lines = [line.removeprefix(b".") for line in lines]
    undecided = raw.endswith(b"\r")
    lonely = (raw[:-1] if undecided else raw).replace(b"\r\n", b"")
    lengths = [len(line) for line in lines]
    if undecided and lengths[-1]:
        lengths[-1] -= 1
    consumed = end + 3 if ended else len(octets)
    return b"\r\n".join(lines), ended, consumed, b"\r" in lonely, b"\n" in lonely, max(lengths)


def _normalised(octets: bytes, dotted: bool) -> tuple[bytes, bool, int, bool, bool, int]:
    undecided = octets.endswith(b"\r")
    certain = octets[:-1] if undecided else octets
    content, ends, longest, before = b"", set(), 0, b"\r\n"
    for match in re.finditer(rb"([^\r\n]*)(\r\n|\r|\n)", certain):
        line, end = match.groups()
        if dotted and line == b"." and before == end == b"\r\n":
            return content, True, match.end(), b"\r" in ends, b"\n" in ends, longest
        if dotted and line != b".":
            line = line.removeprefix(b".")
        content += line + b"\r\n"
        longest = max(longest, len(line))
        ends.add(end)
        before = end
    tail = re.split(rb"\r\n|\r|\n", certain)[-1]
    if dotted and not (tail == b"." and undecided and before != b"\r\n"):
        tail = tail.removeprefix(b".")
    return content + tail, False, len(octets), b"\r" in ends, b"\n" in ends, max(longest, len(tail))
