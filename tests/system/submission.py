"""A submission server of a test, with accounts, and the next hop that keeps what comes out of it."""

from __future__ import annotations

import asyncio
import email
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import aiosmtplib
import trustme

from postroika.bench.maildir import Stored
from tests.system.command import command
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import OurSink, start_our_sink

PASSWORD = "correct horse"
IN = "235 2.7.0 authentication succeeded"


def credentials(name: str, password: str = PASSWORD) -> str:
    """What AUTH PLAIN says."""
    return b64encode(f"\0{name}\0{password}".encode()).decode()


class World:
    """A submission server with STARTTLS, with TLS at once, and in the clear; and a next hop that takes all."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self.authority = path / "ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        certificate.private_key_pem.write_to_path(path / "key.pem")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(path / "cert.pem", append=True)
        (path / "key.pem").chmod(0o600)
        self.starttls, self.implicit, self.clear = (free_port() for _ in range(3))
        pair = 'role = "submission"\ncertificate = "cert.pem"\nkey = "key.pem"'
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        self.server = Postroika(
            path,
            f'[[listener]]\naddress = "127.0.0.1:{self.starttls}"\ntls = "starttls"\n{pair}\n'
            f'[[listener]]\naddress = "127.0.0.1:{self.implicit}"\ntls = "implicit"\n{pair}\n'
            f'[[listener]]\naddress = "127.0.0.1:{self.clear}"\nrole = "submission"\nauth_without_tls = true\n'
            '[accounts]\nfile = "accounts.toml"\nfailure_delay_s = 0\nfailures_per_session = 1000000\n'
            "failures_per_ip = 1000000\nfailures_per_account = 1000000\n"
            f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{self.sink.address}"\n',
            workers=1,
        )
        self.account("add", "ann@shop.test", "--tenant", "shop", "--sender", "@shop.test")
        self.account("add", "bob@mill.test", "--tenant", "mill")
        stack.enter_context(self.server)

    def account(self, *arguments: str, password: str = PASSWORD) -> None:
        done = command(self.server, "account", *arguments, stdin=password.encode())
        assert done.code == 0, done.err

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    @asynccontextmanager
    async def aio_client(self, way: str) -> AsyncIterator[aiosmtplib.SMTP]:
        """aiosmtplib by "starttls" or "implicit", until the connection is closed: it does not wait for that itself."""
        lost = asyncio.Event()
        async with aiosmtplib.SMTP(
            hostname="localhost", port=getattr(self, way), timeout=30, tls_context=self.context,
            use_tls=way == "implicit", start_tls=way == "starttls",
        ) as client:  # fmt: skip
            protocol = client.protocol
            assert protocol is not None
            tell = protocol.connection_lost

            def connection_lost(error: Exception | None) -> None:
                tell(error)
                lost.set()

            protocol.connection_lost = connection_lost  # type: ignore[method-assign]
            yield client
        await asyncio.wait_for(lost.wait(), 30)

    def stored(self, sender: str, count: int = 1) -> list[Stored]:
        """All messages from a sender, as soon as there are `count`, octet for octet."""

        def found() -> list[Stored]:
            return [message for message in self.sink.messages() if message.reverse_path == sender]

        wait_until(lambda: len(found()) >= count, f"the mail of {sender}", 30)
        return found()

    def arrived(self, sender: str) -> Message:
        """The one message from a sender."""
        (message,) = self.stored(sender)
        return email.message_from_bytes(message.content)

    def events(self, kind: str, count: int, **wanted: str) -> list[dict[str, Any]]:
        """All events of this type whose members are these, as soon as there are `count`."""

        def found() -> list[dict[str, Any]]:
            return [
                event
                for event in self.server.events_of(kind)
                if all(event.get(member) == value for member, value in wanted.items())
            ]

        wait_until(lambda: len(found()) >= count, f"{count} events {kind} {wanted}", 30)
        return found()

    def event(self, kind: str, **wanted: str) -> dict[str, Any]:
        """The one event of this type whose members are these."""
        (event,) = self.events(kind, 1, **wanted)
        return event

    def taken_in(self, text: str) -> None:
        """Wait until the server has said so in its log."""
        wait_until(lambda: text in self.server.output(), text, 20)


def without_trace(content: bytes) -> bytes:
    """A message without the Received field that stands in front of it, its folded lines among it."""
    assert content.startswith(b"Received: ")
    end = 0
    while (end := content.index(b"\r\n", end) + 2) and content[end : end + 1] in b"\t ":
        pass
    return content[end:]
