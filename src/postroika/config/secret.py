"""A text of the config that is to be seen by nobody, and how a config that holds such is passed on.

Promise: a `Secret` shows itself in no repr, format string, log line, effective config or JSON. Who needs the text asks
for it by name (`reveal`), so that each place which does can be found. Between the supervisor and its workers a config
goes whole (`encode_whole`), through memory that has no name; for all other eyes there is `encode_shown`.
"""

from __future__ import annotations

import hmac
from typing import Any, NoReturn, TypeVar

import msgspec

T = TypeVar("T")

HIDDEN = "(hidden)"


class Secret:
    """A text that hides itself; the empty one shows itself as empty, for that nothing was given is no secret.

    Args:
        text: what is hidden.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for the one who checks or sends it, and not to be kept."""
        return self._text

    def shown(self) -> str:
        """What others may see."""
        return HIDDEN if self._text else ""

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        """Equal to another Secret of the same text, found out in a time that does not tell where they differ."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return f"Secret({self.shown()!r})"

    def __str__(self) -> str:
        return self.shown()

    def __format__(self, spec: str) -> str:
        return format(self.shown(), spec)

    def __reduce__(self) -> NoReturn:
        # pickle and copy.deepcopy would carry the text to where nobody looks for it.
        raise TypeError("a Secret is not to be serialised")


def secret_from(kind: type, value: object) -> Any:
    """The `dec_hook` of msgspec for configs.

    Raises:
        TypeError: not a string; the text does not tell what it was.
    """
    if kind is not Secret:
        raise NotImplementedError(f"no config key holds a {kind.__name__}")
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return Secret(value)


def encode_shown(value: object) -> bytes:
    """JSON for people and programs: secrets are hidden."""
    return msgspec.json.encode(value, enc_hook=_shown)


def encode_whole(value: object) -> bytes:
    """JSON with its secrets, for `decode_whole` in a process of our own; never to be written to a disk or a log."""
    return msgspec.json.encode(value, enc_hook=_revealed)


def decode_whole(encoded: bytes, kind: type[T]) -> T:
    """What `encode_whole` has encoded."""
    return msgspec.json.decode(encoded, type=kind, dec_hook=secret_from)


def _shown(value: object) -> str:
    return _secret(value).shown()


def _revealed(value: object) -> str:
    return _secret(value).reveal()


def _secret(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    raise NotImplementedError(f"no config holds a {type(value).__name__}")
