"""The other side of the crash ledger: a next hop made of aiosmtpd, which writes down what it was given.

It takes everything but recipients whose local part begins with "refused". One line a message and recipient goes to a
file, written before the 250: id, recipient, SHA-256 of the content after our Received field; or "notice" and the
recipient that a notification tells of.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from typing import Any

from aiosmtpd.controller import Controller

_FINAL_RECIPIENT = re.compile(rb"^Final-Recipient: rfc822; (\S+)", re.MULTILINE)


class Keeper:
    """aiosmtpd's handler."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address.startswith("refused"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        content: bytes = envelope.content
        failed = _FINAL_RECIPIENT.findall(content)
        if failed:
            lines = "".join(f"notice {recipient.decode()} -\n" for recipient in failed)
        else:
            number, digest = identify(content)
            lines = "".join(f"{number} {recipient} {digest}\n" for recipient in envelope.rcpt_tos)
        os.write(self._fd, lines.encode())  # O_APPEND, one call: whole or not at all
        return "250 OK"


def identify(content: bytes) -> tuple[str, str]:
    """The id in the Subject field, and the digest of all that begins there."""
    start = content.index(b"Subject: ledger ")
    number = content[start + 16 : content.index(b"\r\n", start)].decode()
    return number, hashlib.sha256(content[start:]).hexdigest()


def main() -> None:
    """Arguments: port, file."""
    fd = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    controller = Controller(Keeper(fd), hostname="127.0.0.1", port=int(sys.argv[1]), data_size_limit=64 << 20)
    controller.start()
    asyncio.new_event_loop().run_forever()


if __name__ == "__main__":
    main()
