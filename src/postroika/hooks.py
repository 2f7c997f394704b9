"""What a hooks.py is written with: the facts that hooks are given, and the verdicts that they give.

    from postroika.hooks import Client, Mail, Verdict, reject

    async def mail(client: Client, mail: Mail) -> Verdict | None:
        if mail.sender.endswith("@spam.example"):
            return reject("we have had enough of you")
        return None

Promise: all of it is plain values that do not change, and that nobody else sees; names here stay. docs/hooks.md is the
manual.
"""

from __future__ import annotations

import email.message
import email.parser
import email.policy
import re
from dataclasses import dataclass

__all__ = ["Client", "Envelope", "Mail", "Message", "Recipient", "Verdict", "accept", "defer", "reject"]

_CODES = {2: range(250, 251), 4: range(400, 500), 5: range(500, 600)}
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_MOST_TEXT_CHARS = 400  # with codes and line end within the 512 octets of a reply line (RFC 5321 §4.5.3.1.5)


@dataclass(frozen=True, slots=True)
class Client:
    """Who speaks with us.

    Args:
        ip, port: where the connection comes from; an IPv4 address that came over an IPv6 socket is shown as IPv4.
        known: `ip` is the client's. If not, it is that of a proxy that could not tell whose the client's is.
        proxy_ip: who has told us of the client, by PROXY or XCLIENT; "" if it came to us itself.
        local_ip: our address that it came to.
        listener: number of the [[listener]] that took it, from 0.
        trusted: `ip` is in [relay] networks.
        helo: the name that it has given itself, "" before EHLO.
        tls: protocol and cipher, as "TLSv1.3 TLS_AES_256_GCM_SHA384"; "" in the clear.
        certificate: the name in its certificate, if it has shown a good one.
        account, tenant: who has logged in; "" if nobody has.
        name: of the host at `ip`, where a peer has told it by XCLIENT; nobody has checked it. "" otherwise.
    """

    ip: str
    port: int = 0
    local_ip: str = ""
    listener: int = 0
    trusted: bool = False
    helo: str = ""
    tls: str = ""
    certificate: str = ""
    account: str = ""
    tenant: str = ""
    known: bool = True
    proxy_ip: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM.

    Args:
        sender: the reverse-path without brackets; "" is the null sender, of notifications.
        size_bytes: what the client says the message has; 0 if it does not say.
        smtputf8: addresses and header may have characters beyond ASCII.
        envid: envelope id (DSN), "" if there is none.
    """

    sender: str
    size_bytes: int = 0
    smtputf8: bool = False
    envid: str = ""

    @property
    def domain(self) -> str:
        """The domain of the sender, as the client wrote it but in lower case; "" of the null sender."""
        return self.sender.rpartition("@")[2] if "@" in self.sender else ""


@dataclass(frozen=True, slots=True)
class Recipient:
    """RCPT TO.

    Args:
        address: without brackets. The domain is in lower case, otherwise as the client wrote it.
        orcpt: the original recipient (DSN), "" if it was not told.
    """

    address: str
    orcpt: str = ""

    @property
    def domain(self) -> str:
        """The domain of the address; "" for <postmaster>."""
        return self.address.rpartition("@")[2] if "@" in self.address else ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A transaction before its content: from whom, and to whom. Recipients that were refused are not in it."""

    mail: Mail
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that has been received whole, and is not yet accepted.

    Args:
        header: as the client has sent it, up to the line that is empty, with CR LF line ends.
        size_bytes: of all of it.
    """

    envelope: Envelope
    header: bytes
    size_bytes: int

    def parsed(self) -> email.message.Message:
        """The header as the standard library reads it: `message.parsed()["Subject"]`. It fails for no input."""
        return email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(self.header)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is answered. `accept`, `reject` and `defer` make one.

    Args:
        kind: 2 accept, 4 not now, 5 never.
        text: the words of the reply. Line ends and other control characters in it become spaces, what is beyond ASCII
            becomes "?", and it is cut to 400 characters: it may be made from what a client has said.
        code: of the reply; 0 = the usual one of the stage.
        enhanced: enhanced status code (RFC 3463).

    Raises:
        ValueError: there is no such reply.
    """

    kind: int
    text: str = ""
    code: int = 0
    enhanced: str = ""

    def __post_init__(self) -> None:
        """See Raises."""
        if type(self.kind) is not int or self.kind not in _CODES:
            raise ValueError(f"{self.kind!r} is neither 2 nor 4 nor 5")
        if type(self.code) is not int or type(self.text) is not str:
            raise ValueError("a code is a whole number, and a text is a str")
        if self.code and self.code not in _CODES[self.kind]:
            raise ValueError(f"{self.code!r} is not the code of such a verdict")
        if self.enhanced and not (_ENHANCED.fullmatch(self.enhanced) and self.enhanced[0] == str(self.kind)):
            raise ValueError(f"{self.enhanced!r} is not an enhanced status code {self.kind}.x.x")

    @property
    def line(self) -> str:
        """`text` as it is sent."""
        cut = self.text[:_MOST_TEXT_CHARS]
        return "".join(char if " " <= char <= "~" else "?" if char > "\x7f" else " " for char in cut)


def accept() -> Verdict:
    """Yes, and nobody after this check is asked at this stage. Without an opinion, return None instead."""
    return Verdict(2)


def reject(text: str, *, code: int = 0, enhanced: str = "5.7.1") -> Verdict:
    """Never: the client has to give up.

    Args:
        code: 500 to 599; 0 = 550, or 554 at the stage `connect`.
    """
    return Verdict(5, text, code, enhanced)


def defer(text: str, *, code: int = 0, enhanced: str = "4.7.1") -> Verdict:
    """Not now: the client may try again later.

    Args:
        code: 400 to 499 (421 also ends the session); 0 = 451, or 421 at the stage `connect`.
    """
    return Verdict(4, text, code, enhanced)
