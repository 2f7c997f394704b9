"""A postroika command of a test: run to its end, or beside the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.outputs import Output
from tests.system.process import Process
from tests.system.server import Postroika

_ENV = {**os.environ, "PYTHONUNBUFFERED": "1", "TERM": "dumb"}


def command(server: Postroika, *arguments: str, stdin: bytes = b"") -> Output:
    """Run it with the server's config, to its end."""
    done = subprocess.run(
        _line(server, arguments), input=stdin, capture_output=True, env=_ENV, timeout=120, check=False
    )
    return Output(done.returncode, done.stdout.decode(), done.stderr.decode())


def started(server: Postroika, output: Path, *arguments: str) -> Process:
    """Start it with the server's config; a context manager."""
    return Process(_line(server, arguments), log=output, env=_ENV)


def _line(server: Postroika, arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "postroika", *arguments, "--config", str(server.config_file)]
