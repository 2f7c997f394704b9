"""What has no end: lines, headers, replies, parts within parts. Memory stays where it was, and the next one is served.

docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

import email
import select
import smtplib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.system.naive_server import Fault, naive_server
from tests.system.process import wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink
from tests.system.speaking_hop import USUAL, Script, speaking_hop

MiB = 1024 * 1024
SENT = 32 * MiB  # of each of them,
COMMANDS_SENT = 1 * MiB  # or of such as have to be looked at one by one
MOST_GROWTH = 12 * MiB  # of the server's memory: allocators keep some, and buffers have a size

BLOCK = b"x" * 65536
BEGIN = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<you@shop.test>\r\nDATA\r\n"
# What to begin with, and what to go on with.
ENDLESS = {
    "command": (b"", BLOCK),
    "command of NULs": (b"", bytes(65536)),
    "EHLO": (b"EHLO ", BLOCK),
    "MAIL": (b"MAIL FROM:<a@x.test> ", b"X=" + BLOCK),
    "recipients": (b"MAIL FROM:<a@x.test>\r\n", b"".join(b"RCPT TO:<%d@shop.test>\r\n" % n for n in range(2000))),
    "unknown commands": (b"", b"XYZZY\r\n" * 9000),
    "commands": (b"", b"NOOP\r\nVRFY x\r\n" * 4000),
    "line of content": (BEGIN, BLOCK),
    "header field": (BEGIN + b"Subject: x\r\n", b" y" * 32767 + b"\r\n"),
    "header fields": (BEGIN, b"X: yyyy\r\n" * 7000),
    "dots": (BEGIN, b"..\r\n" * 16_000),
    "bare newlines": (BEGIN, b"\n" * 65536),
    "chunk": (b"MAIL FROM:<a@x.test>\r\nRCPT TO:<you@shop.test>\r\nBDAT 99999999999\r\n", BLOCK),
    "small chunks": (b"MAIL FROM:<a@x.test>\r\nRCPT TO:<you@shop.test>\r\n", b"BDAT 1\r\nx" * 7000),
    "refused chunk": (b"BDAT 99999999999\r\n", BLOCK),
    "STARTTLS": (b"STARTTLS\r\n", BLOCK),
    "AUTH": (b"AUTH PLAIN ", BLOCK),
}


COMMANDS = {"recipients", "unknown commands", "commands", "small chunks"}


def send_endlessly(port: int, begin: bytes, block: bytes, most: int) -> int:
    """Send and read as long as we may, up to `most` octets; how many were sent."""
    sent = 0
    with Dialogue(port, "endless.test") as client:
        client.sock.setblocking(False)
        left = memoryview(begin + block)
        with suppress(ConnectionError):
            while sent < most:
                with suppress(BlockingIOError):
                    while client.sock.recv(65536):
                        pass
                    return sent  # it has closed
                with suppress(BlockingIOError):
                    count = client.sock.send(left)
                    sent += count
                    left = left[count:] or memoryview(block)
        return sent


class World:
    """A server with room for messages of up to 4 MB, and a next hop."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        self.script: Script = lambda verb: [USUAL.get(verb, b"250 ok\r\n")]
        self.hop = stack.enter_context(speaking_hop(self.say))
        config = (
            # Floods of commands are to last.
            f"[limits]\nmax_message_bytes = {4 * MiB}\nmax_junk_commands = 0\n[delivery]\nconnection_idle_s = 0\n"
            "greeting_timeout_s = 3\nehlo_timeout_s = 3\nmail_timeout_s = 3\ndata_timeout_s = 3\n"
            "final_dot_timeout_s = 3\nquit_timeout_s = 1\n[retry]\ndelays_s = [600]\ndown_delays_s = [600]\n"
            f'[[route]]\ndomains = [".hop.test"]\nnext_hop = "smtp://127.0.0.1:{self.hop}"\n'
            f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{self.sink.address}"\n'
        )
        self.server = stack.enter_context(Postroika(path, config, workers=1))
        for number in range(3):  # so that what is made once is made
            self.send(f"warm-{number}@x.test", b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" * MiB)

    def say(self, verb: str) -> Iterable[bytes]:
        """What the script of the test has the next hop say."""
        return self.script(verb)

    def send(self, sender: str, content: bytes, recipient: str = "you@shop.test") -> str:
        with self.server.dialogue() as client:
            return client.message(sender, [recipient], content)

    def grows(self, attack: Callable[[], object]) -> int:
        """How much more memory than before the server had at the worst moment of the attack."""
        before = self.server.rss_bytes()
        processes = [Path(f"/proc/{pid}") for pid in (self.server.process.pid, *self.server.worker_pids())]
        for process in processes:
            (process / "clear_refs").write_text("5")  # the peak begins anew: proc(5)
        attack()
        with self.server.dialogue("honest.test") as client:  # somebody else is served
            assert client.say("NOOP").startswith("250")
        return sum(_peak_bytes(process) for process in processes) - before


def _peak_bytes(process: Path) -> int:
    (line,) = [line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.mark.parametrize(
    "kind", ["command", "EHLO", "line of content", "header field", "header fields", "dots", "AUTH"]
)
def test_naive_server_keeps_all_of_it(kind: str) -> None:
    with naive_server(Fault.ENDLESS) as naive:
        assert send_endlessly(naive.port, *ENDLESS[kind], 4 * MiB) >= 4 * MiB
        wait_until(lambda: naive.most_held > 3 * MiB, "it to have read it")


@pytest.mark.parametrize("kind", ENDLESS)
def test_nothing_endless_is_kept(world: World, kind: str) -> None:
    begin, block = ENDLESS[kind]
    most = COMMANDS_SENT if kind in COMMANDS else SENT
    assert world.grows(lambda: send_endlessly(world.server.port, begin, block, most)) < MOST_GROWTH


@pytest.mark.parametrize("kind", ["command", "command of NULs", "EHLO", "unknown commands", "AUTH", "STARTTLS"])
def test_who_sends_no_commands_is_sent_away(world: World, kind: str) -> None:
    assert send_endlessly(world.server.port, *ENDLESS[kind], SENT) < SENT // 2


def test_client_that_reads_no_replies_is_waited_for_with_its_hands_tied(world: World) -> None:
    """Its commands are not taken while what was said to it has nowhere to go."""

    def attack() -> int:
        sent = 0
        with socket.create_connection(("127.0.0.1", world.server.port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(0.5)
            with suppress(OSError):
                while sent < SENT:
                    sent += sock.send(b"EHLO x\r\n" * 8000)
        return sent

    sent: list[int] = []
    assert world.grows(lambda: sent.append(attack())) < MOST_GROWTH
    assert sent[0] < SENT


FLOODERS = 30
FLOOD = b"EHLO x\r\n" * 8000  # what one read may bring, and twenty times as much to say to it


def test_many_that_read_no_replies_cost_little_and_others_are_served(world: World) -> None:
    def attack() -> None:
        with ExitStack() as stack:
            for _ in range(FLOODERS):
                sock = socket.socket()
                stack.enter_context(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it is announced
                sock.connect(("127.0.0.1", world.server.port))
                sock.sendall(FLOOD)
            for number in range(3):
                assert world.send(f"honest-{number}@x.test", b"Subject: x\r\n\r\nx\r\n").startswith("250")

    assert world.grows(attack) < MOST_GROWTH


def test_flood_of_commands_has_others_wait_for_a_turn_and_not_for_its_end(world: World) -> None:
    """All commands of the flood are answered; an honest client meanwhile waits for a fraction of the time of that."""
    with ExitStack() as stack:
        flooders = [stack.enter_context(Dialogue(world.server.port)) for _ in range(FLOODERS)]
        honest = stack.enter_context(Dialogue(world.server.port, "honest.test"))
        left = dict.fromkeys((flooder.sock for flooder in flooders), 8000 * (len(_ehlo(world)) + 2))
        began = time.monotonic()

        def read_all() -> None:
            while left:
                for sock in select.select([*left], [], [], 30)[0]:
                    left[sock] -= len(sock.recv(MiB))
                    if left[sock] <= 0:
                        del left[sock]

        for flooder in flooders:
            flooder.send(FLOOD)
        reader = threading.Thread(target=read_all)
        reader.start()
        waits = []
        while reader.is_alive():
            asked = time.monotonic()
            assert honest.say("NOOP") == "250 2.0.0 Ok"
            waits.append(time.monotonic() - asked)
        reader.join()
        took = time.monotonic() - began
        assert left == {}
    assert max(waits) < took / 5


def _ehlo(world: World) -> bytes:
    """The reply to EHLO, without its last line end."""
    with world.server.dialogue("x") as client:
        return client.ehlo.replace("\n", "\r\n").encode()


# --- what comes in a message


def deep(levels: int) -> bytes:
    """A multipart within a multipart, and so on."""
    opening = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (level, level) for level in range(levels)
    )
    closing = b"".join(b"\r\n--%d--\r\n" % level for level in reversed(range(levels)))
    return b"Subject: deep\r\nMIME-Version: 1.0\r\n" + opening + b"Content-Type: text/plain\r\n\r\nx\r\n" + closing


MESSAGES = {
    "parts within parts": deep(20_000),
    "messages within messages": b"Subject: x\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 60_000,
    "parameters": b"Content-Type: text/plain" + b";\r\n a=b" * 100_000 + b"\r\n\r\nx\r\n",
    "recipients in the header": b"To: " + b"a@x.test,\r\n " * 60_000 + b"a@x.test\r\n\r\nx\r\n",
    "comments": b"From: " + b"(" * 200_000 + b"a@x.test" + b")" * 200_000 + b"\r\n\r\nx\r\n",
    "encoded words": b"Subject:" + b" =?utf-8?q?=41?=\r\n" * 50_000 + b"\r\nx\r\n",
    "a long line": b"Subject: x\r\n\r\n" + b"y" * 3 * MiB + b"\r\n",
    "empty lines": b"Subject: x\r\n\r\n" + b"\r\n" * MiB,
}


def test_naive_reader_falls_over_the_depth_of_a_message() -> None:
    """One that takes a message apart when it comes in, by calling itself for each part."""
    with pytest.raises(RecursionError):
        email.message_from_bytes(MESSAGES["parts within parts"])


@pytest.mark.parametrize("kind", MESSAGES)
def test_message_of_whatever_depth_is_content(world: World, kind: str) -> None:
    """It goes through as it is; and a notice of its failure quotes no more than it has to."""
    sender = f"{kind.replace(' ', '-')}@back.test"
    world.script = lambda verb: [b"550 5.1.1 no\r\n" if verb == "RCPT" else USUAL.get(verb, b"250 ok\r\n")]

    def attack() -> None:
        assert world.send(sender, MESSAGES[kind]).startswith("250")
        assert world.send(sender, MESSAGES[kind], "you@a.hop.test").startswith("250")
        world.server.wait_until_drained(30)

    assert world.grows(attack) < MOST_GROWTH + 2 * len(MESSAGES[kind])
    (arrived,) = [message for message in world.sink.messages() if message.reverse_path == sender]
    assert arrived.content.endswith(MESSAGES[kind])
    (notice,) = [message for message in world.sink.messages() if message.recipients == (sender,)]
    assert len(notice.content) < 512 * 1024


# --- what a next hop says


def _endless(first: bytes, more: bytes) -> Iterable[bytes]:
    yield first
    for _ in range(SENT // 4 // len(more)):
        yield more


REPLIES: dict[str, Callable[[], Iterable[bytes]]] = {
    "line": lambda: _endless(b"250 ", BLOCK),
    "lines": lambda: _endless(b"", b"250-x\r\n" * 9000),
    "long lines": lambda: _endless(b"", b"250-%b\r\n" % BLOCK),
    "replies": lambda: _endless(b"", b"250 ok\r\n" * 8000),
    "noise": lambda: _endless(b"", bytes(65536)),
    "empty lines": lambda: _endless(b"", b"\r\n" * 32768),
}


def test_naive_client_keeps_all_of_a_reply() -> None:
    """Python's own looks at the length of lines, and at nothing else."""

    def say(verb: str) -> Iterable[bytes]:
        if verb == "EHLO":
            yield b"250-%b\r\n" % (b"x" * 1000) * 4000
            yield b"250 ok\r\n"
        else:
            yield USUAL.get(verb, b"250 ok\r\n")

    with speaking_hop(say) as port, smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        assert len(client.ehlo()[1]) > 3 * MiB


@pytest.mark.parametrize("place", ["", "EHLO", "MAIL", "DATA", "."])
@pytest.mark.parametrize("kind", REPLIES)
def test_endless_replies_end_the_attempt(world: World, kind: str, place: str) -> None:
    recipient = f"you@{kind.replace(' ', '-')}.{place.strip('.').lower() or 'x' + str(len(place))}.hop.test"
    world.script = lambda verb: REPLIES[kind]() if verb == place else [USUAL.get(verb, b"250 ok\r\n")]

    def outcomes() -> list[str]:
        events = world.server.events_of("deferred", "delivered", "bounced")
        return [event["type"] for event in events if event["recipient"] == recipient]

    def attack() -> None:
        assert world.send("me@x.test", b"Subject: x\r\n\r\nx\r\n", recipient).startswith("250")
        wait_until(outcomes, "the attempt to end", 30)

    assert world.grows(attack) < MOST_GROWTH
    # Good words to the message, with rubbish behind them, are good words.
    assert outcomes() == [{("replies", "."): "delivered"}.get((kind, place), "deferred")]
