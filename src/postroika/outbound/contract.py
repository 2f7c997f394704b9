"""What delivery needs of its neighbours, so that it can be tested without them."""

from __future__ import annotations

from typing import Protocol

from postroika.mail.outcome import Attempt
from postroika.mail.reply import Reply
from postroika.routing.router import Route
from postroika.spool.reader import Loaded


class Lane(Protocol):
    """One connection's place at a destination, as the queue gives it."""

    destination: str

    def take_nowait(self) -> Loaded | None:
        """The next batch if there is one now."""

    def coming(self, loaded: Loaded) -> Loaded | None:
        """The batch that will be taken some time after `loaded`, which was taken now; None if that is not known."""

    async def take(self, idle_s: float) -> Loaded | None:
        """The next batch; waits up to `idle_s`. None: close the connection.

        Interruption: nothing is taken.
        """

    def hurry(self) -> None:
        """Somebody else wants the connection: `take` is to wait no longer."""

    def pause(self) -> None:
        """There is no place at the site: others may have the connection meanwhile."""

    async def resume(self) -> None:
        """There is one now; waits until the total of connections allows it. Interruption: it stays paused."""

    def report(self, loaded: Loaded, attempt: Attempt) -> None:
        """The outcome: one result for each recipient of `loaded.batch`. Never blocks."""

    def give_back(self, loaded: Loaded) -> None:
        """Nothing was tried; due again at once."""

    def connected(self) -> None:
        """A session with a host of the destination stands."""

    def disconnected(self) -> None:
        """The session that `connected` told of is over."""

    def unreachable(self, reply: Reply, host: str) -> None:
        """No host could be reached. `host`: who said so, "" if we found out ourselves. Called after the batch that
        found it out was reported."""


class Bodies(Protocol):
    """Where bodies are that are no longer in memory."""

    def read_body(self, message: int, chunk: int, count: int) -> bytes:
        """So many chunks from `chunk` on, counted from 0."""


class Signer(Protocol):
    """Makes the signatures that messages go out with."""

    def prepare(self, loaded: Loaded, *, ahead: bool = False) -> None:
        """Those of this message will be asked for soon; ahead: after those of others."""

    def signature(self, loaded: Loaded) -> bytes | None:
        """The fields to put in front of the message, perhaps b""; None while they are being made. Raises
        SigningError: the message must not go out now."""

    async def wait(self, loaded: Loaded) -> None:
        """Wait until `signature` has something to say about this message, which is not for ever."""


class InFlightTable(Protocol):
    """What outlives a crash of the process. The settling side ends the entries."""

    def begin(self, key: bytes) -> None:
        """An attempt at this batch begins."""

    def dot_sent(self, key: bytes) -> None:
        """The final dot is about to be handed to the kernel."""


class Router(Protocol):
    """Names the next hops."""

    def known(self, destination: str) -> Route | None:
        """As `route`, if no look-up is needed."""

    async def route(self, destination: str) -> Route:
        """The hosts to try, best first. Raises NoRoute."""
