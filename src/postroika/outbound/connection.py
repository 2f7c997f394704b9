"""One SMTP connection to a next hop: the sans-IO client on a raw non-blocking socket, with TLS between them or not.

Promise: never a deadlock (it reads while it waits to write), never more waiting than the timeouts of RFC 5321
§4.5.3.2 allow for each reply, never more output in memory than what the driver has given for one write.

How: it is used by one strand at a time; the system call comes first, and the pump is asked only when it would block.
The deadline is the strand's; a peer that sends single octets does not move it, only whole replies do. With TLS, what
the client says is encrypted record by record (`cipher`), so that it is known which octets of it the peer may have read.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

from postroika.config import Delivery
from postroika.errors import RemoteProtocolError
from postroika.mail.outcome import Peer
from postroika.metrics import OUTBOUND_CONNECTION_FAILURES, OUTBOUND_CONNECTIONS, OUTBOUND_CONNECTIONS_OPEN
from postroika.outbound.cipher import Cipher, shake_hands
from postroika.outbound.connecting import connect
from postroika.outbound.failure import FAILURES, NoSession, PeerClosed, SessionRefused, TimedOut, TlsFailed
from postroika.pump import READ_BYTES, Channel, Late, Strand, breathe, current, now
from postroika.smtp.client import Client
from postroika.smtp.client_base import ClientSettings
from postroika.smtp.client_transaction import Closed, Event, Ready, Refused, Step, TlsWanted
from postroika.tls.facts import TlsFacts
from postroika.tls.layer import TlsError, TlsLayer, TlsUntrusted

_READS_BEFORE_YIELD = 16  # A peer that never lets us wait would keep the others from being served.
# What one transaction may take in all, so that a tarpit at one reply per five minutes holds no connection for hours;
# a large body gets more (500 octets/s is Postfix's smtp_min_data_rate).
_TRANSACTION_S = 3600.0
_MIN_BYTES_PER_S = 500.0


class Connection:
    """An open connection, its session, and how much was done on it. Made by `open_connection`.

    Attributes:
        client: the session.
        peer: who is at the other end.
        source: the local address.
        messages: transactions that were answered.
        facts: of its TLS; None in clear.
        identity: what it was opened as: who uses it under anything else mixes up what must be kept apart.
        keep_session: called with its TLS at a good end, for a later connection to resume.
    """

    def __init__(
        self, sock: socket.socket, channel: Channel, client: Client, peer: Peer, source: str, config: Delivery
    ) -> None:
        self.client = client
        self.peer = peer
        self.source = source
        self.messages = 0
        self.facts: TlsFacts | None = None
        self.identity = ""
        self.keep_session: Callable[[TlsLayer], None] | None = None
        self._cipher: Cipher | None = None
        self._sock = sock
        self._channel = channel
        self._config = config
        self._unsent: bytes | memoryview = b""
        self._strand: Strand | None = None
        self._replies_seen = -1  # what the deadline was set for: how many there were …
        self._step_awaited = Step.NOTHING  # … and what was awaited
        self._reply_deadline = inf
        self._transaction_deadline = inf
        self._sending_blocked = False
        self._reads = 0
        allowed_s = {
            Step.NOTHING: inf,
            Step.GREETING: config.greeting_timeout_s,
            Step.EHLO: config.ehlo_timeout_s,
            Step.RSET: config.mail_timeout_s,
            Step.MAIL: config.mail_timeout_s,
            Step.RCPT: config.rcpt_timeout_s,
            Step.DATA: config.data_timeout_s,
            Step.BODY: config.body_timeout_s,
            Step.CHUNK: config.final_dot_timeout_s,
            Step.SKIP: config.final_dot_timeout_s,
            Step.FINAL_DOT: config.final_dot_timeout_s,
            Step.LONE_DOT: config.final_dot_timeout_s,
            Step.QUIT: config.quit_timeout_s,
            Step.STARTTLS: config.ehlo_timeout_s,
            Step.HANDSHAKE: config.tls_handshake_timeout_s,
            Step.AUTH: config.ehlo_timeout_s,
        }
        self._allowed_s = tuple([allowed_s[step] for step in Step])
        OUTBOUND_CONNECTIONS_OPEN.value += 1

    # --- deadlines

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Whoever uses the connection does so inside this; one at a time.

        Raises:
            TimedOut: a deadline has passed; the connection is of no more use.
        """
        strand = self._strand = current()
        self._replies_seen = -1
        try:
            yield
        except Late:
            raise TimedOut(self.client.waiting, self._sending_blocked) from None
        finally:
            strand.deadline = inf
            self._strand = None

    def begin_transaction(self, size_bytes: int) -> None:
        """A transaction is the first one under way from now on."""
        self._transaction_deadline = now() + _TRANSACTION_S + size_bytes / _MIN_BYTES_PER_S

    def rest(self) -> None:
        """Nothing is awaited; no deadline runs until the next exchange."""
        self._transaction_deadline = inf
        if self._strand is not None:
            self._strand.deadline = inf

    def _set_deadline(self) -> None:
        client = self.client
        replies, step = client.replies, client.waiting
        if replies != self._replies_seen or step is not self._step_awaited:
            self._replies_seen, self._step_awaited = replies, step
            deadline = now() + self._allowed_s[step]
            assert self._strand is not None
            self._strand.deadline = min(deadline, self._transaction_deadline)

    # --- bytes

    @property
    def closed(self) -> bool:
        """`close` was called."""
        return self._sock.fileno() == -1

    @property
    def sending(self) -> bool:
        """Output was taken from the client and is not with the kernel yet."""
        return bool(self._unsent)

    @property
    def unsent_bytes(self) -> int:
        """How much. With TLS: of the client's output, all that is in a record of which a part is missing."""
        cipher = self._cipher
        return len(self._unsent) if cipher is None else cipher.unsent_bytes(len(self._unsent))

    @property
    def tls(self) -> str:
        """For the record: protocol and cipher, whether the peer's certificate was good, and by what; "" in clear."""
        facts = self.facts
        if facts is None:
            return ""
        if not facts.verified:
            return facts.text()
        return f"{facts.text()} verified{' dane' if facts.dane else ''}"

    def next_event(self) -> Event | None:
        """The client's next event; a body is not asked for while there is still output to send.

        Raises:
            RemoteProtocolError: see `Client.next_event`.
        """
        return self.client.next_event(sending=bool(self._unsent))

    async def exchange(self) -> None:
        """Send what the client has to say and read what the peer says. Returns once something was read (or the peer
        has closed), or everything was sent and the client wants more of a body.

        Raises:
            OSError: the connection broke; what had been read before is with the client.
            TlsFailed: the peer broke off, or what came is not from it.

        Interruption: any time; what was handed to the kernel is no longer counted in `unsent_bytes`.
        """
        client = self.client
        out = client.take_output()
        if out:
            added = out[0] if len(out) == 1 else b"".join(out)
            if self._cipher is not None:
                added = self._cipher.encrypted(added)
            self._unsent = added if not self._unsent else b"".join((self._unsent, added))
        if self._unsent:
            while not self._send():
                self._sending_blocked = True
                assert self._strand is not None
                self._strand.deadline = min(now() + self._config.body_timeout_s, self._transaction_deadline)
                await self._channel.readable_or_writable()
                if self._read():
                    return
            if self._sending_blocked:
                self._sending_blocked = False
                self._replies_seen = -1
        if client.wants_body:
            await breathe()
            self._read()
            return
        channel = self._channel
        while True:
            while (piece := channel.receive()) is None:
                self._set_deadline()
                self._reads = 0
                await channel.readable()
            heard = self._take_in(piece)
            self._reads += 1
            if self._reads >= _READS_BEFORE_YIELD:
                self._reads = 0
                self._set_deadline()
                await breathe()
            if heard:
                return
            if self._unsent:  # TLS itself had something to say, which is never much
                self._send()

    def _send(self) -> bool:
        """Hand over what the kernel takes; whether that was all."""
        unsent = self._unsent
        try:
            while unsent:
                sent = self._sock.send(unsent)
                unsent = self._unsent = b"" if sent == len(unsent) else memoryview(unsent)[sent:]
        except BlockingIOError:
            return False
        except OSError:
            # The peer may have said why before it went, and the pump not have heard of it yet.
            while not self.client.ended:
                try:
                    self._take_in(self._sock.recv(READ_BYTES))
                except BlockingIOError:
                    break
            else:
                return True
            raise
        return True

    def _read(self) -> bool:
        """Give the client what has come; whether there was anything."""
        piece = self._channel.receive()
        return piece is not None and self._take_in(piece)

    def _take_in(self, piece: bytes) -> bool:
        """What the socket gave, to the client; whether there was anything for it."""
        if self._cipher is not None:
            return self._decrypt(piece)
        self.client.receive(piece)
        return True

    def _decrypt(self, ciphertext: bytes) -> bool:
        assert self._cipher is not None
        pieces, answer = self._cipher.decrypted(ciphertext)
        for piece in pieces:
            self.client.receive(piece)
        if answer:
            self._unsent = answer if not self._unsent else b"".join((self._unsent, answer))
        return bool(pieces)

    def looks_closed(self) -> bool:
        """On a connection at rest: the peer has closed, or said something unasked for (a 421, as a rule)."""
        if self._channel.quiet:
            return False
        if self._cipher is not None:
            try:
                return self._read()
            except (OSError, TlsFailed):
                return True
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    # --- beginning and end

    async def greet(self, layer: TlsLayer | None = None, *, implicit: bool = False) -> None:
        """Greeting and EHLO, with STARTTLS and AUTH if the client's settings want them.

        Args:
            layer: for TLS; needed where the client asks for it, or with `implicit`: TLS comes before the greeting.

        Raises:
            NoSession: there is none; the connection is closed.
        """
        step = Step.HANDSHAKE if implicit else Step.GREETING
        try:
            with self.attended():
                if implicit:
                    assert layer is not None
                    await self._secure(layer)
                while True:
                    match self.next_event():
                        case None:
                            step = self.client.waiting
                            await self.exchange()
                        case Ready():
                            return
                        case TlsWanted():
                            assert layer is not None
                            step = Step.HANDSHAKE
                            await self._secure(layer)
                        case Refused(stage, reply, remote):
                            raise SessionRefused(stage, reply, remote)
                        case Closed(reply):
                            raise PeerClosed(step, reply)
        except SessionRefused as error:
            await self.quit()  # noqa: ASYNC120 - if interrupted here, nobody asks why there is no session
            raise NoSession(error, step, self.client.greeting) from error
        except FAILURES as failure:
            self.close()
            awaited = failure.step if isinstance(failure, TimedOut) else step
            raise NoSession(failure, awaited, self.client.greeting) from failure

    async def _secure(self, layer: TlsLayer) -> None:
        """Shake hands; from here on everything is encrypted."""
        strand = self._strand
        assert strand is not None
        strand.deadline = now() + self._config.tls_handshake_timeout_s
        try:
            early = await shake_hands(layer, self._sock, self._channel)
        except Late:
            raise TimedOut(Step.HANDSHAKE) from None
        try:
            self.facts = layer.facts
        except TlsError as error:
            raise TlsFailed(str(error), untrusted=isinstance(error, TlsUntrusted)) from None
        self._cipher = Cipher(layer)
        self._replies_seen = -1
        self.client.secured()
        for piece in early:
            self.client.receive(piece)

    async def quit(self) -> None:
        """Take leave, politely but not for long, and close. Never raises for what the peer does.

        Interruption: closes at once.
        """
        try:
            self.client.quit()
            with self.attended():
                while not self.client.closed:
                    await self.exchange()
                    while self.next_event() is not None:
                        pass
            if self._cipher is not None and not self.closed:
                if self.keep_session is not None:
                    self.keep_session(self._cipher.layer)
                if not self._unsent:
                    self._sock.send(self._cipher.last_words())
        except (OSError, TimedOut, RemoteProtocolError, TlsFailed):
            return  # There was nothing left to lose.
        finally:
            self.close()

    def close(self) -> None:
        """Close without a word. May be called twice."""
        if not self.closed:
            self._channel.close()
            self._sock.close()
            OUTBOUND_CONNECTIONS_OPEN.value -= 1


async def open_connection(
    peer: Peer, settings: ClientSettings, config: Delivery, layer: TlsLayer | None = None, *, implicit: bool = False
) -> Connection:
    """Connect, and open a session.

    Args:
        peer: an address as text, and its port.
        layer, implicit: see `Connection.greet`.

    Raises:
        NoSession: it was refused, or anything else went wrong.

    Interruption: nothing stays open.
    """
    OUTBOUND_CONNECTIONS.value += 1
    try:
        try:
            sock, channel, source = await connect(peer, config)
        except (OSError, TimedOut) as error:
            raise NoSession(error, Step.NOTHING) from error
        connection = Connection(sock, channel, Client(settings), peer, source, config)
        try:
            await connection.greet(layer, implicit=implicit)
        except BaseException:
            connection.close()
            raise
    except NoSession:
        OUTBOUND_CONNECTION_FAILURES.value += 1
        raise
    return connection
