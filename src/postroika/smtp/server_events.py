"""What the SMTP server protocol tells its session. Plain values; those marked * wait for `Server.answer`."""

from __future__ import annotations

import msgspec

from postroika.mail.envelope import BodyType
from postroika.mail.reply import Reply


class Helo(msgspec.Struct, frozen=True, gc=False):
    """* EHLO or HELO (`verb`) with a name, printable but otherwise unchecked; the server answers."""

    verb: str
    name: str


class Auth(msgspec.Struct, frozen=True, gc=False):
    """* AUTH: an exchange begins. `Server.challenge` asks for a response, `Server.answer` ends it.

    Args:
        mechanism: one of those that are offered.
        initial: what came with the command, None if nothing did.
    """

    mechanism: str
    initial: bytes | None

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"Auth({self.mechanism!r}, …)"


class AuthResponse(msgspec.Struct, frozen=True, gc=False):
    """* The answer to a challenge. Who cancels or sends no base64 is refused by the server, and there is no event."""

    response: bytes

    def __repr__(self) -> str:
        """Without what is secret."""
        return "AuthResponse(…)"


class XClient(msgspec.Struct, frozen=True, gc=False):
    """* XCLIENT: a peer that may says for whom it speaks. Accepting takes the session back to where it was behind the
    greeting, which the server says again.

    Args: None where nothing was said; "" or 0 where it was said that it is not known.
        name: of the client's host, in lower case.
        addr, destaddr: IP addresses in canonical form.
        proto: "SMTP" or "ESMTP".
        helo: printable but otherwise unchecked, as in Helo.
        login: printable but otherwise unchecked.
    """

    name: str | None = None
    addr: str | None = None
    port: int | None = None
    proto: str | None = None
    helo: str | None = None
    login: str | None = None
    destaddr: str | None = None
    destport: int | None = None


class Mail(msgspec.Struct, frozen=True, gc=False):
    """* MAIL FROM.

    Args:
        reverse_path: without brackets and source route, domain in lower case; "" for the null sender.
        size_bytes: SIZE=, 0 where it was not given.
        ret, envid: as in `mail.envelope.Envelope`.
        utf8_address: the reverse-path has characters beyond ASCII.
        requiretls: the message may go on over verified TLS only (RFC 8689).
    """

    reverse_path: str
    size_bytes: int = 0
    body_type: BodyType = BodyType.SEVEN_BIT
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    utf8_address: bool = False
    requiretls: bool = False


class Rcpt(msgspec.Struct, frozen=True, gc=False):
    """* RCPT TO.

    Args:
        address: without brackets and source route, domain in lower case; "postmaster" may stand without domain.
        local, domain: its two parts.
        notify, orcpt: as in `mail.envelope.Recipient`.
        routed: it came with a source route, which has been taken off.
    """

    address: str
    local: str
    domain: str
    notify: int = 0
    orcpt: str = ""
    routed: bool = False
    utf8_address: bool = False


class DataBegin(msgspec.Struct, frozen=True, gc=False):
    """* DATA, or the first BDAT of a transaction (`chunked`), with at least one recipient. Accepting makes the
    server send its 354, or take the chunk; refusing a chunk makes it discard the chunk and then reply."""

    chunked: bool


class BodyChunk(msgspec.Struct, frozen=True, gc=False):
    """The next octets of content: dots unstuffed, never empty."""

    piece: bytes


class BodyEnd(msgspec.Struct, frozen=True, gc=False):
    """* The whole message has been received and is well formed. The answer is the reply to the final dot.

    Args:
        size_bytes: sum of all pieces.
        eight_bit, header_eight_bit: an octet ≥ 128 is in the message, in its header.
        longest_line: octets without CR LF.
        received: number of Received fields.
        nul: there are NULs (only where BINARYMIME allows them).
    """

    size_bytes: int
    eight_bit: bool
    header_eight_bit: bool
    longest_line: int
    received: int
    nul: bool


class BodyRefused(msgspec.Struct, frozen=True, gc=False):
    """The server refuses the message that is being received: drop what was stored. Comes as soon as it is known;
    the peer gets `reply` after its real end, and the octets until then are discarded."""

    reply: Reply


class Reset(msgspec.Struct, frozen=True, gc=False):
    """A transaction that had begun ended without a message: RSET, EHLO, HELO, a BDAT LAST without recipients."""


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The server has itself refused a command: for the record.

    Args:
        stage: "mail", "rcpt", "data", "auth" (what came makes no sense in an exchange), "xclient", or "protocol" where
            the server gave up on the peer.
        detail: the argument of the command, as sent; at most some hundred characters.
    """

    stage: str
    reply: Reply
    detail: str = ""


class Quit(msgspec.Struct, frozen=True, gc=False):
    """QUIT; 221 is in the output and the server is closed."""


class StartTls(msgspec.Struct, frozen=True, gc=False):
    """STARTTLS was accepted: 220 is in the output, and the server is closed. Nothing that the client has sent in the
    clear is read any more, and what it has said is void. Send the output, throw away whatever else has come, shake
    hands, and go on with a new Server whose settings say that TLS is active (RFC 3207 §4.2)."""


Event = (
    Helo | StartTls | Auth | AuthResponse | XClient | Mail | Rcpt | DataBegin | BodyChunk | BodyEnd | BodyRefused
    | Reset | Refused | Quit
)  # fmt: skip
