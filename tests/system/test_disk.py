"""A disk that is full, and a disk that fails."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.peers import StartSink
from tests.system.process import free_port, program, wait_until
from tests.system.server import Postroika

_CONFIG = """
[retry]
delays_s = [1]
down_delays_s = [0.3]
[spool]
low_water_bytes = 4194304
[[route]]
domains = ["*"]
next_hop = "smtp://127.0.0.1:{port}"
"""
_BODY = b"Subject: filler\r\n\r\n" + (b"0123456789abcdef" * 4 + b"\r\n") * 3000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    path = tmp_path / "small"
    path.mkdir()
    mount, umount = program("mount", "mount"), program("umount", "mount")
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("missing peer: mounting a tmpfs needs root", pytrace=False)
        pytest.skip("missing peer: mounting a tmpfs needs root")
    subprocess.run([mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", path], check=True)
    yield path
    subprocess.run([umount, "--lazy", path], check=True)


def test_a_full_disk_is_told_with_452_and_intake_comes_back_by_itself(
    small_disk: Path, tmp_path: Path, smtp_sink: StartSink
) -> None:
    port = free_port()
    with Postroika(small_disk, _CONFIG.format(port=port), workers=1) as server:
        accepted, refused = 0, ""
        with server.dialogue() as client:
            client.say("EHLO filler.test")
            for number in range(200):
                reply = client.say("MAIL FROM:<>")
                if not reply.startswith("250"):
                    refused = reply
                    break
                client.say(f"RCPT TO:<r{number}@shop.test>")
                if not (reply := client.say("DATA")).startswith("354"):
                    refused = reply
                    break
                client.send(_BODY)
                if not (reply := client.say(".")).startswith("250"):
                    refused = reply
                    break
                accepted += 1
            assert refused.startswith("452 4.3.1 "), server.output()
            assert accepted > 10
        (worker,) = server.worker_pids()

        # What was accepted is delivered although the disk is full, and then there is room again.
        sink = smtp_sink(port=port)
        server.run("queue", "flush")
        server.wait_for_events(accepted, "delivered")
        assert sink.process.returncode is None

        def taken_again() -> bool:
            with server.dialogue() as client:
                return client.say("MAIL FROM:<>").startswith("250")

        wait_until(taken_again, "intake to come back")
        with server.dialogue() as client:
            assert client.message("", ["again@shop.test"], _BODY).startswith("250")
        server.wait_for_events(accepted + 1, "delivered")
        assert server.worker_pids() == [worker]
        recipients = [event["recipient"] for event in server.events_of("delivered")]
        assert sorted(recipients) == sorted(
            [*(f"r{number}@shop.test" for number in range(accepted)), "again@shop.test"]
        )


def test_a_disk_filled_by_others_is_survived(small_disk: Path, smtp_sink: StartSink) -> None:
    port = free_port()
    with Postroika(small_disk, _CONFIG.format(port=port), workers=1) as server:
        with server.dialogue() as client:
            for number in range(5):
                client.message("", [f"r{number}@shop.test"], b"Subject: x\r\n\r\nx\r\n")
        server.wait_for_events(5, "deferred")
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        (worker,) = server.worker_pids()

        def refused() -> bool:
            with server.dialogue() as client:
                return client.say("MAIL FROM:<>").startswith("452 4.3.1 ")

        wait_until(refused, "a refusal")
        sink = smtp_sink(port=port)
        assert sink.process.returncode is None
        # The event log has no room either, so wait for the one thing that can be seen: the freed disk shows all.
        ballast.unlink()
        server.run("queue", "flush")
        delivered = server.wait_for_events(5, "delivered")
        assert sorted(event["recipient"] for event in delivered) == [f"r{number}@shop.test" for number in range(5)]
        assert server.worker_pids() == [worker]
        with server.dialogue() as client:
            assert client.message("", ["again@shop.test"], b"Subject: x\r\n\r\nx\r\n").startswith("250")


@pytest.mark.parametrize(
    ("fault", "told", "said"),
    [
        # Nobody is told anything: what the disk holds is unknown.
        ("sync", {"", "451"}, "the disk of the spool failed"),
        # LMDB calls this a full disk, and then takes nothing more, full or not.
        ("meta", {"452"}, "MDB_PANIC"),
    ],
)
def test_a_disk_that_fails_ends_the_worker_and_never_gives_a_250(
    tmp_path: Path, smtp_sink: StartSink, fault: str, told: set[str], said: str
) -> None:
    compiler = shutil.which("cc") or program("gcc", "gcc")
    library, switch = tmp_path / "fault.so", tmp_path / "fault"
    source = Path(__file__).with_name("disk_fault.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    sink = smtp_sink(dump=True)
    home = tmp_path / "home"
    home.mkdir()
    env = {"LD_PRELOAD": str(library), "DISK_FAULT": str(switch)}
    with Postroika(home, _CONFIG.format(port=sink.port), workers=1, env=env) as server:
        with server.dialogue() as client:
            assert client.message("", ["before@shop.test"], b"Subject: 1\r\n\r\nx\r\n").startswith("250")
        sink.wait_for(1)
        (worker,) = server.worker_pids()
        switch.write_text(fault)
        with server.dialogue() as client:
            client.say("MAIL FROM:<>")
            client.say("RCPT TO:<during@shop.test>")
            client.say("DATA")
            client.send(b"Subject: 2\r\n\r\nx\r\n")
            assert client.say(".")[:3] in told
        wait_until(lambda: worker not in server.worker_pids(), "the worker to end")
        switch.unlink()

        def taken_again() -> bool:
            with server.dialogue() as client:
                return client.greeting.startswith("220")

        wait_until(taken_again, "a new worker", within_s=30)
        with server.dialogue() as client:
            assert client.message("", ["after@shop.test"], b"Subject: 3\r\n\r\nx\r\n").startswith("250")
        received = [message.recipients for message in sink.wait_for(2)]
        assert received[0] == ("before@shop.test",)
        assert ("after@shop.test",) in received
        assert server.stop() == 0
        assert said in server.output()
