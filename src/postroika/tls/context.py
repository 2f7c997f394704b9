"""OpenSSL contexts with the rules that hold for all of our connections.

Promise: TLS 1.2 or newer; no renegotiation, by which a peer could make us work for nothing; and an end without a
close_notify is told from a good one, which Python's own default hides.
"""

from __future__ import annotations

import ssl


class CalledObject(ssl.SSLObject):
    """The engine of who is called: keeps the name that it was called by (SNI), in lower case; "" for none."""

    called = ""


def server_context() -> ssl.SSLContext:
    """For who is called. It has no certificate yet. Who sets another `sni_callback` keeps the name with
    `note_called`."""
    context = _with_our_rules(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.sslobject_class = CalledObject
    context.sni_callback = note_called
    return context


def note_called(engine: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    """Keep the name that the client asks for: an `sni_callback`."""
    if name and isinstance(engine, CalledObject):
        engine.called = name.lower().removesuffix(".")


def client_context(*, verify: bool) -> ssl.SSLContext:
    """For who calls.

    Args:
        verify: the peer's certificate has to be good, and for the name that was asked for. It trusts nobody yet.
    """
    context = _with_our_rules(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _with_our_rules(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options &= ~_OP_IGNORE_UNEXPECTED_EOF
    return context


# Python has set it since 3.10 and has a name for it since 3.12 only; the number is part of OpenSSL 3.
_OP_IGNORE_UNEXPECTED_EOF = 1 << 7
