"""The Received: field that we stamp on each message.

Promise: one well-formed field whatever the client called itself; nothing of its HELO, of the name that it asked for in
TLS, or of its certificate can end the line, open or close a comment, or make it long.
Source: RFC 5321 §4.4, RFC 3848, RFC 6531 §3.7.3, RFC 8314 §7.4 (comments are free).
"""

from __future__ import annotations

import functools
from email.utils import formatdate

from postroika.tls.facts import TlsFacts

_MAX_HELO = 128
_HELO_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]+/~=*!#$%&")
_ENDS_QUOTES = frozenset('"()\\')
_MAX_FOR = 300  # keeps the line well below the 998 octets of RFC 5322 §2.1.1 in UTF-8, too


def received_field(
    *,
    helo: str,
    ip: str,
    hostname: str,
    protocol: str,
    id_text: str,
    at: float,
    recipient: str = "",
    tls: str = "",
    name: str = "",
) -> bytes:
    """The field, folded, with its last CR LF.

    Args:
        helo: as the client gave it; what does not belong into a host name becomes "?".
        ip: of the client, IPv4 or IPv6.
        protocol: of `with_protocol`.
        id_text: of the message.
        at: epoch seconds.
        recipient: the only one; "" where there are several (they need not know of each other).
        tls: what the client and we have agreed on, as of `tls_comment`, or "".
        name: of the host at `ip`, a host name, or "".
    """
    stem = _stem(helo, ip, hostname, protocol, tls, name)
    if recipient and len(recipient) <= _MAX_FOR and recipient.isprintable():
        return f"{stem}{id_text}\r\n\tfor <{recipient}>; {_date(int(at))}\r\n".encode()
    return f"{stem}{id_text}; {_date(int(at))}\r\n".encode()


@functools.lru_cache(maxsize=1024)
def _stem(helo: str, ip: str, hostname: str, protocol: str, tls: str, name: str) -> str:
    """What is the same in all messages of a session, and often of the next one."""
    address = f"IPv6:{ip}" if ":" in ip else ip
    tcp_info = f"{clean_helo(name)} [{address}]" if name else f"[{address}]"
    comment = f"\r\n\t({tls})" if tls else ""
    return f"Received: from {clean_helo(helo)} ({tcp_info}){comment}\r\n\tby {hostname} (Postroika) with {protocol} id "


@functools.lru_cache(maxsize=1024)
def tls_comment(facts: TlsFacts) -> str:
    """What was agreed on, and who the client said that it wants and that it is, for the comment in the field: lines
    without a line end behind the last."""
    comment = f"using {facts.version} with cipher {facts.cipher}"
    if facts.server_name:
        comment += f", SNI {clean_helo(facts.server_name)}"
    if facts.peer_name or facts.verified:
        name = _clean_quoted(facts.peer_name)
        comment += f'\r\n\t client certificate "{name}" {"verified" if facts.verified else "not verified"}'
    return comment


def with_protocol(*, esmtp: bool, smtputf8: bool, tls: bool = False, authenticated: bool = False) -> str:
    """The keyword behind "with" (RFC 3848, RFC 6531 §4.3). BDAT makes no difference."""
    if not esmtp:
        return "SMTP"
    keyword = "UTF8SMTP" if smtputf8 else "ESMTP"
    return f"{keyword}{'S' if tls else ''}{'A' if authenticated else ''}"


def clean_helo(helo: str) -> str:
    """HELO fit for a header: bounded, no blanks, no parentheses, no controls, ASCII."""
    if len(helo) > _MAX_HELO:
        helo = f"{helo[: _MAX_HELO - 3]}..."
    if not helo:
        return "unknown"
    if _HELO_CHARACTERS.issuperset(helo):
        return helo
    return "".join(c if c in _HELO_CHARACTERS else "?" for c in helo)


def _clean_quoted(name: str) -> str:
    """A name fit to stand between quotes in a comment: bounded, of visible ASCII and blanks, nothing that could end
    either of them."""
    if len(name) > _MAX_HELO:
        name = f"{name[: _MAX_HELO - 3]}..."
    return "".join(c if " " <= c <= "~" and c not in _ENDS_QUOTES else "?" for c in name)


@functools.lru_cache(maxsize=4)
def _date(second: int) -> str:
    """RFC 5322 §3.3, in UTC. Many messages share a second."""
    return formatdate(second).replace("-0000", "+0000")
