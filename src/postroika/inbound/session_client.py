"""What a session learns of its client: HELO, AUTH, XCLIENT.

Promise: what holds for a client (limits, judges, rights, the size that is announced) holds from the reply on to the
command that tells of it. After XCLIENT nothing stays of the client before.

How: the handlers of events, as in `session_transaction`.
"""

from __future__ import annotations

import msgspec

from postroika import metrics
from postroika.inbound.proxies import retell
from postroika.inbound.session_base import Pending
from postroika.inbound.session_transaction import SessionTransaction
from postroika.mail.reply import Reply
from postroika.policy.accounts import Account
from postroika.smtp.server_events import Auth, AuthResponse, Helo, XClient


class SessionClient(SessionTransaction):
    """A session as far as it knows its client."""

    __slots__ = ()

    def _helo(self, event: Helo) -> Pending:
        if self._told is not None and self._told.helo:
            event = Helo(event.verb, self._told.helo)
        if self._pipeline.judges("helo"):
            return self._judge("helo", event, self._answer_helo)
        self._answer_helo(event, None)
        return None

    def _answer_helo(self, event: Helo, verdict: Reply | None) -> None:
        if verdict is None or verdict.code < 400:
            self._client.helo = event.name
            if self._login is not None:
                self._server.mechanisms = self._login.mechanisms
        else:
            self._refusals.note("helo", verdict)
        self._server.answer(verdict)

    async def _auth(self, event: Auth | AuthResponse) -> None:
        assert self._login is not None
        await self._login.advance(self._server, event)
        self._heed_account()
        self._accept_unasked(self._server)

    def _heed_account(self) -> None:
        """Let the server go by what holds for the account: its limit is announced (RFC 1870 §3), and kept to."""
        settings, server = self._settings, self._server
        account = None if self._login is None else self._login.account
        if account is not None and 0 < account.max_message_bytes < settings.max_message_bytes:
            settings = msgspec.structs.replace(settings, max_message_bytes=account.max_message_bytes)
        if settings.max_message_bytes != server.settings.max_message_bytes:
            server.use(settings)

    async def _xclient(self, event: XClient) -> None:
        """The client is another one: all begins anew with that one, as behind the greeting. If that may not be, nothing
        has changed."""
        client, login, services = self._client, self._login, self._services
        account: Account | None = None
        if event.login and login is not None:
            found = login.find(event.login)
            if isinstance(found, Reply):
                self._refusals.note("xclient", found)
                self._server.answer(found)
                return
            account = found
        if event.addr is not None and self.move is not None and (event.addr or self._peer_ip) != client.ip:
            refusal = self.move(client.ip, event.addr or self._peer_ip)
            if refusal is not None:
                self._refusals.note("xclient", refusal)
                self._server.answer(refusal)
                return
        if login is not None:
            login.become(None)  # before the client is another one: what was noted of it goes with it
        retell(client, event, self._peer_ip)
        self._told = event
        metrics.XCLIENTS.value += 1
        client.trusted = client.known and services.relay.trusts(client.ip)
        if services.settings_of is not None:
            settings = services.settings_of(client)
            self._settings = settings if client.tls is None else msgspec.structs.replace(settings, tls="active")
        if login is not None:
            login.become(account)
        self._find_judges()
        server = self._server
        server.use(self._settings)
        self._heed_account()
        self._accept_unasked(server)
        verdict = await self._pipeline.judge("connect", client, None)
        if verdict is not None and verdict.code >= 400:
            self._refusals.note("connect", verdict)
            server.shut_down(verdict)
            return
        server.answer(None)
        server.authenticated = account is not None
