"""An SMTP sink: takes whatever mail it is given, and misbehaves on request.

Promise: every message that it answers with 250 is counted, and stored first where a directory is given; recipients
that match a pattern are refused or deferred, so that each outcome of a delivery can be had on a machine without DNS
or Internet. It forwards nothing. It is for tests, benchmarks and first steps: what it stores is not synced. A message
costs it less CPU than Postfix's smtp-sink, so that the server in front of it is what gets measured.

How: one pump serves all connections, each a `Session`; a message passes through in pieces and is never held whole.
"""

from __future__ import annotations

import errno
import functools
import socket
import sys
import time
from collections.abc import Callable, Sequence

from postroika.bench.maildir import Maildir
from postroika.bench.pump import READ, Pump
from postroika.bench.sink_content import Content, identity_field
from postroika.bench.sink_judge import Judge, Throttle
from postroika.bench.sink_protocol import learn_replies
from postroika.bench.sink_session import Session
from postroika.bench.sink_settings import STAGES, Counts, Message, SinkSettings
from postroika.bench.sink_tally import Tally
from postroika.bench.sink_tls import server_context
from postroika.config import split_host_port
from postroika.errors import PostroikaError
from postroika.kernels.bench_sink import Hub
from postroika.mail.reply import reply
from postroika.smtp.body import BARE_CR, BARE_LF, HAS_NUL, TOO_LARGE
from postroika.smtp.server import ServerSettings

__all__ = ["STAGES", "Counts", "Message", "Sink", "SinkSettings", "listen"]

_BACKLOG = 1024
_ACCEPTS_AT_ONCE = 64  # then those who are connected have their turn
_EXHAUSTED_WAIT_S = 0.1  # out of file descriptors or memory, until another connection ends
# A capped client must feel the cap: with the kernel's own sizes, megabytes would vanish in its buffer at once.
_LEAST_BUFFER_BYTES = 4096
_LARGEST_BUFFER_BYTES = 256 * 1024
_SHUT_DOWN = reply(421, "4.3.2", "the sink is being stopped")
_TOO_MANY = reply(421, "4.7.0", "too many connections")


class Sink:
    """A sink and its counts.

    Args:
        settings: how it behaves.
        pump: what it runs on.
        on_message: called with each message before it is answered; must not block.
        stop_after: the pump is stopped when so many messages have been accepted and answered; 0: never.

    Attributes:
        protocol, hub, obliging, maildir, id_field, judge, context: for its sessions.

    Raises:
        PostroikaError: the directory to store in cannot be made, the certificate cannot be used.
    """

    def __init__(
        self,
        settings: SinkSettings,
        pump: Pump,
        on_message: Callable[[Message], None] | None = None,
        *,
        stop_after: int = 0,
    ) -> None:
        self.settings = settings
        self.pump = pump
        self.on_message = on_message
        self.tally = Tally(stop_after or -1, lambda: pump.call_at(0.0, pump.stop))  # after the reply
        self.judge = Judge(settings, self.tally.others)
        self.obliging = settings.obliging
        self.maildir = Maildir(settings.store) if settings.store else None
        self.id_field = identity_field(settings.unique) if settings.unique else None
        self.context = server_context(settings) if settings.tls != "none" else None
        self.protocol = ServerSettings(
            hostname=settings.hostname,
            max_message_bytes=settings.max_message_bytes,
            max_recipients=settings.max_recipients,
            max_received=sys.maxsize,
            max_header_bytes=sys.maxsize,
            max_junk_commands=0,
            extensions=settings.extensions,
        )
        self.hub = self.make_hub(learn_replies(self.protocol))
        self._listeners: list[socket.socket] = []
        self._sessions: set[Session] = set()
        self._throttle = Throttle(settings.bytes_per_s) if settings.bytes_per_s else None

    def make_hub(self, replies: tuple[bytes, bytes, bytes, bytes]) -> Hub:
        """What the express lanes share.

        Args:
            replies: what they say to MAIL, RCPT, DATA and the end of a message.
        """
        nul, bare_lf, bare_cr, too_large = (one.wire() for one in (HAS_NUL, BARE_LF, BARE_CR, TOO_LARGE))
        return Hub(
            replies=replies,
            refusals=(nul, bare_lf, bare_cr, too_large),
            max_message_bytes=self.protocol.max_message_bytes,
            max_recipients=self.protocol.max_recipients,
            tally=self.tally.kernel,
        )

    def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Take mail from `listeners` while the pump runs, until `stop`, which closes them."""
        for listener in listeners:
            self._listeners.append(listener)
            if self.settings.bytes_per_s or self.settings.connection_bytes_per_s:
                rate = min(filter(None, (self.settings.bytes_per_s, self.settings.connection_bytes_per_s)))
                size = int(min(max(rate / 10, _LEAST_BUFFER_BYTES), _LARGEST_BUFFER_BYTES))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            self.pump.add(listener, functools.partial(self._accept, listener), READ)

    def stop(self) -> None:
        """Close all. Clients are told 421 where that can be done without waiting. Not to be called by `on_message`."""
        for listener in self._listeners:
            self.pump.remove(listener)
            listener.close()
        self._listeners.clear()
        for session in list(self._sessions):
            session.shut_down(_SHUT_DOWN)

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        return self.tally.counts

    def count(self, recipients: Sequence[str], size_bytes: int, content: Content) -> None:
        """Note an accepted message."""
        self.tally.add(recipients, size_bytes, content)

    def tell(self, reverse_path: str, recipients: Sequence[str], size_bytes: int, client_ip: str, helo: str) -> None:
        """Tell of an accepted message whoever wants to know of each."""
        if self.on_message is not None:
            self.on_message(Message(reverse_path, tuple(recipients), size_bytes, client_ip, helo))

    def forget(self, session: Session) -> None:
        """It has ended."""
        self._sessions.discard(session)
        self.tally.others.open_sessions = len(self._sessions)

    def _accept(self, listener: socket.socket, events: int) -> None:
        del events
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    self.pump.modify(listener, 0)
                    self.pump.call_at(time.monotonic() + _EXHAUSTED_WAIT_S, lambda: self._listen_again(listener))
                    return
                if error.errno != errno.ECONNABORTED:
                    raise
            else:
                self._begin(connection, str(peer[0]))

    def _listen_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self.pump.modify(listener, READ)

    def _begin(self, connection: socket.socket, client_ip: str) -> None:
        settings, counts = self.settings, self.tally.others
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        throttles = [Throttle(settings.connection_bytes_per_s)] if settings.connection_bytes_per_s else []
        if self._throttle is not None:
            throttles.append(self._throttle)
        session = Session(self, connection, client_ip, tuple(throttles))
        is_full = 0 < settings.max_connections <= len(self._sessions)
        self._sessions.add(session)
        counts.sessions += 1
        counts.turned_away += is_full
        counts.open_sessions = len(self._sessions)
        session.begin(_TOO_MANY if is_full else None)


def listen(addresses: Sequence[str]) -> list[socket.socket]:
    """Sockets that listen on "address:port"; port 0 lets the system choose.

    Raises:
        PostroikaError: an address is not one, is not ours, or is taken.
    """
    listeners: list[socket.socket] = []
    try:
        for address in addresses:
            host, port = split_host_port(address)
            listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
    except (OSError, ValueError) as error:
        for listener in listeners:
            listener.close()
        raise PostroikaError(f"cannot listen on {address}: {error}") from None
    return listeners
