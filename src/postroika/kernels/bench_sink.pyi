"""The commands of ordinary mail in their plainest form, for the sink."""

from typing import Final

MORE: Final[int]
DATA: Final[int]
CHUNK: Final[int]
STRANGE: Final[int]

class Express:
    """The envelope of one transaction after the other.

    Args:
        replies: what to say to MAIL, RCPT, DATA and the end of a message.
        max_message_bytes, max_recipients: what is beyond is not plain.

    Attributes:
        position: where in the buffer `scan` stopped.
        reverse_path, recipients: of the transaction, as `smtp.server_events` has them.
        chunk_bytes: see CHUNK.
    """

    position: int
    recipients: list[str]
    reverse_path: str
    chunk_bytes: int

    def __init__(
        self, replies: tuple[bytes, bytes, bytes, bytes], *, max_message_bytes: int, max_recipients: int
    ) -> None: ...
    def offer(self, sizes: bool, dsn: bool, chunking: bool) -> None:
        """What the client may use: parameters of MAIL, ORCPT, BDAT."""

    def say(self, reply: bytes) -> None:
        """Add a reply to the output, and be ready for the next transaction."""

    def accept(self) -> None:
        """The message has ended and is taken."""

    def take_output(self) -> bytes:
        """All replies since the last call."""

    def give_up(self) -> bytes:
        """The lines of the transaction so far, which is not ours any more."""

    def scan(self, buffer: bytes, start: int) -> int:
        """Take the commands in buffer[start:].

        Returns:
            MORE, DATA, CHUNK or STRANGE; `position` is behind what was used up.
        """
