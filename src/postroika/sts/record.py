"""The TXT record `_mta-sts.DOMAIN`, which says that there is a policy, and by its id when there is a new one. Pure.

Source: RFC 8461 §3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_OURS = re.compile(rb"v=STSv1[ \t]*;")
_FIELD = re.compile(rb"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([!-:<>-~]+)")
_ID = re.compile(rb"[A-Za-z0-9]{1,32}")


def owner_name(domain: str) -> str:
    """Where the record of a domain is."""
    return f"_mta-sts.{domain}"


def read_records(texts: Iterable[bytes]) -> str:
    """The id that the records name; "" if none of them is one of MTA-STS.

    Args:
        texts: all TXT records of the name, the strings of each joined.

    Raises:
        ValueError: there are several, or the one is broken; to be taken as if there were none.
    """
    ours = [text for text in texts if _OURS.match(text)]
    if not ours:
        return ""
    if len(ours) > 1:
        raise ValueError(f"{len(ours)} records begin with v=STSv1, and only one may")
    return _read(ours[0])


def _read(text: bytes) -> str:
    # Not with a pattern: a stranger's run of blanks would cost the square of its length.
    _, *fields = (field.strip(b" \t") for field in text.split(b";"))
    if fields[-1] == b"":
        fields.pop()  # what is behind the last semicolon
    found = None
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise ValueError(f"{_shown(field)!a} is not a field of the form name=value")
        if match[1] == b"id" and found is None:
            found = match[2]
    if found is None:
        raise ValueError("the record has no id")
    if not _ID.fullmatch(found):
        raise ValueError(f"the id {_shown(found)!a} is not 1 to 32 letters and digits")
    return found.decode()


def _shown(octets: bytes) -> str:
    return octets[:40].decode("latin-1")
