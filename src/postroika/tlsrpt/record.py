"""The record in which a domain says where TLS reports about it go: TXT at `_smtp._tls.DOMAIN`. Pure.

Promise: what is returned can be used: addresses that can stand in a header and an envelope as they are, URLs with a
host. Whatever else stands there is left out, and a record that is broken is none. Source: RFC 8460 §3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from postroika.mail.address import canonical_domain, split_address

PREFIX = "_smtp._tls."
MAX_DESTINATIONS = 8  # each costs a message, perhaps to somebody who has not asked for it
_VERSION = re.compile(r"v=TLSRPTv1[ \t]*;")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=(.+)", re.DOTALL)
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([\x21-\x7e]+)")
# A dot-atom (RFC 5322 §3.2.3): a quoted local part is nobody's mailbox for reports.
_LOCAL_PART = re.compile(r"(?=.{1,64}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_MAX_URL_CHARS = 2000


class Destination(NamedTuple):
    """Where a report goes.

    Args:
        scheme: "mailto" or "https".
        target: the address, or the whole URL.
    """

    scheme: Literal["mailto", "https"]
    target: str

    @property
    def uri(self) -> str:
        """In one word."""
        return f"mailto:{self.target}" if self.scheme == "mailto" else self.target


def destinations(records: Iterable[bytes]) -> tuple[Destination, ...]:
    """Where the reports of a domain go; nowhere, unless exactly one of its records is of this kind, and well formed.

    Args:
        records: all TXT records of the name, each with its strings joined.
    """
    found = [text for text in (record.decode("latin-1") for record in records) if _VERSION.match(text)]
    if len(found) != 1:
        return ()
    uris = _rua(found[0])
    if uris is None:
        return ()
    usable = [destination for destination in map(_destination, uris) if destination is not None]
    return tuple(dict.fromkeys(usable))[:MAX_DESTINATIONS]


def _rua(text: str) -> Sequence[str] | None:
    """The URIs in the field `rua`; None if the record is broken or has no such field."""
    fields = [field.strip(" \t") for field in text.split(";")[1:]]
    if fields and not fields[-1]:
        del fields[-1]
    rua: str | None = None
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            return None
        if match[1] == "rua":
            if rua is not None:
                return None
            rua = match[2]
    return None if rua is None else [uri.strip(" \t") for uri in rua.split(",")]


def _destination(uri: str) -> Destination | None:
    match = _URI.fullmatch(uri)
    if match is None or "!" in uri:  # which would have to be encoded, and in DMARC begins something else
        return None
    scheme = match[1].lower()
    if scheme == "mailto":
        address = _address(match[2])
        return None if address is None else Destination("mailto", address)
    if scheme == "https" and _is_usable_url(uri):
        return Destination("https", uri)
    return None


def _address(text: str) -> str | None:
    """The address of a mailto: URI (RFC 6068), without what is to stand in the header; None if it has not one."""
    try:
        local, domain = split_address(unquote_to_bytes(text.partition("?")[0]).decode())
        domain = canonical_domain(domain)
    except ValueError:
        return None
    if not _LOCAL_PART.fullmatch(local) or domain.startswith("["):
        return None
    return f"{local}@{domain}"


def _is_usable_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        len(url) <= _MAX_URL_CHARS
        and bool(parts.hostname)
        and parts.username is None
        and parts.password is None
        and port != 0
        and not parts.fragment
    )
