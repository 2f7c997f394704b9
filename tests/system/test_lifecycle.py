"""Starting, stopping, being killed, being started twice."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.system.peers import StartSink
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika

_TO = '[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{address}"\n[retry]\ndelays_s = [1]\ndown_delays_s = [1]\n'


_PROCESS = '[process]\nuser = "root"\n' if os.geteuid() == 0 else ""
_MESSAGE = b"Subject: x\r\n\r\nx\r\n"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def serve(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A `postroika serve` that is expected to end by itself."""
    command = [sys.executable, "-m", "postroika", "serve", *options]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_workers_end_with_their_supervisor_and_a_restart_can_follow_at_once(
    tmp_path: Path, smtp_sink: StartSink
) -> None:
    sink = smtp_sink(dump=True)
    with Postroika(tmp_path, _TO.format(address=sink.address)) as server:
        workers = server.worker_pids()
        assert len(workers) == 2
        server.kill()
        server.start()
        assert not any(alive(pid) for pid in workers)
        with server.dialogue() as client:
            assert client.message("", ["a@shop.test"], _MESSAGE).startswith("250 2.0.0 Ok: queued as ")
        assert sink.wait_for(1)[0].recipients == ("a@shop.test",)


def test_a_worker_that_dies_is_started_again_and_delivers_what_it_had_accepted(
    tmp_path: Path, smtp_sink: StartSink
) -> None:
    port = free_port()
    with Postroika(tmp_path, _TO.format(address=f"127.0.0.1:{port}"), workers=1) as server:
        with server.dialogue() as client:
            client.message("", ["a@shop.test"], _MESSAGE)
        server.wait_for_events(1, "deferred")
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.worker_pids() not in ([], [worker]), "a new worker")
        sink = smtp_sink(dump=True, port=port)
        assert sink.wait_for(1)[0].recipients == ("a@shop.test",)
    assert "worker 0 has ended (killed by signal 9); it is started again" in server.output()


def test_a_second_instance_on_the_same_spool_is_refused(tmp_path: Path) -> None:
    with Postroika(tmp_path, "[spool]\nlock_wait_s = 0.5\n") as server:
        second = server.config_file.read_text().replace(str(server.port), str(free_port()))
        other = tmp_path / "second.toml"
        other.write_text(second)
        result = serve(tmp_path, "--config", str(other))
        assert result.returncode == 75
        assert result.stderr.strip() == f"postroika: {server.spool}: another Postroika is running on this spool"
        with server.dialogue() as client:
            assert client.say("NOOP").startswith("250")


def test_a_taken_port_is_named_in_one_line(tmp_path: Path) -> None:
    with Postroika(tmp_path) as server:
        other = tmp_path / "second"
        other.mkdir()
        (other / "postroika.toml").write_text(f'{_PROCESS}[[listener]]\naddress = "127.0.0.1:{server.port}"\n')
        result = serve(other)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"postroika: cannot listen on 127.0.0.1:{server.port}: Address already in use; another program listens there"
    )


def test_a_foreign_spool_is_named_in_one_line_and_left_alone(tmp_path: Path) -> None:
    shard = tmp_path / "spool" / "shard-00"
    shard.mkdir(parents=True)
    (shard / "data.mdb").write_bytes(b"precious" * 4096)
    (tmp_path / "postroika.toml").write_text(
        f'{_PROCESS}[server]\nworkers = 1\nspool = "spool"\n[[listener]]\naddress = "127.0.0.1:{free_port()}"\n'
    )
    result = serve(tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"postroika: {shard}/data.mdb cannot be opened: ")
    assert result.stderr.splitlines()[-1].endswith("; it was left as it is")
    assert (shard / "data.mdb").read_bytes() == b"precious" * 4096


def test_stopping_finishes_a_message_under_way_and_says_421_to_idle_clients(
    tmp_path: Path, smtp_sink: StartSink
) -> None:
    sink = smtp_sink(dump=True)
    with Postroika(tmp_path, _TO.format(address=sink.address)) as server:
        with server.dialogue() as idle, server.dialogue() as busy:
            idle.say("EHLO idle.test")
            busy.say("EHLO busy.test")
            busy.say("MAIL FROM:<>")
            busy.say("RCPT TO:<a@shop.test>")
            assert busy.say("DATA").startswith("354")
            busy.send(b"Subject: under way\r\n\r\nhalf")
            server.process.signal(signal.SIGTERM)
            assert idle.reply().startswith("421 4.3.2")
            busy.send(b" and half\r\n")
            assert busy.say(".").startswith("250 2.0.0 Ok: queued as ")
            assert busy.reply().startswith("421 4.3.2")
        assert server.process.wait(60) == 0
        assert server.spool.exists()
        server.start()
        (received,) = sink.wait_for(1)
        assert received.content.endswith(b"\n\nhalf and half\n")


def test_fewer_workers_drain_the_shards_of_more(tmp_path: Path, smtp_sink: StartSink) -> None:
    port = free_port()
    with Postroika(tmp_path, _TO.format(address=f"127.0.0.1:{port}"), workers=3) as server:
        for number in range(6):
            with server.dialogue() as client:
                client.message("", [f"r{number}@shop.test"], _MESSAGE)
        server.wait_for_events(6, "deferred")
        assert server.stop() == 0
        server.config_file.write_text(server.config_file.read_text().replace("workers = 3", "workers = 1"))
        sink = smtp_sink(dump=True, port=port)
        server.start()
        assert sorted(m.recipients for m in sink.wait_for(6)) == [(f"r{n}@shop.test",) for n in range(6)]
        assert "shards 1 to 2 are left from a run with more workers and are drained" in server.output()


def test_connections_of_one_client_are_spread_evenly(tmp_path: Path) -> None:
    with Postroika(tmp_path, workers=2) as server:
        clients = [server.dialogue() for _ in range(10)]
        counts = [sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in server.worker_pids()]
        assert abs(counts[0] - counts[1]) <= 1
        for client in clients:
            with client:
                assert client.say("QUIT").startswith("221")


def test_a_shells_modest_limit_of_open_files_does_not_cut_off_clients(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        server = Postroika(tmp_path, "[limits]\nmax_connections = 500\n", workers=1)
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ExitStack() as stack:
        stack.callback(server.stop)
        clients = [stack.enter_context(server.dialogue(helo="")) for _ in range(200)]
        assert {client.greeting for client in clients} == {"220 mx.postroika.test ESMTP Postroika"}


def test_sighup_opens_a_moved_log_anew(tmp_path: Path, smtp_sink: StartSink) -> None:
    sink = smtp_sink()
    with Postroika(tmp_path, _TO.format(address=sink.address)) as server:
        with server.dialogue() as client:
            client.message("", ["a@shop.test"], _MESSAGE)
        server.wait_for_events(1, "delivered")
        server.event_log.rename(tmp_path / "moved.jsonl")
        server.process.signal(signal.SIGHUP)
        wait_until(server.event_log.exists, "a new event log")
        with server.dialogue() as client:
            client.message("", ["b@shop.test"], _MESSAGE)
        assert server.wait_for_events(1, "delivered")[0]["recipient"] == "b@shop.test"


def test_a_next_hop_that_says_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """As below: a lane that waits for a greeting would take the grace of 15 s."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        with Postroika(tmp_path, _TO.format(address=address), workers=1) as server:
            with server.dialogue() as client:
                client.message("", ["a@shop.test"], _MESSAGE)
            connection, _ = silent.accept()
            with connection:
                began = time.monotonic()
                assert server.stop() == 0
                assert time.monotonic() - began < 10
    (queued,) = json.loads(server.run("queue", "list", "--json"))["messages"]
    assert (queued["first_recipients"], queued["attempts"]) == (["a@shop.test"], 0)


def test_start_and_stop_are_quick(tmp_path: Path) -> None:
    """Not a speed claim: a hang in the shutdown order would take one of its grace periods (5 s and more)."""
    with Postroika(tmp_path) as server:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
