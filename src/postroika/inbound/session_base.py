"""What a session is made of, and what it has to forget; `session_transaction`, `session_client` and `session` build
upon this.

Promise: what is left to the server to accept without asking us (`_accept_unasked`) is what we would accept anyway. Of a
transaction that is over nothing stays.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from postroika.config import Limits
from postroika.inbound.accept import Acceptance, Door
from postroika.inbound.login import Login, Logins
from postroika.inbound.refusals import RefusalRecord
from postroika.mail.reply import Reply
from postroika.outcome.events import Refusal
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client, Pipeline
from postroika.policy.relay import RelayPolicy
from postroika.smtp.server import Server, ServerSettings
from postroika.smtp.server_events import XClient
from postroika.smtp.xclient import ATTRIBUTES
from postroika.tls.certificates import ListenerTls

_NO_LOGIN = tuple(attribute for attribute in ATTRIBUTES if attribute != "LOGIN")

# What is to be awaited before the next event, or None: most events need no wait, and a coroutine for each would cost as
# much as the event.
Pending = Awaitable[None] | None


@dataclass(frozen=True, slots=True)
class Services:
    """What all sessions of a worker share.

    Args:
        rejected: see `refusals.RefusalRecord`.
        logins: None if there are no accounts.
        xclient_from: by the number of the listener, who may say with XCLIENT for whom it speaks; None: nobody.
        settings_of: those of a session with this client, before TLS; None: those that it began with.
    """

    door: Door
    pipeline: Pipeline
    relay: RelayPolicy
    rejected: Callable[[Refusal], None]
    limits: Limits
    logins: Logins | None = None
    xclient_from: Mapping[int, Networks] | None = None
    settings_of: Callable[[Client], ServerSettings] | None = None


class SessionBase:
    """One connection.

    Args:
        sock: connected and non-blocking; the session closes it.
        client: who is there.
        settings: if TLS is active in them, it begins with the first octet.
        tls: of the listener; None where there is none.

    Attributes:
        move: told of the old and the new address when XCLIENT changes the client's; says why that may not be.
    """

    __slots__ = (
        "_acceptance", "_client", "_has_room", "_judges_data", "_judges_mail", "_judges_message", "_judges_rcpt",
        "_login", "_peer_ip", "_pipeline", "_refusals", "_seen", "_server", "_services", "_settings", "_sock", "_tls",
        "_told", "_transaction_deadline", "_utf8_recipient", "_xclient_attributes", "move",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        client: Client,
        settings: ServerSettings,
        services: Services,
        tls: ListenerTls | None = None,
    ) -> None:
        self._sock = sock
        self._client = client
        client.trusted = client.known and services.relay.trusts(client.ip)
        self._services = services
        self._settings = settings
        self._tls = tls
        self._refusals = RefusalRecord(client, services.rejected)
        self._seen: set[str] = set()
        self._peer_ip = ""  # of who may use XCLIENT, whatever it has told
        self._told: XClient | None = None  # the last that it has
        self.move: Callable[[str, str], Reply | None] | None = None
        if services.xclient_from is not None:
            trusted = services.xclient_from.get(client.listener)
            if trusted is not None and client.known and client.ip in trusted:
                self._peer_ip = client.ip
        self._login: Login | None = None
        logins = services.logins
        # Where nobody but a peer that speaks for others can log in, logging in may be required all the same.
        if logins is not None and (settings.auth or self._peer_ip or logins.rules[client.listener].required):
            self._login = logins.open(client)
        self._xclient_attributes: tuple[str, ...] = ()
        if self._peer_ip:
            self._xclient_attributes = ATTRIBUTES if self._login is not None else _NO_LOGIN
        self._has_room = services.door.has_room
        self._acceptance: Acceptance | None = None
        self._transaction_deadline = math.inf
        self._utf8_recipient = False
        self._find_judges()
        self._server = self._new_server(greet=True)

    def _find_judges(self) -> None:
        """Who judges this client: to be found anew if it turns out to be another one."""
        self._services.pipeline.part(self._client)
        self._pipeline = self._services.pipeline.of(self._client)
        judges = self._pipeline.judges
        self._judges_mail, self._judges_rcpt, self._judges_data = judges("mail"), judges("rcpt"), judges("data")
        self._judges_message = judges("message")

    def _new_server(self, *, greet: bool) -> Server:
        server = Server(self._settings, greet=greet)
        server.xclient = self._xclient_attributes
        server.pauses = True
        self._accept_unasked(server)
        return server

    def _accept_unasked(self, server: Server) -> None:
        """Tell the server what nobody is to be asked about, as things are."""
        asks = self._login is not None and self._login.judges
        server.accept_unasked(
            self._client,
            self._seen,
            self._has_room,
            mail=not self._judges_mail and not asks,
            rcpt=self._client.trusted and not self._judges_rcpt and not asks,
            data=not self._judges_data,
        )

    @property
    def ip(self) -> str:
        """Of the client."""
        return self._client.ip

    def _forget_message(self) -> None:
        if self._acceptance is not None:
            self._acceptance.abandon()
            self._acceptance = None

    def _forget_transaction(self) -> None:
        self._forget_message()
        client = self._client
        if client.mail is not None:
            client.mail = None
            client.recipients = []
            self._seen.clear()
            self._utf8_recipient = False
            self._transaction_deadline = math.inf
