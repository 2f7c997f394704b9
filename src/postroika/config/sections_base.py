"""What the structs of all sections are made of: their base, and the types of values with their bounds."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MiB = 1024 * 1024

# No wait is longer than a year, which also refuses TOML's `inf`; `nan` fails every bound.
_YEAR_S = 365 * 86_400

Seconds = Annotated[float, Meta(gt=0, le=_YEAR_S)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=_YEAR_S)]
Count = Annotated[int, Meta(ge=1, le=2**53)]
CountOrZero = Annotated[int, Meta(ge=0, le=2**53)]
Text = Annotated[str, Meta(min_length=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of each section: nothing is ignored that stands in one."""
