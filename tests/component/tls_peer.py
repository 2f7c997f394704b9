"""A scripted SMTP server with TLS: Trio's and OpenSSL's, not ours."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import trio
import trustme

from postroika.routing.router import Host
from postroika.tls.policy import OPPORTUNISTIC, HostPolicy
from tests.chains import Issued, issue
from tests.component.scripted_peer import FULL, ScriptedPeer
from tests.reference.smtp_server import Decide, SmtpServer

NAME = "mx.y.test"
CA = trustme.CA()
STRANGER = trustme.CA()
OFFERS = (*FULL, "STARTTLS")
# Certificates that TLSA records are about.
ROOT = issue("root", authority=True)
LEAF = issue("leaf", ROOT, NAME)
OTHER = issue("other", None, NAME)


class Handshake(NamedTuple):
    """What a peer knows of one that was done."""

    server_name: str | None
    client_names: tuple[str, ...]
    resumed: bool


def server_context(certificate: trustme.LeafCert, *, clients: trustme.CA | None = None) -> ssl.SSLContext:
    """Of a peer. `clients`: whose certificates are asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def good() -> ssl.SSLContext:
    """A certificate as it should be."""
    return server_context(CA.issue_cert(NAME))


def of_another_name() -> ssl.SSLContext:
    return server_context(CA.issue_cert("other.test"))


def expired() -> ssl.SSLContext:
    return server_context(CA.issue_cert(NAME, not_after=datetime(2020, 1, 2, tzinfo=UTC)))


def of_a_stranger() -> ssl.SSLContext:
    return server_context(STRANGER.issue_cert(NAME))


def hopeless() -> ssl.SSLContext:
    """No handshake with it succeeds: it speaks nothing that a server with this kind of certificate can speak."""
    context = good()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("PSK")
    return context


def showing(leaf: Issued, *above: Issued, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A peer with this certificate and those above it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf.pem(above))
        file.flush()
        context.load_cert_chain(file.name)
    if version is not None:
        context.maximum_version = version
    return context


def trust_file(directory: Path, *authorities: trustme.CA) -> str:
    """For `delivery.tls_ca`."""
    file = directory / "ca.pem"
    file.write_bytes(b"".join(authority.cert_pem.bytes() for authority in authorities or (CA,)))
    return str(file)


class TlsPeer(ScriptedPeer):
    """Offers STARTTLS, or begins with TLS.

    Args:
        context: of its TLS.
        policy: in the routes that lead to it.
        secure_offers: what it offers behind TLS.
        injected: octets that somebody puts behind its 220, in the same packet.

    Attributes:
        handshakes: those that were done, and `failed`: how many were not.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        policy: HostPolicy = OPPORTUNISTIC,
        offers: Sequence[str] = OFFERS,
        decide: Decide = lambda _verb, _rest: None,
        *,
        secure_offers: Sequence[str] | None = None,
        injected: bytes = b"",
        host: str = NAME,
    ) -> None:
        super().__init__(offers, decide, host=host)
        self.policy = policy
        self.handshakes: list[Handshake] = []
        self.failed = 0
        self._secure_offers = secure_offers
        self._injected = injected
        self._server_name: str | None = None
        self.show(context)

    def show(self, context: ssl.SSLContext) -> None:
        """Be like this from the next connection on."""
        self._context = context
        context.sni_callback = self._note_name

    def _note_name(self, _object: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self._server_name = name

    @property
    def as_host(self) -> Host:
        return Host(self.host, ("127.0.0.1",), self.port, self.policy)

    @property
    def secure(self) -> list[bool]:
        """By connection: whether there was TLS at its end."""
        return [session.secure for session in self.sessions]

    def session(self) -> SmtpServer:
        return SmtpServer(self.offers, self.decide, self._secure_offers)

    async def converse(self, stream: trio.abc.Stream, session: SmtpServer) -> None:
        if self.policy.implicit:
            stream = await self._shake_hands(stream)
            session.secured()
        await stream.send_all(session.greet())
        while not session.closed:
            if session.hung:
                await trio.sleep_forever()
            chunk = await stream.receive_some(65536)
            if not chunk:
                break
            replies = session.receive(chunk)
            if session.wants_tls:
                replies += self._injected
            await stream.send_all(replies)
            if session.wants_tls:
                stream = await self._shake_hands(stream)
                session.secured()
        await stream.aclose()

    async def _shake_hands(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        secure = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError:
            self.failed += 1
            raise
        peer = secure.getpeercert() or {}
        names = tuple(value for kind, value in peer.get("subjectAltName", ()) if kind == "DNS")
        self.handshakes.append(Handshake(self._server_name, names, bool(secure.session_reused)))
        return secure
