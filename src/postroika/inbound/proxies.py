"""Who connects through a proxy. PROXY: the header is heard before anything else is said or done. XCLIENT: `retell`.

Promise: of the connection, exactly the header is taken; what comes behind it, be it a handshake or commands, is left
for the session. Nothing is guessed: a peer that is named as a proxy sends a header, or nothing becomes of its
connection. Who is behind a proxy that cannot tell gets none of the rights that the proxy's own address may have. An
address that is told is in canonical form, as if it were that of a socket.
"""

from __future__ import annotations

import math
import socket

from postroika.inbound.proxy_header import MOST_BYTES, ProxyHeader, read_proxy_header
from postroika.policy.pipeline import Client
from postroika.pump import Channel, current, now
from postroika.smtp.server_events import XClient


async def hear_header(sock: socket.socket, timeout_s: float) -> ProxyHeader | None:
    """Take the header off a connection; in a strand.

    Args:
        sock: non-blocking.
        timeout_s: from now to its last octet.

    Returns:
        None if the peer left without a word, or before it had said all: who only looks whether somebody is there.

    Raises:
        MalformedError: there is none.
        OSError: the connection is broken.
        Late, Interrupted.
    """
    channel = Channel(sock)
    strand = current()
    strand.deadline = now() + timeout_s
    try:
        while True:
            octets = channel.peek(MOST_BYTES)
            if octets is None:
                await channel.readable()
            elif (header := read_proxy_header(octets)) is not None:
                sock.recv(header.size)
                return header
            elif channel.ended or not octets:
                return None
    finally:
        strand.deadline = math.inf
        channel.close()


def introduce(client: Client, header: ProxyHeader) -> None:
    """Make of the proxy, as sockets have shown it, the client that it speaks for."""
    if header.kind == "local":
        return
    client.proxy_ip = client.ip
    if header.kind == "unknown":
        client.known = False
        return
    client.ip, client.port = header.source
    client.local_ip, client.local_port = header.destination


def retell(client: Client, told: XClient, peer_ip: str) -> None:
    """Make of the client what XCLIENT says; what it does not tell of stays, but for what belongs to another address.

    Args:
        peer_ip: who says it.
    """
    client.proxy_ip = peer_ip
    if told.addr is not None:
        client.known = bool(told.addr)
        client.ip = told.addr or peer_ip
        client.port = 0
        client.name = ""
    if told.destaddr is not None:
        client.local_ip, client.local_port = told.destaddr, 0
    if told.name is not None:
        client.name = told.name
    if told.port is not None:
        client.port = told.port
    if told.destport is not None:
        client.local_port = told.destport
    client.helo = told.helo or ""
