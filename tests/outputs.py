"""What a run of the command line has written, in this process or in one of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Output(NamedTuple):
    """Exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout as JSON."""
        return msgspec.json.decode(self.out)
