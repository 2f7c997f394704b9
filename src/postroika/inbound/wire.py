"""The socket of one session: what is said goes out over it, in the clear or in TLS, and it ends in good order.

Promise: what the socket takes at once is sent at once; the rest is kept (`unsent`) until the client has read what came
before, or has not done so in time. A client that is sent away gets the time to read why. A broken connection is a
`GoneError`, whatever was being done.

How: reading is the session's: from `channel`, or through `encrypted` once `shake_hands` has made it.
"""

from __future__ import annotations

import math
import socket
from contextlib import suppress

from postroika.inbound.encrypted import Encrypted
from postroika.pump import READ_BYTES, Channel, Late, current, now
from postroika.tls.layer import TlsError, TlsLayer

LINGER_S = 2.0  # how long a client that is sent away gets to read why
LINGER_BYTES = 1024 * 1024
_MOST_DROPPED_BYTES = 1024 * 1024  # of what a client has sent behind STARTTLS without waiting


class GoneError(Exception):
    """The connection is broken."""


class Wire:
    """Of one session; made by its strand.

    Args:
        sock: connected and non-blocking; `close` closes it.

    Attributes:
        encrypted: None as long as the client and we speak in the clear. To be read only.
        unsent: what the socket has not taken yet: nothing else may be said before `send_rest`. To be read only.
        stuck: nothing more can be said, for it would stand in the middle of something else. To be read only.
    """

    __slots__ = ("_sock", "channel", "encrypted", "stuck", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.channel = Channel(sock)
        self.encrypted: Encrypted | None = None
        self.unsent = b""
        self.stuck = False

    def say(self, output: bytes) -> None:
        """Send what the socket takes at once; the rest becomes `unsent`.

        Raises:
            GoneError.
        """
        if self.encrypted is not None:
            try:
                output = self.encrypted.sealed(output)
            except TlsError as failure:
                raise GoneError from failure
        self.send(output)

    def send(self, output: bytes) -> None:
        """`say` for what is sent as it is.

        Raises:
            GoneError.
        """
        try:
            sent = self._sock.send(output)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise GoneError from error
        if sent < len(output):
            self.unsent = output[sent:]

    async def send_rest(self, timeout_s: float) -> None:
        """Send what is unsent. A client that does not read its replies runs into the deadline.

        Raises:
            GoneError.
            Late, Interrupted: it is `stuck`.
        """
        view = memoryview(self.unsent)
        self.unsent = b""
        while True:
            try:
                sent = self._sock.send(view)  # not within the brackets: mypyc would send twice
                view = view[sent:]
            except BlockingIOError:
                self.stuck = True  # in the middle of a reply: another one would only garble it
                strand = current()
                strand.deadline = now() + timeout_s
                await self.channel.writable()
                strand.deadline = math.inf
            except OSError as error:
                raise GoneError from error
            if not view:
                self.stuck = False
                return

    def drop_input(self) -> None:
        """Throw away what the client has sent up to now.

        Raises:
            GoneError: or it is too much of it.
        """
        dropped = 0
        try:
            while dropped < _MOST_DROPPED_BYTES:
                # Not through the channel, which asks only once it has been told of something new.
                piece = self._sock.recv(READ_BYTES)
                if not piece:
                    raise GoneError
                dropped += len(piece)
        except BlockingIOError:
            return
        except OSError as error:
            raise GoneError from error
        raise GoneError

    async def shake_hands(self, layer: TlsLayer, timeout_s: float) -> Encrypted:
        """Begin TLS. If that fails, the client learns it by an alert at most: nothing else can be said.

        Args:
            layer: our end.

        Raises:
            GoneError.
            TlsError, Late: the handshake failed, or took too long; it is `stuck`.
            Interrupted: likewise.
        """
        encrypted = Encrypted(layer, self._sock, self.channel)
        strand = current()
        self.stuck = True
        strand.deadline = now() + timeout_s
        try:
            await encrypted.shake_hands()
        except OSError as error:
            raise GoneError from error
        strand.deadline = math.inf
        self.stuck = False
        self.encrypted = encrypted
        return encrypted

    def part(self) -> None:
        """Say that no more will be said, where there is a way to say so."""
        if self.encrypted is not None and not self.unsent and not self.stuck:
            with suppress(GoneError):
                self.send(self.encrypted.part())

    async def linger(self) -> None:
        """Let a client that is sent away read why: with unread input, closing would reset the connection and take
        our last reply with it.

        Raises:
            GoneError.
            Interrupted.
        """
        left = LINGER_BYTES
        try:
            self._sock.shutdown(socket.SHUT_WR)
            current().deadline = now() + LINGER_S
            while left > 0:
                piece = self.channel.receive()
                if piece is None:
                    await self.channel.readable()
                elif piece:
                    left -= len(piece)
                else:
                    return
        except Late:
            return
        except OSError as error:
            raise GoneError from error

    def close(self) -> None:
        """Close the socket."""
        self.channel.close()
        self._sock.close()
