"""Next hops with STARTTLS that we did not write: aiosmtpd, on asyncio and OpenSSL, each in a thread of its own."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, TLSSetupException

from tests.chains import Issued


def showing(file: Path, leaf: Issued, *above: Issued, tls_1_2: bool = False, hopeless: bool = False) -> ssl.SSLContext:
    """A server's context with this certificate and those above it.

    Args:
        file: to be written.
        hopeless: no handshake with it succeeds.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.write(file, above))
    if tls_1_2 or hopeless:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if hopeless:
        context.set_ciphers("PSK")
    return context


class Hop:
    """A server that takes all mail.

    Args:
        context: of its TLS; None: it offers none.

    Attributes:
        mails: reverse-paths, as soon as they are said.
        messages: what came.
        names: what it was called (SNI), by handshake.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self.mails: list[str] = []
        self.messages: list[bytes] = []
        self.names: list[str | None] = []
        if context is not None:
            context.sni_callback = lambda _object, name, _context: self.names.append(name)
        self._controller = _Controller(self, hostname=host, port=port, tls_context=context)
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    # --- what aiosmtpd calls

    async def handle_MAIL(
        self, server: SMTP, session: object, envelope: Any, address: str, options: Sequence[str]
    ) -> str:
        del server, session
        self.mails.append(address)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_DATA(self, server: SMTP, session: object, envelope: Any) -> str:
        del server, session
        self.messages.append(envelope.content)
        return "250 2.0.0 taken"


class _Controller(Controller):
    """Like its parent, but that TLS comes with STARTTLS and not before."""

    def __init__(self, handler: Hop, *, tls_context: ssl.SSLContext | None, **options: Any) -> None:
        super().__init__(handler, **options)
        self._tls = tls_context

    def factory(self) -> SMTP:
        return _Session(self.handler, tls_context=self._tls, hostname="hop.test", enable_SMTPUTF8=True)


class _Session(SMTP):
    """Ends without an exception that nobody asks for when a client breaks off the handshake, as here it has to."""

    async def _handle_client(self) -> None:
        with suppress(TLSSetupException):
            await super()._handle_client()
