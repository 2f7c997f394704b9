"""The express lane of the sink: ordinary mail from the socket to the count, in one call for each read."""

from array import array
from collections.abc import Callable, Sequence
from typing import Final, Protocol

GOES_ON: Final[int]
LEAVES: Final[int]
BLOCKED: Final[int]
GONE: Final[int]

class Content:
    """The content of one message after the other: its mark (see postroika.bench.messages), and what its body comes to."""

    @property
    def mark(self) -> tuple[int, int, int, int] | None:
        """As `messages.Mark`: run, number, sent_ns, sum."""

    @property
    def checksum(self) -> int:
        """Of the body, if there is a mark."""

    def __init__(self) -> None: ...
    def begin(self) -> None:
        """Forget the message."""

    def take(self, piece: bytes) -> None:
        """More of it."""

    def end(self) -> None:
        """It is whole."""

class Latency(Protocol):
    """A postroika.bench.histogram.Histogram."""

    counts: array[int]
    totals: array[int]

class Tally:
    """What was accepted. Times are CLOCK_MONOTONIC, 0 where there is none; the rest is as in sink_settings.Counts.

    Args:
        latency_of: makes or finds the histogram of a run, called once for each.
        enough: how many messages it takes until `on_enough` is called, once.
    """

    messages: int
    recipients: int
    bytes: int
    unique: int
    doubled: int
    damaged: int
    unmarked: int
    first_ns: int
    last_ns: int

    def __init__(
        self, latency_of: Callable[[int], Latency], enough: int = -1, on_enough: Callable[[], object] | None = None
    ) -> None: ...
    def add(self, recipients: Sequence[str], size_bytes: int, content: Content) -> None:
        """Count an accepted message, by its mark."""

    def add_identified(self, unique: int, doubled: int, size_bytes: int, content: Content) -> None:
        """Count one whose recipients were told apart in another way."""

class Hub:
    """What all connections of a sink share.

    Args:
        replies: what to say to MAIL, RCPT, DATA and the end of a message.
        refusals: what to say to a message with a NUL, a bare LF, a bare CR, or that is too large.
        max_message_bytes, max_recipients: what is beyond is not plain.
    """

    def __init__(
        self,
        *,
        replies: tuple[bytes, bytes, bytes, bytes],
        refusals: tuple[bytes, bytes, bytes, bytes],
        max_message_bytes: int,
        max_recipients: int,
        tally: Tally,
    ) -> None: ...

class Lane:
    """One connection, between two transactions.

    Args:
        content: is begun anew for each message.
        on_message: called with the lines of MAIL and RCPT and the octets of content before a message is answered.

    Attributes:
        heard_ns: when the client was heard last.
        accepted: messages, since `enter`.
    """

    heard_ns: int
    accepted: int

    def __init__(self, hub: Hub, content: Content, on_message: Callable[[bytes, int], None] | None = None) -> None: ...
    def enter(self, *, sizes: bool, dsn: bool, chunking: bool, quota: int) -> None:
        """Begin to serve.

        Args:
            sizes, dsn, chunking: what the client may use: the parameters of MAIL, ORCPT, BDAT.
            quota: leave after so many messages; -1: never.
        """

    def leave(self) -> tuple[bytes, bytes, bool]:
        """Have done with it.

        Returns:
            the lines of the transaction so far, which were accepted; what came behind them; whether a message has
            ended since `enter`.
        """

    def forget(self) -> None:
        """Drop the transaction."""

    def ready(self, fd: int) -> int:
        """Read once and answer.

        Returns:
            GOES_ON, LEAVES, BLOCKED or GONE.
        """

    def feed(self, chunk: bytes) -> int:
        """Take what was read elsewhere; the answer is in `take_output`.

        Returns:
            GOES_ON or LEAVES.
        """

    def take_output(self) -> bytes:
        """Replies that were not sent."""
