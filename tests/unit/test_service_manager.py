"""process.service_manager: datagrams as sd_notify(3) has them, received by a real Unix socket."""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from postroika.process.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Its socket, and what NOTIFY_SOCKET says."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@postroika-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(10)
        yield listener, name


def test_what_it_is_told(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    teller = ServiceManager(address, 60)
    teller.ready("Accepting mail on 127.0.0.1:25")
    teller.reloading()
    teller.alive()
    teller.stopping()
    said = [listener.recv(4096).decode() for _ in range(4)]
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[1-9]\d+", said.pop(1))
    assert said == [
        "READY=1\nSTATUS=Accepting mail on 127.0.0.1:25",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=Finishing what is under way",
    ]


def test_environment_is_taken_so_that_nobody_inherits_it(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    environment = {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    teller = ServiceManager.of_environment(environment)
    assert environment == {"PATH": "/bin"}
    assert teller.watchdog_s == 30
    teller.alive()
    assert listener.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1500000"}, 1.5),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, 0),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"}, 0),
        ({"NOTIFY_SOCKET": "/run/x"}, 0),
        ({"WATCHDOG_USEC": "1500000"}, 0),
    ],
)
def test_who_is_watched(environment: dict[str, str], watchdog_s: float) -> None:
    assert ServiceManager.of_environment(environment).watchdog_s == watchdog_s


def test_without_a_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    teller = ServiceManager.of_environment({})
    teller.ready("")
    teller.alive()
    assert caplog.messages == []


def test_kind_of_socket_that_is_not_known(caplog: pytest.LogCaptureFixture) -> None:
    teller = ServiceManager.of_environment({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000"})
    teller.ready("")
    assert teller.watchdog_s == 0
    assert caplog.messages == [
        "NOTIFY_SOCKET=vsock:2:1234 is of a kind that is not known; the service manager is told nothing"
    ]


def test_manager_that_is_gone_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager(str(tmp_path / "gone")).ready("x")
    assert caplog.messages == ["the service manager cannot be told READY=1: No such file or directory"]
