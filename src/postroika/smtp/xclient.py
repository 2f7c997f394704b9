"""The argument of XCLIENT: what a peer that we trust says of the client it speaks for. Pure.

Promise: whoever wrote the values, what comes out of here is an address, a port, a host name, or text that can be shown:
what xtext can hide (CR, LF, NUL, octets that are no UTF-8) is refused, or, in HELO, replaced as in EHLO.
Source: Postfix XCLIENT_README; RFC 3461 §4 (xtext).
"""

from __future__ import annotations

import ipaddress
import re

from postroika.mail.address import canonical_domain, literal_ip
from postroika.mail.reply import reply
from postroika.smtp.grammar import MAX_HELO_NAME, Refusal, printable_name
from postroika.smtp.server_events import XClient

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
_MAX_LOGIN = 255
_UNKNOWN = {b"[UNAVAILABLE]", b"[TEMPUNAVAIL]"}
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})+")  # small hex digits, too: they can mean nothing else
_HEX = re.compile(rb"\+(..)")


def parse_xclient(argument: bytes, offered: tuple[str, ...]) -> XClient:
    """The event for the argument.

    Args:
        offered: the attributes that this peer may use, of ATTRIBUTES.

    Raises:
        Refusal: 501.
    """
    told: dict[str, str | int] = {}
    for word in argument.split(b" "):
        if not word:
            continue
        key, equals, value = word.partition(b"=")
        name = key.decode("ascii", "replace").upper()
        if not equals or name not in offered:
            raise _bad("an attribute that is not offered, or none")
        if name.lower() in told:
            raise _bad(f"{name} is given twice")
        try:
            told[name.lower()] = _value(name, value)
        except ValueError:
            raise _bad(f"bad value of {name}") from None
    if not told:
        raise _bad("no attribute")
    return XClient(**told)  # type: ignore[arg-type]  # the types are those of `_value`


def _bad(why: str) -> Refusal:
    return Refusal(reply(501, "5.5.4", f"syntax: XCLIENT attribute=value ...: {why}"))


def _value(name: str, value: bytes) -> str | int:
    """What `XClient` has for an attribute.

    Raises:
        ValueError: it cannot have this value.
    """
    if not _XTEXT.fullmatch(value):
        raise ValueError("not xtext")
    octets = _HEX.sub(lambda match: bytes.fromhex(match[1].decode()), value)
    is_port = name.endswith("PORT")
    if octets.upper() in _UNKNOWN:
        return 0 if is_port else ""
    if name == "HELO":
        if len(octets) > MAX_HELO_NAME:
            raise ValueError("too long")
        return printable_name(octets)
    text = octets.decode()
    if is_port:
        return _port(text)
    if name.endswith("ADDR"):
        return _address(text)
    if name == "NAME":
        return _host_name(text)
    if name == "PROTO":
        if text.upper() not in {"SMTP", "ESMTP"}:
            raise ValueError("not a protocol")
        return text.upper()
    if len(text) > _MAX_LOGIN or not text.isprintable():
        raise ValueError("not a name")
    return text


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise ValueError("not a port")
    return int(text)


def _address(text: str) -> str:
    """In the form of `policy.relay.canonical_ip`."""
    ip = literal_ip(f"[{text}]")
    mapped = ipaddress.IPv6Address(ip).ipv4_mapped if ":" in ip else None
    return ip if mapped is None else str(mapped)


def _host_name(text: str) -> str:
    if not text.isascii() or text.startswith("[") or text.endswith(".."):
        raise ValueError("not a host name")
    return canonical_domain(text)
