"""Peers that put control characters into all they say: no line of a log is theirs, and no terminal obeys them."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.command import command
from tests.system.naive_server import naive_server
from tests.system.server import Dialogue, Postroika

_FORGED = b'2026-11-22 10:00:00,000 worker 0 ERROR {"type":"delivered"}'
_HOSTILE = b"no\x1b[2J\x07\x9b31m\xc2\x9b31m\xe2\x80\xa8" + _FORGED + b"\xe2\x80\xae\r" + _FORGED + b"\x00 user"
_CONFIG = """
[delivery]
chunking = false
[[route]]
domains = ["*"]
next_hop = "smtp://{address}"
"""


@pytest.fixture
def hostile_hop() -> Iterator[str]:
    """The address of a next hop that refuses every recipient in words like these."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener,))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as lines:
            connection.settimeout(30)
            connection.sendall(b"220 " + _HOSTILE + b"\r\n")
            for line in lines:
                verb = line[:4].upper()
                if verb == b"RCPT":
                    connection.sendall(b"550-5.1.1 " + _HOSTILE + b"\r\n550 5.1.1 " + _HOSTILE + b"\r\n")
                else:
                    connection.sendall((b"221 " if verb == b"QUIT" else b"250 ") + _HOSTILE + b"\r\n")


def attack(port: int) -> None:
    """Say what is hostile in each place that a log may tell of."""
    with Dialogue(port) as client:
        client.say(b"EHLO " + _HOSTILE.replace(b"\r", b"").replace(b"\0", b""))
        client.say(b"MAIL FROM:<a\x1b[2J@" + _FORGED + b">")
        client.say(_HOSTILE.replace(b"\r", b"").replace(b"\0", b""))


def test_naive_log_has_the_forged_line(tmp_path: Path) -> None:
    """A server that writes down what it was told, as it is: a reader of lines finds one that nobody wrote."""
    log = tmp_path / "naive.log"
    with naive_server() as naive:
        attack(naive.port)
        log.write_text("".join(f"client said {line.decode(errors='replace')}\n" for line in naive.commands))
    lines = log.read_text().splitlines()
    assert [line for line in lines if line.startswith(_FORGED.decode())]
    assert not all(line.isprintable() for line in lines)


def test_peers_cannot_write_lines_into_logs_or_steer_a_terminal(tmp_path: Path, hostile_hop: str) -> None:
    with Postroika(tmp_path, _CONFIG.format(address=hostile_hop), workers=1) as server:
        with server.dialogue("honest.test") as client:
            assert client.message("", ["a@shop.test"], b"Subject: \x1b[2J\r\n\r\nx\r\n").startswith("250")
        attack(server.port)
        ended = server.wait_for_events(1, "bounced", "expired", "deferred")
        lines = server.event_log.read_bytes().splitlines(keepends=True)
        shown = [command(server, *words).out for words in (("events", "tail"), ("queue", "list"), ("queue", "stats"))]
        output = server.output()
    events = [json.loads(line) for line in lines]
    assert {event["type"] for event in events} <= {"received", "bounced", "expired", "deferred", "rejected"}
    assert all(re.fullmatch(rb"[^\x00-\x1f\x7f]*\n", line) for line in lines)
    assert all(line.decode().rstrip("\n").isprintable() for line in lines)
    assert "delivered" not in {event["type"] for event in ended}
    assert all(line.isprintable() for text in shown for line in text.split("\n"))
    for line in output.split("\n"):
        assert line.isprintable()
        assert not line.startswith(_FORGED.decode()[:23])
