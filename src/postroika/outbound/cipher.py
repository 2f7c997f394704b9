"""TLS between the client and the socket of a connection: the handshake, and then octets into records and back.

Promise: it is known of each octet of the client's output whether the peer can have read it: it can as soon as the
kernel has the last octet of the record that it is in, and not before.

How: each piece that is encrypted at once makes one record, so that the ends of records are known in both countings.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress

from postroika.outbound.failure import TlsFailed
from postroika.pump import Channel
from postroika.tls.layer import TlsError, TlsLayer, TlsUntrusted

_RECORD_BYTES = 16_384  # RFC 8446 §5.1: more does not fit into one record


async def shake_hands(layer: TlsLayer, sock: socket.socket, channel: Channel) -> list[bytes]:
    """Agree on everything. Returns plaintext that came right behind the peer's part of it.

    Raises:
        TlsFailed, OSError: there is no TLS; the peer was told why as far as it listens.
        Late, Interrupted: it is in no state to be used.
    """
    while True:
        piece = _read(layer, sock)
        out = memoryview(layer.take_output())
        while out:
            try:
                sent = sock.send(out)
                out = out[sent:]
            except BlockingIOError:
                await channel.writable()
        if layer.handshaken:
            early = []
            while piece is not None:
                early.append(piece)
                piece = _read(layer, sock) if piece else None
            return early
        while (ciphertext := channel.receive()) is None:
            await channel.readable()
        layer.feed(ciphertext)


def _read(layer: TlsLayer, sock: socket.socket) -> bytes | None:
    try:
        return layer.read()
    except TlsError as error:
        with suppress(OSError):
            sock.send(layer.take_output())
        code = error.code if isinstance(error, TlsUntrusted) else 0
        raise TlsFailed(str(error), untrusted=isinstance(error, TlsUntrusted), code=code) from None


class Cipher:
    """A connection's TLS after the handshake.

    Args:
        layer: whose handshake is done and whose output is sent.
    """

    __slots__ = ("_ends", "_layer", "_plain", "_sealed", "_secret")

    def __init__(self, layer: TlsLayer) -> None:
        self._layer = layer
        self._plain = 0  # octets of the client that were ever given to us …
        self._sealed = 0  # … and those of them of which all ciphertext is known to be with the kernel
        self._secret = 0  # octets of ciphertext that we ever gave
        self._ends: deque[tuple[int, int]] = deque()  # of records not known to be sent: in ciphertext, in plaintext

    def encrypted(self, plaintext: bytes) -> bytes:
        """What to send for it, behind all that was given before.

        Raises:
            TlsFailed: nothing more can be sent. What was given counts as unsent.
        """
        layer = self._layer
        start, end = self._plain, self._secret
        self._plain += len(plaintext)
        records: list[bytes] = []
        ends: list[tuple[int, int]] = []
        try:
            for at in range(0, len(plaintext), _RECORD_BYTES):
                piece = plaintext[at : at + _RECORD_BYTES]
                layer.write(piece)
                records.append(layer.take_output())
                end += len(records[-1])
                ends.append((end, start + at + len(piece)))
        except TlsError as error:
            raise TlsFailed(str(error)) from None
        self._secret = end
        self._ends += ends
        return records[0] if len(records) == 1 else b"".join(records)

    def decrypted(self, ciphertext: bytes) -> tuple[list[bytes], bytes]:
        """What the peer has said, b"" as the last piece if that was all it will ever say; and what to send for it.

        Raises:
            TlsFailed: it is not from the peer, or the peer has broken off without having said anything before.
        """
        layer = self._layer
        layer.feed(ciphertext)
        pieces: list[bytes] = []
        try:
            while (piece := layer.read()) is not None:
                pieces.append(piece)
                if not piece:
                    break
        except TlsError as error:
            if not pieces:
                raise TlsFailed(str(error)) from None
            pieces.append(b"")  # What came before was the peer's.
        answer = layer.take_output()
        self._secret += len(answer)
        return pieces, answer

    def unsent_bytes(self, unsent_ciphertext: int) -> int:
        """How many octets of the client the peer cannot have read, if so many of ciphertext are not with the kernel."""
        sent = self._secret - unsent_ciphertext
        ends = self._ends
        while ends and ends[0][0] <= sent:
            self._sealed = ends.popleft()[1]
        return self._plain - self._sealed

    def last_words(self) -> bytes:
        """That we say no more (close_notify)."""
        self._layer.shut_down()
        return self._layer.take_output()

    @property
    def layer(self) -> TlsLayer:
        """For the session that it may leave behind."""
        return self._layer
