"""What an SMTP server offers, and what that means for one message: pure functions of EHLO reply and envelope.

Promise: nothing is asked for that was not offered, and a message that the server cannot take as it is gets a reply of
ours instead of a silent downgrade.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from postroika.mail.envelope import BodyType, Envelope, Notify, Recipient
from postroika.mail.reply import Reply, reply


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """The EHLO keywords that we know.

    Args:
        size: SIZE was offered.
        max_size_bytes: its limit, 0 if none was named.
        max_recipients: LIMITS RCPTMAX, 0 if none: RCPT commands in one transaction.
        max_messages: LIMITS MAILMAX, 0 if none: transactions on one connection.
        requiretls: the server takes and keeps REQUIRETLS.
        auth: mechanisms to log in with, in upper case.
    """

    esmtp: bool = False
    pipelining: bool = False  # RFC 2920
    chunking: bool = False  # RFC 3030
    binarymime: bool = False  # RFC 3030
    size: bool = False  # RFC 1870
    max_size_bytes: int = 0
    eight_bit_mime: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    dsn: bool = False  # RFC 3461
    enhanced_status_codes: bool = False  # RFC 2034
    max_recipients: int = 0  # RFC 9422
    max_messages: int = 0
    starttls: bool = False  # RFC 3207
    requiretls: bool = False  # RFC 8689
    auth: tuple[str, ...] = ()  # RFC 4954


_FLAGS = {
    "PIPELINING": "pipelining",
    "CHUNKING": "chunking",
    "BINARYMIME": "binarymime",
    "8BITMIME": "eight_bit_mime",
    "SMTPUTF8": "smtputf8",
    "DSN": "dsn",
    "ENHANCEDSTATUSCODES": "enhanced_status_codes",
    "STARTTLS": "starttls",
    "REQUIRETLS": "requiretls",
}
_SEVEN_BIT = BodyType.SEVEN_BIT  # looked up for each message
_MAX_DIGITS = 18  # More is no size; and int() of a very long string is slow.


def parse_capabilities(ehlo: Reply) -> Capabilities:
    """What the lines after the first of an EHLO reply offer. Unknown keywords and broken values are passed over."""
    flags: dict[str, bool] = {}
    size, max_size_bytes = False, 0
    limits: dict[str, int] = {}
    auth: list[str] = []
    for line in ehlo.lines[1:]:
        words = line.upper().split()
        if not words:
            continue
        keyword, *values = words
        if keyword in _FLAGS:
            flags[_FLAGS[keyword]] = True
        elif keyword == "SIZE":
            size, max_size_bytes = True, _number(values[0]) if values else 0
        elif keyword == "LIMITS":
            for item in values:
                name, _, value = item.partition("=")
                limits[name] = _number(value)
        elif keyword == "AUTH" or keyword.startswith("AUTH="):  # The latter from before RFC 2554.
            auth += [*filter(None, [keyword[5:]]), *values]
    return Capabilities(
        esmtp=True,
        size=size,
        max_size_bytes=max_size_bytes,
        max_recipients=limits.get("RCPTMAX", 0),
        max_messages=limits.get("MAILMAX", 0),
        auth=tuple(dict.fromkeys(auth)),
        **flags,
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else 0


# Codes of RFC 3463, RFC 6531 §3.5 (6.7), RFC 8689 §6 (7.30); 554 since the whole transaction has failed.
_TOO_LARGE = "5.3.4"
_CONVERSION_NEEDED = "5.6.3"
_UTF8_NEEDED = "5.6.7"
_REQUIRETLS_NEEDED = "5.7.30"


def bare_newline_reply() -> Reply:
    """The body has a CR or LF alone and is not declared as binary: to send it would smuggle."""
    return reply(554, _CONVERSION_NEEDED, "The message has bare CR or LF characters, which cannot be sent safely")


def unusable_address_reply() -> Reply:
    """An address or parameter with control characters or broken Unicode: it can stand in no command."""
    return reply(553, "5.1.3", "An address of the envelope has characters that cannot be sent")


def requiretls_reply() -> Reply:
    """The sender wants TLS all the way, and the server does not promise that."""
    return reply(550, _REQUIRETLS_NEEDED, "The message requires TLS all the way and the next host offers no REQUIRETLS")


def obstacle(envelope: Envelope, recipients: Sequence[Recipient], offered: Capabilities) -> Reply | None:
    """Why this server cannot take the message as it is, as a 5xx of ours; None if it can.

    A message that was declared 7-bit goes as it came. One that was declared 8-bit and has only 7-bit octets needs
    no 8BITMIME.

    Source: RFC 1870 §6.1, RFC 3030 §3, RFC 6152 §3, RFC 6531 §3.2, RFC 8689 §4.2.1.
    """
    if envelope.requiretls and not offered.requiretls:
        return requiretls_reply()
    if 0 < offered.max_size_bytes < envelope.size_bytes:
        return reply(
            552,
            _TOO_LARGE,
            f"The message has {envelope.size_bytes} octets, the next host takes {offered.max_size_bytes} at most",
        )
    if envelope.body_type is BodyType.BINARY:
        if not (offered.binarymime and offered.chunking):
            return reply(554, _CONVERSION_NEEDED, "The message is binary and the next host does not offer BINARYMIME")
    elif envelope.body_type is BodyType.EIGHT_BIT and envelope.eight_bit and not offered.eight_bit_mime:
        return reply(554, _CONVERSION_NEEDED, "The message is 8-bit and the next host does not offer 8BITMIME")
    if not offered.smtputf8 and needs_smtputf8(envelope, recipients):
        return reply(
            553, _UTF8_NEEDED, "The message needs internationalised mail and the next host does not offer SMTPUTF8"
        )
    return None


def needs_smtputf8(envelope: Envelope, recipients: Sequence[Recipient]) -> bool:
    """Whether SMTPUTF8 has to be asked for."""
    if envelope.utf8_needed or not envelope.reverse_path.isascii():
        return True
    for recipient in recipients:  # noqa: SIM110 - a generator would cost as much as the rest
        if not recipient.address.isascii():
            return True
    return False


def plain_commands(envelope: Envelope, recipients: Sequence[Recipient], offered: Capabilities) -> bytes | None:
    """What `envelope_commands` gives, for a message that has one recipient, nothing special and no obstacle: nearly all
    of them; None if it cannot be told so quickly."""
    if (
        len(recipients) != 1
        or envelope.utf8_needed
        or envelope.requiretls
        or 0 < offered.max_size_bytes < envelope.size_bytes
    ):
        return None
    recipient = recipients[0]
    if offered.dsn and (envelope.ret or envelope.envid or recipient.notify or recipient.orcpt):
        return None
    words = f" SIZE={envelope.size_bytes}" if offered.size else ""
    if envelope.eight_bit or envelope.body_type is not _SEVEN_BIT:
        if not offered.eight_bit_mime or envelope.body_type is BodyType.BINARY:
            return None
        words += " BODY=8BITMIME"
    sender, address = envelope.reverse_path, recipient.address
    if not (sender.isascii() and sender.isprintable() and address.isascii() and address.isprintable()):
        return None
    return f"MAIL FROM:<{sender}>{words}\r\nRCPT TO:<{address}>\r\n".encode()


def envelope_commands(envelope: Envelope, recipients: Sequence[Recipient], offered: Capabilities) -> bytes | None:
    """MAIL and RCPT …; None if something in them would not stay within its line, so that it must never be sent."""
    utf8 = offered.smtputf8 and needs_smtputf8(envelope, recipients)
    commands = [_mail(envelope, offered, utf8), *[_rcpt(recipient, offered, utf8) for recipient in recipients]]
    try:
        group = "".join(commands).encode()
    except UnicodeEncodeError:
        return None
    lines = len(commands)
    return group if group.count(b"\n") == lines == group.count(b"\r") and b"\0" not in group else None


def _mail(envelope: Envelope, offered: Capabilities, utf8: bool) -> str:
    """MAIL with the parameters that are offered and say something. `utf8`: ask for SMTPUTF8."""
    command = f"MAIL FROM:<{envelope.reverse_path}>"
    if offered.size:
        command += f" SIZE={envelope.size_bytes}"
    if envelope.body_type is BodyType.BINARY:
        command += " BODY=BINARYMIME"
    elif offered.eight_bit_mime and (envelope.eight_bit or envelope.body_type is BodyType.EIGHT_BIT):
        command += " BODY=8BITMIME"
    if utf8:
        command += " SMTPUTF8"
    if offered.dsn:
        if envelope.ret:
            command += f" RET={envelope.ret}"
        if envelope.envid:
            command += f" ENVID={envelope.envid}"
    if envelope.requiretls:
        command += " REQUIRETLS"
    return command + "\r\n"


def _rcpt(recipient: Recipient, offered: Capabilities, utf8: bool) -> str:
    """RCPT with NOTIFY and ORCPT if DSN is offered and they were given. A utf-8 ORCPT goes only where SMTPUTF8 was
    asked for (RFC 6533 §3)."""
    command = f"RCPT TO:<{recipient.address}>"
    if offered.dsn:
        if recipient.notify:
            command += f" NOTIFY={_NOTIFY_WORDS[recipient.notify]}"
        if recipient.orcpt and (utf8 or recipient.orcpt.isascii()):
            command += f" ORCPT={recipient.orcpt}"
    return command + "\r\n"


_NOTIFY_WORDS = {
    flags: ",".join(word.name or "" for word in Notify if flags & word) for flags in range(1, 2 * Notify.DELAY)
}
