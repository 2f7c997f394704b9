"""The oracle of kernels.replies: complete replies out of complete bytes, with regular expressions."""

from __future__ import annotations

import re

from postroika.errors import RemoteProtocolError

_LINE = re.compile(rb"([2-5]\d\d)(?:([ \t-])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:[ \t]|\Z)")


def parse(stream: bytes, max_line_bytes: int = 2048, max_lines: int = 128) -> list[tuple[int, str, tuple[str, ...]]]:
    """All complete replies of `stream`; raises as the kernel does."""
    replies = []
    texts: list[str] = []
    status = ""
    *lines, rest = stream.split(b"\n")
    for line in lines:
        if len(line) > max_line_bytes:
            raise RemoteProtocolError("line")
        match = _LINE.fullmatch(line.removesuffix(b"\r"))
        if match is None:
            raise RemoteProtocolError("not a reply")
        code, separator, text_bytes = int(match[1]), match[2], match[3] or b""
        enhanced = ""
        if (found := _ENHANCED.match(text_bytes.decode("latin-1"))) and found[1][0] == str(code)[0]:
            enhanced = found[1]
            text_bytes = text_bytes[found.end() :]
        status = status or enhanced
        if len(texts) >= max_lines:
            raise RemoteProtocolError("lines")
        texts.append(text_bytes.decode("utf-8", "backslashreplace"))
        if separator != b"-":
            replies.append((code, status if status[:1] == str(code)[0] else "", tuple(texts)))
            texts, status = [], ""
    if len(rest) > max_line_bytes:
        raise RemoteProtocolError("line")
    return replies
