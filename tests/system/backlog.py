"""A backlog for next hops that are dead: what it costs in memory, how fast a restart delivers, that all of it goes out.

    python -m tests.system.backlog --messages 200000

Messages for 20 destinations come in while nothing listens at the next hop. Then the server is killed and started again
with a next hop that is back; what counts is the time from the start of the process to the first message there, and in
the end every message exactly once. Prints the memory of all processes over the backlog.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.system.accounts import Accounts, accounts
from tests.system.peers import run_source
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import start_our_sink

_DESTINATIONS = 20
_CONFIG = """
[retry]
delays_s = [{delay_s}]
down_delays_s = [{down_s}]
[limits]
max_connections_per_ip = 1000
[[route]]
domains = ["*"]
next_hop = "smtp://127.0.0.1:{port}"
"""


@dataclasses.dataclass
class Memory:
    """Of the supervisor and its workers. `private`: what they have allocated; `mapped`: pages of the spool's files,
    which the kernel takes back when it needs them."""

    private: int
    mapped: int


@dataclasses.dataclass
class Backlog:
    """What came of it. `memory`: by the number of messages in the queue."""

    messages: int
    memory: dict[int, Memory]
    restart_s: float
    first_delivery_s: float
    memory_after_restart: Memory
    drained_s: float
    counts: dict[str, int]
    said: Accounts

    @property
    def private_bytes_per_message(self) -> float:
        """Growth of allocated memory from the first measurement to the last."""
        (low, first), *_, (high, last) = sorted(self.memory.items())
        return (last.private - first.private) / (high - low)

    def __str__(self) -> str:
        steps = "".join(
            f"  {count:>8} queued: {now.private / 2**20:6.1f} MiB allocated, {now.mapped / 2**20:7.1f} MiB mapped\n"
            for count, now in sorted(self.memory.items())
        )
        after = self.memory_after_restart
        return (
            f"backlog of {self.messages} messages, {_DESTINATIONS} destinations\n{steps}"
            f"  {self.private_bytes_per_message:.1f} bytes allocated for each queued message\n"
            f"  restart: ready after {self.restart_s:.2f} s, first delivery after {self.first_delivery_s:.2f} s; "
            f"then {after.private / 2**20:.1f} MiB allocated, {after.mapped / 2**20:.1f} MiB mapped\n"
            f"  all delivered {self.drained_s:.1f} s later ({self.messages / self.drained_s:.0f} messages/s)\n"
            f"  the next hop got {self.counts['messages']} messages, {self.counts['doubled']} of them twice\n"
            f"  the event log has {self.said.received} accepted, {self.said.final}, {self.said.deferrals} deferrals"
        )


def memory_of(server: Postroika) -> Memory:
    """Now."""
    sums = {"RssAnon": 0, "RssFile": 0, "RssShmem": 0}
    for pid in [server.process.pid, *server.worker_pids()]:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    return Memory(sums["RssAnon"], sums["RssFile"] + sums["RssShmem"])


def run(path: Path, messages: int, *, size_bytes: int = 2048, sessions: int = 50, report: bool = False) -> Backlog:
    """Build the backlog in an empty directory, and let it go."""
    port = free_port()
    # The last probe of a destination must not be long ago when the hop comes back.
    config = _CONFIG.format(port=port, delay_s=30, down_s=1)
    memory: dict[int, Memory] = {}
    each = messages // _DESTINATIONS
    server = Postroika(path, config)
    with server:
        for number in range(_DESTINATIONS):
            run_source(
                f"127.0.0.1:{server.port}",
                messages=each,
                sessions=sessions,
                size_bytes=size_bytes,
                recipient=f"r@d{number}.test",
                sender="",
                within_s=3600,
            )
            memory[(number + 1) * each] = memory_of(server)
            if report:
                print(f"{(number + 1) * each} queued, {memory[(number + 1) * each]}", flush=True)
        assert server.queued_batches() == each * _DESTINATIONS
        server.kill()
        with start_our_sink(path, "--unique", "Message-ID", "--print", port=port).process as process:
            began = time.monotonic()
            server.start(within_s=60)
            restart_s = time.monotonic() - began
            wait_until(lambda: b"from=<>" in process.log.read_bytes(), "the first delivery", 60)
            first_s = time.monotonic() - began
            after = memory_of(server)
            server.flush()
            wait_until(lambda: server.queued_batches() == 0, "the queue to be empty", 3600)
            drained_s = time.monotonic() - began - first_s
            assert server.stop() == 0
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            counts = _counts(process.output())
    return Backlog(
        each * _DESTINATIONS, memory, restart_s, first_s, after, drained_s, counts, accounts(server.events())
    )


def _counts(output: str) -> dict[str, int]:
    counts = json.loads("{" + output.rpartition("\n{")[2])
    return {name: counts[name] for name in ("messages", "recipients", "doubled")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--size-bytes", type=int, default=2048)
    parser.add_argument("--sessions", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="postroika-backlog-") as path:
        result = run(Path(path), report=True, **vars(arguments))
    print(result)
    delivered = Accounts(result.messages, {"delivered": result.messages}, result.said.deferrals)
    good = result.said == delivered and result.counts["messages"] == result.messages and not result.counts["doubled"]
    print("nothing lost, nothing doubled" if good else "WRONG")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
