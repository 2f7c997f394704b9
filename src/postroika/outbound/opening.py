"""Opens sessions with hosts, encrypted as the policy for each wants it.

Promise: nothing goes in clear, to an unverified host, or with a password in clear, where the policy or the route
forbids it. Where encryption is only wished for, a host with which it fails gets a fresh connection and the next best
way, and that is remembered for a while; what has failed is never talked over again on the same connection.

How: a host is tried on one rung after the other (`tls.policy.Rung`), down to the lowest that its policy allows.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import NamedTuple

import msgspec
import trio

from postroika.config import Config, Delivery
from postroika.errors import PostroikaError
from postroika.mail.outcome import Peer, Stage
from postroika.mail.reply import reply
from postroika.metrics import OUTBOUND_SESSIONS
from postroika.outbound.connection import Connection, open_connection
from postroika.outbound.credentials import CredentialFiles
from postroika.outbound.failure import NoSession, PeerClosed, SessionRefused, TimedOut, TlsFailed
from postroika.outbound.reported import Recorder, SessionAttempt, SessionReports
from postroika.outbound.secrecy import Secrecy
from postroika.routing.router import Route
from postroika.smtp.client_base import ClientSettings, StartTls
from postroika.smtp.client_capabilities import requiretls_reply
from postroika.smtp.client_transaction import Step
from postroika.tls.layer import TlsLayer
from postroika.tls.policy import HostPolicy, Level, Rung

log = logging.getLogger(__name__)


class Way(NamedTuple):
    """Whom to connect to, and under which policy.

    Args:
        host: its number among the hosts of the route: several addresses of one host have the same.
        requiretls: it has to promise that for the rest of the way.
    """

    peer: Peer
    policy: HostPolicy
    host: int = 0
    requiretls: bool = False


class Opener:
    """Opens sessions. One for each worker.

    Args:
        config: `delivery`, the routes with their credentials and certificates, and our name.
        recorder: is told how sessions with MX hosts went, for TLS reports.

    Raises:
        PostroikaError: a file of theirs cannot be used.
    """

    def __init__(self, config: Config, recorder: Recorder | None = None) -> None:
        self._config: Delivery = config.delivery
        self._settings = ClientSettings(
            ehlo_name=config.delivery.ehlo_name or config.server.hostname,
            pipelining=config.delivery.pipelining,
            chunking=config.delivery.chunking,
        )
        self._secrecy = Secrecy(config.delivery, config.route)
        self._credentials = CredentialFiles(route.auth for route in config.route if route.auth)
        self._worse: list[Connection] = []  # than it could be, if nothing had failed
        self._reports: SessionReports | None = None
        if recorder is not None:
            self._reports = SessionReports(recorder, config)

    async def open(self, way: Way, route: Route, counted_for: str = "") -> Connection:
        """A session with a host, in the best way that can be had.

        Args:
            counted_for: the destination, if TLS reports are to tell of it.

        Raises:
            NoSession: there is none that the policy allows.

        Interruption: nothing stays open.
        """
        if self._worse:
            self._worse = [other for other in self._worse if not other.closed]
        peer, policy = way.peer, way.policy
        attempt: SessionAttempt | None = None
        if self._reports is not None and counted_for:
            attempt = self._reports.attempt(counted_for, peer, policy)
        if policy.refused:
            if attempt is not None:
                attempt.refused(policy.refused)
            raise NoSession(SessionRefused(Stage.TLS, reply(451, "4.7.5", policy.refused), remote=False), Step.NOTHING)
        forgotten = self._secrecy.forgotten
        rung = self._secrecy.rung(peer, policy)
        fell = ""
        while True:
            try:
                connection = await self._open(peer, policy, rung, route)
            except NoSession as error:
                lower = self._next_rung(way, rung, error)
                if attempt is not None:
                    attempt.failed(error)
                    if lower is None:
                        attempt.given_up()
                if lower is None:
                    raise
                fell = str(error)
                rung = lower
                continue
            if attempt is not None:
                attempt.stands(connection.facts, rung, connection.client.greeting)
            if rung is not policy.rungs[0]:
                self._worse.append(connection)
                if forgotten != self._secrecy.forgotten:
                    connection.client.retire()
            if fell:
                self._secrecy.settled(peer, rung, forgotten)
                words = "in clear" if rung is Rung.CLEAR else "with a certificate that is not trusted"
                log.info("%s [%s]:%d is spoken to %s: %s", peer.host, peer.ip, peer.port, words, fell)
            if way.requiretls and not connection.client.capabilities.requiretls:
                await connection.quit()
                raise NoSession(SessionRefused(Stage.MAIL, requiretls_reply(), remote=False), Step.MAIL)
            OUTBOUND_SESSIONS[_secrecy_of(connection)].value += 1
            return connection

    async def reload(self) -> None:
        """Read anew whom to trust, and our own certificates; and `forget_failures`, some of which they may have caused.

        Raises:
            PostroikaError: a file of theirs cannot be used: then those that were read before count on.

        Cancellation: while they are read, which goes on.
        """
        try:
            await trio.to_thread.run_sync(self._secrecy.reload, abandon_on_cancel=True)
        finally:
            self.forget_failures()

    def forget_failures(self) -> None:
        """Speak with all hosts in the best way again: an operator has perhaps just mended a certificate. What stands in
        a worse way takes no more mail."""
        self._secrecy.forget_failures()
        for connection in self._worse:
            connection.client.retire()
        self._worse.clear()

    def _next_rung(self, way: Way, rung: Rung, error: NoSession) -> Rung | None:
        """Where to go on after a failure; None if it was not TLS that failed, or no worse way is allowed."""
        failure = error.error
        if isinstance(failure, TlsFailed):
            return self._secrecy.failed(way.peer, way.policy, rung, untrusted=failure.untrusted)
        if error.step is Step.HANDSHAKE and isinstance(failure, OSError | TimedOut | PeerClosed):
            return self._secrecy.failed(way.peer, way.policy, rung, untrusted=False)
        return None

    async def _open(self, peer: Peer, policy: HostPolicy, rung: Rung, route: Route) -> Connection:
        settings, layer, user = self._settings, None, ""
        if route.auth:
            credentials = self._credentials.get(route.auth)
            user = credentials.user
            settings = msgspec.structs.replace(
                settings, credentials=credentials, auth_without_tls=route.auth_without_tls
            )
        if rung is not Rung.CLEAR:
            layer = self._layer(peer, policy, rung, user)
            if not policy.implicit:
                optional = policy.level is Level.OPPORTUNISTIC
                starttls = StartTls.OFFERED if optional else StartTls.REQUIRED
                settings = msgspec.structs.replace(settings, starttls=starttls)
        connection = await open_connection(peer, settings, self._config, layer, implicit=policy.implicit)
        connection.identity = route.identity
        if connection.facts is not None:
            connection.keep_session = functools.partial(self._secrecy.keep_session, peer, policy, rung, user)
        return connection

    def _layer(self, peer: Peer, policy: HostPolicy, rung: Rung, user: str) -> TlsLayer:
        try:
            return self._secrecy.layer(peer, policy, rung, user)
        except PostroikaError as error:
            raise NoSession(TlsFailed(str(error)), Step.HANDSHAKE) from error


def _secrecy_of(connection: Connection) -> str:
    facts = connection.facts
    return "clear" if facts is None else "verified" if facts.verified else "unverified"


def trusted(ways: list[Way]) -> list[Way]:
    """Those that a message with REQUIRETLS may take: to hosts whose names nobody can have forged, with a certificate
    that is good for the name, if they promise the same.

    Source: RFC 8689 §4.2.1.
    """
    return [Way(way.peer, way.policy.stricter(), way.host, True) for way in ways if way.policy.name_trusted]


NO_TRUSTED_HOST = reply(
    550, "5.7.30", "The message requires TLS all the way, and nothing vouches for the names of the next hosts"
)


_TLS_REQUIRED_NO = re.compile(rb"(?:\A|\n)tls-required[ \t]*:(?:[ \t]|\r?\n[ \t])*no[ \t]*\r?(?:\n|\Z)", re.IGNORECASE)


def waives_tls(beginning: bytes) -> bool:
    """Whether the header says "TLS-Required: No": the sender would rather have the message arrive than encrypted.

    Args:
        beginning: of the message, with its header as far as it may be looked at.

    Source: RFC 8689 §3, §4.1.
    """
    header = beginning.partition(b"\r\n\r\n")[0]
    return _TLS_REQUIRED_NO.search(header) is not None
