"""`postroika bench load` as a process, against Postfix's smtp-sink and our own sink."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from postroika.bench.load_settings import LoadResult, LoadSettings, LoadStatus
from postroika.bench.messages import parse_mark
from tests.outputs import Output
from tests.system.peers import StartSink
from tests.system.postfix_peer import StartPostfix
from tests.system.process import Process, free_port, run
from tests.system.server import Postroika
from tests.system.sink_peer import StartOurSink

NO_MISHAPS = {"failed": 0, "in_doubt": 0, "unsent": 0, "refused_recipients": 0, "errors": {}, "ended_by": ""}


def load(settings: LoadSettings, *more: str) -> Output:
    """Run it to its end."""
    command = [sys.executable, "-m", "postroika", "bench", "load", *settings.to_arguments(), *more]
    done = run(command, within_s=60)
    return Output(done.returncode, done.stdout, "")


def mishaps(result: LoadResult) -> dict[str, object]:
    return {name: getattr(result, name) for name in NO_MISHAPS}


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ({}, ()),
        ({"pipelining": False}, ("-p",)),
        ({"across": False}, ()),
        ({"messages_per_connection": 1}, ()),
        ({"messages_per_connection": 3, "pipelining": False}, ()),
    ],
    ids=["across", "step by step", "pipelined", "a connection each", "three a connection"],
)
def test_smtp_sink_takes_all_of_it(smtp_sink: StartSink, how: dict[str, object], options: tuple[str, ...]) -> None:
    server = smtp_sink(*options, dump=True)
    settings = LoadSettings(
        target=server.address, messages=200, sessions=20, recipients=3, domains=2, run="0badcafe", **how
    )
    output = load(settings, "--json", "-")
    result = msgspec.json.decode(output.out, type=LoadResult)
    assert (output.code, result.messages, result.recipients, mishaps(result)) == (0, 200, 600, NO_MISHAPS)
    received = server.wait_for(200)
    # smtp-sink puts a field of its own before ours.
    marks = [parse_mark(one.content[one.content.index(b"X-Bench-Id") :]) for one in received]
    assert {(mark.run, mark.number) for mark in marks if mark is not None} == {(0x0BADCAFE, n) for n in range(200)}
    assert {one.sender for one in received} == {"sender@load.test"}
    assert {one.recipients for one in received} == {
        ("r0@d0.test", "r1@d1.test", "r2@d0.test"),
        ("r0@d1.test", "r1@d0.test", "r2@d1.test"),
    }


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
@pytest.mark.parametrize("bdat", [False, True], ids=["data", "bdat"])
def test_our_sink_finds_nothing_lost_doubled_or_damaged(sink: StartOurSink, tls: str, bdat: bool) -> None:
    running = sink("--tls", tls)
    settings = LoadSettings(
        target=running.address, messages=500, size="4k:7,100k:2,1m:1", recipients=2, bdat=bdat, tls=tls
    )
    output = load(settings, "--json", "-")
    result = msgspec.json.decode(output.out, type=LoadResult)
    counts = running.end()
    assert (output.code, mishaps(result)) == (0, NO_MISHAPS)
    assert [counts[name] for name in ("messages", "recipients", "unique", "doubled", "damaged", "unmarked")] == [
        *(500, 1000, 1000, 0, 0, 0)
    ]
    assert result.bytes == counts["bytes"]


class EndingSink:
    """`postroika bench sink` that ends by itself after so many messages."""

    def __init__(self, directory: Path, messages: int) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._file = directory / "sink.json"
        options = ["--listen", self.address, "--messages", str(messages), "--json", str(self._file)]
        self.process = Process(
            [sys.executable, "-m", "postroika", "bench", "sink", *options], log=directory / "bench-sink.log"
        )

    def counts(self) -> dict[str, int]:
        """What it has seen, when it has enough."""
        assert self.process.wait(60) == 0, self.process.output()
        counts = msgspec.json.decode(self._file.read_bytes())
        return {name: counts[name] for name in ("messages", "recipients", "unique", "doubled", "damaged", "unmarked")}


@pytest.mark.parametrize("how", [{}, {"bdat": True}, {"pipelining": False}], ids=["across", "bdat", "step by step"])
@pytest.mark.parametrize("server", ["postfix", "postroika"])
def test_servers_relay_all_of_it(postfix: StartPostfix, tmp_path: Path, server: str, how: dict[str, object]) -> None:
    with ExitStack() as stack:
        sink = EndingSink(tmp_path, 300)
        stack.enter_context(sink.process)
        sink.process.wait_accepting(*_host_port(sink.address))
        if server == "postfix":
            target = postfix(relayhost=sink.address).address
        else:
            route = f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{sink.address}"\n'
            (tmp_path / "server").mkdir()
            target = f"127.0.0.1:{stack.enter_context(Postroika(tmp_path / 'server', route)).port}"
        output = load(LoadSettings(target=target, messages=300, recipients=2, size="4k:4,50k:1", **how), "--json", "-")
        result = msgspec.json.decode(output.out, type=LoadResult)
        assert (output.code, result.messages, mishaps(result)) == (0, 300, NO_MISHAPS)
        assert sink.counts() == {
            "messages": 300,
            "recipients": 600,
            "unique": 600,
            "doubled": 0,
            "damaged": 0,
            "unmarked": 0,
        }


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_people_get_a_table_and_files_are_for_programs(sink: StartOurSink, tmp_path: Path) -> None:
    running = sink()
    files = [tmp_path / "result.json", tmp_path / "status.json"]
    output = load(
        LoadSettings(target=running.address, messages=0, duration_s=0.6, sessions=2),
        *("--json", str(files[0]), "--status", str(files[1])),
    )
    result = msgspec.json.decode(files[0].read_bytes(), type=LoadResult)
    status = msgspec.json.decode(files[1].read_bytes(), type=LoadStatus)
    assert 0 < status.messages <= result.messages
    assert [line.split()[0] for line in output.out.splitlines()] == [
        *("messages", "recipients", "latency", "sessions", "CPU")
    ]
    assert output.out.startswith(f"messages    {result.messages} in ")
    assert list(tmp_path.glob("*.new")) == []


def test_a_refused_message_is_told_and_makes_the_exit_code(smtp_sink: StartSink) -> None:
    server = smtp_sink("-r", "RCPT")
    output = load(LoadSettings(target=server.address, messages=3, sessions=1, pipelining=False))
    assert output.code == 1
    assert "\nnot done    3 failed (0 in doubt), 0 unsent, 3 recipients refused\n" in output.out
    assert output.out.endswith("\n          3 RCPT: 450 4.3.0 Error: command failed\n")


def test_nobody_listens(tmp_path: Path) -> None:
    output = load(LoadSettings(target=f"127.0.0.1:{free_port()}", messages=3, sessions=1, patience_s=0))
    assert output.code == 1
    assert output.out.endswith(
        "not done    0 failed (0 in doubt), 3 unsent, 0 recipients refused\n          1 greeting: Connection refused\n"
    )


def test_a_server_that_cannot_do_it_is_one_line(smtp_sink: StartSink) -> None:
    server = smtp_sink("-p")
    output = load(LoadSettings(target=server.address, messages=3))
    assert (output.code, output.out) == (1, f"postroika: {server.address}: the server does not offer PIPELINING\n")
