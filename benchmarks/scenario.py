"""A scenario file: what load goes through which servers, and when the clock stops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_SCENARIOS = Path(__file__).parent / "scenarios"

_Count = Annotated[int, Meta(ge=1)]


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What smtp-source sends in one round; `warm_up` messages go first and do not count."""

    sessions: _Count
    messages: _Count
    size_bytes: _Count
    warm_up: _Count


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of scenarios/.

    Args:
        until: what stops the clock: the last message is "accepted" with 250, or "delivered" to the sink.
        connections: to the sink at once, for each server.
        postfix: main.cf beyond the defaults.
        postroika: sections of the config file beyond the defaults.
    """

    about: str
    until: Literal["accepted", "delivered"]
    rounds: _Count
    connections: _Count
    load: Load
    postfix: dict[str, str] = {}
    postroika: dict[str, dict[str, bool | int | float | str]] = {}


def names() -> list[str]:
    """All scenarios; those that deliver come first."""
    return sorted((file.stem for file in _SCENARIOS.glob("*.toml")), reverse=True)


def load(name: str) -> Scenario:
    """Read a scenario.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError: the file is wrong.
    """
    return msgspec.toml.decode((_SCENARIOS / f"{name}.toml").read_bytes(), type=Scenario)
