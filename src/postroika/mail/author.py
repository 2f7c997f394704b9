"""The domain of a message's author, from the value of its From field.

Promise: never fails, whatever the value; takes time in proportion to it, and looks at its beginning only. Pure.

How: a plain address, with a name before it or without, is found by one expression. Anything else is walked over once:
comments and quoted text are left out, and the domain of the first address is what is wanted, in angle brackets if there
are any.
Source: RFC 5322 §3.4, §3.6.2 (several authors are allowed; the first one counts here), RFC 6532 §3.2.
"""

from __future__ import annotations

import re

from postroika.mail.address import canonical_domain

_MOST_BYTES = 8192
_PLAIN = re.compile(rb'(?:[^<>"(),:;@\\]*<|\s*)[^<>"(),:;@\\\s]+@([A-Za-z0-9.-]+)>?\s*')


def author_domain(value: bytes) -> str:
    """The domain of the first address in `value`, as `canonical_domain` gives it; "" if it has none."""
    value = value[:_MOST_BYTES]
    plain = _PLAIN.fullmatch(value)
    domain = plain[1] if plain is not None else _walked(value)
    try:
        return canonical_domain(domain.decode())
    except ValueError:
        return ""


def _walked(value: bytes) -> bytes:
    """The domain of the first address, found the long way."""
    text = _bare(value)
    if (begin := text.find(b"<")) >= 0 and (end := text.find(b">", begin)) > begin and b"," not in text[:begin]:
        text = text[begin + 1 : end]
        text = text.rpartition(b":")[2] if text.startswith(b"@") else text  # a route (RFC 5322 §4.4)
    else:
        group = text.find(b":")
        if 0 <= group < text.find(b"@"):  # "name: one@x, two@y;"
            return _walked(text[group + 1 :].replace(b":", b" "))
        text = re.split(rb"[,;]", text, maxsplit=1)[0]
    domain = text.rpartition(b"@")[2] if b"@" in text else b""
    return b"".join(domain.split())


def _bare(value: bytes) -> bytes:
    """`value` without comments, and with an "x" for each quoted string."""
    out = bytearray()
    depth = 0
    quoted = False
    escaped = False
    for octet in value:
        if escaped:
            escaped = False
        elif octet == 0x5C and (quoted or depth):  # \
            escaped = True
        elif quoted:
            quoted = octet != 0x22
        elif octet == 0x28:  # (
            depth += 1
        elif octet == 0x29 and depth:  # )
            depth -= 1
        elif depth:
            continue
        elif octet == 0x22:  # "
            quoted = True
            out.append(0x78)
        else:
            out.append(octet)
    return bytes(out)
