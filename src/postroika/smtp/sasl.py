"""SASL mechanisms as a server sees them, without input and output: PLAIN and LOGIN, and what all mechanisms share.

Promise: an exchange takes what the client has sent, already out of its base64, and says in one step what is to be done
next. It looks nothing up: names, keys and passwords are for whoever drives it. Whatever the octets, it neither fails
with an exception nor grows.

How: `begin` and `respond` return a step. `Challenge` asks the client for more; each other step ends the exchange, but
for `FindKeys` and `Proven`, after which SCRAM goes on (`scram`).
Source: RFC 4422; RFC 4616 (PLAIN); draft-murchison-sasl-login-00 (LOGIN); RFC 4013 (SASLprep).
"""

from __future__ import annotations

import stringprep
import unicodedata
from typing import NamedTuple, Protocol

MAX_NAME_CHARS = 255  # RFC 4616 §2: implementations have to take names of up to 255 octets; we ask for no more
_PROHIBITED = (
    stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
    stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
    stringprep.in_table_c9,
)  # fmt: skip


class Challenge(NamedTuple):
    """The client is to respond to these octets."""

    octets: bytes


class CheckPassword(NamedTuple):
    """Whoever drives the exchange has to see whether this is the password of the account; with that it is over."""

    name: str
    password: str

    def __repr__(self) -> str:
        """Without the password: this may end in a traceback."""
        return f"CheckPassword({self.name!r}, …)"


class FindKeys(NamedTuple):
    """`Scram.use` is to be given the keys of the account, or keys that nobody can prove if there is no such one."""

    name: str


class Proven(NamedTuple):
    """The client has proven to be this account. `octets` tell it so, and prove who we are: they are the next challenge,
    but for those only who may log in."""

    name: str
    octets: bytes


class Succeeded(NamedTuple):
    """The client has proven to be this account."""

    name: str


class Failed(NamedTuple):
    """It has not.

    Args:
        name: whom it claimed to be, "" where that is not known.
        why: for our own records.
        malformed: what it sent makes no sense in this mechanism.
    """

    name: str
    why: str
    malformed: bool = False


Step = Challenge | CheckPassword | FindKeys | Proven | Succeeded | Failed


class Exchange(Protocol):
    """One run of a mechanism."""

    def begin(self, initial: bytes | None) -> Step:
        """The first step; `initial` is what came with the command, None if nothing did."""

    def respond(self, response: bytes) -> Step:
        """The step after a challenge was answered."""


def prepared(text: str) -> str:
    """A name or password in the one form that is compared (SASLprep; characters newer than Unicode 3.2 are let be).

    Raises:
        ValueError: it has a character that must not be in there.
    """
    if text.isascii():
        if not text.isprintable():
            raise ValueError("control characters")
        return text
    mapped = "".join(" " if stringprep.in_table_c12(c) else "" if stringprep.in_table_b1(c) else c for c in text)
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibits(c) for c in normal for prohibits in _PROHIBITED):
        raise ValueError("characters that SASLprep prohibits")
    if any(map(stringprep.in_table_d1, normal)):  # RFC 3454 §6
        mixed = any(map(stringprep.in_table_d2, normal))
        if mixed or not (stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1])):
            raise ValueError("text in both directions")
    return normal


def account_name(text: str) -> str:
    """The name of an account in the one form that is compared: prepared, and in lower case.

    Raises:
        ValueError: no account can have this name.
    """
    if not 0 < len(text) <= MAX_NAME_CHARS:
        raise ValueError("empty or too long")
    name = prepared(text).lower()
    if not name or not name.isprintable():
        raise ValueError("characters that cannot be seen")
    return name


def credentials(name: bytes, password: bytes, acts_for: bytes = b"") -> Step:
    """The step for a name and a password in the clear.

    Args:
        acts_for: the identity to act as (authzid); only the account itself is allowed.
    """
    try:
        account = account_name(name.decode())
    except ValueError:
        return Failed("", "not a name", malformed=True)
    try:
        if acts_for and account_name(acts_for.decode()) != account:
            return Failed(account, "wanted to act for another account")
        return CheckPassword(account, prepared(password.decode()))
    except ValueError:
        return Failed(account, "not text")


class Plain:
    """PLAIN: one message, [authzid] NUL authcid NUL passwd."""

    __slots__ = ()

    def begin(self, initial: bytes | None) -> Step:
        """See Exchange."""
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, response: bytes) -> Step:
        """See Exchange."""
        parts = response.split(b"\0")
        if len(parts) != 3:
            return Failed("", "not a message of PLAIN", malformed=True)
        acts_for, name, password = parts
        return credentials(name, password, acts_for)


class Login:
    """LOGIN: the name, then the password. Never standardised, but there are clients that know nothing else."""

    __slots__ = ("_name",)

    def __init__(self) -> None:
        self._name: bytes | None = None

    def begin(self, initial: bytes | None) -> Step:
        """See Exchange."""
        return Challenge(b"Username:") if initial is None else self.respond(initial)

    def respond(self, response: bytes) -> Step:
        """See Exchange."""
        if self._name is None:
            self._name = response
            return Challenge(b"Password:")
        return credentials(self._name, response)
