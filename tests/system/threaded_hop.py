"""A server on loopback that holds each session in a thread of its own, for next hops that misbehave or take notes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def held_in_threads(hold: Callable[[socket.socket], None], *, timeout_s: float) -> Iterator[int]:
    """Run one, on a free port, which is given; at the end all sessions are waited for.

    Args:
        hold: holds a session to its end, which may be a broken connection.
        timeout_s: of each wait for the client.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def held(sock: socket.socket) -> None:
            sock.settimeout(timeout_s)
            with sock, suppress(OSError):
                hold(sock)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threads.append(threading.Thread(target=held, args=(sock,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()
