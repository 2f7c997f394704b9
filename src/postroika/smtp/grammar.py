"""Arguments of SMTP commands, from octets to values. Pure; the scanning itself is in the `command` kernel.

Promise: a value that comes out of here keeps to its RFC, whatever went in; a Refusal carries the reply to give.
"""

from __future__ import annotations

import binascii
import re

from postroika.kernels.command import parse_parameters, parse_path
from postroika.mail.address import canonical_domain
from postroika.mail.envelope import BodyType, Notify
from postroika.mail.reply import Reply, reply
from postroika.smtp.server_events import Mail, Rcpt

MAX_ENVID = 100  # RFC 3461 §4.4
MAX_ORCPT = 500  # RFC 3461 §4.2
MAX_SIZE_DIGITS = 20  # RFC 1870 §3
MAX_HELO_NAME = 255  # RFC 5321 §4.5.3.1.2
MAX_AUTH_IDENTITY = 500  # RFC 4954 §3 (the AUTH parameter adds as much to the line)
_BAD_BASE64 = reply(501, "5.5.2", "cannot decode base64")
# RFC 5198 §2: they must not appear; somebody takes them for the end of a line, or steers a terminal with them.
_LINE_ENDS = re.compile("[\x80-\x9f\u2028\u2029]")
_HEX = frozenset("0123456789ABCDEF")
_BODY_TYPES = {"7BIT": BodyType.SEVEN_BIT, "8BITMIME": BodyType.EIGHT_BIT, "BINARYMIME": BodyType.BINARY}
_NOTIFY = {"NEVER": Notify.NEVER, "SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}
# Which extension has to be offered for a parameter to be allowed.
_MAIL_PARAMETERS = {"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN",
                    "AUTH": "AUTH", "REQUIRETLS": "REQUIRETLS"}  # fmt: skip
_RCPT_PARAMETERS = {"NOTIFY": "DSN", "ORCPT": "DSN"}


class Refusal(Exception):
    """The argument is refused with `reply`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def _bad(*text: str) -> Refusal:
    return Refusal(reply(501, "5.5.4", *text))


def _bad_address(enhanced: str, why: str) -> Refusal:
    whose = "sender" if enhanced == "5.1.7" else "recipient"
    return Refusal(reply(501, enhanced, f"bad {whose} address syntax: {why}"))


def parse_mail(argument: bytes, offered: frozenset[str]) -> Mail:
    """The argument of MAIL.

    Args:
        offered: the extensions that were announced to this peer; empty after HELO.

    Raises:
        Refusal: 501, 553 or 555.
    """
    try:
        path = parse_path(argument, b"FROM:")
    except ValueError as error:
        raise _bad_address("5.1.7", str(error)) from None
    if path is None:
        raise _bad("syntax: MAIL FROM:<address>")
    local, domain = path.local, path.domain
    if local and not domain:
        raise _bad_address("5.1.7", "the domain is missing")
    size, body_type, smtputf8, ret, envid, requiretls = 0, BodyType.SEVEN_BIT, False, "", "", False
    if path.end < len(argument):
        seen: set[str] = set()
        for key, value in _parameters(argument, path.end):
            _check(key, seen, _MAIL_PARAMETERS, offered)
            if key == "SIZE":
                if value is None or not value.isascii() or not value.isdigit() or len(value) > MAX_SIZE_DIGITS:
                    raise _bad("bad SIZE value")
                size = int(value)
            elif key == "BODY":
                body_type = _body_type(value, offered)
            elif key == "SMTPUTF8":
                if value is not None:
                    raise _bad("SMTPUTF8 has no value")
                smtputf8 = True
            elif key == "REQUIRETLS":
                if value is not None:
                    raise _bad("REQUIRETLS has no value")
                requiretls = True
            elif key == "RET":
                ret = (value or "").upper()
                if ret not in {"FULL", "HDRS"}:
                    raise _bad("bad RET value")
            elif key == "AUTH":
                # RFC 4954 §5: taken, and, as we trust nobody's word for who wrote the message, meaning AUTH=<>.
                if value != "<>" and (not value or len(value) > MAX_AUTH_IDENTITY or not is_xtext(value)):
                    raise _bad("bad AUTH value")
            else:
                envid = value or ""
                if not 0 < len(envid) <= MAX_ENVID or not is_xtext(envid):
                    raise _bad("bad ENVID value")
    if path.utf8:
        _check_wide(local, smtputf8, "5.1.7")
    address = _address(local, domain, "5.1.7") if domain else ""
    return Mail(address, size, body_type, smtputf8, ret, envid, path.utf8, requiretls)


def parse_rcpt(argument: bytes, offered: frozenset[str], smtputf8: bool) -> Rcpt:
    """The argument of RCPT.

    Args:
        offered: as for `parse_mail`.
        smtputf8: MAIL had SMTPUTF8.

    Raises:
        Refusal: 501, 553 or 555.
    """
    try:
        path = parse_path(argument, b"TO:")
    except ValueError as error:
        raise _bad_address("5.1.3", str(error)) from None
    if path is None:
        raise _bad("syntax: RCPT TO:<address>")
    local, domain = path.local, path.domain
    # RFC 5321 §4.1.1.3, §4.5.1: <postmaster>, in any case, is the only one without a domain.
    if not domain and local.lower() != "postmaster":
        raise _bad_address("5.1.3", "the domain is missing")
    notify, orcpt = 0, ""
    if path.end < len(argument):
        seen: set[str] = set()
        for key, value in _parameters(argument, path.end):
            _check(key, seen, _RCPT_PARAMETERS, offered)
            if key == "NOTIFY":
                notify = _notify(value or "")
            else:
                orcpt = _orcpt(value or "", smtputf8)
    if path.utf8:
        _check_wide(local, smtputf8, "5.1.3")
    address = _address(local, domain, "5.1.3") if domain else local
    return Rcpt(address, local, domain.lower(), notify, orcpt, path.routed, path.utf8)


def parse_bdat(argument: bytes) -> tuple[int, bool] | None:
    """The argument of BDAT: octets that follow, and whether they are the last. None if it is none."""
    digits, _, last = argument.partition(b" ")
    if not digits.isdigit() or len(digits) > MAX_SIZE_DIGITS:
        return None
    last = last.strip().upper()
    return (int(digits), bool(last)) if last in {b"", b"LAST"} else None


def parse_auth(argument: bytes, offered: tuple[str, ...]) -> tuple[str, bytes | None]:
    """The argument of AUTH: the mechanism and the initial response, None if there is none (RFC 4954 §4).

    Raises:
        Refusal: 501 or 504.
    """
    name, blank, initial = argument.partition(b" ")
    mechanism = name.decode("ascii", "replace").upper()
    if not mechanism:
        raise _bad("syntax: AUTH mechanism [initial-response]")
    if mechanism not in offered:
        raise Refusal(reply(504, "5.5.4", "this authentication mechanism is not offered"))
    if not blank:
        return mechanism, None
    return mechanism, b"" if initial == b"=" else parse_base64(initial)


def parse_base64(line: bytes) -> bytes:
    """A response of an authentication exchange.

    Raises:
        Refusal: 501, it is none, or not the one way to write these octets.
    """
    try:
        octets = binascii.a2b_base64(line, strict_mode=True)
    except binascii.Error:
        raise Refusal(_BAD_BASE64) from None
    if binascii.b2a_base64(octets, newline=False) != line:
        raise Refusal(_BAD_BASE64)  # too much padding, which `strict_mode` lets pass
    return octets


def printable_name(octets: bytes) -> str:
    """A name of EHLO, HELO or XCLIENT: whatever cannot be shown, or is not ASCII, becomes "?"."""
    name = octets.decode("ascii", "replace").replace("\ufffd", "?")
    if not name.isprintable():
        name = "".join(c if c.isprintable() else "?" for c in name)
    return name


def is_xtext(text: str) -> bool:
    """RFC 3461 §4: printable ASCII without blanks and "=", "+" only before two capital hex digits."""
    if not text.isascii() or not text.isprintable() or " " in text or "=" in text:
        return False
    return all(len(part) >= 2 and part[0] in _HEX and part[1] in _HEX for part in text.split("+")[1:])


def _parameters(argument: bytes, start: int) -> list[tuple[str, str | None]]:
    try:
        return parse_parameters(argument, start)
    except ValueError as error:
        raise _bad(str(error)) from None


def _check(key: str, seen: set[str], known: dict[str, str], offered: frozenset[str]) -> None:
    """Refuse a parameter that was not offered, or is there twice."""
    if known.get(key) not in offered:
        raise Refusal(reply(555, "5.5.4", f"parameter not recognised or not offered: {key[:40]}"))
    if key in seen:
        raise _bad(f"{key} is given twice")
    seen.add(key)


def _body_type(value: str | None, offered: frozenset[str]) -> BodyType:
    body_type = _BODY_TYPES.get((value or "").upper())
    if body_type is None or (body_type is BodyType.BINARY and "BINARYMIME" not in offered):
        raise _bad("bad BODY value")
    return body_type


def _notify(value: str) -> int:
    """RFC 3461 §4.1: NEVER stands alone."""
    flags = 0
    for word in value.upper().split(","):
        flag = _NOTIFY.get(word)
        if flag is None or flags & flag:
            raise _bad("bad NOTIFY value")
        flags |= flag
    if flags & Notify.NEVER and flags != Notify.NEVER:
        raise _bad("NOTIFY=NEVER excludes all others")
    return int(flags)


def _orcpt(value: str, smtputf8: bool) -> str:
    """RFC 3461 §4.2; RFC 6533 §3: "utf-8" addresses may be written out where SMTPUTF8 was asked for."""
    kind, semicolon, address = value.partition(";")
    is_name = bool(kind) and kind.isascii() and kind.replace("-", "").isalnum()
    if not semicolon or not is_name or not address or len(value) > MAX_ORCPT:
        raise _bad("bad ORCPT value")
    if kind.lower() == "utf-8":
        if not smtputf8 and not address.isascii():
            raise _bad("bad ORCPT value: SMTPUTF8 is needed")
        if _LINE_ENDS.search(address):
            raise _bad("bad ORCPT value: control characters")
    elif not is_xtext(address):
        raise _bad("bad ORCPT value: not xtext")
    return value


def _check_wide(local: str, smtputf8: bool, enhanced: str) -> None:
    """Judge an address beyond ASCII."""
    if not smtputf8:
        raise Refusal(reply(553, "5.6.7", "address has characters beyond ASCII: SMTPUTF8 is needed"))
    if _LINE_ENDS.search(local):
        raise _bad_address(enhanced, "control characters")


def _address(local: str, domain: str, enhanced: str) -> str:
    """local@domain, the domain in lower case.

    Raises:
        Refusal: an address literal that is no IP address (RFC 5321 §4.1.3), or a domain beyond ASCII without A-labels.
    """
    if domain[0] == "[" or not domain.isascii():
        try:
            canonical_domain(domain)
        except ValueError:
            what = "bad address literal" if domain[0] == "[" else "the domain is not a valid name"
            raise _bad_address(enhanced, what) from None
    return f"{local}@{domain.lower()}"
