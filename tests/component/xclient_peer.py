"""Peers that may tell with XCLIENT for whom they speak, in sessions of a server with accounts."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import msgspec
import trio
import trio.testing

from postroika.inbound.login import Rules
from postroika.inbound.session import Session
from postroika.mail.reply import Reply
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client, Pipeline
from postroika.pump import open_pump
from postroika.smtp.server import ServerSettings
from tests.component.login_world import House

BANNER = "220 mx.test ESMTP Postroika\n"
STRICT = ServerSettings(hostname="mx.test", max_message_bytes=100_000, auth=True)
OPEN = Rules(required=False, without_tls=True, tls=False)


class Proxied:
    """The session of a peer at `ip`, on a server that takes XCLIENT from 10.9.0.0/16, which may also relay."""

    def __init__(
        self,
        house: House,
        ip: str = "10.9.0.1",
        *,
        move: Callable[[str, str], Reply | None] | None = None,
        pipeline: Pipeline | None = None,
    ) -> None:
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self.socket = trio.socket.from_stdlib_socket(theirs)
        self.client = Client(ip, 4711, "10.9.0.25", local_port=25)
        lenient = msgspec.structs.replace(STRICT, bare_newlines="normalise")
        services = replace(
            house.services,
            pipeline=pipeline or house.services.pipeline,
            xclient_from={0: Networks(["10.9.0.0/16"])},
            settings_of=lambda client: lenient if client.trusted else STRICT,
        )
        self.session = Session(ours, self.client, lenient if ip.startswith("10.") else STRICT, services)
        self.session.move = move
        house.nursery.start_soon(self._run)
        house.nursery.start_soon(self._close_at_the_end)

    async def _run(self) -> None:
        async with open_pump() as pump:
            pump.spawn(self.session.run())

    async def _close_at_the_end(self) -> None:
        with self.socket:
            await trio.sleep_forever()

    async def say(self, wire: bytes) -> str:
        await self.socket.send(wire)
        await trio.testing.wait_all_tasks_blocked()
        return (await self.socket.recv(1_000_000)).decode().replace("\r\n", "\n")

    async def introduce(self, told: bytes, helo: bytes = b"EHLO proxy.example\r\n") -> str:
        """XCLIENT and EHLO; what is said to the latter."""
        said = await self.say(b"XCLIENT " + told + b"\r\n" + helo)
        assert said.startswith(BANNER)
        return said.removeprefix(BANNER)


async def begin(house: House, ip: str = "10.9.0.1", **how: object) -> Proxied:
    proxied = Proxied(house, ip, **how)  # type: ignore[arg-type]
    said = await proxied.say(b"EHLO proxy.example\r\n")
    assert said.startswith(BANNER)
    assert ("XCLIENT" in said) == ip.startswith("10.9.")
    return proxied
