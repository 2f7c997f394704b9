"""What the kernels for dots are timed with: mail as encoders make it, and a copy of the same bytes."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

PIECE_BYTES = 65_536  # as much as a session reads at once
MESSAGE_BYTES = 4096
DOTTED_EVERY = 20
_LINE = 76  # RFC 2045 §6.7, §6.8: what encoders make


def text(octets: int, dotted_every: int = 0) -> bytes:
    """Whole lines, as many as fit; each `dotted_every`th begins with a dot, 0 = none. Always the same."""
    rng = random.Random(1)
    lines = ["".join(rng.choices(string.ascii_letters + " ", k=_LINE)) for _ in range(octets // (_LINE + 2))]
    if dotted_every:
        lines[::dotted_every] = ["." + line[1:] for line in lines[::dotted_every]]
    # The first line is never dotted: `bytes.replace` has no way to see that it begins one.
    lines[0] = "x" + lines[0][1:]
    return "".join(line + "\r\n" for line in lines).encode()


def stuffed(body: bytes) -> bytes:
    """With the dots that SMTP adds."""
    return body.replace(b"\r\n.", b"\r\n..")


def memcpy(octets: bytes) -> Callable[[], None]:
    """Moves them to a place that is there already."""
    view = memoryview(octets)
    place = memoryview(bytearray(octets))

    def call() -> None:
        place[:] = view

    return call
