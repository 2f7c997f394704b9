"""The hot path of `smtp.server`: input, plain commands, content, verdicts and output."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

# What the next input octets are.
COMMANDS: Final = 0
SKIPPING: Final = 1
CONTENT: Final = 2
CHUNK: Final = 3

# What comes in next, as `Lane.awaits` tells.
ANYTHING: Final = 0
NEXT_COMMAND: Final = 1
REST_OF_COMMAND: Final = 2
OCTETS: Final = 3

# What `answer` is waited for.
NOTHING: Final = 0
AWAIT_HELO: Final = 1
AWAIT_MAIL: Final = 2
AWAIT_RCPT: Final = 3
AWAIT_DATA: Final = 4
AWAIT_END: Final = 5
AWAIT_AUTH: Final = 6
AWAIT_XCLIENT: Final = 7

_Event = TypeVar("_Event")
_Reply = TypeVar("_Reply")
_Settings = TypeVar("_Settings")
_State = TypeVar("_State")

class _Transaction(Protocol):
    mail: Any
    recipients: list[Any]

class Words:
    """What a Lane makes and says.

    Args:
        events: the types of MAIL and RCPT, the event of DATA, the types of a piece, of the end of a message, of the
            news that it is refused.
        reply: the type of replies; an entry of `table` that is one refuses.
        body_types: 7BIT, 8BITMIME, BINARYMIME.
        states: after MAIL, RCPT, DATA, BDAT, and after a message; states in a transaction are not below the first.
        table: what each command does in each state.
        replies: to accepted MAIL, RCPT, DATA, and to the end of a message.
        refusals: for a NUL, a bare LF, a bare CR, a message too large, a loop, a header too large.
        misuse: the exception for a verdict that nobody waits for.
        recipient: makes what `Lane.advance` keeps of (address, notify, orcpt, number).
    """

    def __init__(
        self,
        *,
        events: tuple[Any, Any, Any, Any, Any, Any],
        reply: type[Any],
        body_types: tuple[Any, Any, Any],
        states: tuple[Any, Any, Any, Any, Any],
        table: Sequence[Any],
        replies: tuple[bytes, bytes, bytes, bytes],
        refusals: tuple[Any, ...],
        misuse: type[Exception],
        recipient: Callable[[str, int, str, int], Any],
    ) -> None: ...

class BodyReader(Generic[_Reply]):
    """The content of one message on its way in: takes wire octets, gives content. Holds none.

    `refusal` is set at the first octet that makes the message unacceptable.

    Args:
        refusals: as in `Words`.
        dotted: DATA; otherwise BDAT.
        normalise: make each bare CR or bare LF a CR LF, in place of refusing them.
        binary: any octet is allowed as it is.
    """

    refusal: _Reply | None
    ended: bool

    def __init__(
        self,
        refusals: tuple[_Reply, ...],
        *,
        dotted: bool,
        normalise: bool,
        binary: bool,
        max_bytes: int,
        max_header_bytes: int,
        max_received: int,
    ) -> None: ...
    @property
    def size_bytes(self) -> int:
        """Octets of content so far."""

    def feed(self, buffer: bytes, start: int, stop: int) -> tuple[bytes, int]:
        """As `DataScanner.feed`; sets `refusal`."""

    def finish(self) -> bytes:
        """The end of the last chunk: what was held back; sets `refusal`."""

class Lane(Generic[_Event, _Reply, _Settings, _State]):
    """The base of `smtp.server.Server`, which has what is not plain: `_step_command`, `_step_chunk`, `_step_skip`,
    `_answer_helo`, `_answer_auth`, `_answer_xclient`, `_refuse_data`.

    `state` is where the session is; `closed` says that nothing more is read: send the output, then close. Setting
    `_plain` to False leaves all commands to the Server.
    """

    settings: _Settings
    state: _State
    closed: bool
    _buffer: bytes
    _pos: int
    _eof: bool
    _out: list[bytes]
    _greeted: bool
    _events: list[_Event]
    _awaiting: int
    _mode: int
    _bad: int
    # Commands since the last message that lead to no mail.
    _junk: int
    # How many commands of a pipelined group may still fail because of an earlier one without counting as bad.
    _credit: int
    _mail: Any
    _recipients: int
    _body: BodyReader[_Reply] | None
    _dropped: bool
    _lf_ends: bool
    _offered: frozenset[str]
    _plain: bool

    def __init__(self, words: Words, settings: _Settings, state: _State) -> None: ...
    def use(self, settings: _Settings) -> None:
        """Go by these settings from here on: no transaction is open, and what was offered before is offered still."""

    @property
    def in_transaction(self) -> bool:
        """MAIL has been accepted and the message has not ended yet."""

    @property
    def awaits(self) -> int:
        """What comes in next: OCTETS of content, the REST_OF_COMMAND that has begun, the NEXT_COMMAND of a transaction,
        ANYTHING between two."""

    def receive(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take in bytes from the wire; b"" means that the peer will send no more. `bytes` are kept without a copy."""

    def next_event(self) -> _Event | None:
        """The next thing to act on. None: input or a verdict is needed first, or the server is closed."""

    def take_output(self) -> bytes:
        """All replies since the last call, to be sent in one write."""

    def answer(self, verdict: _Reply | None = None) -> None:
        """The verdict on the event that waits for one.

        Args:
            verdict: below 400 accepts, otherwise refuses; 421 also closes. None accepts with the usual words. The
                words for accepted EHLO, HELO and DATA are always the server's own.

        Raises:
            LocalProtocolError: nothing waits.
        """

    def accept_unasked(
        self,
        client: _Transaction,
        addresses: set[str],
        has_room: Callable[[], bool],
        *,
        mail: bool,
        rcpt: bool,
        data: bool,
    ) -> None:
        """Let `advance` accept plain commands itself.

        Args:
            client: gets `mail` and `recipients`, as from the session.
            addresses: those of `client.recipients`.
            has_room: asked at MAIL and DATA.
            mail, rcpt, data: nobody judges these.
        """

    def advance(self, chunk: bytes) -> bytes | None:
        """Take in bytes as `receive` does, and act on them as far as nobody is to be asked.

        Returns:
            the replies to send, perhaps none, if that was all. None: there is something for `next_event`, and the
            replies are where they always are.
        """

    def _end_transaction(self, state: _State) -> None: ...
    def _pass_on(self, piece: bytes) -> None:
        """Content to the session, or once the news that the message is refused."""

    def _end_of_message(self) -> None: ...
