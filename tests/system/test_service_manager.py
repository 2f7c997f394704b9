"""What a service manager hears from a server, in a real Unix socket; and systemd's judgement of the unit."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.process import program, wait_until
from tests.system.server import Postroika

_UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "postroika.service"
_WATCHDOG_S = 1.5


class Manager:
    """The other end of NOTIFY_SOCKET; `said` has all that came, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        self._socket.setblocking(False)

    def hear(self) -> list[str]:
        """All that was said so far."""
        while True:
            try:
                self.said.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.said

    def wait_for(self, first_line: str, count: int = 1) -> None:
        """Wait until it was said for the `count`th time."""
        wait_until(lambda: [said.splitlines()[0] for said in self.hear()].count(first_line) >= count, first_line)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@postroika-test-{uuid.uuid4()}"
    listening = Manager(name)
    yield listening
    listening.close()


def test_ready_reloading_and_stopping_are_told_in_order(manager: Manager, tmp_path: Path) -> None:
    with Postroika(tmp_path, env={"NOTIFY_SOCKET": manager.name}) as server:
        manager.wait_for("READY=1")
        accepting = f"READY=1\nSTATUS=Accepting mail on 127.0.0.1:{server.port}"
        assert manager.said == [accepting]
        with server.dialogue() as client:  # it has said so when it was true
            assert client.greeting.startswith("220")
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in server.worker_pids()]
        assert [b"NOTIFY_SOCKET" in environment for environment in environments] == [False, False]
        server.process.signal(signal.SIGHUP)
        manager.wait_for("READY=1", 2)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.said[1])
        assert manager.said[2:] == [accepting]
        assert server.stop() == 0
        assert manager.hear()[3:] == ["STOPPING=1\nSTATUS=Finishing what is under way"]


def test_watchdog_is_fed_until_a_worker_hangs_and_again_when_it_goes_on(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    watched = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": str(int(_WATCHDOG_S * 1_000_000))}
    with Postroika(tmp_path, env=watched) as server:
        manager.wait_for("WATCHDOG=1", 3)
        hanging = server.worker_pids()[1]
        before = len(server.output())
        os.kill(hanging, signal.SIGSTOP)
        try:
            wait_until(lambda: "is not told that all is well" in server.output()[before:], "the end of patience", 30)
            fed = manager.hear().count("WATCHDOG=1")
            time.sleep(2 * _WATCHDOG_S)  # as long as a service manager would wait, and once more
            assert manager.hear().count("WATCHDOG=1") == fed
        finally:
            os.kill(hanging, signal.SIGCONT)
        manager.wait_for("WATCHDOG=1", fed + 2)
    manager.close()


def test_nothing_is_said_before_all_workers_are_ready(tmp_path: Path) -> None:
    """A start that fails never says that it is ready."""
    manager = Manager(str(tmp_path / "notify"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Postroika(tmp_path, port=port, env={"NOTIFY_SOCKET": manager.name})
        with pytest.raises(pytest.fail.Exception, match="another program listens there"):
            server.start()
    assert manager.hear() == []
    manager.close()


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there."""
    text, count = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", _UNIT.read_text())
    assert count == 1
    path = tmp_path / _UNIT.name
    path.write_text(text)
    return path


def test_unit_is_correct(unit: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_unit_exposes_little(unit: Path) -> None:
    """systemd's own measure, from 0 to 10; what is left of it is the network, which a mail server needs."""
    analyze = program("systemd-analyze", "systemd")
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level for postroika.service: 1." in done.stdout


def test_unit_has_what_the_server_relies_on() -> None:
    settings = dict(
        line.split("=", 1) for line in _UNIT.read_text().splitlines() if "=" in line and not line.startswith("#")
    )
    wanted = {
        "Type": "notify",
        "NotifyAccess": "main",
        "KillMode": "mixed",
        "ExecReload": "/bin/kill -HUP $MAINPID",
        "RestartPreventExitStatus": "78",
        "User": "postroika",
    }
    assert {key: settings[key] for key in wanted} == wanted
    assert int(settings["WatchdogSec"]) > 3 * 10  # a worker that was killed is back before the second look
