"""What an adaptor is: the interface between a server and the harness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from postroika.bench.meter import Processes


class PeerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is to be set up.

    Args:
        directory: everything of it goes below; on a disk, made if it is not there. It must be its own, or one that it
            was started in before, with the same options: then it finds its queue again.
        next_hop: (host, port) that all mail goes to; None: nowhere, which goes with `suspended` only.
        suspended: it accepts and keeps, but delivers nothing until `Running.release`.
        workers: for servers with a process for each core; 0 = all cores.
        connections: to the next hop, at once.
        processes: for Postfix, its default_process_limit; None leaves its default.
        cpu_cores: what it may use of them, where the system can bound it; 0 = all there are. For ours only.
        tls: it offers STARTTLS, and uses it where the next hop offers it, unverified.
        signed: all that goes out has a DKIM signature with RSA-2048. For ours and Postfix only.
        extra: settings of this server alone, in its own words; each adaptor says how.
    """

    directory: Path
    next_hop: tuple[str, int] | None = None
    suspended: bool = False
    workers: int = 0
    connections: int = 20
    processes: int | None = None
    cpu_cores: float = 0.0
    tls: bool = False
    signed: bool = False
    extra: Mapping[str, Any] = {}


class Running(Processes, Protocol):
    """A server that runs; also a context that stops it. `cpu_s` goes on over restarts."""

    @property
    def host(self) -> str:
        """Where it listens."""

    @property
    def port(self) -> int:
        """The same after a restart."""

    @property
    def version(self) -> str:
        """As "3.7.11"."""

    @property
    def settings(self) -> str:
        """What it is configured with, as text for the report; begins with how it makes a message durable."""

    def queued(self) -> int:
        """Messages (Postroika: batches) that it has accepted and not yet got rid of. May walk the disk."""

    def output(self) -> str:
        """The end of what it has said, for the report of a failure."""

    def wait_idle(self, timeout_s: float) -> None:
        """Return when it has used hardly any CPU for half a second.

        Raises:
            TimeoutError: it does not come to rest.
        """

    def release(self) -> None:
        """Let it deliver what it has kept because it was `suspended`, and all that comes."""

    def kill(self) -> None:
        """SIGKILL to all of its processes; returns when they are gone."""

    def restart(self) -> None:
        """Start it again after `kill`, or stop and start it. Returns when it accepts connections."""

    def stop(self) -> None:
        """End it in the way that it prefers; returns when all of its processes are gone."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...


class Peer(Protocol):
    """An adaptor."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def title(self) -> str:
        """As in a table."""

    @property
    def load_needs(self) -> Mapping[str, Any]:
        """Fields of LoadSettings that a load has to have, for what the server does not offer: {"pipelining": False}."""

    def missing(self) -> str | None:
        """Why it cannot run here, in one line with the mend; None: it can."""

    def install(self) -> None:
        """Install what is missing, where that is allowed.

        Raises:
            PostroikaError: it cannot be installed here; says why.
        """

    def start(self, options: PeerOptions) -> Running:
        """Start it; returns when it accepts connections. Call it from any thread.

        Raises:
            PostroikaError: it does not start; with what it said.
        """
