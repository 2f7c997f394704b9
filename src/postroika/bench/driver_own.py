"""The driver of our own: `postroika bench load` and `postroika bench sink`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from postroika.bench.driver_process import HOST, SinkProcess, run_to_end
from postroika.bench.drivers import OWN, RunningSink
from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.peers.ports import free_port
from postroika.bench.sink_settings import SinkSettings
from postroika.errors import PostroikaError
from postroika.smtp.server import EXTENSIONS

_BENCH = (sys.executable, "-m", "postroika", "bench")
_PATIENCE_S = 3600.0
_STOP_WITHIN_S = 60.0


class OwnDriver:
    """`postroika bench load` and `postroika bench sink`."""

    name = OWN

    def missing(self) -> str | None:
        """It is always there."""
        return None

    def load(self, settings: LoadSettings) -> LoadResult:
        """See `Driver`."""
        settings.check()
        with tempfile.TemporaryDirectory(prefix="postroika-load-") as directory:
            file = Path(directory, "result.json")
            command = [*_BENCH, "load", *settings.to_arguments(), "--json", str(file)]
            # Its exit code says whether all was accepted; so does the result.
            ended = run_to_end(command, os.environ, _PATIENCE_S)
            try:
                return msgspec.json.decode(file.read_bytes(), type=LoadResult)
            except (OSError, msgspec.DecodeError):
                raise PostroikaError(f"{' '.join(command[2:])} failed:\n{ended.output[-2000:]}") from None

    def sink(self, settings: SinkSettings, port: int = 0) -> RunningSink:
        """See `Driver`."""
        return _OwnSink(settings, port or free_port())


class _OwnSink(SinkProcess):
    """`postroika bench sink`."""

    def __init__(self, settings: SinkSettings, port: int) -> None:
        command = [*_BENCH, "sink", "--listen", f"{HOST}:{port}", *_sink_arguments(settings)]
        super().__init__(
            [*command, "--status", "{directory}/status.json", "--json", "{directory}/last.json"], os.environ, port
        )

    def _ready(self) -> bool:
        # It writes the first status when it listens.
        return (self._directory / "status.json").exists()

    def _count(self) -> dict[str, Any]:
        return self._read("status.json")

    def _last_count(self) -> dict[str, Any]:
        self._program.stop(_STOP_WITHIN_S)
        return self._read("last.json")

    def _read(self, name: str) -> dict[str, Any]:
        try:
            counts: dict[str, Any] = json.loads((self._directory / name).read_bytes())
        except (OSError, ValueError) as error:
            said = self._program.output()
            raise PostroikaError(f"the sink does not tell what it has seen: {error}\n{said}") from None
        return counts


def _sink_arguments(settings: SinkSettings) -> list[str]:
    """The options of `postroika bench sink` that mean the same."""
    plain = SinkSettings()
    arguments: list[str] = []
    for option, values in (("--refuse", settings.refuse), ("--defer", settings.defer)):
        arguments += [word for value in values for word in (option, value)]
    for stage, delay_s in settings.delays_s.items():
        arguments += ["--delay", f"{stage.value}={delay_s}"]
    for name in sorted(EXTENSIONS - settings.extensions):
        arguments += ["--without", name]
    if settings.greylist:
        arguments += ["--greylist", str(settings.greylist_s)]
    if settings.disconnect_at is not None:
        arguments += ["--hang-up-at", settings.disconnect_at.value, "--hang-up-share", str(settings.disconnect_share)]
    for name in (
        "hostname", "refuse_share", "defer_share", "seed", "messages_per_connection", "max_connections", "bytes_per_s",
        "connection_bytes_per_s", "tls", "certificate", "key", "store", "unique",
    ):  # fmt: skip
        value = getattr(settings, name)
        if value != getattr(plain, name):
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    for name in ("max_message_bytes", "max_recipients", "idle_timeout_s"):
        if getattr(settings, name) != getattr(plain, name):
            raise PostroikaError(f"postroika bench sink has no option for {name}")
    return arguments
