"""Logging in at a server, PLAIN or LOGIN: what to say, line by line. Pure.

Promise: the password is in what is sent and nowhere else: not in a `repr`, not in what is kept of a reply.
Source: RFC 4954 §4, RFC 4616 (PLAIN), draft-murchison-sasl-login (LOGIN).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

import msgspec

from postroika.mail.reply import Reply

_MAX_COMMAND_BYTES = 512  # RFC 4954 §4: an initial response that does not fit has to wait for a 334.
_HIDDEN = "[…]"
_LEAST_HIDDEN = 8


class Credentials:
    """Who we are at a server.

    Args:
        user, password: without NUL.
    """

    __slots__ = ("password", "user")

    def __init__(self, user: str, password: str) -> None:
        if "\0" in user + password or not user:
            raise ValueError("a user and a password have no NUL in them, and the user is not empty")
        self.user = user
        self.password = password

    def __repr__(self) -> str:
        return f"Credentials({self.user!r}, …)"


class Login:
    """One dialogue: `first` is the command, `answer` what to say to each 334.

    Args:
        credentials: who we are.
        mechanisms: what the server offers, in upper case.

    Attributes:
        mechanism: the one that is used; "" if there is none that we know.
    """

    def __init__(self, credentials: Credentials, mechanisms: Sequence[str]) -> None:
        self.mechanism = next((name for name in ("PLAIN", "LOGIN") if name in mechanisms), "")
        user, password = credentials.user.encode(), credentials.password.encode()
        plain = b64encode(b"\0%b\0%b" % (user, password))
        # Whatever was said, the other forms are known to who was told one of them.
        forms = (plain.decode(), b64encode(password).decode(), credentials.password)
        # What is long first: a short password may be a part of its own forms, of which the rest would tell it.
        self._secrets = sorted(filter(None, forms), key=len, reverse=True)
        self._answers: list[bytes] = []
        if self.mechanism == "PLAIN":
            self._answers = [plain]
        elif self.mechanism == "LOGIN":
            self._answers = [b64encode(user), b64encode(password)]

    def first(self) -> bytes:
        """The command."""
        command = f"AUTH {self.mechanism}".encode()
        if self.mechanism == "PLAIN" and len(command) + len(self._answers[0]) + 3 <= _MAX_COMMAND_BYTES:
            return b"%b %b\r\n" % (command, self._answers.pop(0))
        return command + b"\r\n"

    def answer(self) -> bytes | None:
        """What to say to the next 334; None if nothing is left to say."""
        return self._answers.pop(0) + b"\r\n" if self._answers else None

    def without_secrets(self, said: Reply, *, answered: bool) -> Reply:
        """The reply, should a server have said again what was secret: replies are logged, and sent to senders.

        Args:
            answered: it is to AUTH. In others short passwords stay: they may be words that stand there anyway, and what
                is hidden then would tell them.
        """
        lines = said.lines
        for secret in self._secrets:
            if answered or len(secret) >= _LEAST_HIDDEN:
                lines = tuple([line.replace(secret, _HIDDEN) for line in lines])
        return said if lines == said.lines else msgspec.structs.replace(said, lines=lines)
