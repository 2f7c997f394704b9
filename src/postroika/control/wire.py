"""What the supervisor and its workers say to each other: one JSON object a packet, over a SOCK_SEQPACKET pair.

Promise: a packet is whole or not there, so there is nothing to frame. The supervisor asks, the worker answers with the
same number; a worker also says unasked that it is ready, or why it cannot be.
"""

from __future__ import annotations

import socket
from typing import Any, TypeAlias

import msgspec
import trio

MAX_PACKET_BYTES = 160 * 1024  # below the default send buffer of a Unix socket (208 KiB)


class Flush(msgspec.Struct, frozen=True, tag="flush"):
    """Try now: these messages, these destinations, or (both empty) everything. Answer: {"batches": n}."""

    messages: list[int] = []
    destinations: list[str] = []


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Take back these messages, or all that match every one of the filters that is not empty. At least one is.
    Answer: {"recipients": n}."""

    messages: list[int] = []
    destination: str = ""
    sender: str = ""
    recipient: str = ""
    campaign: str = ""
    tenant: str = ""


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Figures of the worker. Answer: {"counters": {name: n}, "gauges": {name: n}}."""


class Reopen(msgspec.Struct, frozen=True, tag="reopen"):
    """Open anew what is in files that may have been replaced, logs first. Answer: {}."""


class SaveTlsCounts(msgspec.Struct, frozen=True, tag="save-tls-counts"):
    """Put the counts for TLS reports on disk. Answer: {}."""


class SendTlsReports(msgspec.Struct, frozen=True, tag="send-tls-reports"):
    """Send the reports about a day (in days since 1970) now. Answer: as `records.TlsReportsSent`; {} of workers that
    send none."""

    day: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Finish what is under way, then end. Answer: {} at once; the process ends when it is done."""


Request: TypeAlias = Flush | Cancel | Stats | Reopen | SaveTlsCounts | SendTlsReports | Stop


class Ask(msgspec.Struct, frozen=True):
    """From the supervisor."""

    number: int
    request: Request


class Answer(msgspec.Struct, frozen=True):
    """From a worker. `error` is "" or why it could not be done.

    Unasked, with `number` 0: {"ready": true} in `result`, or an error after which the worker ends.
    """

    number: int
    result: dict[str, Any] = {}
    error: str = ""


_encoder = msgspec.json.Encoder()
_ask_decoder = msgspec.json.Decoder(Ask)
_answer_decoder = msgspec.json.Decoder(Answer)


class Channel:
    """One end of the pair.

    Args:
        sock: connected; made non-blocking by trio.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._sending = trio.Lock()

    async def send(self, packet: Ask | Answer) -> None:
        """Send one packet.

        Raises:
            ValueError: it is larger than MAX_PACKET_BYTES.
            OSError: the other end is gone.
        """
        encoded = _encoder.encode(packet)
        if len(encoded) > MAX_PACKET_BYTES:
            raise ValueError(f"a control packet of {len(encoded)} bytes is too large")
        async with self._sending:
            await self._sock.send(encoded)

    async def receive_ask(self) -> Ask | None:
        """The next request; None when the supervisor is gone."""
        packet = await self._receive()
        return _ask_decoder.decode(packet) if packet else None

    async def receive_answer(self) -> Answer | None:
        """The next answer; None when the worker is gone."""
        packet = await self._receive()
        return _answer_decoder.decode(packet) if packet else None

    async def _receive(self) -> bytes:
        try:
            return await self._sock.recv(MAX_PACKET_BYTES)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
