"""One side of many SMTP conversations: what the load generator does for each message."""

from array import array
from collections.abc import Callable, Sequence
from typing import Final

from _typeshed import ReadableBuffer

BLOCKED: Final[int]
UNBLOCKED: Final[int]
READY: Final[int]
SECURE: Final[int]
WAITING: Final[int]
DONE: Final[int]
LOST: Final[int]

class Alarm:
    """A timer that wakes epoll to the microsecond, where epoll's own time-out knows milliseconds."""

    def __init__(self) -> None: ...
    def fileno(self) -> int: ...
    def set(self, when_ns: int) -> None:
        """Become readable at that time of CLOCK_MONOTONIC; a time that is past means at once."""

    def clear(self) -> None:
        """Be readable no more."""

    def close(self) -> None: ...

class Plan:
    """What there is to send, which message comes next, and what became of them.

    Args:
        templates: as `postroika.bench.messages.Template`; `order` says which one is for message n, n % len(order).
        mail: the whole MAIL command; helo: what EHLO says.
        recipients, domains, domain_head, domain_tail, domain_numbered: recipient i of message n is
            r{i}@{domain_head}{(n * recipients + i) % domains}{domain_tail}, without the number if not numbered.
        pipelining, across, bdat, starttls: how it is sent. `across`: with the content of a message go the commands of
            the next, or QUIT.
        messages: how many; 0 without end.
        messages_per_connection: then QUIT; 0: as many as there are.
        rate_per_s: in open loop message n is due at n / rate, and latency counts from then; 0: as fast as they go.
        duration_ns: begin none after that, counted from the first; 0: no limit.
        counts, totals: of a `postroika.bench.histogram.Histogram`.

    Raises:
        ValueError: what would make it read or count outside of what it was given.
    """

    errors: dict[str, int]
    """What went wrong, by its text, and how often."""
    fatal: str | None
    """Why no connection will ever do."""
    began_ns: int
    """When the first connection was ready (CLOCK_MONOTONIC; 0: none was)."""
    first_ns: int
    """When the first MAIL was sent."""
    last_ns: int
    """When the last message was acknowledged."""
    acknowledged: int
    recipients: int
    """Recipients of acknowledged messages that had been accepted."""
    refused: int
    """Recipients that were not."""
    failed: int
    in_doubt: int
    """Of those that failed: the final dot was sent, and the connection lost before its reply."""
    retried: int
    in_flight: int
    octets: int

    def __init__(
        self,
        *,
        templates: Sequence[tuple[bytes, int, int, int, bytes, int]],
        order: list[int],
        mail: bytes,
        helo: bytes,
        recipients: int,
        domains: int,
        domain_head: bytes,
        domain_tail: bytes,
        domain_numbered: bool,
        pipelining: bool,
        across: bool,
        bdat: bool,
        starttls: bool,
        messages: int,
        messages_per_connection: int,
        rate_per_s: float,
        duration_ns: int,
        counts: array[int],
        totals: array[int],
    ) -> None: ...
    @property
    def exhausted(self) -> bool:
        """No message will be begun any more, as far as one can tell now."""

    @property
    def due_ns(self) -> int:
        """When `wake` is to be called for conversations that wait; 0: none does."""

    def stop(self) -> None:
        """Begin no message any more; what is under way may end."""

    def wake(self) -> None:
        """Give what is due to conversations that wait, or let them quit when there is nothing left."""

    def note(self, text: str) -> None:
        """Count an error."""

class Conversation:
    """One connection after the other.

    Args:
        on_change: told of BLOCKED, UNBLOCKED, READY, SECURE, WAITING, DONE, LOST as bits, from within the calls below.
            After DONE and LOST the connection is to be closed.
        silent: greet and then say nothing; no message is taken.
    """

    reason: str
    """Why the connection was lost."""
    active_ns: int
    """When something happened last (CLOCK_MONOTONIC)."""

    def __init__(self, plan: Plan, on_change: Callable[[int], None], *, silent: bool = False) -> None: ...
    @property
    def idle(self) -> bool:
        """It has nothing to do, and waits for no reply."""

    @property
    def closed(self) -> bool:
        """There is no connection."""

    def open(self, fd: int) -> None:
        """There is a connection, whose greeting is awaited. -1: its bytes come and go by `feed`, `pending`, `sent`."""

    def ready(self, events: int) -> None:
        """The connection is ready for these events of epoll: receive and send as much as can be."""

    def feed(self, chunk: ReadableBuffer) -> None:
        """These bytes came; none means that the peer has closed. Then look at `pending`."""

    def pending(self, most: int = 65536) -> bytes:
        """The next bytes to send; empty: there are none."""

    def sent(self, count: int) -> None:
        """So many of the pending bytes have been handed to the kernel."""

    def secured(self) -> None:
        """The handshake is done; from now on use `feed`, `pending` and `sent`."""

    def proceed(self) -> None:
        """When idle: begin the next message, or quit if there is none."""

    def quit(self) -> None:
        """When idle: say QUIT."""

    def lose(self, reason: str) -> None:
        """Give the connection up, which counts as an error of that text; "" as none. `on_change` is not called."""
