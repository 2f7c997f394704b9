"""The domains of a message's authors, from the value of its From field.

Promise: never fails, whatever the value; takes time in proportion to it, and next to none for one that was there a
moment ago, as it often was: who sends a lot writes as few. Where `mail.mailboxes`, which says what an account may write
as, gives an answer, they are those of some of these addresses. Pure.

How: a plain address, with a name before it or without, is found by one expression; anything else that is well formed by
`mailboxes`. That can be read in a way that nobody has meant: "Sale @ Shop, Inc. <news@shop.example>" is Sale@Shop and
another one, for RFC 5322 and for those who read by it; so who is doubtful comes last. What is not well formed ("Shop,
Inc. <news@shop.example>") is sent all the same, and receivers show something: what most of them take is the last
address in angle brackets.
Source: RFC 5322 §3.4, §3.6.2 (several authors are allowed), RFC 6532 §3.2.
"""

from __future__ import annotations

import functools
import re

from postroika.mail.address import canonical_domain
from postroika.mail.mailboxes import MOST_FIELD_BYTES, authors

_PLAIN = re.compile(rb'(?:[^<>"(),:;@\\]*<|\s*)[^<>"(),:;@\\\s]+@([A-Za-z0-9.-]+)>?\s*')
_BETWEEN_WORDS = re.compile(rb'[\s<>"(),:;\\]+')
_KEPT = 512  # values …
_KEPT_BYTES = 256  # … that are no longer than this


def author_domains(value: bytes) -> tuple[str, ...]:
    """The domains of all authors in `value`, in order, but those last whose mailbox has blanks around its @; only that
    of the last address if `value` is not well formed. As `canonical_domain` gives them; none twice."""
    return _kept_domains(value) if len(value) <= _KEPT_BYTES else _domains(value)


@functools.lru_cache(maxsize=_KEPT)
def _kept_domains(value: bytes) -> tuple[str, ...]:
    return _domains(value)


def _domains(value: bytes) -> tuple[str, ...]:
    plain = _PLAIN.fullmatch(value)
    if plain is not None:
        domains = [_canonical(plain[1])]
    else:
        value = value.replace(b"\r\n", b"").strip()
        found = authors(value.decode("utf-8", "replace")) if len(value) <= MOST_FIELD_BYTES else None
        if found is None:
            domains = [_last_domain(value[-MOST_FIELD_BYTES:])]
        else:
            found.sort(key=lambda author: author.spaced)
            domains = [_canonical(author.address.rpartition("@")[2].encode()) for author in found]
    return tuple(dict.fromkeys(filter(None, domains)))


def _last_domain(value: bytes) -> str:
    """That of the last address in angle brackets; without any, of the last word that looks like an address."""
    in_angles = [piece.partition(b">")[0] for piece in value.split(b"<")[1:]]
    for text in (*reversed(in_angles), *reversed(_BETWEEN_WORDS.split(value))):
        local, _, domain = text.rpartition(b"@")
        if local and (canonical := _canonical(domain.strip())):
            return canonical
    return ""


def _canonical(domain: bytes) -> str:
    try:
        return canonical_domain(domain.decode())
    except ValueError:
        return ""
