"""Looks at the signatures of a message as a receiver does, with dkimpy: another's eyes on what we sign.

Promise: bounded, whatever the message: so many signatures are looked at and no more, keys of more bits than verifiers
have to take are refused before they are used, and each key is asked for once. Whatever is wrong with a signature is a
result and no exception. For the command line: it computes long, and nothing else goes on meanwhile.

Source: RFC 6376 §6.1, RFC 8301 §3.2.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import NamedTuple

import dkim

from postroika.signing.key import MOST_RSA_BITS

MOST_SIGNATURES = 10
_LEAST_RSA_BITS = 1024  # RFC 8301 §3.2
# An RSA key in its SubjectPublicKeyInfo has some 40 octets more than the modulus; with more of them it is longer.
_MOST_KEY_OCTETS = MOST_RSA_BITS // 8 + 64
_MOST_RECORD_OCTETS = 4096
_KEY = re.compile(rb"(?:^|;)\s*p\s*=([^;]*)")
_TAG = re.compile(rb"(?:^|;)\s*([a-z]+)\s*=([^;]*)", re.DOTALL)


class Verdict(NamedTuple):
    """What became of one signature, the topmost first.

    Args:
        domain, selector, algorithm: as the signature has them; "" where it has none.
        passed: it is good.
        reason: why not; or what to know about one that is good.
    """

    domain: str
    selector: str
    algorithm: str
    passed: bool
    reason: str = ""


class _KeyRefused(Exception):
    """By us, before it is used."""


def verify(message: bytes, lookup: Callable[[str], bytes | None], *, most: int = MOST_SIGNATURES) -> list[Verdict]:
    """One verdict for each signature of `message`, but of more than `most` only for the first.

    Args:
        message: with CRLF or LF.
        lookup: the text of the TXT record at a name (without the last dot); None if there is none. May raise OSError.
    """
    try:
        signed = dkim.DKIM(message, minkey=_LEAST_RSA_BITS)
    except dkim.DKIMException as error:
        return [Verdict("", "", "", False, f"not a message: {error}")]
    known: dict[str, bytes | None] = {}

    def record(name: str | bytes, timeout: float = 0) -> bytes | None:
        """As dkimpy asks."""
        text = (name if isinstance(name, str) else name.decode("utf-8", "replace")).lower().removesuffix(".")
        if text not in known:
            known[text] = lookup(text)
        found = known[text]
        if found is not None:
            _check(found)
        return found

    fields = [value for name, value in signed.headers if name.lower() == b"dkim-signature"]
    return [_verdict(signed, number, field, record) for number, field in enumerate(fields[:most])]


def count(message: bytes) -> int:
    """How many signatures a message has, or seems to have."""
    head = re.split(rb"\r?\n\r?\n", message, maxsplit=1)[0]
    return len(re.findall(rb"^dkim-signature[ \t]*:", head, re.IGNORECASE | re.MULTILINE))


def _verdict(signed: dkim.DKIM, number: int, field: bytes, record: Callable[..., bytes | None]) -> Verdict:
    tags = {name: b"".join(value.split()) for name, value in _TAG.findall(field)}
    domain, selector, algorithm = (tags.get(tag, b"").decode("utf-8", "replace") for tag in (b"d", b"s", b"a"))
    try:
        passed = signed.verify(idx=number, dnsfunc=record)
    except (dkim.DKIMException, _KeyRefused) as error:
        return Verdict(domain, selector, algorithm, False, str(error))
    except OSError as error:
        return Verdict(domain, selector, algorithm, False, f"the key cannot be looked up: {error}")
    except Exception as error:  # noqa: BLE001 - dkimpy stumbles over what it does not expect, in many ways
        return Verdict(domain, selector, algorithm, False, f"malformed: {type(error).__name__}")
    if not passed:
        return Verdict(domain, selector, algorithm, False, "the signature is not that of this header")
    note = f"only {tags[b'l'].decode('ascii', 'replace')} octets of the body are signed" if b"l" in tags else ""
    return Verdict(domain, selector, algorithm, True, note)


def _check(record: bytes) -> None:
    """Raises _KeyRefused: to compute with this key would take too long."""
    found = _KEY.search(record)
    if len(record) > _MOST_RECORD_OCTETS:
        raise _KeyRefused(f"a key record of {len(record)} octets")
    if found is not None and len(found[1]) > len(base64.b64encode(bytes(_MOST_KEY_OCTETS))):
        raise _KeyRefused(f"a key of more than {MOST_RSA_BITS} bits")
