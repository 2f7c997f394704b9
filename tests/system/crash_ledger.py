"""The crash ledger: SIGKILL at random moments under load, and then every message has to be accounted for.

    python -m tests.system.crash_ledger --rounds 200

Clients send messages with unique ids and write down which of them got their 250. In each round the supervisor or a
worker is killed; after the last one the queue is drained, and the books are compared: what was acknowledged, what the
next hop got (an aiosmtpd, software that we did not write, never killed), what the event log says, and what the spool
lists as in doubt.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import random
import signal
import smtplib
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.system.process import Process, free_port, wait_until
from tests.system.server import Postroika

_CLIENTS = 8
_RECIPIENTS = ("a", "b", "refused")
_ROUNDS_OF_LOAD = 10
_PAUSE_S = 0.3
_STUCK_S = 60.0
_SENDERS = ("", "ledger@sender.test")
_CONFIG = """
[delivery]
max_connections_per_site = 6
connection_idle_s = 1.0
[retry]
delays_s = [1]
down_delays_s = [0.5]
delay_dsn_after_s = 0
[spool]
lock_wait_s = 20
[[route]]
domains = ["*"]
next_hop = "smtp://127.0.0.1:{port}"
"""


@dataclasses.dataclass
class Books:
    """What the ledger found. `problems` is empty if all is well."""

    rounds: int = 0
    supervisor_kills: int = 0
    worker_kills: int = 0
    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    bounced: int = 0
    notices: int = 0
    doubled: int = 0
    in_doubt: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"crash ledger: {self.rounds} rounds, {self.supervisor_kills} kills of the supervisor, "
            f"{self.worker_kills} of a worker\n"
            f"  {self.sent} messages sent; of {self.acknowledged} acknowledged recipients {self.delivered} were "
            f"delivered, {self.bounced} bounced ({self.notices} notices)\n"
            f"  {self.doubled} were delivered twice, {self.in_doubt} are listed as in doubt\n"
            f"  {len(self.problems)} problems"
        )


class Clients:
    """Threads that send, `pause_s` apart, and the acknowledgements they got."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self.pause_s = 0.0
        self.digests: dict[str, str] = {}
        self.acknowledged: set[tuple[str, str]] = set()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed + n),), daemon=True) for n in range(_CLIENTS)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, rng: random.Random) -> None:
        while not self._stop.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self._port, timeout=30) as smtp:
                    while not self._stop.is_set():
                        self._send(smtp, rng)
            except (OSError, smtplib.SMTPException):
                self._stop.wait(0.02)  # it was killed: try again until it is back

    def _send(self, smtp: smtplib.SMTP, rng: random.Random) -> None:
        with self._lock:
            self._next += 1
            number = f"{self._next:08d}"
        # Some are large enough to be spilled while they arrive.
        size = rng.choice((200, 2000, 2000, 2000, 2000, 20_000, 20_000, 400_000, 400_000, 2_500_000))
        filler = rng.randbytes(size // 2).hex().encode()
        lines = [filler[start : start + 76] for start in range(0, len(filler), 76)]
        content = b"Subject: ledger %s\r\n\r\n.%s\r\n" % (number.encode(), b"\r\n".join(lines))
        self.digests[number] = hashlib.sha256(content).hexdigest()
        recipients = [
            f"{local}{number}@d{rng.randrange(5)}.test" for local in rng.sample(_RECIPIENTS, rng.randint(1, 3))
        ]
        smtp.sendmail(rng.choice(_SENDERS), recipients, content)
        with self._lock:
            self.acknowledged.update((number, recipient) for recipient in recipients)
        self._stop.wait(self.pause_s)


def run(path: Path, rounds: int, seed: int, report: bool = False) -> Books:
    """Run the ledger in an empty directory."""
    rng = random.Random(seed)
    books = Books()
    sink_port = free_port()
    sink_file = path / "delivered.txt"
    command = [sys.executable, "-m", "tests.system.ledger_sink", str(sink_port), str(sink_file)]
    with Process(command, log=path / "sink.log", cwd=Path(__file__).parents[2]) as sink:
        sink.wait_accepting("127.0.0.1", sink_port)
        with Postroika(path, _CONFIG.format(port=sink_port)) as server:
            clients = Clients(server.port, seed)
            clients.start()
            for number in range(rounds):
                # By turns more than the next hop can take (it is plain Python, and slow), so that there is a backlog,
                # and less, so that it goes down again: kills have to meet both.
                clients.pause_s = _PAUSE_S if number // _ROUNDS_OF_LOAD % 2 else 0.0
                time.sleep(rng.uniform(0.1, 1.0))  # a moment under load, at random
                if rng.random() < 0.5:
                    server.kill()
                    books.supervisor_kills += 1
                    server.start()
                else:
                    workers = server.worker_pids()
                    if workers:
                        os.kill(rng.choice(workers), signal.SIGKILL)
                        books.worker_kills += 1
                books.rounds += 1
                if report and books.rounds % 10 == 0:
                    print(f"round {books.rounds}: {len(clients.acknowledged)} acknowledged", flush=True)
            clients.stop()
            books.sent = len(clients.digests)
            _drain(server)
            doubts = json.loads(server.run("queue", "doubts", "--json", "--limit", "1000000"))["batches"]
            assert server.stop() == 0
            _compare(books, clients, sink_file, server, doubts)
    return books


def _drain(server: Postroika) -> None:
    """Wait until the queue is empty, as long as the next hop needs for it; fail when nothing goes on."""
    left = -1

    def fewer() -> bool:
        nonlocal left
        before, left = left, json.loads(server.run("queue", "stats", "--json"))["batches"]
        return left == 0 or left < before

    while left:
        wait_until(fewer, f"the queue, at {left} batches, to get shorter", _STUCK_S)


def _compare(books: Books, clients: Clients, sink_file: Path, server: Postroika, doubts: list[dict[str, Any]]) -> None:
    copies: collections.Counter[tuple[str, str]] = collections.Counter()
    told: set[str] = set()
    for line in sink_file.read_text().splitlines():
        number, recipient, digest = line.split()
        if number == "notice":
            told.add(recipient)
            continue
        copies[number, recipient] += 1
        if clients.digests.get(number) != digest:
            books.problems.append(f"{recipient}: the body arrived damaged")
    outcomes: dict[str, list[str]] = collections.defaultdict(list)
    for event in server.events_of("delivered", "bounced", "expired", "cancelled", "suppressed"):
        outcomes[event["recipient"]].append(event["type"])
        if event["type"] == "bounced" and event["sender"] and event["recipient"] not in told:
            books.problems.append(f"{event['recipient']}: bounced, and its sender was not told")
    in_doubt = {recipient for batch in doubts for recipient in batch["recipients"]}
    books.in_doubt = len(in_doubt)
    books.notices = len(told)
    books.acknowledged = len(clients.acknowledged)
    for number, recipient in sorted(clients.acknowledged):
        ends = outcomes.get(recipient, [])
        if len(ends) != 1:
            books.problems.append(f"{recipient}: acknowledged, and its outcomes are {ends}")
        elif ends[0] == "delivered":
            books.delivered += 1
            if not copies[number, recipient]:
                books.problems.append(f"{recipient}: said to be delivered, but the next hop never got it")
        elif ends[0] == "bounced" and recipient.startswith("refused"):
            books.bounced += 1
        else:
            books.problems.append(f"{recipient}: {ends[0]}")
    for (_, recipient), count in copies.items():
        if count > 1:
            books.doubled += count - 1
            if recipient not in in_doubt:
                books.problems.append(f"{recipient}: delivered {count} times and not listed as in doubt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="postroika-ledger-") as path:
        books = run(Path(path), arguments.rounds, arguments.seed, report=True)
        print(books)
        for problem in books.problems[:50]:
            print("  ", problem)
    return 1 if books.problems else 0


if __name__ == "__main__":
    sys.exit(main())
