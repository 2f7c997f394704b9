"""Parsing of the replies of an SMTP server, with enhanced status codes."""

class ReplyParser:
    """Replies out of a stream of bytes that is cut anywhere.

    Args:
        max_line_bytes: longest line, without its line feed (RFC 5321 §4.5.3.1.5 allows 512; some need more).
        max_lines: most lines of one reply.

    Source: RFC 5321 §4.2, RFC 2034 §3.
    """

    def __init__(self, max_line_bytes: int = 2048, max_lines: int = 128) -> None: ...
    @property
    def unfinished(self) -> bool:
        """Bytes of a reply that is not complete are held (or complete ones that `next` has not given yet)."""

    def feed(self, chunk: bytes) -> None:
        """Take what the peer sent. Call `next` until it gives None before the next chunk, or they pile up."""

    def next(self) -> tuple[int, str, tuple[str, ...]] | None:
        """The next reply as (code 200–599, enhanced code or "", lines without either), None if none is complete.

        Valid UTF-8 is decoded, other octets ≥ 128 become backslash escapes. An enhanced code whose class is not
        that of the code is left in the text (RFC 2034 §4).

        Raises:
            RemoteProtocolError: not a reply, a line too long, too many lines. The stream cannot be read any further.
        """

    def skip(self, digits: bytes) -> bool:
        """If the next replies are there and are plainly what was hoped for, let them go by unread.

        Args:
            digits: the first digit of each, one octet a reply.

        Returns:
            Whether they were: each of one whole line, with this first digit and a space behind the code. If not,
            nothing was taken: `next` tells what there is.
        """
