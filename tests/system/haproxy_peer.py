"""A real HAProxy in front of a server, in its own directory, with a config of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.process import Process, free_port, program

_CONFIG = """
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend mail
    bind {bind}
    default_backend server
backend server
    {backend}
    server postroika 127.0.0.1:{port} {options}
"""


class HaProxy:
    """A running HAProxy. `port` is where it listens, on 127.0.0.1 and on ::1."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port


StartHaProxy = Callable[..., HaProxy]


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[StartHaProxy]:
    """`haproxy(port, options, backend="")` starts one that passes connections on to `port`, with these options of
    `server` and a line more for its backend."""
    with ExitStack() as stack:

        def start(port: int, options: str, backend: str = "") -> HaProxy:
            own = free_port()
            config = tmp_path / f"haproxy-{own}.cfg"
            bind = f"127.0.0.1:{own}\n    bind [::1]:{own}"
            config.write_text(_CONFIG.format(bind=bind, port=port, options=options, backend=backend))
            command = [program("haproxy", "haproxy"), "-db", "-q", "-f", str(config)]
            process = stack.enter_context(Process(command, log=config.with_suffix(".log")))
            process.wait_accepting("127.0.0.1", own)
            return HaProxy(process, own)

        yield start
