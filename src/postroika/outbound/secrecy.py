"""What the TLS of outgoing connections is made with, and what is remembered of it.

Promise: a context, and a session to be resumed, belong to one host, one policy (with its TLSA records, if it has any),
one way to speak with it, and one certificate of ours, a session also to one login: what was agreed on as somebody, or
without a check, or by other records, is never used as somebody else, or where a check, or another one, is asked for.
That a host cannot do better is remembered for a while and for a bounded number of hosts; it counts only where the
policy lets it count.
"""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import Sequence
from typing import NamedTuple

from postroika.config import Delivery, Route
from postroika.config.certificates import UnusableFileError, load_authorities, load_pair
from postroika.errors import PostroikaError
from postroika.mail.outcome import Peer
from postroika.pump import now
from postroika.routing.cache import TtlCache
from postroika.tls.context import client_context
from postroika.tls.dane import judge as judge_chain
from postroika.tls.layer import TlsLayer
from postroika.tls.policy import HostPolicy, Rung
from postroika.tls.tlsa import Dane

_HOSTS = 10_000
_SESSIONS = 1_000
# What a server may mean by a lifetime is up to a week (RFC 8446 §4.6.1); a certificate that has expired or was revoked
# must not live on for that long.
_SESSION_S = 3_600.0


class _Identity(NamedTuple):
    """What a context is made for."""

    checked: bool
    certificate: str
    key: str


class _Key(NamedTuple):
    """What a session may be resumed for. Whom the host would tell the client for is part of it: as whom the client logs
    in behind the handshake, too.
    """

    peer: Peer
    policy: HostPolicy
    rung: Rung
    user: str


class _Session(NamedTuple):
    """What may be resumed, and with which context alone it can be: a connection may outlive the one that it was made
    with."""

    context: ssl.SSLContext
    session: ssl.SSLSession


class Secrecy:
    """The contexts, sessions and memories of one worker.

    Args:
        config: whom to trust, and how long a failure is remembered.
        routes: with our certificates.

    Attributes:
        forgotten: how often what was remembered of hosts was forgotten.

    Raises:
        PostroikaError: the file of those to be trusted cannot be used, or one with a certificate of ours.
    """

    def __init__(self, config: Delivery, routes: Sequence[Route] = ()) -> None:
        self._config = config
        self._contexts: dict[_Identity, ssl.SSLContext] = {}
        self._sessions: TtlCache[_Key, _Session] = TtlCache(_SESSIONS)
        self._rungs: TtlCache[Peer, Rung] = TtlCache(_HOSTS)
        self.forgotten = 0
        if config.tls_ca:
            self._context(_Identity(checked=True, certificate="", key=""))
        for route in routes:
            if route.certificate:
                self._context(_Identity(checked=True, certificate=route.certificate, key=route.key))
                self._context(_Identity(checked=False, certificate=route.certificate, key=route.key))

    def reload(self) -> None:
        """Read all files again; sessions that were agreed on with the old ones are not resumed. Blocks; may be called
        in another thread.

        Raises:
            PostroikaError: one cannot be used: then all stays as it was.
        """
        contexts = {identity: self._made(identity) for identity in list(self._contexts)}
        self._contexts.update(contexts)
        self._sessions = TtlCache(_SESSIONS)

    # --- how to begin

    def rung(self, peer: Peer, policy: HostPolicy) -> Rung:
        """The best way that has not failed lately, among those that the policy allows."""
        allowed = policy.rungs
        known = self._rungs.get(peer, now())
        return known if known is not None and known in allowed else allowed[0]

    def failed(self, peer: Peer, policy: HostPolicy, rung: Rung, *, untrusted: bool) -> Rung | None:
        """TLS could not be had in this way: the next one that the policy allows, None if it allows none.

        Args:
            untrusted: all was well but for the certificate; so there can be TLS with it.
        """
        lower = Rung.UNVERIFIED if untrusted else Rung.CLEAR
        if lower <= rung or lower not in policy.rungs:
            return None
        return lower

    def settled(self, peer: Peer, rung: Rung, forgotten: int) -> None:
        """A session stands which could be had in no better way.

        Args:
            forgotten: as it was before the first try: one that failed since then says nothing of a host that was mended
                in the meantime.
        """
        if forgotten == self.forgotten:
            self._rungs.put(peer, rung, now(), now() + self._config.tls_fallback_s)

    def forget_failures(self) -> None:
        """Try the best way with all hosts again."""
        self._rungs.clear()
        self.forgotten += 1

    # --- layers and sessions

    def layer(self, peer: Peer, policy: HostPolicy, rung: Rung, user: str = "") -> TlsLayer:
        """A client's end, with a session to resume if there is one. With DANE it is not OpenSSL that checks the
        certificate (as Python has it, it cannot), but the layer, by the records.

        Args:
            user: who is going to log in; "" = nobody.

        Raises:
            TlsError: the host has a name that nobody can be asked for.
            PostroikaError: a file cannot be used that could be at the start.
        """
        dane = policy.dane if rung is Rung.VERIFIED else None
        checked = rung is Rung.VERIFIED and dane is None
        context = self._context(_Identity(checked, policy.certificate, policy.key))
        kept = self._sessions.get(_Key(peer, policy, rung, user), now())
        # What was agreed on before a `reload` may have been kept after it.
        session = kept.session if kept is not None and kept.context is context else None
        if dane is None:
            return TlsLayer(context, server_side=False, server_name=peer.host, session=session)
        judge = functools.partial(_judged, dane)
        return TlsLayer(context, server_side=False, server_name=dane.base, session=session, judge=judge)

    def keep_session(self, peer: Peer, policy: HostPolicy, rung: Rung, user: str, layer: TlsLayer) -> None:
        """At the end of a connection that went well."""
        session = layer.session
        if session is not None:
            kept = _Session(layer.context, session)
            self._sessions.put(_Key(peer, policy, rung, user), kept, now(), now() + _SESSION_S)

    def _context(self, identity: _Identity) -> ssl.SSLContext:
        context = self._contexts.get(identity)
        if context is None:
            context = self._contexts[identity] = self._made(identity)
        return context

    def _made(self, identity: _Identity) -> ssl.SSLContext:
        context = client_context(verify=identity.checked)
        if identity.checked:
            try:
                if self._config.tls_ca:
                    load_authorities(context, self._config.tls_ca)
                else:
                    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            except UnusableFileError as error:
                raise PostroikaError(f"delivery.tls_ca: {error}") from None
        if identity.certificate:
            try:
                load_pair(context, identity.certificate, identity.key or identity.certificate)
            except UnusableFileError as error:
                raise PostroikaError(f"a certificate of ours, in [[route]]: {error}") from None
        return context


def _judged(dane: Dane, chain: Sequence[bytes]) -> str:
    return judge_chain(dane, chain, time.time())
