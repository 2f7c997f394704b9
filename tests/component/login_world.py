"""A worker's share of accounts, with sessions in which visitors log in and send."""

from __future__ import annotations

import socket
from base64 import b64encode

import trio

from postroika import config
from postroika.inbound.accept import Door
from postroika.inbound.failed_logins import FailedLogins
from postroika.inbound.login import Logins, Rules
from postroika.inbound.session import Services, Session
from postroika.outcome.events import FailedLogin, Refusal
from postroika.policy.accounts import Accounts
from postroika.policy.lockout import Lockout
from postroika.policy.pipeline import Client, Pipeline
from postroika.policy.relay import RelayPolicy
from postroika.pump import open_pump
from postroika.smtp.scram import keys_of
from postroika.smtp.server import ServerSettings
from postroika.tls.facts import TlsFacts
from tests.component.smtp_client import AT, LIMITS, FakeSpool, received_event

KEYS = keys_of("secret", iterations=4096).text()
HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"
IN = "235 2.7.0 authentication succeeded\n"
WRONG = "535 5.7.8 authentication credentials are invalid\n"
OK = "250 2.1.0 Ok\n"
RCPT_OK = "250 2.1.5 Ok\n"
GO_ON = "354 End data with <CR><LF>.<CR><LF>\n"
REQUIRED = "530 5.7.0 authentication is required\n"
TOO_LARGE = "552 5.3.4 message is too large\n"


def plain(name: str, password: str) -> bytes:
    return b"AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode()) + b"\r\n"


def account(name: str = "ann@shop.example", **settings: object) -> config.Account:
    facts: dict[str, object] = {"name": name, "tenant": "shop"}
    facts |= {"password": config.Secret(HASH), "scram": config.Secret(KEYS)}
    return config.Account(**{**facts, **settings})  # type: ignore[arg-type]


class House:
    """A worker's share of accounts, and its sessions."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *listed: config.Account,
        rules: Rules = Rules(required=True, without_tls=True, tls=True),  # noqa: B008 - frozen
        failures_per_session: int = 3,
        failure_delay_s: float = 0.0,
        per_ip: int = 100,
    ) -> None:
        self.nursery = nursery
        self.accounts = Accounts(listed or (account(),), None)
        self.failed: list[FailedLogin] = []
        self.refused: list[Refusal] = []
        self.spool = FakeSpool()
        self.services = Services(
            door=Door(self.spool, received_event, hostname="mx.test", clock=lambda: AT),
            pipeline=Pipeline(30),
            relay=RelayPolicy(["10.0.0.0/8"], ["ours.example"], "mx.test"),
            rejected=self.refused.append,
            limits=LIMITS,
            logins=Logins(
                self.accounts,
                Lockout(per_ip=per_ip, per_account=100, period_s=900.0),
                [rules],
                FailedLogins(self.failed.append, self.accounts.tenant, per_ip, 900.0),
                failure_delay_s=failure_delay_s,
                failures_per_session=failures_per_session,
                check_timeout_s=30.0,
            ),
        )

    async def connect(self, ip: str = "192.0.2.7", tls: TlsFacts | None = None, *, auth: bool = True) -> Visitor:
        """A session that has been greeted."""
        visitor = Visitor(self, ip, tls, auth=auth)
        assert await visitor.read() == "220 mx.test ESMTP Postroika\n"
        visitor.ehlo = await visitor.say(b"EHLO c.example\r\n")
        return visitor


class Visitor:
    def __init__(self, house: House, ip: str, tls: TlsFacts | None, *, auth: bool) -> None:
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self.socket = trio.socket.from_stdlib_socket(theirs)
        self.ehlo = ""
        client = Client(ip, tls=tls)
        settings = ServerSettings(hostname="mx.test", max_message_bytes=100_000, auth=auth)
        self.session = Session(ours, client, settings, house.services)
        self.ended = trio.Event()
        house.nursery.start_soon(self._run)
        house.nursery.start_soon(self._close_at_the_end)

    async def _run(self) -> None:
        async with open_pump() as pump:
            pump.spawn(self.session.run())
        self.ended.set()

    async def _close_at_the_end(self) -> None:
        with self.socket:
            await trio.sleep_forever()

    async def read(self) -> str:
        """The next reply or replies; "" at the end."""
        try:
            return (await self.socket.recv(1_000_000)).decode().replace("\r\n", "\n")
        except ConnectionResetError:
            return ""

    async def say(self, wire: bytes) -> str:
        await self.socket.send(wire)
        return await self.read()

    async def submit(self, content: bytes, sender: bytes = b"ann@shop.example") -> str:
        """One message; the last reply."""
        assert await self.say(b"MAIL FROM:<" + sender + b">\r\n") == OK
        assert await self.say(b"RCPT TO:<c@d.example>\r\n") == RCPT_OK
        assert await self.say(b"DATA\r\n") == GO_ON
        return await self.say(content + b"\r\n.\r\n")
