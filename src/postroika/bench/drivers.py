"""What sends mail and what takes it in a measurement: our load and sink, or smtp-source and smtp-sink of Postfix.

Promise: both tell the same facts in the same form, as far as they know them, and what a driver cannot do it refuses.
The load and the sink are processes of their own, which are gone when they have been stopped.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.meter import Processes
from postroika.bench.sink_settings import SinkSettings

OWN = "own"
POSTFIX = "postfix"


class RunningSink(Processes, Protocol):
    """A sink that runs; also a context that stops it."""

    @property
    def port(self) -> int:
        """On 127.0.0.1."""

    def status(self) -> dict[str, Any]:
        """What has come so far, a quarter of a second ago at the latest: as `sink_run.Status`, with what is known."""

    def stop(self) -> dict[str, Any]:
        """End it; returns all that it has seen. The second time the same again."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class Driver(Protocol):
    """Sends and takes mail."""

    @property
    def name(self) -> str:
        """As on the command line."""

    def missing(self) -> str | None:
        """Why it cannot be used here, in one line with the mend; None: it can."""

    def load(self, settings: LoadSettings) -> LoadResult:
        """Send a load, to its end.

        Raises:
            PostroikaError: it cannot do that, or it failed before it could tell.
        """

    def sink(self, settings: SinkSettings, port: int = 0) -> RunningSink:
        """Start a sink; returns when it accepts connections.

        Args:
            port: 0 for a free one.

        Raises:
            PostroikaError: it cannot do that, or it does not start.
        """


def drivers() -> dict[str, Driver]:
    """All, by name."""
    from postroika.bench.driver_own import OwnDriver
    from postroika.bench.driver_postfix import PostfixDriver

    return {OWN: OwnDriver(), POSTFIX: PostfixDriver()}
