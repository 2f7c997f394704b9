"""Writes configs as TOML: the commented default file, and the effective config.

`default_text` is made from the structs, so that it cannot go stale. Its conventions: a line that begins with "# " is
prose; one that begins with "#" and a letter is a key with its default, to be uncommented and changed. Where the head
of a table is behind a "#", too, the table is an example of one that there need not be.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

from postroika.config.secret import Secret
from postroika.config.sections import SECTIONS, Config

_HEAD = """\
# Postroika's config. Each key stands here with its meaning and its default: remove the "#" before a key to change it.
# `postroika check` validates this file and shows what applies. Durations are in seconds (_s), sizes in octets (_bytes).
"""

# What the default file says beyond the defaults: it must show delivered and returned mail on a machine without DNS or
# Internet, so the reserved domain .test (RFC 2606) goes to a built-in sink.
_STARTER: dict[str, list[dict[str, Any]]] = {
    "listener": [{"address": "127.0.0.1:2525"}],
    "route": [
        {"domains": ["test", ".test"], "next_hop": "smtp://127.0.0.1:2526"},
        {"domains": ["*"], "next_hop": "mx"},
    ],
    "sink": [{"address": "127.0.0.1:2526"}],
}

# Tables that there need not be, and that make no sense without values of their own.
_EXAMPLES: dict[str, dict[str, Any]] = {
    "certificate": {"names": ["mx.other.example"], "certificate": "tls/other.pem", "key": "tls/other.key"},
    "account": {"name": "app@shop.example"},
    "blocklist": {"zone": "dnsbl.example"},
    "dkim": {"domain": "shop.example", "selector": "s1", "key": "dkim/shop.example.pem"},
}


def default_text(*, user: str = "") -> str:
    """The commented config file of a new installation; it can be used as it is.

    Args:
        user: stands as `process.user` in it, if it is not empty.
    """
    starter = {**_STARTER, "process": [{"user": user}]} if user else _STARTER
    return _HEAD + "".join(_default_lines(starter))


def _default_lines(starter: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    repeated = {f.name for f in msgspec.structs.fields(Config) if isinstance(f.default, tuple)}
    for name, struct in SECTIONS.items():
        header = f"[[{name}]]\n" if name in repeated else f"[{name}]\n"
        yield "\n" + _prose((struct.__doc__ or "").strip())
        if name in _EXAMPLES:
            yield f"#{header}"
            for field in msgspec.structs.fields(struct):
                yield _prose(meaning(field))
                yield f"#{field.name} = {toml_value(_EXAMPLES[name].get(field.name, field.default))}\n"
            continue
        for i, live in enumerate(starter.get(name, [{}])):
            yield f"\n{header}" if i else header
            for field in msgspec.structs.fields(struct):
                if i == 0:
                    yield _prose(meaning(field))
                if field.name in live:
                    yield f"{field.name} = {toml_value(live[field.name])}\n"
                elif i == 0:
                    yield f"#{field.name} = {toml_value(field.default)}\n"


def meaning(field: msgspec.structs.FieldInfo) -> str:
    """What the key is for: the text in its annotation, and the choices where there are only some."""
    text: str = next(note for note in field.type.__metadata__ if isinstance(note, str))
    if get_origin(field.type.__origin__) is Literal:
        text += f" One of {', '.join(map(toml_value, get_args(field.type.__origin__)))}."
    return text


def _prose(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False) + "\n"


def to_toml(config: Config) -> str:
    """The whole config as TOML, defaults included; `parse` reads it back to an equal Config, but for its secrets, which
    are hidden."""
    blocks = []
    for name, value in msgspec.structs.asdict(config).items():
        if value is None:
            continue
        header = f"[[{name}]]" if isinstance(value, tuple) else f"[{name}]"
        for table in value if isinstance(value, tuple) else (value,):
            lines = [f"{key} = {toml_value(item)}" for key, item in msgspec.structs.asdict(table).items()]
            blocks.append("\n".join([header, *lines]) + "\n")
    return "\n".join(blocks)


def toml_value(value: object) -> str:
    """One value of a config key as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{int(value):_}" if value >= 100_000 else str(int(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Secret):
        return toml_value(value.shown())
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"no config key holds a {type(value).__name__}")
