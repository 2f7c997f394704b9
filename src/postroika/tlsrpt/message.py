"""A report as a message. Pure.

Promise: a whole, well-formed 7-bit message with CRLF line ends. The same report to the same address is the same
message, but for its date. It says `TLS-Required: No`, for it has to arrive though encryption fails there, which may be
just what it tells of. Source: RFC 8460 §3, §5.3; RFC 6522; RFC 8689 §3.
"""

from __future__ import annotations

import base64
import hashlib
from email.utils import formatdate

from postroika.tlsrpt.report import Report, Submitter

CAMPAIGN = "tls-reports"
"""What all of this mail is called in the queue and in events. Sessions that are opened for it are not counted."""

_LINE_CHARS = 76  # RFC 2045 §6.8


def build(report: Report, address: str, submitter: Submitter, at: float) -> bytes:
    """The message.

    Args:
        address: whom it goes to; ASCII.
        at: epoch seconds.
    """
    left, _, right = report.report_id.partition("@")
    copy = hashlib.sha256(address.encode()).hexdigest()[:8]
    words = (
        f"This is an aggregate report about TLS (RFC 8460) from {submitter.domain}: how sessions\r\n"
        f"with the mail hosts of {report.domain} went. It is in the attached file.\r\n"
        "\r\n"
        f"Report-ID: {report.report_id}\r\n"
        f"Contact: {submitter.contact}\r\n"
    )
    encoded = base64.b64encode(report.compressed()).decode()
    lines = "\r\n".join(encoded[start : start + _LINE_CHARS] for start in range(0, len(encoded), _LINE_CHARS))
    boundary = f"=_{hashlib.sha256(report.content).hexdigest()[:32]}"
    text = (
        f"Date: {formatdate(int(at)).replace('-0000', '+0000')}\r\n"
        f"From: {submitter.contact}\r\n"
        f"To: {address}\r\n"
        f"Subject: Report Domain: {report.domain}\r\n"
        f" Submitter: {submitter.domain}\r\n"
        f" Report-ID: <{report.report_id}>\r\n"
        f"Message-ID: <{left}.{copy}@{right}>\r\n"
        f"TLS-Report-Domain: {report.domain}\r\n"
        f"TLS-Report-Submitter: {submitter.domain}\r\n"
        "TLS-Required: No\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "MIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type="tlsrpt";\r\n'
        f' boundary="{boundary}"\r\n'
        "Content-Language: en\r\n"
        "\r\n"
        "This is a MIME message.\r\n"
        f"\r\n--{boundary}\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "\r\n"
        f"{words}"
        f"\r\n--{boundary}\r\n"
        "Content-Type: application/tlsrpt+gzip\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f'Content-Disposition: attachment;\r\n filename="{report.file_name}"\r\n'
        "\r\n"
        f"{lines}\r\n"
        f"\r\n--{boundary}--\r\n"
    )
    return text.encode("ascii")
