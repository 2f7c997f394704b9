"""The DNS records of keys: written for a zone file, and read from one. Pure.

Source: RFC 6376 §3.6.1, §3.6.2; RFC 8463 §4; RFC 1035 §5.1.
"""

from __future__ import annotations

import base64
import re

from postroika.signing.key import Key

_MOST_OCTETS = 255  # of one string of a TXT record (RFC 1035 §3.3)
_RECORD = re.compile(r'^([^\s;"]+)[ \t]+(?:[^"\n]*[ \t])?TXT[ \t]*\(?\s*("[^"]*"(?:\s*"[^"]*")*)', re.MULTILINE)
_STRING = re.compile(r'"([^"]*)"')


def record_name(selector: str, domain: str) -> str:
    """Where the record of a key is, without the last dot."""
    return f"{selector}._domainkey.{domain}"


def record_text(key: Key) -> str:
    """What the record of a key says."""
    kind = key.algorithm.partition("-")[0]
    return f"v=DKIM1; k={kind}; p={base64.b64encode(key.public_octets).decode()}"


def zone_line(selector: str, domain: str, key: Key) -> str:
    """The record as a line of a zone file."""
    text = record_text(key)
    strings = [text[at : at + _MOST_OCTETS] for at in range(0, len(text), _MOST_OCTETS)]
    quoted = " ".join(f'"{string}"' for string in strings)
    return f"{record_name(selector, domain)}. IN TXT {f'( {quoted} )' if len(strings) > 1 else quoted}"


def read_zone(text: str) -> dict[str, bytes]:
    """What the TXT records in `text` say, by name in lower case, without the last dot. Names are taken as they stand;
    what is no such record is passed over."""
    return {
        name.lower().removesuffix("."): re.sub(r"\\(.)", r"\1", "".join(_STRING.findall(strings))).encode()
        for name, strings in _RECORD.findall(text)
    }
