"""JSON that nobody outside can forge, as octets and as pieces of text to be joined.

Promise: what `encode` returns is valid UTF-8 JSON without a line break, a control character or anything else that is
invisible: those are written as \\u escapes. Bytes that were not UTF-8 show as U+FFFD. Pieces joined from `quoted` and
`seconds` are, octet for octet, what `encode` makes of the same values.
"""

from __future__ import annotations

import functools
import re

import msgspec

_INVISIBLE = re.compile(r"[^\x20-\x7e\xa1-\xac\xae-\u024f]")  # What needs a closer look; Latin text does not.
_encode_json = msgspec.json.Encoder().encode


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    if char.isprintable():
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _replace_surrogates(value: object) -> object:
    """The same tree with every lone surrogate (a byte that was not UTF-8) as U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, msgspec.Struct):
        return type(value)(**{f: _replace_surrogates(getattr(value, f)) for f in value.__struct_fields__})
    return value


def encode(value: msgspec.Struct | str | float) -> bytes:
    """One line without its line feed; see the module for what it can and cannot hold."""
    try:
        line = _encode_json(value)
    except UnicodeEncodeError:
        line = _encode_json(_replace_surrogates(value))
    if line.isascii() and b"\x7f" not in line:
        return line  # The encoder has escaped C0 itself.
    return _INVISIBLE.sub(_escape, line.decode()).encode()


def is_plain(text: str) -> bool:
    """Whether `text` is the same between quotation marks in JSON."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


@functools.lru_cache(maxsize=4096)  # senders, hosts and the like come again and again
def quoted(text: str) -> str:
    """`text` as JSON. For what is short and comes often."""
    return encode(text).decode()


def seconds(ms: int) -> str:
    """Milliseconds as the number of seconds that `encode` writes for ms / 1000. From 0 to the year 10,000."""
    return f"{ms // 1000}.{_THOUSANDTHS[ms % 1000]}"


_THOUSANDTHS = [f"{ms:03d}".rstrip("0") or "0" for ms in range(1000)]
