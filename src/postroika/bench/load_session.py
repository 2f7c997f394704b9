"""One session of the load generator: it connects, again where that is needed, and hands bytes to its conversation.

Promise: a session ends, whatever the server does: once there is nothing left to send, or the server takes no connection
for too long. Its socket is closed and out of the pump whenever it is not connected.

How: what is said is the kernel's business (`kernels.bench_load`), which also receives and sends by itself; here are
connecting, waiting longer after each failure, and TLS.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from typing import Protocol

from postroika.bench.pump import READ, WRITE, Pump, Timer
from postroika.kernels.bench_load import BLOCKED, DONE, LOST, READY, SECURE, UNBLOCKED, WAITING, Conversation, Plan

_FIRST_BACKOFF_S = 0.01
_LAST_BACKOFF_S = 1.0
_READ_BYTES = 64 * 1024


class Owner(Protocol):
    """What a session needs of the load that it belongs to."""

    plan: Plan
    pump: Pump
    family: socket.AddressFamily
    address: tuple[str, int]
    tls: ssl.SSLContext | None
    tls_first: bool

    def wants_connection(self, session: Session) -> None:
        """Call its `connect` when there are not too many half-made connections."""

    def came_to(self, session: Session) -> None:
        """It is through its greetings."""

    def lost(self, session: Session, *, greeted: bool) -> bool:
        """Its connection failed. False: it is not to try again."""

    def closed(self, session: Session) -> None:
        """A connection that was through its greetings is closed, for whatever reason."""

    def waits(self) -> None:
        """In open loop, somebody waits for a message."""

    def over(self, session: Session) -> None:
        """It has ended."""


class Session:
    """One connection at a time.

    Args:
        silent: greet and say nothing.
    """

    __slots__ = ("_backoff_s", "_owner", "_socket", "_timer", "_tls", "_writes", "conversation", "greeted", "silent")

    def __init__(self, owner: Owner, *, silent: bool = False) -> None:
        self._owner = owner
        self.silent = silent
        self.greeted = False
        self.conversation = Conversation(owner.plan, self._changed, silent=silent)
        self._socket: socket.socket | None = None
        self._tls: ssl.SSLSocket | None = None
        self._writes = False
        self._timer: Timer | None = None
        self._backoff_s = _FIRST_BACKOFF_S

    def connect(self) -> None:
        """Begin a connection; what comes of it is told to the owner."""
        owner = self._owner
        sock = socket.socket(owner.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex(owner.address)
        if error not in {0, errno.EINPROGRESS}:
            sock.close()
            self._socket = None
            # Not at once: the owner would have the next one connect from within, and so on.
            self._timer = owner.pump.call_at(time.monotonic(), lambda: self._not_even_begun(os.strerror(error)))
            return
        if owner.tls_first:
            self.conversation.open(-1)
            owner.pump.add(sock, self._connected, WRITE)
        else:
            self.conversation.open(sock.fileno())
            owner.pump.add(sock, self.conversation.ready, READ)

    def abandon(self, reason: str) -> None:
        """Break the connection off, and try no other."""
        self.conversation.lose(reason)
        self._close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def give_up(self, reason: str) -> None:
        """This connection has come to nothing."""
        self.conversation.lose(reason)
        self._end(lost=True)

    def _changed(self, changes: int) -> None:
        owner = self._owner
        if changes & READY:
            self.greeted = True
            self._backoff_s = _FIRST_BACKOFF_S
            owner.came_to(self)
        if changes & (DONE | LOST):
            self._end(lost=bool(changes & LOST))
            return
        if changes & SECURE:
            self._shake_hands()
            return
        if changes & (BLOCKED | UNBLOCKED) and self._socket is not None:
            if self._tls is not None:
                self._write()
            else:
                owner.pump.modify(self._socket, READ | WRITE if changes & BLOCKED else READ)
        if changes & WAITING:
            owner.waits()

    def _end(self, *, lost: bool) -> None:
        """The connection is over; another one follows if there is something to send."""
        owner = self._owner
        greeted = self.greeted
        self._close()
        again = not self.silent
        if lost:
            again = owner.lost(self, greeted=greeted) and again
        if not again or owner.plan.exhausted:
            owner.over(self)
        elif greeted:
            owner.wants_connection(self)
        else:
            self._timer = owner.pump.call_at(time.monotonic() + self._backoff_s, self._try_again)
            self._backoff_s = min(self._backoff_s * 2, _LAST_BACKOFF_S)

    def _not_even_begun(self, reason: str) -> None:
        self._timer = None
        self.conversation.open(-1)
        self.give_up(reason)

    def _try_again(self) -> None:
        self._timer = None
        if self._owner.plan.exhausted:
            self._owner.over(self)
        else:
            self._owner.wants_connection(self)

    def _close(self) -> None:
        if self.greeted:
            self.greeted = False
            self._owner.closed(self)
        if self._socket is not None:
            self._owner.pump.remove(self._socket)
            self._socket.close()
            self._socket = None
        self._tls = None
        self._writes = False

    # TLS.

    def _connected(self, events: int) -> None:
        """With TLS from the first byte on."""
        assert self._socket is not None
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.give_up(os.strerror(error))
            return
        self._shake_hands()

    def _shake_hands(self) -> None:
        owner = self._owner
        assert self._socket is not None
        assert owner.tls is not None
        # It takes the descriptor over, so the pump has to be told who is called now.
        owner.pump.remove(self._socket)
        try:
            self._tls = self._socket = owner.tls.wrap_socket(self._socket, do_handshake_on_connect=False)
        except OSError as error:
            self._socket.close()
            self._socket = None
            self.give_up(f"TLS: {error.strerror or error}")
            return
        owner.pump.add(self._socket, self._go_on_with_handshake, READ)
        self._go_on_with_handshake(0)

    def _go_on_with_handshake(self, events: int) -> None:
        tls, owner = self._tls, self._owner
        assert tls is not None
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            owner.pump.modify(tls, READ)
        except ssl.SSLWantWriteError:
            owner.pump.modify(tls, WRITE)
        except OSError as error:
            self.give_up(_reason(error))
        else:
            owner.pump.remove(tls)
            owner.pump.add(tls, self._ready, READ)
            self.conversation.secured()
            self._write()

    def _ready(self, events: int) -> None:
        """Over TLS: read all that there is, say what there is to say."""
        tls, conversation = self._tls, self.conversation
        assert tls is not None
        try:
            while self._tls is tls:  # what came may end it, and begin another connection
                conversation.feed(tls.recv(_READ_BYTES))
        except ssl.SSLWantReadError:
            self._write()
        except OSError as error:
            self.give_up(_reason(error))

    def _write(self) -> None:
        tls, conversation = self._tls, self.conversation
        if tls is None:
            return
        blocked = False
        try:
            while piece := conversation.pending():
                conversation.sent(tls.send(piece))
        except ssl.SSLWantWriteError:
            blocked = True
        except ssl.SSLWantReadError:
            pass  # a new key is on its way; what we have to send goes out after it has been read
        except OSError as error:
            self.give_up(_reason(error))
            return
        if blocked != self._writes:
            self._writes = blocked
            self._owner.pump.modify(tls, READ | WRITE if blocked else READ)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return error.strerror or str(error)
