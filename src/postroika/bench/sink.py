"""An SMTP sink: takes whatever mail it is given, and misbehaves on request.

Promise: every message that it answers with 250 is counted, and stored first where a directory is given; recipients
that match a pattern are refused or deferred, so that each outcome of a delivery can be had on a machine without DNS
or Internet. It forwards nothing. It is for tests, benchmarks and first steps: what it stores is not synced.

How: one task a connection over a raw socket feeds the sans-IO `smtp.server.Server` and answers its events at once; a
message passes through in pieces and is never held whole.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import math
import random
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import trio

from postroika.bench.maildir import Maildir, StoredFile
from postroika.bench.sink_settings import STAGES, Counts, Message, SinkSettings
from postroika.config import split_host_port
from postroika.errors import PostroikaError
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply, reply
from postroika.smtp.server import Server, ServerSettings
from postroika.smtp.server_events import BodyChunk, BodyEnd, BodyRefused, DataBegin, Event, Helo, Mail, Rcpt, Reset

__all__ = ["STAGES", "Counts", "Message", "Sink", "SinkSettings", "listen", "serve_until_signal"]

_READ_BYTES = 256 * 1024
# A client that never lets us wait would keep the others from being served.
_READS_BEFORE_YIELD = 16
# The header that tells messages apart is looked for in this much of them.
_HEAD_BYTES = 256 * 1024
_BACKLOG = 1024
_EXHAUSTED_WAIT_S = 0.1  # out of file descriptors or memory, until another connection ends
_IDLE = reply(421, "4.4.2", "nothing was heard for too long")
_SHUT_DOWN = reply(421, "4.3.2", "the sink is being stopped")
_NO_ROOM = reply(452, "4.3.1", "the sink cannot store the message")


class Sink:
    """A sink and its counts.

    Args:
        settings: how it behaves.
        on_message: called with each message before it is answered; must not block.

    Raises:
        PostroikaError: the directory to store in cannot be made.
    """

    def __init__(self, settings: SinkSettings, on_message: Callable[[Message], None] | None = None) -> None:
        self.settings = settings
        self.counts = Counts()
        self.on_message = on_message
        self.maildir = Maildir(settings.store) if settings.store else None
        self._refuse = _pattern(settings.refuse)
        self._defer = _pattern(settings.defer)
        self._seen: set[int] = set()
        self.id_field = (
            re.compile(rb"(?im)^%b:[ \t]*([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)" % re.escape(settings.unique.encode()))
            if settings.unique
            else None
        )
        self.protocol = ServerSettings(
            hostname=settings.hostname,
            max_message_bytes=settings.max_message_bytes,
            max_recipients=settings.max_recipients,
            max_received=10_000,
            extensions=settings.extensions,
        )

    async def serve(
        self, listeners: Sequence[socket.socket], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take mail from `listeners` until cancelled. They are closed at the end.

        Cancellation: clients are told 421 where that can be done without waiting.
        """
        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                task_status.started()
        finally:
            for listener in listeners:
                trio.lowlevel.notify_closing(listener)
                listener.close()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            connection, exhausted = None, False
            try:
                connection, peer = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                exhausted = error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
                if not exhausted and error.errno != errno.ECONNABORTED:
                    raise
            if connection is None:
                await trio.sleep(_EXHAUSTED_WAIT_S if exhausted else 0)
                continue
            nursery.start_soon(_Session(self, connection, str(peer[0])).run)

    def judge(self, recipient: str) -> Reply | None:
        """The reply to RCPT; None accepts."""
        if self._refuse is not None and self._refuse.match(recipient):
            self.counts.refused += 1
            return reply(550, "5.1.1", f"<{recipient}>: the sink refuses this recipient")
        if self._defer is not None and self._defer.match(recipient):
            self.counts.deferred += 1
            return reply(451, "4.7.1", f"<{recipient}>: the sink defers this recipient")
        return None

    def count(self, message: Message, identity: bytes | None) -> None:
        """Note an accepted message."""
        counts = self.counts
        counts.messages += 1
        counts.recipients += len(message.recipients)
        counts.octets += message.size_bytes
        counts.last_at = trio.current_time()
        if counts.messages == 1:
            counts.first_at = counts.last_at
        if identity is not None:
            for recipient in message.recipients:
                # 64 bits of each are enough to tell millions apart, and cost a fraction of the text.
                seen = hash((identity, recipient))
                if seen in self._seen:
                    counts.doubled += 1
                self._seen.add(seen)
        if self.on_message is not None:
            self.on_message(message)


class _HangUp(Exception):
    """The settings want this connection to end here."""


class _Session:
    """One connection."""

    def __init__(self, sink: Sink, connection: socket.socket, client_ip: str) -> None:
        self._sink = sink
        self._socket = connection
        self._client_ip = client_ip
        self._server = Server(sink.protocol)
        self._scope = trio.CancelScope()
        self._reads = 0
        self._helo = ""
        self._reverse_path = ""
        self._recipients: list[str] = []
        self._head = bytearray()
        self._file: StoredFile | None = None
        self._cannot_store = False

    async def run(self) -> None:
        """Talk until either side ends it."""
        self._sink.counts.connections += 1
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._scope:
                await self._talk()
            if self._scope.cancelled_caught:
                self._say_last(_IDLE)
        except trio.Cancelled:
            self._say_last(_SHUT_DOWN)
            raise
        except _HangUp:
            self._sink.counts.disconnects += 1
        except OSError:
            pass  # the client is gone; a message that it had not ended does not count
        finally:
            self._forget()
            self._socket.close()

    async def _talk(self) -> None:
        server = self._server
        await self._reach(Stage.GREETING)
        await self._flush()
        while not server.closed:
            server.receive(await self._receive())
            while (event := server.next_event()) is not None:
                await self._act(event)
            await self._flush()

    async def _act(self, event: Event) -> None:
        server = self._server
        match event:
            case BodyChunk(piece):
                self._take(piece)
            case Rcpt():
                await self._reach(Stage.RCPT)
                verdict = self._sink.judge(event.address)
                if verdict is None:
                    self._recipients.append(event.address)
                server.answer(verdict)
            case Mail():
                await self._reach(Stage.MAIL)
                self._reverse_path = event.reverse_path
                server.answer()
            case DataBegin():
                await self._reach(Stage.DATA)
                server.answer(None if self._begin() else _NO_ROOM)
            case BodyEnd():
                kept = self._keep(event.size_bytes)
                await self._reach(Stage.FINAL_DOT)
                server.answer(None if kept else _NO_ROOM)
            case Helo():
                await self._reach(Stage.EHLO)
                self._helo = event.name
                server.answer()
            case BodyRefused() | Reset():
                self._forget()
            case _:
                pass  # refusals of the protocol and QUIT are answered already

    async def _reach(self, stage: Stage) -> None:
        """Wait or hang up before the reply, if the settings say so."""
        settings = self._sink.settings
        delay_s = settings.delays_s.get(stage, 0.0)
        if delay_s > 0:
            if stage is not Stage.GREETING:
                await self._flush()
            self._scope.deadline = math.inf
            await trio.sleep(delay_s)
        if settings.disconnect_at is stage and random.random() < settings.disconnect_share:
            raise _HangUp

    def _begin(self) -> bool:
        """Make room for a message. False: there is none."""
        if self._sink.maildir is not None:
            try:
                self._file = self._sink.maildir.begin(self._reverse_path, self._recipients)
            except OSError:
                return False
        return True

    def _take(self, piece: bytes) -> None:
        if self._sink.id_field is not None and len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        if self._file is not None and not self._cannot_store:
            try:
                self._file.write(piece)
            except OSError:
                self._cannot_store = True

    def _keep(self, size_bytes: int) -> bool:
        """Store and count the message that has ended. False: it could not be stored."""
        if self._file is not None and not self._cannot_store:
            try:
                self._file.finish()
                self._file = None
            except OSError:
                self._cannot_store = True
        kept = not self._cannot_store
        if kept:
            message = Message(self._reverse_path, tuple(self._recipients), size_bytes, self._client_ip, self._helo)
            self._sink.count(message, self._identity())
        self._forget()
        return kept

    def _identity(self) -> bytes | None:
        field = self._sink.id_field
        if field is None:
            return None
        end = self._head.find(b"\r\n\r\n")
        found = field.search(self._head, 0, end + 2 if end >= 0 else len(self._head))
        return found[1] if found is not None else None

    def _forget(self) -> None:
        """The transaction is over."""
        if self._file is not None:
            self._file.abandon()
            self._file = None
        self._cannot_store = False
        self._recipients = []
        self._head.clear()

    async def _receive(self) -> bytes:
        self._reads += 1
        if self._reads % _READS_BEFORE_YIELD == 0:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                self._scope.deadline = trio.current_time() + self._sink.settings.idle_timeout_s
                await trio.lowlevel.wait_readable(self._socket)

    async def _flush(self) -> None:
        out = memoryview(self._server.take_output())
        while out:
            try:
                out = out[self._socket.send(out) :]
            except BlockingIOError:
                self._scope.deadline = trio.current_time() + self._sink.settings.idle_timeout_s
                await trio.lowlevel.wait_writable(self._socket)

    def _say_last(self, last: Reply) -> None:
        """Tell the client why, as far as that needs no waiting."""
        self._server.shut_down(last)
        with contextlib.suppress(OSError):
            self._socket.send(self._server.take_output())


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


async def serve_until_signal(sink: Sink, listeners: Sequence[socket.socket], live: bool = False) -> None:
    """Serve until SIGINT or SIGTERM. `live`: show the summary on stderr, every second in the same line."""

    async def show() -> None:
        while True:
            await trio.sleep(1)
            sys.stderr.write(f"\r\x1b[K{sink.counts.summary()}")  # over the line before
            sys.stderr.flush()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.serve, listeners)
            if live:
                nursery.start_soon(show)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()
    if live:
        sys.stderr.write("\n")


def _pattern(globs: Sequence[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs), re.IGNORECASE)
