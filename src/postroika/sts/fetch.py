"""Gets the text of a policy from https://mta-sts.DOMAIN/.well-known/mta-sts.txt.

Promise: within `sts.timeout_s` there is the text, or a FetchError that says why not. It comes from a host that has
proved to be mta-sts.DOMAIN, from an address that our own look-ups gave and that leads into no private network unless
`dns.allow_private` says so, without redirects, and is not larger than `sts.max_policy_bytes`. Nothing is remembered
between two fetches: no connection, no cookie, no cached answer.

How: with httpcore2, which is what httpx2 sends its requests with, and nothing else of it: redirects, cookies, decoding
and proxies of the environment are what must not be here (docs/adr/0013).

Source: RFC 8461 §3.3.
"""

from __future__ import annotations

import random
import ssl
from contextlib import aclosing
from typing import Any, Final, Literal, TypeAlias

import httpcore2
import trio

from postroika import __version__
from postroika.config import Dns, Sts
from postroika.config.certificates import UnusableFileError, load_authorities
from postroika.errors import ConfigError, RoutingError
from postroika.process import open_files
from postroika.routing.addresses import in_order
from postroika.routing.finder import Finder
from postroika.routing.resolver import Resolver
from postroika.routing.table import Hop
from postroika.tls.context import client_context

PATH: Final = "/.well-known/mta-sts.txt"

FailureKind: TypeAlias = Literal["sts-policy-fetch-error", "sts-webpki-invalid", "sts-policy-invalid"]
"""What went wrong, in the words of RFC 8460 §4.3."""

_FAILURES = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError)
_HTTPS_PORT = 443
_CONNECT_TIMEOUT_S = 10.0  # for each address, and again for its handshake: the next one may be better
_MOST_ADDRESSES = 4


class FetchError(RoutingError):
    """There is no policy to be had."""

    def __init__(self, kind: FailureKind, text: str) -> None:
        super().__init__(text)
        self.kind: FailureKind = kind


class Fetcher:
    """Fetches policies.

    Args:
        settings: the [sts] section.
        dns: the [dns] section, which says where names may lead to.
        resolver: whom to ask for addresses.

    Raises:
        ConfigError: `sts.ca` cannot be used.
    """

    def __init__(self, settings: Sts, dns: Dns, resolver: Resolver) -> None:
        self._settings = settings
        self._ipv6 = dns.ipv6
        self._finder = Finder(dns, resolver)
        self._rng = random.Random()
        self._slots = trio.CapacityLimiter(open_files.fetches_now())
        self._context = self._made()

    def reload(self) -> None:
        """Read again whom to trust. Blocks; may be called in another thread.

        Raises:
            ConfigError: the file cannot be used, and all stays as it was.
        """
        self._context = self._made()

    async def fetch(self, domain: str) -> bytes:
        """The text of the policy of a domain.

        Args:
            domain: in A-labels and lower case.

        Raises:
            FetchError.

        Cancellation: safe at any point.
        """
        host = f"mta-sts.{domain}"
        deadline = trio.current_time() + self._settings.timeout_s
        with trio.move_on_at(deadline):
            async with self._slots:
                return await self._fetch(Hop(host, self._settings.port), deadline)
        raise FetchError("sts-policy-fetch-error", f"{host} has not answered within {self._settings.timeout_s:g} s")

    def _made(self) -> ssl.SSLContext:
        context = client_context(verify=True)
        if not self._settings.ca:
            context.load_default_certs()
            return context
        try:
            load_authorities(context, self._settings.ca)
        except UnusableFileError as error:
            raise ConfigError(f"sts.ca: {error}") from None
        return context

    async def _fetch(self, hop: Hop, deadline: float) -> bytes:
        ((found,),) = await self._finder.find([[hop]], deadline)
        if not found.usable:
            if found.failure:
                why = f"DNS look-up of {hop.host} failed: {found.failure}"
            elif found.refused:
                why = f"{hop.host} is refused: {found.refused[0]} is not a public address"
            else:
                why = f"{hop.host} has no address"
            raise FetchError("sts-policy-fetch-error", why)
        why = ""
        for address in in_order(found.v4, found.v6, self._ipv6, _MOST_ADDRESSES, self._rng):
            try:
                return await self._get(hop, address)
            except _FAILURES as error:
                if (refusal := _certificate_error(error)) is not None:
                    why = f"the certificate of {hop.host} [{address}] is not good: {refusal.verify_message}"
                    raise FetchError("sts-webpki-invalid", why) from error
                why = f"{hop.host} [{address}]: {_words(error)}"
        raise FetchError("sts-policy-fetch-error", why)

    async def _get(self, hop: Hop, address: str) -> bytes:
        """One request, over a connection of its own."""
        sockets: list[httpcore2.AsyncNetworkStream] = []

        async def note(event: str, facts: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                sockets.append(facts["return_value"])

        fields = [
            ("Host", hop.host if hop.port == _HTTPS_PORT else f"{hop.host}:{hop.port}"),
            ("User-Agent", f"Postroika/{__version__}"),
            ("Accept", "text/plain"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        # The address stands where the name would be looked up; the certificate has to be good for the name.
        extensions = {"sni_hostname": hop.host, "timeout": {"connect": _CONNECT_TIMEOUT_S}, "trace": note}
        url = httpcore2.URL(scheme="https", host=address, port=hop.port, target=PATH)
        try:
            async with (
                httpcore2.AsyncConnectionPool(ssl_context=self._context, max_keepalive_connections=0) as pool,
                pool.stream("GET", url, headers=fields, extensions=extensions) as response,
            ):
                self._judge(hop.host, response)
                return await self._body(hop.host, response)
        finally:
            with trio.CancelScope(
                shield=True
            ):  # A cancelled handshake leaves its socket open; to close one is no wait.
                for socket in sockets:
                    await socket.aclose()

    def _judge(self, host: str, response: httpcore2.Response) -> None:
        if response.status != 200:
            redirect = " (redirects are not followed)" if 300 <= response.status < 400 else ""
            raise FetchError("sts-policy-fetch-error", f"{host} answered {response.status}{redirect}")
        media_type, coding = _field(response, b"content-type"), _field(response, b"content-encoding")
        if media_type.partition(";")[0].strip().lower() != "text/plain":
            raise FetchError("sts-policy-fetch-error", f"{host} sent {media_type[:80]!a} and not text/plain")
        if coding not in {"", "identity"}:
            raise FetchError("sts-policy-fetch-error", f"{host} sent it encoded as {coding[:80]!a}")

    async def _body(self, host: str, response: httpcore2.Response) -> bytes:
        body = bytearray()
        async with aclosing(response.aiter_stream()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > self._settings.max_policy_bytes:
                    why = f"{host} sent more than {self._settings.max_policy_bytes} octets"
                    raise FetchError("sts-policy-fetch-error", why)
        return bytes(body)


def _field(response: httpcore2.Response, name: bytes) -> str:
    """The first header field of a name; "" if there is none."""
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What OpenSSL said of the certificate, if that is what an error comes from."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _words(error: BaseException) -> str:
    """What an exception says, or the first one behind it that says anything."""
    told: BaseException | None = error
    while told is not None:
        if text := str(told):
            return text
        told = told.__cause__ or told.__context__
    return type(error).__name__
