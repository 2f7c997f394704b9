"""A next hop that says to each command what a test wants it to say, as long as that may be."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tests.system.threaded_hop import held_in_threads

# What to say to a verb ("" for the greeting, "." for the end of a message), in pieces that are sent one by one.
Script = Callable[[str], Iterable[bytes]]
USUAL = {"": b"220 hop.test\r\n", "DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}


def saying(**answers: bytes) -> Script:
    """A script that says these to verbs, and what is usual to the others."""
    return lambda verb: [answers.get(verb or "greeting", USUAL.get(verb, b"250 ok\r\n"))]


@contextmanager
def speaking_hop(script: Script, hear: Callable[[bytes], None] = lambda _line: None) -> Iterator[int]:
    """Run one; gives its port. `hear` is told each command before it is answered."""
    with held_in_threads(lambda sock: _hold(sock, script, hear), timeout_s=60) as port:
        yield port


def _hold(sock: socket.socket, script: Script, hear: Callable[[bytes], None]) -> None:
    with sock.makefile("rb") as lines:
        _say(sock, script(""))
        in_message = False
        for line in lines:
            verb = line[:4].decode("latin-1").upper().strip()
            if in_message:
                in_message = line != b".\r\n"
                if not in_message:
                    _say(sock, script("."))
                continue
            hear(line)
            _say(sock, script(verb))
            in_message = verb == "DATA"


def _say(sock: socket.socket, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sock.sendall(piece)
