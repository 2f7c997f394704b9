"""One message to an SMTP server, by smtplib: what is sent, and what the server said to it."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Sequence
from typing import NamedTuple

from postroika.errors import PostroikaError

_REPLY_TIMEOUT_S = 60.0
_QUEUED = re.compile(r"queued as ([0-9a-hjkmnp-tv-z]{13})\b")  # the letters of our ids, see mail.ids
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Submitted(NamedTuple):
    """What the server said.

    Args:
        message: the queue id; "" if the message was refused, or the server is none of ours.
        reply: to the message, or what ended the transaction before it.
        accepted: recipients who are in the queue now.
        refused: the others, each with the reply.
    """

    message: str
    reply: str
    accepted: list[str]
    refused: dict[str, str]


def new_message(sender: str, recipients: Sequence[str], subject: str, body: str, hostname: str) -> bytes:
    """A text message with all the fields that RFC 5322 §3.6 wants, in network form."""
    from email.message import EmailMessage
    from email.policy import SMTP, SMTPUTF8
    from email.utils import format_datetime, localtime, make_msgid

    message = EmailMessage(policy=SMTP if "".join([sender, *recipients]).isascii() else SMTPUTF8)
    try:
        message["From"] = sender or f"mailer-daemon@{hostname}"
        message["To"] = ", ".join(recipients)
        message["Subject"] = subject
    except ValueError as error:
        raise PostroikaError(f"no header can be made of that: {error}") from None
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = make_msgid(domain=hostname)
    message.set_content(body)
    return message.as_bytes()


def network_form(text: bytes) -> bytes:
    """A message file as it is sent: each line ends with CRLF. Nothing else is changed."""
    text = _BARE_LF.sub(b"\r\n", text)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def sender_of(text: bytes) -> str:
    """The address in the From: field of a message; "" if there is none."""
    from email.parser import BytesHeaderParser
    from email.utils import parseaddr

    return parseaddr(str(BytesHeaderParser().parsebytes(text).get("From", "")))[1]


def submit(host: str, port: int, sender: str, recipients: Sequence[str], message: bytes) -> Submitted:
    """Hand `message` (in network form) to the server at `host` and `port`.

    Raises:
        PostroikaError: it cannot be reached, or broke off; whether it has the message is told in the text.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with smtplib.SMTP(host, port, timeout=_REPLY_TIMEOUT_S) as session:
            session.ehlo_or_helo_if_needed()
            return _transaction(session, sender, recipients, message)
    except ConnectionRefusedError as error:
        raise PostroikaError(f"no server listens at {where}; start one with `postroika serve`") from error
    except smtplib.SMTPNotSupportedError as error:
        raise PostroikaError(f"{where} does not offer SMTPUTF8, which these addresses need") from error
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise PostroikaError(f"the message was not taken: {where}: {_plain(error)}") from error


def _transaction(session: smtplib.SMTP, sender: str, recipients: Sequence[str], message: bytes) -> Submitted:
    options = [f"SIZE={len(message)}"] if session.has_extn("size") else []
    if not message.isascii() and session.has_extn("8bitmime"):
        options.append("BODY=8BITMIME")
    if not "".join([sender, *recipients]).isascii():
        options.append("SMTPUTF8")
    code, text = session.mail(sender, options)
    if code != 250:
        reply = _shown(code, text)
        return Submitted("", reply, [], dict.fromkeys(recipients, reply))
    accepted: list[str] = []
    refused: dict[str, str] = {}
    for recipient in recipients:
        code, text = session.rcpt(recipient)
        if code in {250, 251}:
            accepted.append(recipient)
        else:
            refused[recipient] = _shown(code, text)
    if not accepted:
        session.rset()
        return Submitted("", "no recipient was accepted", [], refused)
    try:
        code, text = session.data(message)
    except smtplib.SMTPDataError as error:
        code, text = error.smtp_code, _octets(error.smtp_error)
    reply = _shown(code, text)
    if code != 250:
        return Submitted("", reply, [], {**dict.fromkeys(accepted, reply), **refused})
    found = _QUEUED.search(reply)
    return Submitted(found[1] if found else "", reply, accepted, refused)


def _octets(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _shown(code: int, text: bytes) -> str:
    """A reply in one line, without the enhanced codes that begin its further lines."""
    first, *rest = text.decode(errors="replace").split("\n")
    return " ".join([str(code), first, *(re.sub(r"^\d\.\d{1,3}\.\d{1,3} ", "", line) for line in rest)])


def _plain(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return _shown(error.smtp_code, _octets(error.smtp_error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
