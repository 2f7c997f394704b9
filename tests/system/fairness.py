"""One black hole among many destinations: the others must not be slowed.

    python -m tests.system.fairness --messages 200

Every message goes to 99 healthy destinations and to two black holes: one that accepts connections and never says a
word, and one whose host does not even answer a SYN (its accept queue is full). The same load is then sent without the
black holes. Prints both times and their ratio; the black holes' mail has to be queued still, and nothing of it bounced.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import smtplib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import start_our_sink

HEALTHY = 99
HOLES = ("silent.test", "deaf.test")
_SILENT, _DEAF = "127.3.1.1", "127.3.1.2"
_CONFIG = """
[delivery]
max_connections = {max_connections}
"""
_ROUTE = '[[route]]\ndomains = ["{domain}"]\nnext_hop = "smtp://{host}:{port}"\n'
_BODY = b"Subject: fair shares\r\n\r\n" + b"0123456789abcdef" * 4 + b"\r\n"


@dataclasses.dataclass
class Run:
    """One load. `open`: batches in the queue when all healthy destinations had everything."""

    seconds: float
    delivered: dict[str, int]
    open: int
    deferred_or_bounced: int


@dataclasses.dataclass
class Fairness:
    """With and without the black holes."""

    messages: int
    with_holes: Run
    without: Run

    @property
    def ratio(self) -> float:
        """How much longer it took with the black holes."""
        return self.with_holes.seconds / self.without.seconds

    def __str__(self) -> str:
        return (
            f"{self.messages} messages to {HEALTHY} destinations: {self.without.seconds:.2f} s without black holes, "
            f"{self.with_holes.seconds:.2f} s with two; ratio {self.ratio:.2f}\n"
            f"  {self.with_holes.open} messages for the black holes are queued"
        )


@contextlib.contextmanager
def _holes(port: int) -> Iterator[None]:
    """Listeners that never accept: the kernel completes connections to one, and drops SYNs to the other."""
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server((_SILENT, port), backlog=4096))
        deaf = stack.enter_context(socket.create_server((_DEAF, port), backlog=0))
        for _ in range(2):  # more than its queue holds
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((_DEAF, port))
        assert silent.fileno() != deaf.fileno()
        yield


def load(path: Path, messages: int, *, holes: bool, max_connections: int) -> Run:
    """Send one load in a directory that is made, and wait until the healthy destinations have all of theirs."""
    path.mkdir()
    port = free_port("127.3.0.1")
    hosts = {f"d{number}.test": f"127.3.0.{number + 1}" for number in range(HEALTHY)}
    healthy = list(hosts)
    hosts |= zip(HOLES, (_SILENT, _DEAF), strict=True)
    config = _CONFIG.format(max_connections=max_connections)
    config += "".join(_ROUTE.format(domain=domain, host=host, port=port) for domain, host in hosts.items())
    recipients = [f"r@{domain}" for domain in hosts if holes or domain not in HOLES]
    first, *more = (hosts[domain] for domain in healthy)
    with (
        _holes(port),
        start_our_sink(path, host=first, port=port, more=tuple(more)).process,
        Postroika(path, config) as server,
    ):
        began = time.monotonic()
        with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
            for _ in range(messages):
                assert client.sendmail("", recipients, _BODY) == {}
        expected = messages * HEALTHY
        wait_until(lambda: server.metrics().get(_DELIVERED, 0) >= expected, "the healthy destinations", 600)
        seconds = time.monotonic() - began
        for_holes = messages * len(HOLES) if holes else 0
        wait_until(lambda: server.queued_batches() <= for_holes, "the outcomes to be written")
        still_open = server.queued_batches()
        delivered: dict[str, int] = dict.fromkeys(healthy, 0)
        for event in server.wait_for_events(expected, "delivered"):
            delivered[event["destination"]] += 1
        others = len(server.events_of("deferred", "bounced", "expired"))
        server.kill()  # to stop would be to wait for the black holes
        return Run(seconds, delivered, still_open, others)


_DELIVERED = 'postroika_outcomes_total{outcome="delivered"}'


def run(path: Path, messages: int, *, max_connections: int = 500) -> Fairness:
    """Send both loads in an empty directory."""
    with_holes = load(path / "with", messages, holes=True, max_connections=max_connections)
    without = load(path / "without", messages, holes=False, max_connections=max_connections)
    return Fairness(messages, with_holes, without)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--max-connections", type=int, default=500, help="delivery.max_connections")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="postroika-fairness-") as path:
        print(run(Path(path), **vars(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
