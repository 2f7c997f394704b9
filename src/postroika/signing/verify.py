"""Looks at the signatures of a message as a receiver does, with dkimpy: another's eyes on what we sign.

Promise: bounded, whatever the message: so many signatures are looked at and no more, none is begun after a while, keys
of more bits than verifiers have to take are refused before they are used, and each key is asked for once. Whatever is
wrong with a signature is a result and no exception. For the command line: it computes long, and nothing else goes on
meanwhile.

How: some of dkimpy's expressions take time with the square of what they read. So it gets to read no longer headers than
signers make, and the body in a form in which it has nothing left to search for: without the empty lines at its end, and
where it is signed in its relaxed form, with one blank for each run of them, which that form makes of it anyway.

Source: RFC 6376 §3.4.4, §6.1, RFC 8301 §3.2.
"""

from __future__ import annotations

import base64
import functools
import itertools
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import dkim

from postroika.signing.key import MOST_RSA_BITS

MOST_SIGNATURES = 10
_LEAST_RSA_BITS = 1024  # RFC 8301 §3.2
# An RSA key in its SubjectPublicKeyInfo has some 40 octets more than the modulus; with more of them it is longer.
_MOST_KEY_OCTETS = MOST_RSA_BITS // 8 + 64
_MOST_RECORD_OCTETS = 4096
_MOST_HEADER_OCTETS = 1024 * 1024
_MOST_FIELD_OCTETS = 65_536
_MOST_FIELDS = 2000
_MOST_SIGNATURE_OCTETS = 8192
_MOST_S = 30.0  # then no further signature is begun
_KEY = re.compile(rb"(?:^|;)\s*p\s*=([^;]*)")
_TAG = re.compile(rb"(?:^|;)\s*([a-z]+)\s*=([^;]*)", re.DOTALL)
_END_OF_HEADER = re.compile(rb"\n\r?\n|\A\r?\n")
_FIELD = re.compile(rb"^[^ \t\r\n]", re.MULTILINE)
_MANY_BLANKS = re.compile(rb"\s{200}")
_EMPTY_LINES = b"\r\n" * 4096
_BLANKS = re.compile(rb"[ \t]{2,}|\t")


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


_MOST_WORDS = 100  # of dkimpy, which may repeat all of a header


class _KeyRefused(Exception):
    """By us, before it is used."""


def verify(
    message: bytes,
    lookup: Callable[[str], bytes | None],
    *,
    most: int = MOST_SIGNATURES,
    clock: Callable[[], float] = time.monotonic,
) -> list[Verdict]:
    """One verdict for each signature of `message`, but of more than `most` only for the first.

    Args:
        message: with CRLF or LF.
        lookup: the text of the TXT record at a name (without the last dot); None if there is none. May raise OSError.
        clock: seconds that only grow.
    """
    begun_at = clock()
    end = _END_OF_HEADER.search(message, 0, _MOST_HEADER_OCTETS + 4)
    head, body = (message, b"") if end is None else (message[: end.end()], _without_last_lines(message[end.end() :]))
    if problem := _too_large(head):
        return [Verdict("", "", "", False, problem)]
    try:
        as_it_is = dkim.DKIM(head + body, minkey=_LEAST_RSA_BITS)
    except dkim.DKIMException as error:
        return [Verdict("", "", "", False, f"not a message: {str(error)[:_MOST_WORDS]}")]
    except Exception as error:  # noqa: BLE001 - as in `_verdict`
        return [Verdict("", "", "", False, f"not a message: {type(error).__name__}")]
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

    @functools.cache
    def relaxed() -> dkim.DKIM:
        """The message for signatures of its body in relaxed form."""
        return dkim.DKIM(head + _BLANKS.sub(b" ", body), minkey=_LEAST_RSA_BITS)

    verdicts: list[Verdict] = []
    for number, field in enumerate([value for name, value in as_it_is.headers if name.lower() == b"dkim-signature"]):
        if number == most:
            break
        tags = {name: b"".join(value.split()) for name, value in _TAG.findall(field[:_MOST_SIGNATURE_OCTETS])}
        if len(field) > _MOST_SIGNATURE_OCTETS:
            verdicts.append(_refused(tags, f"a signature field of {len(field)} octets"))
        elif _MANY_BLANKS.search(field):
            verdicts.append(_refused(tags, "a signature field of many blanks"))
        elif clock() - begun_at > _MOST_S:
            verdicts.append(_refused(tags, "not looked at: those before it have taken too long"))
        else:
            simple = tags.get(b"c", b"").partition(b"/")[2] in {b"", b"simple"}  # RFC 6376 §3.5
            verdicts.append(_verdict(as_it_is if simple else relaxed(), number, tags, record))
    return verdicts


def count(message: bytes) -> int:
    """How many signatures a message has, or seems to have."""
    head = re.split(rb"\r?\n\r?\n", message, maxsplit=1)[0]
    return len(re.findall(rb"^dkim-signature[ \t]*:", head, re.IGNORECASE | re.MULTILINE))


def _without_last_lines(body: bytes) -> bytes:
    """`body` without the empty lines at its end but one, which no form of it counts."""
    end = len(body)
    while body.endswith(_EMPTY_LINES, 0, end):
        end -= len(_EMPTY_LINES) - 2
    return body[:end]


def _too_large(head: bytes) -> str:
    """What is too much of a header; "" if nothing is."""
    if len(head) > _MOST_HEADER_OCTETS + 4:
        return f"the header has more than {_MOST_HEADER_OCTETS} octets"
    begins = [match.start() for match in _FIELD.finditer(head)]
    if len(begins) > _MOST_FIELDS:
        return f"the header has more than {_MOST_FIELDS} fields"
    if max((end - begin for begin, end in itertools.pairwise((0, *begins, len(head)))), default=0) > _MOST_FIELD_OCTETS:
        return f"the header has a field of more than {_MOST_FIELD_OCTETS} octets"
    return ""


def _names(tags: dict[bytes, bytes]) -> tuple[str, str, str]:
    """Domain, selector and algorithm."""
    domain, selector, algorithm = (tags.get(tag, b"").decode("utf-8", "replace") for tag in (b"d", b"s", b"a"))
    return domain, selector, algorithm


def _refused(tags: dict[bytes, bytes], why: str) -> Verdict:
    return Verdict(*_names(tags), False, why)


def _verdict(signed: dkim.DKIM, number: int, tags: dict[bytes, bytes], record: Callable[..., bytes | None]) -> Verdict:
    try:
        passed = signed.verify(idx=number, dnsfunc=record)
    except (dkim.DKIMException, _KeyRefused) as error:
        return _refused(tags, str(error))
    except OSError as error:
        return _refused(tags, f"the key cannot be looked up: {error}")
    except Exception as error:  # noqa: BLE001 - dkimpy stumbles over what it does not expect, in many ways
        return _refused(tags, f"malformed: {type(error).__name__}")
    if not passed:
        return _refused(tags, "the signature is not that of this header")
    note = f"only {tags[b'l'].decode('ascii', 'replace')} octets of the body are signed" if b"l" in tags else ""
    return Verdict(*_names(tags), True, note)


def _check(record: bytes) -> None:
    """Raises _KeyRefused: to compute with this key would take too long."""
    found = _KEY.search(record)
    if len(record) > _MOST_RECORD_OCTETS:
        raise _KeyRefused(f"a key record of {len(record)} octets")
    if found is not None and len(found[1]) > len(base64.b64encode(bytes(_MOST_KEY_OCTETS))):
        raise _KeyRefused(f"a key of more than {MOST_RSA_BITS} bits")
