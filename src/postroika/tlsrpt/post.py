"""Sends reports over HTTPS, to URLs that strangers have published.

Promise: a report goes to the host that its URL names, at an address that mail could go to as well: never into this
machine or its private networks, unless `dns.allow_private` says so. No redirect is followed, no proxy asked, and of the
answer only the status is read. The host has to have a good certificate. It takes no longer than it may.

Source: RFC 8460 §3, §5.4.
"""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpcore2
import trio

from postroika import __version__
from postroika.config import Dns
from postroika.config.addresses import is_ip
from postroika.errors import PostroikaError
from postroika.routing.addresses import is_public
from postroika.routing.resolver import Answer
from postroika.tls.context import client_context

CONTENT_TYPE: Final = "application/tlsrpt+gzip"

_HTTPS_PORT = 443
_MOST_ADDRESSES = 4
_CONNECT_TIMEOUT_S = 15.0  # for each address: the next one may be better
_FAILURES = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    OSError,  # of which a certificate that is not good is one
    ValueError,  # a name that nobody can be asked for
)


class PostError(PostroikaError):
    """A report could not be handed over; the text says why, in one line."""


class Addresses(Protocol):
    """Finds them; see `routing.resolver.Resolver`."""

    async def ipv4(self, name: str) -> Answer[str]:
        """The A records of `name`."""

    async def ipv6(self, name: str) -> Answer[str]:
        """The AAAA records of `name`."""


class Poster:
    """Posts reports.

    Args:
        dns: which addresses may be used.
        addresses: look-ups.
        ca: a file with those who may vouch for hosts; "" = those of the system.
        timeout_s: for one report.
    """

    def __init__(self, dns: Dns, addresses: Addresses, *, ca: str, timeout_s: float) -> None:
        self._dns = dns
        self._addresses = addresses
        self._ca = ca
        self._timeout_s = timeout_s
        self._allowed = [ipaddress.ip_network(text) for text in dns.allow_private]

    async def post(self, url: str, content: bytes) -> None:
        """Hand over a compressed report.

        Args:
            url: as `record.destinations` gives it.

        Raises:
            PostError: it was not taken, or not in time.

        Cancellation: whether it was taken is not known.
        """
        with trio.move_on_after(self._timeout_s):
            return await self._post(url, content)
        raise PostError(f"{url}: no answer within {self._timeout_s:g} s")

    async def _post(self, url: str, content: bytes) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        found = await self._found(host)
        try:
            context = await trio.to_thread.run_sync(self._context)  # reads all the authorities of the system
        except OSError as error:
            raise PostError(f"{url}: the authorities for certificates cannot be read: {_words(error)}") from error
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        port = parts.port or _HTTPS_PORT
        why = ""
        for address in found:
            place = httpcore2.URL(scheme="https", host=address, port=port, target=target)
            try:
                status = await self._status(context, place, host, parts.netloc, content)
            except _FAILURES as error:
                why = _words(error)
                continue
            if 200 <= status < 300:
                return
            raise PostError(f"{url}: HTTP {status}")
        raise PostError(f"{url}: {why}")

    async def _status(self, context: ssl.SSLContext, url: httpcore2.URL, host: str, netloc: str, content: bytes) -> int:
        """Post, over a connection of its own. The status of the answer."""
        sockets: list[httpcore2.AsyncNetworkStream] = []

        async def note(event: str, facts: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                sockets.append(facts["return_value"])

        headers = [
            ("Host", netloc),
            ("User-Agent", f"Postroika/{__version__}"),
            ("Content-Type", CONTENT_TYPE),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        # The address stands where the name would be looked up; the certificate has to be good for the name.
        extensions = {"timeout": {"connect": _CONNECT_TIMEOUT_S}, "trace": note}
        if not is_ip(host):
            extensions["sni_hostname"] = host
        try:
            async with (
                httpcore2.AsyncConnectionPool(ssl_context=context, max_keepalive_connections=0) as pool,
                pool.stream("POST", url, headers=headers, content=content, extensions=extensions) as response,
            ):
                return response.status
        finally:
            with trio.CancelScope(shield=True):  # A cancelled handshake leaves its socket open; closing is no wait.
                for socket in sockets:
                    await socket.aclose()

    async def _found(self, host: str) -> list[str]:
        """Where to connect to; never empty. Raises PostError."""
        if is_ip(host):
            found: tuple[str, ...] = (host,)
        else:
            found = (await self._addresses.ipv4(host)).records
            if self._dns.ipv6 != "never":
                found += (await self._addresses.ipv6(host)).records
        usable = [address for address in found if is_public(ipaddress.ip_address(address), self._allowed)]
        if usable:
            return usable[:_MOST_ADDRESSES]
        if found:
            raise PostError(f"{host} is refused: {found[0]} is not a public address")
        raise PostError(f"{host} has no address")

    def _context(self) -> ssl.SSLContext:
        context = client_context(verify=True)
        if self._ca:
            context.load_verify_locations(self._ca)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context


def _words(error: BaseException) -> str:
    """What went wrong, as whoever knows more about it than its name has said it."""
    found: BaseException | None = error
    while found is not None:
        if str(found):
            return str(found)
        found = found.__cause__ or found.__context__
    return type(error).__name__
