"""The client's end of TLS over the connection of an inbound session."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing
import trustme

from postroika.tls import context
from postroika.tls.layer import TlsLayer
from tests.component.smtp_client import GREETED, Inbound

CA = trustme.CA()
BANNER = "220 mx.test ESMTP Postroika\n"
OFFERED = GREETED.replace("250-PIPELINING", "250-STARTTLS\n250-PIPELINING")
SECURED = GREETED.replace("250 LIMITS", "250-LIMITS") + "250 REQUIRETLS\n"
READY = "220 2.0.0 ready to start TLS\n"


class Secured:
    """The client's end of TLS over the connection of an Inbound."""

    def __init__(self, inbound: Inbound, trusted: Path | None = None, certificate: Path | None = None) -> None:
        made = context.client_context(verify=True)
        CA.configure_trust(made)
        if trusted is not None:
            made.load_verify_locations(trusted)
        if certificate is not None:
            made.load_cert_chain(certificate)
        self.inbound = inbound
        self.socket = inbound.socket
        self.layer = TlsLayer(made, server_side=False, server_name="mx.test")

    async def shake_hands(self) -> None:
        while not self.layer.shake_hands():
            await self.socket.send(self.layer.take_output())
            self.layer.feed(await self.socket.recv(1 << 20))
        await self.socket.send(self.layer.take_output())
        await trio.testing.wait_all_tasks_blocked()

    def sealed(self, wire: bytes) -> bytes:
        self.layer.write(wire)
        return self.layer.take_output()

    async def send(self, wire: bytes) -> None:
        await self.socket.send(self.sealed(wire))

    async def read(self) -> str:
        """What the session has said by the time that it waits for more; "" at its end."""
        said = b""
        while not said:
            await trio.testing.wait_all_tasks_blocked()
            try:
                self.layer.feed(await self.socket.recv(1 << 20))
            except ConnectionResetError:
                self.layer.feed(b"")
            while piece := self.layer.read():
                said += piece
            if piece == b"":
                break
        return said.decode().replace("\r\n", "\n")

    async def say(self, wire: bytes) -> str:
        await self.send(wire)
        return await self.read()


async def secured(inbound: Inbound) -> Secured:
    """After STARTTLS and the handshake."""
    assert await inbound.read() == BANNER
    assert await inbound.say(b"EHLO client.example\r\n") == OFFERED
    assert await inbound.say(b"STARTTLS\r\n") == READY
    client = Secured(inbound)
    await client.shake_hands()
    return client


async def greeted(inbound: Inbound) -> Secured:
    """After EHLO in TLS, too."""
    client = await secured(inbound)
    assert await client.say(b"EHLO client.example\r\n") == SECURED
    return client
