"""Takes the connections that the supervisor has accepted, and holds their sessions.

Promise: too many connections, in all or of one address, are told 421 without costing a task. Shutdown is in order:
take no more, tell the sessions, wait for those that are in a transaction, then end the rest.

How: the supervisor accepts, so that connections are spread evenly over the workers, and hands each one over as a
packet of a Unix SOCK_SEQPACKET socket: one octet, the number of the [[listener]], and one file descriptor.
"""

from __future__ import annotations

import array
import contextlib
import socket
from collections.abc import Callable, Collection

import trio

from postroika import metrics
from postroika.inbound.session import Session
from postroika.mail.reply import Reply, reply
from postroika.outcome.events import Refusal
from postroika.policy.pipeline import Client
from postroika.policy.relay import canonical_ip
from postroika.pump import Pump, open_pump

_TAKEN_IN_A_ROW = 64
_NOTED_PER_S = 10  # overload must not be answered with a flood of events

# Makes the session of an accepted, non-blocking socket.
StartSession = Callable[[socket.socket, Client], Session]


class Listener:
    """All inbound connections of one worker.

    Args:
        handoff: our end of the supervisor's socket; closed by `run`.
        start_session: see StartSession.
        rejected: records refused connections.
        hostname: ours, for the 421.
        max_connections: of this worker.
        max_connections_per_ip: of this worker.
        tls_at_once: numbers of the listeners where nothing can be said before the handshake.
    """

    def __init__(
        self,
        handoff: socket.socket,
        start_session: StartSession,
        rejected: Callable[[Refusal], None],
        *,
        hostname: str,
        max_connections: int,
        max_connections_per_ip: int,
        tls_at_once: Collection[int] = (),
    ) -> None:
        handoff.setblocking(False)
        self._handoff = handoff
        self._start_session = start_session
        self._rejected = rejected
        self._max_connections = max_connections
        self._max_per_ip = max_connections_per_ip
        self._tls_at_once = frozenset(tls_at_once)
        self._too_many = reply(421, "4.3.2", f"{hostname} too many connections, please try again later")
        self._too_many_of_one = reply(421, "4.7.0", f"{hostname} too many connections from your address")
        self._sessions: set[Session] = set()
        self._per_ip: dict[str, int] = {}
        self._taking = trio.CancelScope()
        self._all_gone = trio.Event()
        self._leaving = False
        self._noted = 0
        self._noted_in = 0

    @property
    def open_sessions(self) -> int:
        """How many there are."""
        return len(self._sessions)

    async def run(self, grace_s: float) -> None:
        """Take connections until `stop` is called or the supervisor is gone; then see the sessions out.

        Args:
            grace_s: how long sessions in the middle of a transaction may go on.

        Cancellation: ends all sessions at once without a word.
        """
        async with open_pump() as pump:
            with self._handoff, self._taking:
                await self._take(pump)
            self._leaving = True
            for session in tuple(self._sessions):
                session.stop(now=False)
            if self._sessions:
                with trio.move_on_after(grace_s):
                    await self._all_gone.wait()
            for session in tuple(self._sessions):
                session.stop(now=True)

    def stop(self) -> None:
        """Take no more connections and let `run` come to its end."""
        self._taking.cancel()

    async def _take(self, pump: Pump) -> None:
        taken = 0
        while True:
            try:
                packet, fds = _receive_fds(self._handoff)
            except BlockingIOError:
                taken = 0
                await trio.lowlevel.wait_readable(self._handoff)
                continue
            except ConnectionError:
                return
            if not packet:
                return
            for fd in fds:
                self._accept(socket.socket(fileno=fd), packet[0], pump)
            taken += 1
            if taken >= _TAKEN_IN_A_ROW:
                taken = 0
                await trio.lowlevel.checkpoint()

    def _accept(self, sock: socket.socket, listener: int, pump: Pump) -> None:
        try:
            client = _client_of(sock, listener)
        except OSError:
            sock.close()  # gone again before we looked
            return
        refusal = None
        if len(self._sessions) >= self._max_connections:
            refusal = self._too_many
        elif self._per_ip.get(client.ip, 0) >= self._max_per_ip:
            refusal = self._too_many_of_one
        if refusal is not None:
            self._send_away(sock, client, refusal)
            return
        session = self._start_session(sock, client)
        self._sessions.add(session)
        self._per_ip[client.ip] = self._per_ip.get(client.ip, 0) + 1
        pump.spawn(self._hold(session))

    async def _hold(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            left = self._per_ip[session.ip] - 1
            if left:
                self._per_ip[session.ip] = left
            else:
                del self._per_ip[session.ip]
            if not self._sessions and self._leaving:
                self._all_gone.set()

    def _send_away(self, sock: socket.socket, client: Client, refusal: Reply) -> None:
        with sock, contextlib.suppress(OSError):  # it has not waited for an answer
            if client.listener not in self._tls_at_once:
                sock.send(refusal.wire())
        second = int(trio.current_time())
        if second != self._noted_in:
            self._noted_in, self._noted = second, 0
        self._noted += 1
        if self._noted <= _NOTED_PER_S:
            self._rejected(Refusal(client.ip, "", None, "", refusal, "connect"))
        else:
            metrics.REJECTED["connect"].value += 1


def _receive_fds(handoff: socket.socket) -> tuple[bytes, list[int]]:
    """One packet. Descriptors are never inherited by a child process."""
    fds = array.array("i")
    packet, ancillary, _, _ = handoff.recvmsg(1, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return packet, list(fds)


def _client_of(sock: socket.socket, listener: int) -> Client:
    """Who is at the other end.

    Raises:
        OSError: nobody any more.
    """
    sock.setblocking(False)
    peer, local = sock.getpeername(), sock.getsockname()
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        # Each send is a whole group of replies: waiting for more would only delay it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Client(canonical_ip(peer[0]), peer[1], canonical_ip(local[0]), listener)
