"""One connection of the sink.

Promise: what is said is what `smtp.server.Server` says, in the order of the commands; a message that gets 250 has been
counted before, and stored where that was asked for; a client that stops reading, stops writing or goes away costs
nothing but its buffers, which are bounded.

How: a generator talks with the client through the Server and yields whenever it has to wait, for READ, for WRITE or
for a time. Between the transactions of a client to which nothing special is to be done, what it sends goes to the
express lane (`kernels.bench_sink`) first, which takes ordinary mail in bulk; in the clear there is no generator
meanwhile, and the lane reads and writes by itself. When something comes that is not plain, the Server goes on from
there.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from postroika.bench.pump import READ, WRITE, Timer
from postroika.bench.sink_content import Content
from postroika.bench.sink_judge import Throttle
from postroika.bench.sink_protocol import SinkServer
from postroika.kernels import bench_sink
from postroika.kernels.bench_sink import Lane
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply, reply
from postroika.smtp.server_events import BodyChunk, BodyEnd, BodyRefused, DataBegin, Event, Helo, Mail, Rcpt, Reset

if TYPE_CHECKING:
    from postroika.bench.sink import Sink

_READ_BYTES = 128 * 1024
_IDLE = reply(421, "4.4.2", "nothing was heard for too long")
_NO_ROOM = reply(452, "4.3.1", "the sink cannot store the message")
_ENOUGH = reply(421, "4.7.0", "too many messages on this connection")

# What the generator waits for: READ or WRITE of its socket, or a time of CLOCK_MONOTONIC.
Steps = Generator[int | float, None, None]


class _HangUp(Exception):
    """The settings want this connection to end here."""


class Session:
    """One connection. `begin` it; it ends by itself, or by `shut_down`.

    Args:
        sink: whose it is.
        connection: non-blocking; closed at the end.
        throttles: read no faster than these let it.
    """

    __slots__ = (
        "_client_ip", "_content", "_heard_at", "_helo", "_idle_timer", "_is_watched", "_lane", "_messages", "_on_lane",
        "_recipients", "_reverse_path", "_secure", "_server", "_sink", "_socket", "_steps", "_throttles", "_timer",
        "_unsent", "_watched",
    )  # fmt: skip

    def __init__(self, sink: Sink, connection: socket.socket, client_ip: str, throttles: tuple[Throttle, ...]) -> None:
        self._sink = sink
        self._socket = connection
        self._client_ip = client_ip
        self._throttles = throttles
        self._secure = False
        self._server = SinkServer(sink.protocol, offers_tls=sink.settings.tls == "starttls")
        self._content = Content(sink.maildir, sink.id_field)
        self._helo = ""
        self._reverse_path = ""
        self._recipients: list[str] = []
        self._messages = 0
        # The conversation; None while reads go straight to the express lane.
        self._steps: Steps | None = None
        self._lane: Lane | None = None
        self._on_lane = False
        self._watched = READ
        self._is_watched = False
        self._timer: Timer | None = None
        self._heard_at = time.monotonic()
        self._idle_timer = sink.pump.call_at(self._heard_at + sink.settings.idle_timeout_s, self._check_idle)
        self._unsent = b""

    def begin(self, refusal: Reply | None = None) -> None:
        """Greet the client, or refuse it."""
        self._sink.pump.add(self._socket, self.on_ready, READ)
        self._is_watched = True
        if refusal is not None:
            self._server.shut_down(refusal)
        self._go(self._greet())

    def shut_down(self, last: Reply) -> None:
        """Tell the client why, as far as that needs no waiting, and close."""
        if not self._unsent:
            self._server.shut_down(last)
            with contextlib.suppress(OSError):
                self._socket.send(self._server.take_output())
        self._close()

    def on_ready(self, events: int) -> None:
        """The pump's news."""
        del events
        if self._steps is None:
            assert self._lane is not None
            end = self._lane.ready(self._socket.fileno())
            if end != bench_sink.GOES_ON:
                self._end_lane(end)
        elif self._watched:
            self._resume()
        else:
            self._close()  # it waits for a time, and the client has gone away meanwhile

    # ---- the conversation

    def _go(self, steps: Steps) -> None:
        self._steps = steps
        self._resume()

    def _resume(self) -> None:
        """Talk until there is something to wait for."""
        self._timer = None
        assert self._steps is not None
        try:
            wanted = next(self._steps)
        except StopIteration:
            self._steps = None
            if self._server.closed:
                self._close()
            else:
                self._watch(READ)
        except (_HangUp, OSError):
            self._close()  # the client is gone, or is to go; a message that it had not ended does not count
        else:
            if isinstance(wanted, int):
                self._watch(wanted)
            else:
                self._watch(0)
                self._timer = self._sink.pump.call_at(wanted, self._wake)

    def _wake(self) -> None:
        self._heard_at = time.monotonic()  # it was not the client who was silent
        self._resume()

    def _greet(self) -> Steps:
        if self._sink.settings.tls == "implicit":
            yield from self._shake_hands()
        if not self._server.closed:
            yield from self._reach(Stage.GREETING)
        yield from self._flush()
        yield from self._converse(None)

    def _converse(self, chunk: bytes | None) -> Steps:
        """Serve the client to the end, or until its next bytes may go to the express lane.

        Args:
            chunk: what was read and not looked at.
        """
        sink = self._sink
        while not self._server.closed:
            if chunk is None:
                if self._on_lane and not self._secure and not self._throttles:
                    return
                chunk = yield from self._receive()
            if self._on_lane and chunk:
                chunk = self._feed_lane(chunk)
                if not chunk:
                    chunk = None
                    yield from self._flush()
                    continue
            server = self._server
            server.receive(chunk)
            chunk = None
            while (event := server.next_event()) is not None:
                yield from self._act(event)
            yield from self._flush()
            if server.starttls:
                yield from self._shake_hands()
                self._server = SinkServer(sink.protocol)
                self._server.take_output()  # a banner comes only once
            elif sink.obliging and server.at_rest and not self._is_full():
                self._enter_lane()

    def _act(self, event: Event) -> Steps:
        server = self._server
        match event:
            case BodyChunk(piece):
                self._content.take(piece)
            case Rcpt():
                yield from self._reach(Stage.RCPT)
                verdict = self._sink.judge.recipient(event.address)
                if verdict is None:
                    self._recipients.append(event.address)
                server.answer(verdict)
            case Mail():
                yield from self._reach(Stage.MAIL)
                self._reverse_path = event.reverse_path
                server.answer(_ENOUGH if self._is_full() else None)
            case DataBegin():
                yield from self._reach(Stage.DATA)
                server.answer(None if self._content.begin(self._reverse_path, self._recipients) else _NO_ROOM)
            case BodyEnd():
                kept = self._keep(self._reverse_path, self._recipients, event.size_bytes)
                yield from self._reach(Stage.FINAL_DOT)
                server.answer(None if kept else _NO_ROOM)
            case Helo():
                yield from self._reach(Stage.EHLO)
                self._helo = event.name
                server.answer()
            case BodyRefused() | Reset():
                self._forget()
            case _:
                pass  # refusals of the protocol and QUIT are answered already

    def _reach(self, stage: Stage) -> Steps:
        """Wait or hang up before the reply, if the settings say so."""
        delay_s = self._sink.settings.delays_s.get(stage, 0.0)
        if delay_s > 0:
            if stage is not Stage.GREETING:
                yield from self._flush()
            yield time.monotonic() + delay_s
        if self._sink.judge.cuts(stage):
            raise _HangUp

    def _receive(self) -> Generator[int | float, None, bytes]:
        """The client's next bytes; b"" at the end. One read for each time that there is something to be read, so that
        a client that never lets us wait does not keep the others from being served."""
        wanted = 0 if self._secure and self._pending() else READ
        while True:
            if wanted:
                yield wanted
            read_bytes = _READ_BYTES
            for throttle in self._throttles:
                while throttle.next_at > time.monotonic():
                    yield throttle.next_at
                read_bytes = min(read_bytes, throttle.read_bytes)
            try:
                chunk = self._socket.recv(read_bytes)
            except (BlockingIOError, ssl.SSLWantReadError):
                wanted = READ
            except ssl.SSLWantWriteError:
                wanted = WRITE
            else:
                self._heard_at = time.monotonic()
                for throttle in self._throttles:
                    throttle.note(len(chunk), self._heard_at)
                return chunk

    def _pending(self) -> int:
        """Bytes that TLS has read already, of which epoll knows nothing."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    def _flush(self) -> Steps:
        """Send all replies."""
        taken = self._lane.take_output() if self._lane is not None else b""
        out = self._unsent + taken + self._server.take_output()
        while out:
            self._unsent = out
            try:
                sent = self._socket.send(out)
            except (BlockingIOError, ssl.SSLWantWriteError):
                yield WRITE
            except ssl.SSLWantReadError:
                yield READ
            else:
                out = out[sent:]
        self._unsent = b""

    def _shake_hands(self) -> Steps:
        context = self._sink.context
        assert context is not None
        pump = self._sink.pump
        pump.remove(self._socket)
        self._watched = 0
        self._is_watched = False
        secure = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = secure
        pump.add(secure, self.on_ready, self._watched)
        self._is_watched = True
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
            else:
                break
        self._secure = True

    # ---- the express lane

    def _enter_lane(self) -> None:
        sink = self._sink
        if self._lane is None:
            self._lane = Lane(sink.hub, self._content.marks, None if sink.on_message is None else self._tell)
        offered = self._server.offered
        limit = sink.settings.messages_per_connection
        self._lane.enter(
            sizes={"SIZE", "8BITMIME"} <= offered,
            dsn="DSN" in offered,
            chunking="CHUNKING" in offered,
            quota=limit - self._messages if limit else -1,
        )
        self._on_lane = True

    def _feed_lane(self, chunk: bytes) -> bytes:
        """What the client sent. Returns what the Server has to take."""
        assert self._lane is not None
        if self._lane.feed(chunk) == bench_sink.GOES_ON:
            self._heard_at = time.monotonic()
            return b""
        return self._leave_lane()

    def _leave_lane(self) -> bytes:
        """Let the Server go on from here. Returns what it has to take."""
        lane = self._lane
        assert lane is not None
        envelope, rest, has_ended = lane.leave()
        self._on_lane = False
        self._messages += lane.accepted
        taken = self._server.take_over(envelope, began=has_ended, accepted=lane.accepted > 0)
        self._reverse_path, self._recipients = taken
        return rest

    def _end_lane(self, end: int) -> None:
        """It cannot go on by itself."""
        if end == bench_sink.GONE:
            self._close()
        else:
            self._go(self._go_on(self._leave_lane() if end == bench_sink.LEAVES else b""))

    def _go_on(self, rest: bytes) -> Steps:
        if not rest:
            yield from self._flush()
        yield from self._converse(rest or None)

    def _tell(self, envelope: bytes, size_bytes: int) -> None:
        """A message of the express lane, to whoever wants to know of each."""
        reverse_path, *recipients = (
            line.partition("<")[2].partition(">")[0] for line in envelope.decode().splitlines()
        )
        self._sink.tell(reverse_path, recipients, size_bytes, self._client_ip, self._helo)

    # ---- messages, and the end

    def _is_full(self) -> bool:
        limit = self._sink.settings.messages_per_connection
        return 0 < limit <= self._messages

    def _keep(self, reverse_path: str, recipients: list[str], size_bytes: int) -> bool:
        """Store and count the message that has ended. False: it could not be stored."""
        content = self._content
        kept = content.finish()
        if kept:
            self._messages += 1
            self._sink.count(recipients, size_bytes, content)
            self._sink.tell(reverse_path, recipients, size_bytes, self._client_ip, self._helo)
        self._forget()
        return kept

    def _forget(self) -> None:
        """The transaction is over."""
        self._content.forget()
        self._recipients = []

    def _watch(self, events: int) -> None:
        if events != self._watched:
            self._watched = events
            self._sink.pump.modify(self._socket, events)

    def _check_idle(self) -> None:
        idle_timeout_s = self._sink.settings.idle_timeout_s
        now = time.monotonic()
        if self._timer is not None:
            self._heard_at = now  # it is the client who waits
        elif self._lane is not None:
            self._heard_at = max(self._heard_at, self._lane.heard_ns / 1e9)
        if now - self._heard_at >= idle_timeout_s:
            self.shut_down(_IDLE)
        else:
            self._idle_timer = self._sink.pump.call_at(self._heard_at + idle_timeout_s, self._check_idle)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._idle_timer.cancel()
        self._forget()
        self._steps = self._lane = None
        if self._is_watched:
            self._sink.pump.remove(self._socket)
        self._socket.close()
        self._sink.forget(self)
