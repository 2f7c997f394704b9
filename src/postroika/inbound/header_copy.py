"""A copy of the header of a message that is being received, for those who judge it."""

from __future__ import annotations


class HeaderCopy:
    """The header of one message.

    Args:
        most_bytes: what there is more is left out.
    """

    __slots__ = ("_ended", "_held", "_most_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held = bytearray()
        self._ended = False

    def feed(self, piece: bytes) -> None:
        """Take in what has come."""
        if self._ended:
            return
        held = self._held
        searched = max(0, len(held) - 3)
        held += piece
        if held.startswith(b"\r\n"):
            self._end(0)
        elif (at := held.find(b"\r\n\r\n", searched)) >= 0:
            self._end(at + 2)
        elif len(held) >= self._most_bytes:
            self._end(self._most_bytes)

    def _end(self, size: int) -> None:
        self._ended = True
        del self._held[min(size, self._most_bytes) :]

    @property
    def header(self) -> bytes:
        """Up to the empty line, the line end of the last field included."""
        return bytes(self._held)
