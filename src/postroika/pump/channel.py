"""A socket that a strand reads from and writes to.

Promise: whatever the order in which bytes come and somebody waits for them, nothing that the kernel tells of is lost,
though it tells of it once.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable

from postroika.pump import loop
from postroika.pump.loop import SUSPENSION, Strand

READ_BYTES = 65_536
LARGE_READ_BYTES = 4 * READ_BYTES  # after a read that was full: a large message is under way
_IN = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_END = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_READ = select.EPOLLIN | _END
_WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Channel:
    """A non-blocking stream socket in the epoll set of the pump whose strand made it.

    One strand waits at a time. As long as the kernel has not told of anything new, `receive` does not ask it.

    Attributes:
        quiet: nothing has come since `receive` returned None, or less than it could. To be read only.
        ended: nothing more will come. To be read only.
    """

    __slots__ = ("_fd", "_pump", "_read_bytes", "_recv", "_take", "_wants", "ended", "quiet", "strand")

    def __init__(self, sock: socket.socket) -> None:
        self._pump = loop.current().pump
        self._fd = sock.fileno()
        self._recv = sock.recv
        self.strand: Strand | None = None
        self._wants = 0
        self._read_bytes = READ_BYTES
        self._take: Callable[[float], bool] | None = None
        self.quiet = False
        self.ended = False
        self._pump.epoll.register(self._fd, _IN)
        self._pump.channels[self._fd] = self

    def receive(self) -> bytes | None:
        """What has come, at most READ_BYTES, or LARGE_READ_BYTES if the last piece was as long as it could be; b"" at
        the end of it; None if there is nothing: wait with `readable`.

        Raises:
            OSError.
        """
        if self.quiet:
            return None
        try:
            piece = self._recv(self._read_bytes)
        except BlockingIOError:
            self.quiet = True
            return None
        if len(piece) == self._read_bytes:
            self._read_bytes = LARGE_READ_BYTES
            return piece
        self._read_bytes = READ_BYTES
        # A short read has emptied the buffer; what comes later is told of, and the end was told of if it had come.
        if not self.ended:
            self.quiet = True
        return piece

    def peek(self, most_bytes: int) -> bytes | None:
        """What has come and was not received, from its beginning; it stays where it is, for whoever has the socket
        next. None if nothing has come since the last look: wait with `readable`.

        Raises:
            OSError.
        """
        if self.quiet:
            return None
        # Before the look: whatever comes after it is told of.
        self.quiet = not self.ended
        try:
            return self._recv(most_bytes, socket.MSG_PEEK)
        except BlockingIOError:
            self.quiet = True
            return None

    async def readable(self, take: Callable[[float], bool] | None = None) -> None:
        """Wait until there may be something to receive.

        Args:
            take: called with the time, outside the strand, whenever there may be; if it returns True, there is nothing
                left to receive, and the wait goes on: for what is not worth a step of the strand. Must not raise.

        Raises:
            Late, Interrupted.
            OSError: closed meanwhile, by another strand.
        """
        if not self.quiet:
            return
        strand = loop.running
        assert strand is not None
        strand.begin_wait(self)
        self._wants = _READ
        self._take = take
        await SUSPENSION

    async def writable(self) -> None:
        """Wait for room in the send buffer.

        Raises:
            Late, Interrupted, OSError, as `readable`.
        """
        await self._wait_with_room(_WRITE)

    async def readable_or_writable(self) -> None:
        """Wait for either.

        Raises:
            Late, Interrupted, OSError, as `readable`.
        """
        if not self.quiet:
            return
        await self._wait_with_room(_READ | _WRITE)

    async def _wait_with_room(self, wants: int) -> None:
        # Asking for EPOLLOUT anew gives an edge if there is room already.
        self._pump.epoll.modify(self._fd, _IN | select.EPOLLOUT)
        try:
            loop.current().begin_wait(self)
            self._wants = wants
            self._take = None
            await SUSPENSION
        finally:
            if self._fd != -1:
                self._pump.epoll.modify(self._fd, _IN)

    def close(self) -> None:
        """Out of the set; to be called before the socket is closed. May be called twice."""
        if self._fd != -1:
            del self._pump.channels[self._fd]
            self._pump.epoll.unregister(self._fd)
            self._fd = -1
            self.quiet, self.ended = False, True  # what the socket says to who comes now
            if self.strand is not None:
                self.strand.leave(OSError(errno.EBADF, "closed while a strand waited for it"))

    def ready(self, mask: int) -> None:
        """For the pump: this is what the kernel told of."""
        if mask & _READ:
            self.quiet = False
            if mask & _END:
                self.ended = True
        strand = self.strand
        if strand is not None and mask & self._wants:
            if self._take is not None and self._take(loop.now()):
                return
            self.strand = strand.place = None
            loop.step(strand, None)
