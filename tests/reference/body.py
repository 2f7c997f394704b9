"""What is wrong with content on its way in: the twin of kernels.server_lane.BodyReader. It looks at all of it anew."""

from __future__ import annotations

from tests.reference import datastream, headers


def flaw(
    octets: bytes,
    *,
    dotted: bool,
    normalise: bool,
    binary: bool,
    max_bytes: int,
    max_header_bytes: int,
    max_received: int,
) -> str | None:
    """The refusal of a message that has begun with these octets, by name; None if nothing is wrong yet."""
    normalise = normalise and not binary
    seen = datastream.scan(octets, dotted=dotted, normalise=normalise)
    header = headers.scan(seen.content)
    flaws = [
        ("NUL", not binary and seen.nul),
        ("bare LF", not binary and not normalise and seen.bare_lf),
        ("bare CR", not binary and not normalise and seen.bare_cr),
        ("size", len(seen.content) > max_bytes),
        ("loop", header.received > max_received),
        ("header", header.size > max_header_bytes),
    ]
    return next((name for name, there in flaws if there), None)
