"""The signature fields of one message: from its header and the hash of its body to what goes in front of it. Pure.

Promise: the fields fit into lines of 78 octets, but for a name that is longer itself; all of them sign the same header
fields and body.

Source: RFC 6376 §3.5, §3.7; RFC 8463.
"""

from __future__ import annotations

import functools
import hashlib
from binascii import b2a_base64
from collections.abc import Sequence

from postroika.config import Signing
from postroika.errors import SigningError
from postroika.kernels.dkim import Fields, relaxed_field
from postroika.signing.ring import Signature

# RFC 6376 §5.4.1 advises on both lists; RFC 8058 §4 wants its two List- fields signed.
OVERSIGNED = (
    "From", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID", "MIME-Version", "Content-Type",
    "Content-Transfer-Encoding", "List-Unsubscribe", "List-Unsubscribe-Post",
)  # fmt: skip
SIGNED = (
    "Sender", "In-Reply-To", "References", "Content-ID", "Content-Description", "Resent-From", "Resent-Date",
    "Resent-To", "Resent-Cc", "Resent-Sender", "Resent-Message-ID", "List-Id", "List-Help", "List-Subscribe",
    "List-Post", "List-Owner", "List-Archive", "Feedback-ID", "TLS-Report-Domain", "TLS-Report-Submitter",
)  # fmt: skip

_LINE_OCTETS = 72


class Names:
    """Which fields are signed.

    Args:
        signing: of the config.
    """

    def __init__(self, signing: Signing) -> None:
        oversigned = signing.oversigned or OVERSIGNED
        taken = {name.lower() for name in oversigned}
        signed = [name for name in signing.signed or SIGNED if name.lower() not in taken]
        self.names = tuple(name.encode("ascii") for name in (*oversigned, *signed))
        self.oversigned = len(oversigned)
        self.expire_after_s = int(signing.expire_after_s)


def signature_fields(
    fields: Fields, body_hash: bytes, signatures: Sequence[Signature], names: Names, signed_at: int
) -> bytes:
    """The DKIM-Signature fields, in the order of `signatures`.

    Args:
        fields: of the message.
        body_hash: SHA-256 of its relaxed body.
        signed_at: epoch seconds.

    Raises:
        SigningError: a key cannot be used; or there are too many fields of one name for none to be added.
    """
    try:
        named, relaxed = fields.signed(names.names, names.oversigned)
    except ValueError as too_many:
        raise SigningError(f"its header has {too_many}") from None
    times = b" t=%d;" % signed_at
    if names.expire_after_s:
        times += b" x=%d;" % (signed_at + names.expire_after_s)
    rest = b"%s\r\n\tbh=%s;\r\n\th=%s;\r\n\tb=" % (times, _base64(body_hash), _listed(named))
    common = hashlib.sha256(relaxed)
    out = []
    for signature in signatures:
        if signature.key is None:
            raise SigningError(f"the key {signature.entry.selector} cannot be used")
        unsigned = signature.tags + rest
        digest = common.copy()
        digest.update(relaxed_field(unsigned)[:-2])  # its own line end is not part of it (RFC 6376 §3.7)
        try:
            value = _base64(signature.key.sign(digest.digest()))
        except (ValueError, TypeError) as error:  # of a library that finds the key unfit
            raise SigningError(f"the key {signature.entry.selector} cannot sign") from error
        lines = [value[at : at + _LINE_OCTETS] for at in range(0, len(value), _LINE_OCTETS)]
        out += [unsigned, b"\r\n\t".join(lines), b"\r\n"]
    return b"".join(out)


def _base64(octets: bytes) -> bytes:
    return b2a_base64(octets, newline=False)


@functools.lru_cache(maxsize=512)
def _listed(named: bytes) -> bytes:
    """The value of h=, folded behind colons. Most mail of a sender has the same fields."""
    lines: list[bytes] = []
    line = b""
    for name in named.split(b":"):
        if line and len(line) + len(name) > _LINE_OCTETS:
            lines.append(line)
            line = b""
        line += name + b":"
    return b"\r\n\t ".join([*lines, line])[:-1]
