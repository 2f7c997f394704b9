"""What counts as sent when a connection breaks inside of TLS records; and the ends of handshakes and connections."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import cast

import pytest

from postroika.config import Delivery
from postroika.mail.envelope import Envelope, Recipient
from postroika.mail.outcome import Peer
from postroika.outbound.cipher import Cipher
from postroika.outbound.connection import Connection
from postroika.outbound.failure import TlsFailed
from postroika.pump import Channel, Pump
from postroika.smtp.client import Client
from postroika.smtp.client_base import ClientSettings
from postroika.smtp.client_transaction import Fate, Ready, Transaction
from postroika.tls.context import client_context
from postroika.tls.layer import TlsLayer
from tests.component.outbound_fakes import in_strand
from tests.component.strands import nonblocking
from tests.component.tls_peer import NAME, good


class Ends:
    """Our end and the peer's, in memory, with the handshake done."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        context = good()
        context.maximum_version = version
        self.ours = TlsLayer(client_context(verify=False), server_side=False, server_name=NAME)
        self.theirs = TlsLayer(context, server_side=True)
        for _ in range(3):
            for one, other in ((self.ours, self.theirs), (self.theirs, self.ours)):
                assert one.read() is None
                if ciphertext := one.take_output():
                    other.feed(ciphertext)
        self.ours.read()
        assert self.ours.handshaken
        assert self.theirs.handshaken
        self.cipher = Cipher(self.ours)

    def read_by_peer(self, ciphertext: bytes) -> bytes:
        """What it has of it if nothing more comes."""
        if ciphertext:
            self.theirs.feed(ciphertext)
        pieces = []
        while (piece := self.theirs.read()) is not None:
            pieces.append(piece)
        return b"".join(pieces)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("said", [[b"x"], [b"MAIL\r\n", b"y" * 40_000, b".\r\n"], [b"z" * 16_384, b"z" * 16_385]])
def test_unsent_is_what_the_peer_cannot_read_wherever_it_breaks(said: list[bytes], version: ssl.TLSVersion) -> None:
    """At each length of what the kernel took (all around the ends of records), both ends count the same."""
    produced = Ends(version)
    ciphertext = b"".join(produced.cipher.encrypted(piece) for piece in said)
    total = sum(map(len, said))
    ends = {end for end, _ in produced.cipher._ends}
    cuts = sorted(
        {0, 1, len(ciphertext)} | {end + by for end in ends for by in (-1, 0, 1)} & set(range(len(ciphertext) + 1))
    )
    for cut in cuts:
        one = Ends(version)
        out = b"".join(one.cipher.encrypted(piece) for piece in said)
        assert len(out) == len(ciphertext)
        seen = one.read_by_peer(out[:cut])
        assert one.cipher.unsent_bytes(len(out) - cut) == total - len(seen)


def test_count_goes_on_while_more_is_sent() -> None:
    ends = Ends()
    first = ends.cipher.encrypted(b"a" * 100)
    second = ends.cipher.encrypted(b"b" * 200)
    assert ends.cipher.unsent_bytes(len(first) + len(second)) == 300
    assert ends.cipher.unsent_bytes(len(second)) == 200
    assert ends.cipher.unsent_bytes(1) == 200
    assert ends.cipher.unsent_bytes(0) == 0
    third = ends.cipher.encrypted(b"c")
    assert ends.cipher.unsent_bytes(len(third)) == 1


def test_what_could_not_be_encrypted_is_unsent() -> None:
    ends = Ends()
    sent = ends.cipher.encrypted(b"a" * 100)
    ends.ours._object = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=NAME)
    with pytest.raises(TlsFailed):
        ends.cipher.encrypted(b"b" * 40_000)
    assert ends.cipher.unsent_bytes(len(sent)) == 40_100
    assert ends.cipher.unsent_bytes(0) == 40_000


def test_end_with_and_without_close_notify_is_an_end() -> None:
    polite, rude = Ends(), Ends()
    polite.theirs.write(b"221 bye\r\n")
    polite.theirs.shut_down()
    assert polite.cipher.decrypted(polite.theirs.take_output())[0] == [b"221 bye\r\n", b""]
    rude.theirs.write(b"221 bye\r\n")
    assert rude.cipher.decrypted(rude.theirs.take_output())[0] == [b"221 bye\r\n"]
    assert rude.cipher.decrypted(b"")[0] == [b""]


def test_octets_that_are_not_of_the_peer_break_it() -> None:
    ends = Ends()
    with pytest.raises(TlsFailed):
        ends.cipher.decrypted(b"250 2.0.0 forged\r\n")


def test_record_that_was_changed_on_the_way_breaks_it_but_not_what_came_before() -> None:
    ends = Ends()
    ends.theirs.write(b"250 one\r\n")
    one = ends.theirs.take_output()
    ends.theirs.write(b"250 two\r\n")
    two = ends.theirs.take_output()
    assert ends.cipher.decrypted(one + two[:-1] + bytes([two[-1] ^ 1]))[0] == [b"250 one\r\n", b""]


def test_our_last_words_are_a_close_notify() -> None:
    ends = Ends()
    ends.theirs.feed(ends.cipher.last_words())
    assert ends.theirs.read() == b""
    assert not ends.theirs.truncated


# --- the same through a connection


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = nonblocking(*socket.socketpair())
    with one, other:
        yield one, other


class Counted:
    """A socket that takes so many octets and then breaks."""

    def __init__(self, sock: socket.socket, room: int) -> None:
        self._sock = sock
        self._room = room

    def send(self, octets: bytes | memoryview) -> int:
        if not self._room:
            raise BrokenPipeError(32, "broken")
        sent = self._sock.send(octets[: self._room])
        self._room -= sent
        return sent

    def recv(self, _size: int) -> bytes:
        return b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


@pytest.mark.parametrize("missing", [0, 1, 100])
async def test_message_is_in_doubt_only_if_its_last_record_went_out_whole(
    missing: int, pump: Pump, sockets: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = sockets
    theirs.shutdown(socket.SHUT_WR)
    fates: list[Fate] = []
    await in_strand(pump, _lose_after, ours, missing, fates)
    assert fates == ([Fate.IN_DOUBT] if not missing else [Fate.UNTOUCHED])


async def _lose_after(ours: socket.socket, missing: int, fates: list[Fate]) -> None:
    """One message is sent, but for the last octets of its last record; then the connection breaks."""
    client, twin = _client_that_sends(), _client_that_sends()
    ends = Ends()
    length = len(Ends().cipher.encrypted(b"".join(twin.take_output())))
    sock = cast(socket.socket, Counted(ours, length - missing))
    connection = Connection(sock, Channel(ours), client, Peer(NAME), "", Delivery())
    connection._cipher = ends.cipher
    with connection.attended():
        try:
            while not client.ended:
                await connection.exchange()
        except OSError:
            pass
    fates += [fate for _, fate in client.abandon(connection.unsent_bytes)]
    connection.close()


def _client_that_sends() -> Client:
    """Its session stands, over TLS; a message goes in one write."""
    client = Client(ClientSettings(ehlo_name="me.test"))
    client.secured()
    client.receive(b"220 x\r\n")
    assert client.next_event() is None
    client.take_output()
    client.receive(b"250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
    assert isinstance(client.next_event(), Ready)
    body = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 2000
    client.send(Transaction(Envelope(1, "a@x.test", 0.0, len(body), 1), [Recipient("b@y.test")], body))
    return client
