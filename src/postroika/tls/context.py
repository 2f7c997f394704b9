"""OpenSSL contexts with the rules that hold for all of our connections.

Promise: TLS 1.2 or newer; no renegotiation, by which a peer could make us work for nothing; and an end without a
close_notify is told from a good one, which Python's own default hides.
"""

from __future__ import annotations

import ssl


def server_context() -> ssl.SSLContext:
    """For who is called. It has no certificate yet."""
    return _with_our_rules(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


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
