"""Octets that arrive in pieces: each is sent when whoever is at the other end has read the one before."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from tests.system.process import wait_until


def send_apart(sock: socket.socket, pieces: Iterable[bytes]) -> None:
    """Send pieces over a connection on loopback so that no two of them are read at once."""
    for piece in pieces:
        sock.sendall(piece)
        wait_until(lambda: _unread(sock) == 0, "the other end to read")


def _unread(sock: socket.socket) -> int:
    """How many octets the other end of a connection on loopback, which is still open, has not read; 0 if it is gone."""
    local, peer = _as_listed(sock.getpeername()), _as_listed(sock.getsockname())
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1] == local and words[2] == peer:
            return int(words[4].partition(":")[2], 16)
    return 0


def _as_listed(address: tuple[str, int]) -> str:
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
