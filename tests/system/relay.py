"""A load through Postroika, from real clients to real next hops: nothing lost, nothing doubled, every outcome told.

    python -m tests.system.relay --messages 20000
    python -m tests.system.relay --messages 2000 --recipients 100
    python -m tests.system.relay --messages 20000 --hop sink
    python -m tests.system.relay --messages 5000 --hop postfix
    python -m tests.system.relay --messages 5000 --client postfix

The client is smtp-source, or a real Postfix whose relay host is Postroika; the next hop is smtp-sink (every message is
kept and read), `postroika sink`, or a real Postfix that delivers into a Maildir. Prints what the next hop got, by
Message-Id and recipient, and what the event log says.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import email.parser
import re
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from tests.system.accounts import Accounts, accounts
from tests.system.peers import run_source, start_sink
from tests.system.postfix_peer import start_postfix
from tests.system.process import wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import start_our_sink

CLIENT = Literal["smtp-source", "postfix"]
HOP = Literal["smtp-sink", "sink", "postfix"]
_CONFIG = """
[retry]
delays_s = [1]
down_delays_s = [0.5]
[[route]]
domains = ["*"]
next_hop = "smtp://{address}"
"""
_ID = re.compile(rb"^message-id:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)


@dataclasses.dataclass
class Arrived:
    """What the next hop got. `copies`: pairs of Message-Id and recipient; `distinct`: different ones among them."""

    messages: int
    copies: int
    distinct: int


@dataclasses.dataclass
class Relayed:
    """What came of it."""

    sent_s: float
    all_s: float
    arrived: Arrived
    said: Accounts

    def __str__(self) -> str:
        arrived, said = self.arrived, self.said
        return (
            f"accepted in {self.sent_s:.1f} s, all delivered after {self.all_s:.1f} s "
            f"({arrived.messages / self.all_s:.0f} messages/s, {arrived.copies / self.all_s:.0f} recipients/s)\n"
            f"  the next hop got {arrived.messages} messages for {arrived.copies} recipients, "
            f"{arrived.copies - arrived.distinct} of them twice\n"
            f"  the event log has {said.received} accepted recipients, {said.final}, {said.deferrals} deferrals, "
            f"{said.open} open, {said.doubled} doubled"
        )


def run(
    path: Path,
    *,
    messages: int,
    sessions: int = 50,
    size_bytes: int = 4096,
    recipients: int = 1,
    client: CLIENT = "smtp-source",
    hop: HOP = "smtp-sink",
    within_s: float = 600.0,
) -> Relayed:
    """Relay a load in an empty directory."""
    with ExitStack() as stack:
        count = _Hop(stack, path, hop, messages)
        server = stack.enter_context(Postroika(path, _CONFIG.format(address=count.address)))
        address = f"127.0.0.1:{server.port}"
        if client == "postfix":
            # Postfix writes a Message-Id itself only where it is missing; smtp-source's own goes through.
            address = start_postfix(stack, relayhost=address).address
        began = time.monotonic()
        run_source(
            address,
            messages=messages,
            sessions=sessions,
            size_bytes=size_bytes,
            recipients=recipients,
            recipient="rcpt@sink.test",
            within_s=within_s,
        )
        sent_s = time.monotonic() - began
        wait_until(lambda: server.queued_batches() == 0 and count.arrived() >= messages, "all to arrive", within_s)
        all_s = time.monotonic() - began
        assert server.stop() == 0  # the event log is complete
        return Relayed(sent_s, all_s, count.result(), accounts(server.events()))


class _Hop:
    """A next hop and how to count what it got."""

    def __init__(self, stack: ExitStack, path: Path, kind: HOP, messages: int) -> None:
        self._kind = kind
        self._path = path / "hop"
        if kind == "smtp-sink":
            sink = start_sink(self._path, dump=True)
            stack.callback(sink.stop)
            self.address = sink.address
        elif kind == "sink":
            self._sink = start_our_sink(path, "--unique", "Message-ID")
            stack.enter_context(self._sink.process)
            self.address = self._sink.address
        else:
            self._postfix = start_postfix(stack, virtual=["sink.test"])
            self.address = self._postfix.address
        self._messages = messages

    def arrived(self) -> int:
        """Messages (with Postfix: copies) so far, or enough where that cannot be told before the end."""
        if self._kind == "smtp-sink":
            return sum(1 for _ in self._path.iterdir())
        if self._kind == "postfix" and self._postfix.queue_length():
            return 0
        return self._messages

    def result(self) -> Arrived:
        """When all has come."""
        if self._kind == "sink":
            counts = self._sink.end()
            return Arrived(counts["messages"], counts["recipients"], counts["recipients"] - counts["doubled"])
        copies: collections.Counter[tuple[bytes, str]] = collections.Counter()
        messages = 0
        if self._kind == "smtp-sink":
            for file in self._path.iterdir():
                messages += 1
                text = file.read_bytes()
                for recipient in re.findall(rb"^X-Rcpt-Args: <([^>]+)>", text, re.MULTILINE):
                    copies[_message_id(text), recipient.decode()] += 1
        else:
            for text in self._postfix.mailbox():
                messages += 1
                head = email.parser.BytesHeaderParser().parsebytes(text)
                copies[_message_id(text), head["Delivered-To"]] += 1
        return Arrived(messages, copies.total(), len(copies))


def _message_id(text: bytes) -> bytes:
    found = _ID.search(text)
    assert found is not None, text[:2000]
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--size-bytes", type=int, default=4096)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument("--client", choices=("smtp-source", "postfix"), default="smtp-source")
    parser.add_argument("--hop", choices=("smtp-sink", "sink", "postfix"), default="smtp-sink")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="postroika-relay-") as path:
        relayed = run(Path(path), **vars(arguments))
    print(relayed)
    copies = arguments.messages * arguments.recipients
    good = relayed.arrived.copies == relayed.arrived.distinct == copies and relayed.said == Accounts(
        copies, {"delivered": copies}, relayed.said.deferrals
    )
    print("nothing lost, nothing doubled" if good else "WRONG")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
