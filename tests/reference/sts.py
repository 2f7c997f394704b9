"""What MTA-STS records and policies say, found octet by octet: the twin of `postroika.sts.record` and `.policy`."""

from __future__ import annotations

import string

_ALNUM = frozenset(string.ascii_letters + string.digits)
_NAME = _ALNUM | frozenset("_-.")
_LABEL = _ALNUM | frozenset("_-")


def record_id(texts: list[bytes]) -> str:
    """The id; "" for none.

    Raises:
        ValueError: as RFC 8461 §3.1 wants it taken for none.
    """
    ours = [text.decode("latin-1") for text in texts]
    ours = [text for text in ours if text.startswith("v=STSv1") and text[7:].lstrip(" \t").startswith(";")]
    if not ours:
        return ""
    (text,) = ours
    fields = text.split(";")[1:]
    if not fields[-1].strip(" \t"):
        del fields[-1]
    ids = []
    for field in fields:
        name, equals, value = field.strip(" \t").partition("=")
        if not (equals and _is_name(name) and value and all("!" <= char <= "~" and char not in ";=" for char in value)):
            raise ValueError(field)
        if name == "id":
            ids.append(value)
    if not ids or len(ids[0]) > 32 or not _ALNUM.issuperset(ids[0]):
        raise ValueError(text)
    return ids[0]


def policy(octets: bytes) -> tuple[str, tuple[str, ...], int]:
    """Mode, patterns, max_age.

    Raises:
        ValueError: it is none.
    """
    first: dict[str, str] = {}
    patterns: list[str] = []
    for line in octets.decode().split("\n"):
        line = line.removesuffix("\r")
        if set(line) <= {" ", "\t"}:
            continue
        at = line.index(":")
        name, value = line[:at], line[at + 1 :].strip(" \t")
        if not _is_name(name) or any(not char.isprintable() for char in value):
            raise ValueError(line)
        if name == "mx":
            if not _is_pattern(value):
                raise ValueError(value)
            if value.lower() not in patterns:
                patterns.append(value.lower())
        elif name not in first:
            first[name] = value
    age = first.get("max_age", "")
    if (
        len(patterns) > 256
        or first.get("version") != "STSv1"
        or first.get("mode") not in ("enforce", "testing", "none")
        or not 1 <= len(age) <= 10
        or not frozenset(string.digits).issuperset(age)
        or int(age) > 31_557_600
        or (first["mode"] != "none" and not patterns)
    ):
        raise ValueError(first)
    return first["mode"], tuple(patterns), int(age)


def _is_name(text: str) -> bool:
    return 1 <= len(text) <= 32 and text[0] in _ALNUM and _NAME.issuperset(text)


def _is_pattern(text: str) -> bool:
    labels = text.removeprefix("*.").split(".")
    return len(text) <= 255 and all(
        1 <= len(label) <= 63 and _LABEL.issuperset(label) and label[0] != "-" and label[-1] != "-" for label in labels
    )
