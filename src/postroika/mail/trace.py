"""The Received: field that we stamp on each message.

Promise: one well-formed field whatever the client called itself; nothing of its HELO can end the line, open a
comment or make it long. Source: RFC 5321 §4.4, RFC 3848, RFC 6531 §3.7.3, RFC 8314 §7.4 (comments are free).
"""

from __future__ import annotations

import functools
from email.utils import formatdate

_MAX_HELO = 128
_HELO_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]+/~=*!#$%&")
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
        tls: what the client and we have agreed on, in words of ours, or "".
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


@functools.lru_cache(maxsize=4)
def _date(second: int) -> str:
    """RFC 5322 §3.3, in UTC. Many messages share a second."""
    return formatdate(second).replace("-0000", "+0000")
