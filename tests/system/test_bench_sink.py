"""`postroika bench sink` as a process: what it writes while it runs and at its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from postroika.bench.sink_settings import Counts
from tests.component.sink_world import HELLO, Client, marked
from tests.system.process import Process, free_port, run, wait_until

COMMAND = (sys.executable, "-m", "postroika", "bench", "sink")


@contextmanager
def _running(directory: Path, *options: str) -> Iterator[tuple[Process, int]]:
    port = free_port()
    process = Process([*COMMAND, "--listen", f"127.0.0.1:{port}", *options], log=directory / "sink.log", cwd=directory)
    with process:
        process.wait_accepting("127.0.0.1", port)
        yield process, port


def _client(port: int) -> Client:
    client = Client(socket.create_connection(("127.0.0.1", port)))
    client.reply()
    client.say(HELLO)
    return client


def _counts(told: dict[str, Any]) -> dict[str, Any]:
    """Those that are not nought, without times and what depends on them."""
    names = [field.name for field in msgspec.structs.fields(Counts) if not field.name.endswith("_at")]
    return {name: told[name] for name in names if told[name]}


def test_status_follows_the_messages_and_the_json_is_the_last_of_it(tmp_path: Path) -> None:
    status, end = tmp_path / "status.json", tmp_path / "end.json"

    def told() -> dict[str, Any]:
        read: dict[str, Any] = json.loads(status.read_bytes())
        return read

    with _running(tmp_path, "--status", "status.json", "--json", "end.json") as (process, port):
        wait_until(status.exists, "a status file")
        first = told()
        assert (first["messages"], first["latency_ms"]["p50"], first["timeline"]) == (0, None, [])
        with closing(_client(port)) as client:
            client.send(b"r0@y.test", b"r1@y.test", content=marked(0))
            client.send(b"r1@y.test", content=marked(0))
            wait_until(lambda: told()["messages"] == 2, "both messages in the status file")
            during = told()
            client.send(b"r0@y.test", content=marked(1).replace(b"one", b"two"))
            assert not end.exists()
            process.signal(signal.SIGINT)
            assert client.reply() == "421 4.3.2 the sink is being stopped"
        assert process.wait() == 0, process.output()
    last = json.loads(end.read_bytes())
    assert last.keys() == during.keys()
    assert _counts(during) == {
        "messages": 2, "recipients": 3, "unique": 2, "doubled": 1, "sessions": 2, "open_sessions": 1,
        "bytes": 2 * (len(marked(0)) - 1),
    }  # fmt: skip
    assert _counts(last) == {
        "messages": 3, "recipients": 4, "unique": 3, "doubled": 1, "damaged": 1, "sessions": 2,
        "bytes": 3 * (len(marked(0)) - 1),
    }  # fmt: skip
    assert last["first_at"] == during["first_at"] <= during["last_at"] < last["last_at"] <= last["at"]
    assert (last["latency_ms"]["count"], last["timeline"][-1][1]) == (3, 3)
    assert 0 < during["cpu_s"] < last["cpu_s"]
    assert not list(tmp_path.glob("*.part"))
    assert "sink: 3 messages to 4 recipients (1 doubled, 1 messages damaged), " in process.output()
    assert re.search(
        r"sink: on the way for p50 [\d.]+ ms, p95 [\d.]+ ms, p99 [\d.]+ ms, max [\d.]+ ms", process.output()
    )


@pytest.mark.parametrize("options", [("--messages", "3"), ("--until-idle", "0.3")])
def test_it_ends_when_it_has_enough(tmp_path: Path, options: tuple[str, ...]) -> None:
    with _running(tmp_path, "--json", "-", *options) as (process, port), closing(_client(port)) as client:
        for number in range(3):
            assert client.send(b"r0@y.test", content=marked(number))[-1] == "250 2.0.0 Ok"
        assert client.reply() == "421 4.3.2 the sink is being stopped"
        assert process.wait() == 0, process.output()
    told = json.loads(process.output().partition("\n{")[2].join(("{", "")))
    assert (told["messages"], told["unique"]) == (3, 3)


def test_file_that_cannot_be_written_ends_it_at_once(tmp_path: Path) -> None:
    ended = run([*COMMAND, "--listen", "127.0.0.1:0", "--status", "none/status.json"], within_s=30, cwd=tmp_path)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (
        1,
        "postroika: cannot write none/status.json: No such file or directory",
    )
