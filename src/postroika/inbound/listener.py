"""Takes the connections that the supervisor has accepted, and holds their sessions.

Promise: too many connections, in all or of one address, are told 421 without costing a task. What counts is the address
of the client (of IPv6, its /64 network), be it that of the socket, or told by a proxy (PROXY, XCLIENT) that may.
Shutdown is in order: take no more, tell the sessions, wait for those that are in a transaction, then end the rest.

How: the supervisor accepts, so that connections are spread evenly over the workers, and hands each one over as a
packet of a Unix SOCK_SEQPACKET socket: one octet, the number of the [[listener]], and one file descriptor. That of a
proxy becomes a session once its header is heard (`proxies`).
"""

from __future__ import annotations

import array
import contextlib
import logging
import socket
from collections.abc import Callable, Collection, Mapping

import trio

from postroika import metrics
from postroika.inbound.proxies import hear_header, introduce
from postroika.inbound.proxy_header import MalformedError
from postroika.inbound.session import Session
from postroika.mail.reply import Reply, reply
from postroika.outcome.events import Refusal
from postroika.policy.client_limits import client_of
from postroika.policy.networks import Networks
from postroika.policy.pipeline import Client
from postroika.policy.relay import canonical_ip
from postroika.pump import Interrupted, Late, Pump, Strand, current, open_pump

log = logging.getLogger(__name__)

_TAKEN_IN_A_ROW = 64
_NOTED_PER_S = 10  # overload must not be answered with a flood of events
_WARNED_EVERY_S = 60.0  # of proxies that do not keep to the protocol

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
        max_connections_per_ip: of this worker, from one IPv4 address or one IPv6 /64 network.
        tls_at_once: numbers of the listeners where nothing can be said before the handshake.
        proxies: by the number of the listener, who has to send a PROXY header.
        proxy_timeout_s: for that header.
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
        proxies: Mapping[int, Networks] = {},
        proxy_timeout_s: float = 5.0,
    ) -> None:
        handoff.setblocking(False)
        self._handoff = handoff
        self._start_session = start_session
        self._rejected = rejected
        self._max_connections = max_connections
        self._max_per_ip = max_connections_per_ip
        self._tls_at_once = frozenset(tls_at_once)
        self._proxies = dict(proxies)
        self._proxy_timeout_s = proxy_timeout_s
        self._too_many = reply(421, "4.3.2", f"{hostname} too many connections, please try again later")
        self._too_many_of_one = reply(421, "4.7.0", f"{hostname} too many connections from your address")
        self._sessions: set[Session] = set()
        self._unheard: set[Strand] = set()  # of proxies that have not said yet for whom they speak
        self._per_ip: dict[str, int] = {}
        self._taking = trio.CancelScope()
        self._all_gone = trio.Event()
        self._leaving = False
        self._noted = 0
        self._noted_in = 0
        self._warn_at = 0.0

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
            for strand in tuple(self._unheard):
                strand.interrupt()
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
        proxied = bool(self._proxies) and listener in self._proxies and client.ip in self._proxies[listener]
        if len(self._sessions) + len(self._unheard) >= self._max_connections:
            self._send_away(sock, client, self._too_many)
        elif proxied:
            self._unheard.add(pump.spawn(self._hear_out(sock, client)))
        elif (refusal := self._count(client.ip)) is not None:
            self._send_away(sock, client, refusal)
        else:
            pump.spawn(self._hold(self._begin(sock, client)))

    def _begin(self, sock: socket.socket, client: Client) -> Session:
        """The session of a client that has been counted."""
        session = self._start_session(sock, client)
        session.move = self._move
        self._sessions.add(session)
        return session

    async def _hold(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            self._discount(session.ip)
            if not self._sessions and self._leaving:
                self._all_gone.set()

    # ---- proxies

    async def _hear_out(self, sock: socket.socket, client: Client) -> None:
        """Hold the session of the client that a proxy speaks for."""
        header = None
        wrong = ""
        strand = current()
        try:
            header = await hear_header(sock, self._proxy_timeout_s)
        except MalformedError as error:
            wrong = f"malformed PROXY header: {error}"
        except Late:
            wrong = "no whole PROXY header in time"
        except (OSError, Interrupted):
            pass  # gone, or we go
        finally:
            self._unheard.discard(strand)
        if header is None or self._leaving:
            sock.close()
            if wrong:
                self._note_proxy(client, wrong)
            return
        metrics.PROXIED[header.kind].value += 1
        introduce(client, header)
        refusal = self._count(client.ip)
        if refusal is not None:
            self._send_away(sock, client, refusal)
            return
        await self._hold(self._begin(sock, client))

    def _note_proxy(self, client: Client, wrong: str) -> None:
        metrics.PROXIED["dropped"].value += 1
        at = trio.current_time()
        if at >= self._warn_at:
            self._warn_at = at + _WARNED_EVERY_S
            log.warning("dropped a connection of the proxy at %s: %s (told once a minute)", client.ip, wrong)
        self._note(client, reply(421, "4.7.0", wrong), "proxy")

    # ---- how many there are of an address

    def _count(self, ip: str) -> Reply | None:
        """One more of this address, unless that is too many; then why not."""
        one = client_of(ip)
        count = self._per_ip.get(one, 0)
        if count >= self._max_per_ip:
            return self._too_many_of_one
        self._per_ip[one] = count + 1
        return None

    def _discount(self, ip: str) -> None:
        one = client_of(ip)
        left = self._per_ip[one] - 1
        if left:
            self._per_ip[one] = left
        else:
            del self._per_ip[one]

    def _move(self, old_ip: str, new_ip: str) -> Reply | None:
        """A session turns out to be of another address, unless that has too many; then why not."""
        if client_of(old_ip) == client_of(new_ip):
            return None
        refusal = self._count(new_ip)
        if refusal is None:
            self._discount(old_ip)
        return refusal

    # ---- who is turned away

    def _send_away(self, sock: socket.socket, client: Client, refusal: Reply) -> None:
        with sock, contextlib.suppress(OSError):  # it has not waited for an answer
            if client.listener not in self._tls_at_once:
                sock.send(refusal.wire())
        self._note(client, refusal, "connect")

    def _note(self, client: Client, refusal: Reply, stage: str) -> None:
        second = int(trio.current_time())
        if second != self._noted_in:
            self._noted_in, self._noted = second, 0
        self._noted += 1
        if self._noted <= _NOTED_PER_S:
            self._rejected(Refusal(client.ip, "", None, "", refusal, stage))
        else:
            metrics.REJECTED[stage].value += 1


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
    return Client(canonical_ip(peer[0]), peer[1], canonical_ip(local[0]), listener, local_port=local[1])
