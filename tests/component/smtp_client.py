"""What the tests of inbound sessions share: a spool in memory, a client on a socket pair, a record of refusals."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import trio
import trio.testing

from postroika.config import Limits
from postroika.errors import SpoolError
from postroika.inbound.accept import Door, Received
from postroika.inbound.session import Services, Session
from postroika.mail.envelope import Envelope, Recipient
from postroika.outcome.events import Refusal
from postroika.policy.pipeline import Client, Pipeline
from postroika.policy.relay import RelayPolicy
from postroika.pump import Wake, open_pump
from postroika.smtp.server import ServerSettings
from postroika.tls.certificates import ListenerTls
from postroika.tls.facts import TlsFacts

AT = 1_700_000_000.0
NO_ENVELOPE = Envelope(1, "", AT, 0, 0)
GREETED = (
    "250-mx.test\n250-PIPELINING\n250-SIZE 100000\n250-8BITMIME\n250-SMTPUTF8\n250-CHUNKING\n250-BINARYMIME\n250-DSN\n"
    "250-ENHANCEDSTATUSCODES\n250 LIMITS RCPTMAX=1000\n"
)
LIMITS = Limits(
    idle_timeout_s=300.0,
    command_timeout_s=100.0,
    data_timeout_s=50.0,
    transaction_timeout_s=1000.0,
    policy_timeout_s=30.0,
)


@dataclass
class FakeWriter:
    """A message in memory."""

    spool: FakeSpool
    message: int
    pieces: list[bytes] = field(default_factory=list)
    facts: dict[str, Any] | None = None
    events: list[bytes] = field(default_factory=list)
    abandoned: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def write(self, piece: bytes) -> Awaitable[None] | None:
        if self.spool.write_error is not None:
            return self._refuse(self.spool.write_error)
        self.pieces.append(piece)
        return None

    async def _refuse(self, error: SpoolError) -> None:
        raise error

    async def finish(self, *, recipients: Sequence[Recipient], received: Received, **facts: object) -> None:
        await self.spool.may_commit.wait(shield=True)
        if self.spool.commit_error is not None:
            raise self.spool.commit_error
        self.events = [received(NO_ENVELOPE, recipient, "d.example") for recipient in recipients]
        self.facts = {"recipients": list(recipients), **facts}

    def abandon(self) -> None:
        self.abandoned = True


@dataclass
class FakeSpool:
    """All messages; a commit waits for `may_commit`, and fails where an error is set."""

    messages: list[FakeWriter] = field(default_factory=list)
    room: bool = True
    write_error: SpoolError | None = None
    commit_error: SpoolError | None = None
    may_commit: Wake = field(default_factory=Wake)

    def __post_init__(self) -> None:
        self.may_commit.set()

    def begin(self) -> FakeWriter:
        self.messages.append(FakeWriter(self, len(self.messages) + 1))
        return self.messages[-1]

    def has_room(self) -> bool:
        return self.room

    @property
    def kept(self) -> list[FakeWriter]:
        return [message for message in self.messages if message.facts is not None]


def received_event(envelope: Envelope, recipient: Recipient, destination: str, tls: TlsFacts | None = None) -> bytes:
    """What a "received" event is told of TLS."""
    return repr(tls).encode()


class Inbound:
    """One session and its client.

    Args:
        nursery: the session runs in it, in a pump of its own.
        kind: SOCK_SEQPACKET shows each send of the session as one packet.
        tls: STARTTLS is offered, or ("active") TLS begins with the first octet; needs `certificates`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        limits: Limits = LIMITS,
        pipeline: Pipeline | None = None,
        ip: str = "10.0.0.1",
        kind: socket.SocketKind = socket.SOCK_STREAM,
        tls: Literal["none", "offered", "active"] = "none",
        certificates: ListenerTls | None = None,
    ) -> None:
        theirs, ours = socket.socketpair(socket.AF_UNIX, kind)
        theirs.setblocking(False)
        ours.setblocking(False)
        self.ours = ours
        self.socket = trio.socket.from_stdlib_socket(theirs)
        self.spool = FakeSpool()
        self.events: list[Refusal] = []
        services = Services(
            door=Door(self.spool, received_event, hostname="mx.test", clock=lambda: AT),
            pipeline=pipeline or Pipeline(limits.policy_timeout_s),
            relay=RelayPolicy(["10.0.0.0/8"], ["ours.example"], "mx.test"),
            rejected=self.events.append,
            limits=limits,
        )
        settings = ServerSettings(
            hostname="mx.test", max_message_bytes=100_000, max_recipients=1000, max_junk_commands=0, tls=tls
        )
        self.client = Client(ip)
        self.session = Session(ours, self.client, settings, services, certificates)
        self.ended = trio.Event()
        nursery.start_soon(self._run)
        nursery.start_soon(self._close_at_the_end)

    async def _close_at_the_end(self) -> None:
        with self.socket:
            await trio.sleep_forever()

    async def _run(self) -> None:
        async with open_pump() as pump:
            pump.spawn(self.session.run())
        self.ended.set()

    async def send(self, wire: bytes) -> None:
        await self.socket.send(wire)

    async def read(self) -> str:
        """What the session has said by the time that it waits for more; "" at its end."""
        await trio.testing.wait_all_tasks_blocked()
        try:
            return (await self.socket.recv(1_000_000)).decode().replace("\r\n", "\n")
        except ConnectionResetError:
            return ""

    async def say(self, wire: bytes) -> str:
        await self.send(wire)
        return await self.read()

    async def greet(self) -> None:
        assert await self.read() == "220 mx.test ESMTP Postroika\n"
        assert await self.say(b"EHLO client.example\r\n") == GREETED
