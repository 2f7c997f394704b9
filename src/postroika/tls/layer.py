"""One end of a TLS connection, without a socket: ciphertext goes in and out, plaintext out and in.

Promise: plaintext is what the peer has encrypted, all of it and nothing else; what was read in the clear before never
gets in here. An end without a close_notify is told as such (`truncated`): whoever cuts the connection must not be able
to pass that off as a good end. Memory is bounded by what is fed at once.

How: OpenSSL on two memory BIOs. Whoever drives it feeds what the socket gave, reads until there is nothing, and sends
`take_output` after each step, also after an error: it may hold an alert that tells the peer why.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from postroika.errors import PostroikaError
from postroika.tls.context import CalledObject
from postroika.tls.facts import TlsFacts

_READ_BYTES = 65_536


class TlsError(PostroikaError):
    """The handshake failed, or the peer broke the protocol. The text says why, in one line."""


class TlsUntrusted(TlsError):
    """The handshake failed since the peer's certificate is not good, or for somebody else.

    Args:
        code: OpenSSL's number for what is wrong with it (X509_V_ERR_…), 0 if there is none.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class TlsLayer:
    """An end of a connection; its handshake begins with the first `read`.

    Args:
        context: with certificates and rules.
        server_side: we are the server.
        server_name: as a client, whom we mean to reach: sent as SNI, and checked if the context says so.
        session: as a client, to be resumed if the server still knows it; one of the same context and judge.
        judge: says why the certificates that the peer has shown (DER, its own first) are not good, "" if they are.
            Asked at the end of the handshake, before anything can be said; not if a session was resumed. If it raises,
            they are not good.

    Raises:
        TlsError: no such name can be asked for.

    Attributes:
        handshaken: plaintext may be read and written.
        truncated: the peer has closed the connection without a close_notify.
    """

    __slots__ = ("_closed", "_ended", "_in", "_judge", "_object", "_out", "_server_name", "handshaken", "truncated")

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str = "",
        session: ssl.SSLSession | None = None,
        judge: Callable[[Sequence[bytes]], str] | None = None,
    ) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        name = None if server_side else server_name or None
        try:
            self._object = context.wrap_bio(
                self._in, self._out, server_side=server_side, server_hostname=name, session=session
            )
        except (ValueError, TypeError, ssl.SSLError) as error:  # by what is wrong with it, of Python or of OpenSSL
            raise TlsError(f"{server_name!r} cannot be asked for: {_reason(error)}") from None
        self._server_name = server_name
        self._judge = judge
        self._closed = False
        self._ended = False
        self.handshaken = False
        self.truncated = False

    def feed(self, ciphertext: bytes) -> None:
        """What the socket gave; b"" at its end."""
        if ciphertext:
            self._in.write(ciphertext)
        else:
            self._ended = True
            self._in.write_eof()

    def shake_hands(self) -> bool:
        """Go on with the handshake, and read no further. Whether it is done; if not, send the output and feed more.

        Raises:
            TlsError: as `read`.
        """
        if self.handshaken:
            return True
        if self._closed:
            raise TlsError("the handshake has failed")
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (OSError, ValueError) as error:  # of which ssl.SSLError is one
            raise self._failed(error) from None
        if self._judge is not None and not self._object.session_reused:
            self._ask(self._judge)
        self.handshaken = True
        return True

    def _ask(self, judge: Callable[[Sequence[bytes]], str]) -> None:
        try:
            reason = judge(_shown(self._object))
        except Exception as error:  # noqa: BLE001 - what a stranger shows must end its own connection and no other
            reason = f"its certificates cannot be judged: {_line(error)}"
        if reason:
            self._closed = True
            # The end of our handshake, which in TLS 1.3 has our certificate, is not for somebody who is not trusted.
            self._out.read()
            raise TlsUntrusted(reason)

    @property
    def idle(self) -> bool:
        """There is nothing to read until more is fed: no plaintext is left in here."""
        return self.handshaken and not self._ended and not self._in.pending and not self._object.pending()

    def read(self) -> bytes | None:
        """Plaintext; None if there is none for now (feed more); b"" at its end.

        Raises:
            TlsError: it is over; `take_output` may hold an alert to send.
        """
        if self._closed:
            return b""
        if self.idle or not self.shake_hands():
            return None
        try:
            piece = self._object.read(_READ_BYTES)
        except ssl.SSLWantReadError:
            return None
        except (OSError, ValueError) as error:  # of which ssl.SSLError is one
            failure = self._failed(error)
            if self.truncated or isinstance(error, ssl.SSLZeroReturnError):
                return b""
            raise failure from None
        if not piece:
            self._closed = True
        return piece

    def _failed(self, error: Exception) -> TlsError:
        """It is over. What it was: of OpenSSL, or a certificate callback that failed, or a name that is none."""
        self._closed = True
        self.truncated = (
            isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", "") == "UNEXPECTED_EOF_WHILE_READING"
        )
        if not self.handshaken and (self.truncated or isinstance(error, ssl.SSLZeroReturnError)):
            return TlsError("the connection was closed in the middle of the handshake")
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsUntrusted(_reason(error), error.verify_code)
        return TlsError(_reason(error))

    def write(self, plaintext: bytes) -> None:
        """Encrypt; it is in `take_output` then.

        Raises:
            TlsError: there is no connection to write to, or not yet.
        """
        if not self.handshaken:
            raise TlsError("nothing can be written before the handshake")
        try:
            self._object.write(plaintext)
        except ssl.SSLError as error:
            raise TlsError(_reason(error)) from None

    def shut_down(self) -> None:
        """Say that no more will be written (close_notify). The peer's own is not waited for."""
        if self.handshaken and not self.truncated:
            with suppress(ssl.SSLError):  # what is to be sent is there; the peer's answer is not, as a rule
                self._object.unwrap()

    def take_output(self) -> bytes:
        """Ciphertext to be sent; b"" if there is none."""
        return self._out.read()

    @property
    def has_output(self) -> bool:
        """There is ciphertext to be sent."""
        return self._out.pending > 0

    @property
    def facts(self) -> TlsFacts:
        """What was agreed on.

        Raises:
            TlsError: nothing yet.
            TlsUntrusted: the peer has a certificate that Python cannot read.
        """
        cipher = self._object.cipher()
        version = self._object.version()
        if not self.handshaken or cipher is None or version is None:
            raise TlsError("the handshake is not done")
        verified = self._object.context.verify_mode is not ssl.CERT_NONE
        try:
            certificate = self._object.getpeercert() or {}
        except (ValueError, ssl.SSLError) as error:  # UnicodeDecodeError is one: a DNS name of octets that are no UTF-8
            raise TlsUntrusted(f"its certificate cannot be read: {_line(error)}") from None
        called = self._object.called if isinstance(self._object, CalledObject) else self._server_name
        judged = self._judge is not None
        good = judged or (verified and bool(certificate))
        return TlsFacts(version, cipher[0], called, _name_in(certificate), good, judged)

    @property
    def context(self) -> ssl.SSLContext:
        """What it was made with."""
        return self._object.context

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later connection can resume; None if the server gave nothing for that (yet: it comes with the first
        plaintext, or never)."""
        session = self._object.session
        return session if session is not None and session.has_ticket else None

    @property
    def resumed(self) -> bool:
        """An earlier session was resumed."""
        return bool(self._object.session_reused)

    def channel_binding(self) -> bytes:
        """The binding "tls-unique" (RFC 5929 §3) for SCRAM-…-PLUS; b"" where the version has none (TLS 1.3)."""
        if not self.handshaken or self._object.version() == "TLSv1.3":
            return b""
        return self._object.get_channel_binding("tls-unique") or b""


def _shown(engine: ssl.SSLObject) -> list[bytes]:
    """The certificates of the peer, its own first; just that one where Python keeps the others to itself."""
    if sys.version_info >= (3, 13):
        return list(engine.get_unverified_chain())
    own = engine.getpeercert(binary_form=True)
    inner = getattr(getattr(engine, "_sslobj", None), "get_unverified_chain", None)
    if own is None or inner is None:
        return [] if own is None else [own]
    return [certificate.public_bytes(_DER) for certificate in inner() or ()] or [own]


_DER = 2  # _ssl.ENCODING_DER, which is OpenSSL's X509_FILETYPE_ASN1


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _reason(error: Exception) -> str:
    """As "certificate verify failed: self-signed certificate", without OpenSSL's brackets and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}:
        return "what came is not TLS"
    return (reason or str(error)).lower().replace("_", " ")


def _name_in(certificate: Mapping[str, object]) -> str:
    """Whose it is: see `TlsFacts.peer_name`."""
    subject, names = certificate.get("subject"), certificate.get("subjectAltName")
    pairs = [pair for relative in subject for pair in relative] if isinstance(subject, tuple) else []
    pairs += names if isinstance(names, tuple) else ()
    for kinds in ({"commonName"}, {"DNS"}, {"email", "IP Address", "URI"}):
        for kind, name in pairs:
            if kind in kinds:
                return str(name)
    return ""
