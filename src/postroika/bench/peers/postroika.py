"""Postroika itself: the supervisor with its workers, by the command that everyone runs.

`extra` is the config file beyond what is said here: {"limits": {"max_recipients": 100_000}, …}.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postroika import __version__
from postroika.bench.interpreters import look_at
from postroika.bench.peers import signing
from postroika.bench.peers.adaptor import PeerOptions, Running
from postroika.bench.peers.ports import free_port
from postroika.bench.peers.program import Program
from postroika.bench.peers.server import HOST, Server, prepare_directory, start
from postroika.bench.peers.tls import make_certificate
from postroika.errors import PostroikaError

_TABLES = {"listener", "dkim"}  # those of which there may be several
_DURABLE = "# durable: 250 only after a synced commit of the spool; there is no other mode\n"
_HOSTNAME = "postroika.test"
_CONTROL_S = 30.0

Config = dict[str, dict[str, Any]]


class Postroika:
    """The adaptor.

    Args:
        python: the interpreter that runs it.
        title: what it is called, where several interpreters are compared.
    """

    name = "postroika"
    load_needs: Mapping[str, Any] = {}

    def __init__(self, python: str = sys.executable, title: str = "Postroika") -> None:
        self.title = title
        self._python = python

    def missing(self) -> str | None:
        """It is here; another interpreter may lack it."""
        if self._python == sys.executable:
            return None
        try:
            look_at(self._python)
        except PostroikaError as error:
            return str(error)
        return None

    def install(self) -> None:
        """Nothing to do: the harness is a part of it."""

    def start(self, options: PeerOptions) -> Running:
        """See `adaptor.Peer`."""
        directory = options.directory
        prepare_directory(directory)
        port = free_port()
        config = _config(options, port)
        file = directory / "postroika.toml"
        file.write_text(_toml(config, options.next_hop, tls=options.tls))
        program = Program(
            [self._python, "-m", "postroika", "serve", "--config", file],
            log=directory / "server.log",
            directory=directory,
            environment={**os.environ, "PYTHONUNBUFFERED": "1"},
            cpu_cores=options.cpu_cores,
        )
        settings = _DURABLE + file.read_text()
        if options.cpu_cores:
            bound = (
                f"bounded to {options.cpu_cores:g} cores" if program.bounded else "not bounded: no control group for it"
            )
            settings += f"# CPU {bound}\n"
        version = __version__
        if self._python != sys.executable:
            interpreter = look_at(self._python)
            version = f"{interpreter.postroika} on {interpreter.name}"
        return start(
            _Running(
                title=self.title,
                version=version,
                settings=settings,
                port=port,
                program=program,
                file=file,
                config=config,
                next_hop=options.next_hop,
                tls=options.tls,
            )
        )


class _Running(Server):
    """A running one."""

    def __init__(self, *, file: Path, config: Config, next_hop: tuple[str, int] | None, tls: bool, **how: Any) -> None:
        super().__init__(**how)
        self._file = file
        self._config = config
        self._next_hop = next_hop
        self._tls = tls
        self._said_bytes = 0

    def queued(self) -> int:
        """Batches, as the running server says."""
        connection = _UnixConnection(self._file.parent / "control.sock")
        try:
            connection.request("GET", "/v1/queue/stats")
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise PostroikaError(f"Postroika does not tell of its queue: {text.decode(errors='replace')}")
            return int(json.loads(text)["batches"])
        except OSError as error:
            raise PostroikaError(f"Postroika does not answer: {error}\n{self.output()}") from None
        finally:
            connection.close()

    def release(self) -> None:
        """With another config file."""
        self._config["delivery"] = {**self._config["delivery"], "enabled": True}
        self._file.write_text(_toml(self._config, self._next_hop, tls=self._tls))
        self.restart()

    def start(self) -> None:
        log = self._program.log
        self._said_bytes = log.stat().st_size if log.exists() else 0
        super().start()

    def _ready(self) -> bool:
        # It listens before its workers accept.
        with self._program.log.open("rb") as log:
            log.seek(self._said_bytes)
            return b"\nReady.\n" in b"\n" + log.read()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CONTROL_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONTROL_S)
        self.sock.connect(str(self._path))


def _config(options: PeerOptions, port: int) -> Config:
    workers = options.workers or len(os.sched_getaffinity(0))
    config: Config = {
        "server": {"hostname": _HOSTNAME, "workers": workers, "spool": "spool", "control": "control.sock"},
        "listener": {"address": f"{HOST}:{port}"},
        "delivery": {
            "max_connections_per_site": options.connections,  # of all workers
            "max_connections": max(500, options.connections),
        },
        "log": {"events": "events.jsonl"},
    }
    if os.geteuid() == 0:
        config["process"] = {"user": "root"}  # its files are in the directory of whoever measures
    if options.tls:
        certificate, key = make_certificate(options.directory, _HOSTNAME)
        config["listener"] |= {"tls": "starttls", "certificate": str(certificate), "key": str(key)}
    if options.signed:
        config["dkim"] = {
            "domain": "*",
            "signing_domain": signing.DOMAIN,
            "selector": signing.SELECTOR,
            "key": str(signing.make_key(options.directory)),
        }
        config["signing"] = {"oversigned": signing.FIELDS, "signed": ["Sender"]}
    if options.suspended:
        config["delivery"]["enabled"] = False
    for section, keys in options.extra.items():
        config[section] = {**config.get(section, {}), **keys}
    return config


def _toml(config: Mapping[str, Mapping[str, Any]], next_hop: tuple[str, int] | None, *, tls: bool) -> str:
    lines = []
    for section, keys in config.items():
        lines.append(f"[[{section}]]" if section in _TABLES else f"[{section}]")
        # JSON writes these values as TOML does.
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    if next_hop is not None:
        lines += ["[[route]]", 'domains = ["*"]', f'next_hop = "smtp://{next_hop[0]}:{next_hop[1]}"']
        lines += ['tls = "opportunistic"'] if tls else []
    return "\n".join(lines) + "\n"
