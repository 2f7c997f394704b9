"""Delivery status notifications: multipart/report messages as bytes. Pure. docs/dsn.md tells when one is sent.

Promise: what `build` returns is a whole, well-formed message with CRLF line ends and no line above 998 octets,
whatever is in the replies, addresses and headers that it quotes: they can add no header field and no MIME part.
It is 7-bit, with two exceptions: a reverse path that is not ASCII has to stand in the To field as it is (the
notice then needs SMTPUTF8), and an 8-bit message that is returned whole cannot be encoded (it then needs 8BITMIME).

How: three parts as RFC 6522 wants them (words for people, fields for programs, the message or its header). Every
foreign text passes `clean` and `fold` before it is put in a field; parts that are not plain ASCII are encoded as
quoted-printable; the boundary is a digest of the parts themselves, so that no part can contain it on purpose.

Source: RFC 3461 (when, and what is returned), RFC 3464 (fields), RFC 6522 (multipart/report), RFC 6533 (UTF-8),
RFC 3834 §5 (Auto-Submitted).
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from typing import Final

from postroika.mail.envelope import BodyType, Envelope, Notify, Recipient
from postroika.mail.ids import id_text
from postroika.mail.outcome import Peer
from postroika.outcome.dsn_words import SUBJECTS, Kind, RecipientReport, clean, explain, fold, reply_text

__all__ = ["MAX_RETURNED_BYTES", "Kind", "RecipientReport", "build", "returns_full", "select", "status_of", "wants"]

MAX_RETURNED_BYTES: Final = 64 * 1024  # More is not helpful to a reader, and multiplies what a forged sender gets.
_MAX_LINE_BYTES: Final = 998  # RFC 5322 §2.1.1
_QP_LINE_BYTES: Final = 76  # RFC 2045 §6.7
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_ACTIONS: Final = {  # RFC 3464 §2.3.3
    Kind.FAILED: "failed",
    Kind.EXPIRED: "failed",
    Kind.DELAYED: "delayed",
    Kind.RELAYED: "relayed",
    Kind.DELIVERED: "delivered",
}
_CLASSES: Final = {Kind.FAILED: "45", Kind.EXPIRED: "45", Kind.DELAYED: "4", Kind.RELAYED: "2", Kind.DELIVERED: "2"}
_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_XTEXT: Final = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")  # RFC 3461 §4
_MESSAGE_ID: Final = re.compile(
    rb"^message-id:[ \t\r\n]*(<[\x21-\x3b=\x3f-\x7e]{3,250}>)", re.IGNORECASE | re.MULTILINE
)
_EMBEDDED: Final = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 §3, EmbeddedUnicodeChar
_NOT_QP: Final = re.compile(rb"[^\x20-\x3c\x3e-\x7e]|[ ]$")


def wants(kind: Kind, notify: int) -> bool:
    """Whether a recipient with these NOTIFY flags is to be told of. Without flags: of failure and of delay."""
    if notify & Notify.NEVER:
        return False
    if kind in {Kind.FAILED, Kind.EXPIRED}:
        return notify == 0 or bool(notify & Notify.FAILURE)
    if kind is Kind.DELAYED:
        return notify == 0 or bool(notify & Notify.DELAY)
    return bool(notify & Notify.SUCCESS)


def select(kind: Kind, envelope: Envelope, reports: Sequence[RecipientReport]) -> list[RecipientReport]:
    """Those reports that the sender wants; none at all for the null sender (RFC 3461 §6.1)."""
    if not envelope.reverse_path:
        return []
    return [report for report in reports if wants(kind, report.recipient.notify)]


def returns_full(kind: Kind, envelope: Envelope, max_bytes: int = MAX_RETURNED_BYTES) -> bool:
    """Whether the whole message goes back: only if asked for, of a failure, and if small enough (RFC 3461 §4.3). What
    must not travel without TLS does not: nobody knows whether it is had all the way back (RFC 8689 §5)."""
    return (
        kind in {Kind.FAILED, Kind.EXPIRED}
        and envelope.ret == "FULL"
        and envelope.size_bytes <= max_bytes
        and envelope.body_type is not BodyType.BINARY
        and not envelope.requiretls
    )


def status_of(kind: Kind, report: RecipientReport) -> str:
    """The enhanced status code of a report, always of a class that fits `kind` (RFC 3464 §2.3.4)."""
    enhanced = report.reply.enhanced
    classes = "5" if kind is Kind.FAILED and report.reply.kind == 5 else _CLASSES[kind]
    if _STATUS.fullmatch(enhanced) and enhanced[0] in classes:
        return enhanced
    if kind is Kind.EXPIRED:
        return "4.4.7"
    digit = str(report.reply.kind)
    return f"{digit if digit in classes else classes[-1]}.0.0"


def build(
    kind: Kind,
    envelope: Envelope,
    reports: Sequence[RecipientReport],
    *,
    hostname: str,
    message_id_text: str,
    now: float,
    returned: bytes,
    returned_is_full: bool = False,
) -> bytes:
    """The notice to the sender of `envelope` about `reports`, which `select` has chosen.

    To be sent from the null sender to `envelope.reverse_path`. It needs SMTPUTF8 if the reverse path is not ASCII,
    and is 8-bit if the bytes are not ASCII.

    Args:
        hostname: ours, ASCII.
        message_id_text: of the notice itself; becomes the left side of its Message-ID.
        now: epoch seconds.
        returned: the original message from its first byte; at least its header (up to MAX_RETURNED_BYTES of it).
        returned_is_full: `returned` is the whole message and is to be sent back whole. The header alone is sent all
            the same if the message could not stand in a notice (NUL, bare CR or LF, overlong lines).

    Raises:
        ValueError: the null sender, or nothing to report.
    """
    if not envelope.reverse_path or not reports:
        raise ValueError("a notice needs a sender to tell and a recipient to tell of")
    header = _header_of(returned)
    utf8 = envelope.smtputf8 or not envelope.reverse_path.isascii()
    full = returned_is_full and _can_stand(returned)
    words = explain(
        kind,
        reports,
        hostname=hostname,
        arrived=_date(envelope.received_at),
        given_up=_date(reports[0].retry_until) if reports[0].retry_until else "",
        attached="your message" if full else "the header of your message",
    )
    fields, fields_subtype = _status_fields(kind, envelope, reports, hostname, utf8)
    parts = [
        _part("text/plain", "\r\n".join((*words, "")).encode(), charset=True, about="Notification"),
        _part(f"message/{fields_subtype}", fields.encode(), about="Delivery report"),
        _returned_part(returned, header, full, utf8),
    ]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
    boundary = f"=_{digest}".encode()
    while any(boundary in part for part in parts):
        boundary += b"_"
    head = _head(kind, envelope, header, hostname, message_id_text, now)
    eight_bit = not all(part.isascii() for part in parts)
    return b"".join(
        (
            "".join(line + "\r\n" for line in head).encode(),
            f"Content-Type: multipart/report; report-type={fields_subtype};\r\n".encode(),
            b' boundary="' + boundary + b'"\r\n',
            b"Content-Transfer-Encoding: " + (b"8bit" if eight_bit else b"7bit") + b"\r\n\r\n",
            b"This is a MIME message.\r\n",
            *(b"\r\n--" + boundary + b"\r\n" + part for part in parts),
            b"\r\n--" + boundary + b"--\r\n",
        )
    )


def _head(kind: Kind, envelope: Envelope, header: bytes, hostname: str, message_id_text: str, now: float) -> list[str]:
    to = clean(envelope.reverse_path)
    # Longer than any address can be (RFC 5321 §4.5.3.1.3), but the field must not break for it.
    to = f"<{to}>" if len(to.encode()) <= _MAX_LINE_BYTES - 10 else "undisclosed-recipients:;"
    lines = [
        f"Date: {_date(now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: {to}",
        f"Subject: {SUBJECTS[kind]}",
        f"Message-ID: <{message_id_text}@{hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
    ]
    if found := _MESSAGE_ID.search(header):
        lines.insert(5, f"References: {found.group(1).decode()}")
    return lines


def _status_fields(
    kind: Kind, envelope: Envelope, reports: Sequence[RecipientReport], hostname: str, utf8: bool
) -> tuple[str, str]:
    """The fields for programs, and the subtype of message/ that they are."""
    originals = [_original(report.recipient) for report in reports]
    wide = utf8 and not all(
        report.recipient.address.isascii() and original[1].isascii()
        for report, original in zip(reports, originals, strict=True)
    )
    lines = [f"Reporting-MTA: dns; {hostname}", f"X-Postroika-Queue-ID: {id_text(envelope.message)}"]
    if envelope.envid:
        lines += _field("Original-Envelope-Id", _unxtext(envelope.envid), ascii_only=not wide)
    lines.append(f"Arrival-Date: {_date(envelope.received_at)}")
    for report, original in zip(reports, originals, strict=True):
        lines.append("")
        if original[1]:
            lines += _field("Original-Recipient", _typed(*original, wide), ascii_only=not wide)
        address = report.recipient.address
        lines += _field(
            "Final-Recipient",
            _typed("rfc822" if address.isascii() else "utf-8", address, wide),
            ascii_only=not wide,
        )
        lines.append(f"Action: {_ACTIONS[kind]}")
        lines.append(f"Status: {status_of(kind, report)}")
        if report.peer != Peer():
            lines += _field("Remote-MTA", f"dns; {_mta_name(report.peer)}", ascii_only=not wide)
        source = "smtp" if report.remote else "x-postroika"
        lines += _field("Diagnostic-Code", f"{source}; {reply_text(report.reply)}", ascii_only=not wide)
        if report.attempted_at:
            lines.append(f"Last-Attempt-Date: {_date(report.attempted_at)}")
        if kind is Kind.DELAYED and report.retry_until:
            lines.append(f"Will-Retry-Until: {_date(report.retry_until)}")
    return "\r\n".join((*lines, "")), "global-delivery-status" if wide else "delivery-status"


def _mta_name(peer: Peer) -> str:
    """The name of a host, or its address as a literal (RFC 3464 §2.1.2, RFC 5321 §4.1.3)."""
    if peer.host and peer.host != peer.ip:
        return peer.host
    return f"[IPv6:{peer.ip}]" if ":" in peer.ip else f"[{peer.ip}]"


def _field(name: str, value: str, *, ascii_only: bool) -> list[str]:
    return fold(f"{name}: {clean(value, ascii_only)}", indent="    ")


def _typed(kind: str, address: str, wide: bool) -> str:
    """ "rfc822; a@b", or "utf-8; ..." in the form that the part can hold (RFC 6533 §3)."""
    if kind == "utf-8":
        address = "".join(
            c if (wide or c.isascii()) and c.isprintable() and c not in " \\+=" else f"\\x{{{ord(c):02X}}}"
            for c in address
        )
    return f"{kind}; {address}"


def _original(recipient: Recipient) -> tuple[str, str]:
    """Type and address of ORCPT, decoded; an empty address if there is none."""
    kind, separator, value = recipient.orcpt.partition(";")
    if not separator or not value:
        return "", ""
    kind = kind.strip().lower()
    if kind != "utf-8":
        return clean(kind, ascii_only=True), _unxtext(value)
    return kind, _EMBEDDED.sub(_embedded_char, value)


def _embedded_char(match: re.Match[str]) -> str:
    point = int(match.group(1), 16)
    return chr(point) if point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF else match.group()


def _unxtext(text: str) -> str:
    """xtext decoded (RFC 3461 §4); what is not xtext stays as it is."""
    if "+" not in text or not _XTEXT.fullmatch(text):
        return text
    return re.sub(r"\+([0-9A-F]{2})", lambda match: chr(int(match.group(1), 16)), text)


def _header_of(message: bytes) -> bytes:
    """The header of `message` with its last line end, without the empty line; cut at a line end if it is long."""
    if message.startswith(b"\r\n"):
        return b""
    end = message.find(b"\r\n\r\n", 0, MAX_RETURNED_BYTES)
    if end < 0:
        end = message.rfind(b"\r\n", 0, MAX_RETURNED_BYTES)
        return message[: end + 2] if end >= 0 else message[:MAX_RETURNED_BYTES]
    return message[: end + 2]


def _can_stand(message: bytes) -> bool:
    """Whether `message` may be a message/rfc822 part as it is: clean lines of legal length."""
    line_ends = message.count(b"\r\n")
    return (
        b"\0" not in message
        and message.count(b"\n") == message.count(b"\r") == line_ends
        and max(map(len, message.split(b"\r\n"))) <= _MAX_LINE_BYTES
    )


def _returned_part(message: bytes, header: bytes, full: bool, utf8: bool) -> bytes:
    # The UTF-8 types are for senders that have shown they know them (RFC 6533 §4). Others get back what they sent.
    wide = utf8 and not header.isascii() and _is_utf8(message if full else header)
    if full:
        about = "Undelivered message"
        if wide:
            return _part("message/global", message, about=about)
        # RFC 2046 §5.2.1: no encoding but 7bit and 8bit for this type.
        encoding = b"" if message.isascii() else b"Content-Transfer-Encoding: 8bit\r\n"
        return _open("message/rfc822", about) + encoding + b"\r\n" + message
    return _part("message/global-headers" if wide else "text/rfc822-headers", header, about="Header of the message")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _open(content_type: str, about: str) -> bytes:
    return f"Content-Type: {content_type}\r\nContent-Description: {about}\r\n".encode()


def _part(content_type: str, content: bytes, *, about: str, charset: bool = False) -> bytes:
    """A part with its header, quoted-printable unless the content can go as it is."""
    if charset:
        content_type += f"; charset={'us-ascii' if content.isascii() else 'utf-8'}"
    if content.isascii() and _can_stand(content):
        return _open(content_type, about) + b"\r\n" + content
    encoding = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    return _open(content_type, about) + encoding + _quoted_printable(content)


def _quoted_printable(content: bytes) -> bytes:
    """RFC 2045 §6.7. CRLF is a line end; a CR or LF alone is an octet like others."""
    lines = []
    for whole in content.split(b"\r\n"):
        line = _NOT_QP.sub(lambda match: b"=%02X" % match.group()[0], whole)
        while len(line) > _QP_LINE_BYTES:
            cut = _QP_LINE_BYTES - 1
            # Not inside an "=XX".
            cut = cut - 1 if line[cut - 1 : cut] == b"=" else cut - 2 if line[cut - 2 : cut - 1] == b"=" else cut
            lines.append(line[:cut] + b"=")
            line = line[cut:]
        lines.append(line)
    return b"\r\n".join(lines)


def _date(at: float) -> str:
    """RFC 5322 §3.3, in UTC."""
    t = time.gmtime(at)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    )
