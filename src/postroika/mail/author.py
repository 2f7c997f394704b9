"""The domain of a message's author, from the value of its From field.

Promise: never fails, whatever the value; takes time in proportion to it. Where `mail.mailboxes`, which says what an
account may write as, gives an answer, it is one of these addresses. Pure.

How: a plain address, with a name before it or without, is found by one expression; anything else that is well formed by
`mailboxes`, of which the first author counts. What is not well formed ("Shop, Inc. <news@shop.example>") is sent all
the same, and receivers show something: what most of them take is the last address in angle brackets.
Source: RFC 5322 §3.4, §3.6.2 (several authors are allowed), RFC 6532 §3.2.
"""

from __future__ import annotations

import re

from postroika.mail.address import canonical_domain
from postroika.mail.mailboxes import MOST_FIELD_BYTES, mailboxes

_PLAIN = re.compile(rb'(?:[^<>"(),:;@\\]*<|\s*)[^<>"(),:;@\\\s]+@([A-Za-z0-9.-]+)>?\s*')
_BETWEEN_WORDS = re.compile(rb'[\s<>"(),:;\\]+')


def author_domain(value: bytes) -> str:
    """The domain of the first author in `value`, or of the last address in it if it is not well formed; as
    `canonical_domain` gives it, "" if there is none."""
    plain = _PLAIN.fullmatch(value)
    if plain is not None:
        return _canonical(plain[1])
    value = value.replace(b"\r\n", b"").strip()
    addresses = mailboxes(value.decode("utf-8", "replace")) if len(value) <= MOST_FIELD_BYTES else None
    if addresses is None:
        return _last_domain(value[-MOST_FIELD_BYTES:])
    return _canonical(addresses[0].rpartition("@")[2].encode()) if addresses else ""


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
