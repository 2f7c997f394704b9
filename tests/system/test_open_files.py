"""Few descriptors and thousands of clients: accepted mail goes out all the same."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.peers import StartSink
from tests.system.server import Postroika

_LIMIT = 512
_WARNING = (
    "each of 1 workers may have only 512 files open: limits.max_connections is 176 instead of 10000 and "
    "delivery.max_connections is 176 instead of 500. Raise the limit to 11108 (ulimit -n, LimitNOFILE=) or lower the "
    "keys"
)
_CLIENTS = 3000
_CONFIG = """
[limits]
max_connections_per_ip = 10_000
[delivery]
max_connections_per_site = 40
initial_connections_per_site = 40
[[route]]
domains = ["*"]
next_hop = "smtp://{address}"
"""


@pytest.fixture
def few_files() -> tuple[str, ...]:
    """Starts a program that may open few files."""
    return ("/bin/sh", "-c", f'ulimit -n {_LIMIT} && exec "$@"', "sh")


def test_idle_clients_leave_descriptors_to_the_spool_and_to_mail_going_out(
    tmp_path: Path, smtp_sink: StartSink, few_files: tuple[str, ...]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = min(_CLIENTS, hard - 200) if hard != resource.RLIM_INFINITY else _CLIENTS
    assert clients >= 1000
    sink = smtp_sink(dump=True)
    with ExitStack() as stack:
        if soft != resource.RLIM_INFINITY and soft < clients + 200:
            resource.setrlimit(resource.RLIMIT_NOFILE, (clients + 200, hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = stack.enter_context(
            Postroika(tmp_path, _CONFIG.format(address=sink.address), workers=1, prefix=few_files)
        )
        assert _WARNING in server.output()
        honest = stack.enter_context(server.dialogue())
        greetings = [_greeting(stack, server.port) for _ in range(clients)]
        assert greetings.count("220") == 176 - 1
        assert greetings.count("421") == clients - greetings.count("220")
        recipients = [f"r{number}@d{number}.test" for number in range(200)]
        for start in range(0, len(recipients), 10):
            assert honest.message("", recipients[start : start + 10], b"Subject: x\r\n\r\nx\r\n").startswith("250 ")
        server.wait_for_events(len(recipients), "delivered")
        assert server.events_of("deferred") == []
        (worker,) = server.worker_pids()
        assert len(list(Path(f"/proc/{worker}/fd").iterdir())) < _LIMIT
        assert "Too many open files" not in server.output()


def _greeting(stack: ExitStack, port: int) -> str:
    """The code that a client hears, which then stays and says nothing."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
    return client.recv(3, socket.MSG_WAITALL).decode()


def test_check_tells_the_same(tmp_path: Path, few_files: tuple[str, ...]) -> None:
    server = Postroika(tmp_path, _CONFIG.format(address="127.0.0.1:2526"), workers=1)
    command = [*few_files, sys.executable, "-m", "postroika", "check", "--config", str(server.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, f"postroika: warning: {_WARNING}\n")


def test_too_few_to_work_is_said_at_the_start(tmp_path: Path) -> None:
    prefix = ("/bin/sh", "-c", 'ulimit -n 100 && exec "$@"', "sh")
    server = Postroika(tmp_path, workers=1, prefix=prefix)
    with pytest.raises(pytest.fail.Exception, match="only 100 files may be open, too few to work"):
        server.start()
