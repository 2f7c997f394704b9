"""Opens TCP connections to next hops.

Promise: within `delivery.connect_timeout_s` there is a connection, or the reason why there is none; never both.
"""

from __future__ import annotations

import errno
import os
import socket
from math import inf

from postroika.config import Delivery
from postroika.mail.outcome import Peer
from postroika.outbound.failure import TimedOut
from postroika.pump import Channel, Late, current, now
from postroika.smtp.client_transaction import Step


async def connect(peer: Peer, config: Delivery) -> tuple[socket.socket, Channel, str]:
    """A connected socket, and the configured source address if it was bound to it.

    Raises:
        TimedOut, OSError: there is none.

    Interruption: nothing stays open.
    """
    family = socket.AF_INET6 if ":" in peer.ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        channel = Channel(sock)
    except OSError:
        sock.close()
        raise
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # What we write is whole; nothing is worth a wait.
        source = config.source_address
        if (":" in source) != (":" in peer.ip):
            source = ""
        if source:
            sock.bind((source, 0))
        number = sock.connect_ex((peer.ip, peer.port))
        if number == errno.EINPROGRESS:
            strand = current()
            strand.deadline = now() + config.connect_timeout_s
            try:
                await channel.writable()
            except Late:
                raise TimedOut(Step.NOTHING) from None
            finally:
                strand.deadline = inf
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        channel.close()
        sock.close()
        raise
    return sock, channel, source
