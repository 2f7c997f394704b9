"""The TLS of one session: stands between its channel and what is read and said.

Promise: all that the channel gives is given on, decrypted, in the same order: no plaintext stays in here while somebody
waits for the socket. An end of the handshake that brings the client's first words with it loses none of them.

How: `tls.layer` has the engine. `receive` keeps to the contract of `pump.Channel.receive`, and `quiet` to that of its
attribute, so that a session uses either in the same way.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from postroika.pump import Channel
from postroika.tls.facts import TlsFacts
from postroika.tls.layer import TlsError, TlsLayer


class Encrypted:
    """One connection's TLS.

    Args:
        layer: the server's end of it.
        sock: non-blocking.
        channel: of that socket.
    """

    __slots__ = ("_channel", "_layer", "_parted", "_sock")

    def __init__(self, layer: TlsLayer, sock: socket.socket, channel: Channel) -> None:
        self._layer = layer
        self._sock = sock
        self._channel = channel
        self._parted = False

    async def shake_hands(self) -> None:
        """Do the handshake, until the strand's deadline.

        Raises:
            TlsError: it failed; the client has got an alert if it took it at once.
            OSError: the connection is broken, or the client left without a word.
            Late, Interrupted.
        """
        layer, channel = self._layer, self._channel
        heard = False
        try:
            while not layer.shake_hands():
                await self._send(layer.take_output())
                while (piece := channel.receive()) is None:
                    await channel.readable()
                if not piece and not heard:
                    raise ConnectionAbortedError  # who only looks whether somebody is there; not worth a record
                heard = True
                layer.feed(piece)
        except TlsError:
            with suppress(OSError):
                self._sock.send(layer.take_output())
            raise
        await self._send(layer.take_output())

    async def _send(self, ciphertext: bytes) -> None:
        view = memoryview(ciphertext)
        while view:
            try:
                sent = self._sock.send(view)  # not within the brackets: mypyc would send twice
                view = view[sent:]
            except BlockingIOError:
                await self._channel.writable()

    @property
    def facts(self) -> TlsFacts:
        """What was agreed on.

        Raises:
            TlsError: the handshake is not done, or the client's certificate cannot be read.
        """
        return self._layer.facts

    @property
    def bindings(self) -> dict[str, bytes]:
        """Its channel bindings by name (RFC 5929), for SCRAM-…-PLUS; none where the version of TLS has none."""
        unique = self._layer.channel_binding()
        return {"tls-unique": unique} if unique else {}

    def receive(self) -> bytes | None:
        """Plaintext that has come; b"" at its end; None if there is none for now.

        Raises:
            TlsError: it is over; `take_output` has an alert.
            OSError.
        """
        piece = self._layer.read()
        if piece is None:
            ciphertext = self._channel.receive()
            if ciphertext is not None:
                self._layer.feed(ciphertext)
                piece = self._layer.read()
        return piece

    @property
    def quiet(self) -> bool:
        """There is nothing to receive before the channel gets more."""
        return self._channel.quiet and self._layer.idle

    def sealed(self, plaintext: bytes) -> bytes:
        """What is to be sent for `plaintext`.

        Raises:
            TlsError: the connection is over.
        """
        if plaintext:
            self._layer.write(plaintext)
        return self._layer.take_output()

    @property
    def speaks(self) -> bool:
        """The engine has something to say of its own accord: see `take_output`."""
        return self._layer.has_output

    def take_output(self) -> bytes:
        """What is to be sent."""
        return self._layer.take_output()

    def part(self) -> bytes:
        """What is to be sent as the last (close_notify); b"" the second time."""
        if not self._parted:
            self._parted = True
            self._layer.shut_down()
        return self._layer.take_output()
