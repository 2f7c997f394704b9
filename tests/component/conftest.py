"""What several component tests stand on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from postroika.config import Listener
from postroika.policy import accounts
from postroika.pump import Pump, loop, open_pump
from postroika.tls.certificates import ListenerTls
from tests.component.login_world import HASH
from tests.component.secured_client import CA
from tests.component.strands import nonblocking


@pytest.fixture
async def pump() -> AsyncIterator[Pump]:
    """One for the strands of a test; those that are left at its end are interrupted."""
    async with open_pump() as pump:
        yield pump
        pump.nursery.cancel_scope.cancel()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and theirs; neither blocks."""
    ours, theirs = nonblocking(*socket.socketpair())
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The same over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    nonblocking(ours, theirs)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> ListenerTls:
    """Of a listener with STARTTLS, for mx.test."""
    path = tmp_path_factory.mktemp("tls")
    leaf = CA.issue_cert("mx.test")
    leaf.cert_chain_pems[0].write_to_path(str(path / "mx.pem"))
    leaf.private_key_pem.write_to_path(str(path / "mx.key"))
    return ListenerTls(
        Listener(address="127.0.0.1:25", tls="starttls", certificate=f"{path}/mx.pem", key=f"{path}/mx.key")
    )


@pytest.fixture
def raw() -> Iterator[list[socket.socket]]:
    """Sockets to be closed."""
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The password "secret" matches HASH, no other. What was hashed, in order."""
    seen: list[str] = []

    def matches(stored: str, password: str) -> bool:
        seen.append(stored)
        return stored == HASH and password == "secret"

    monkeypatch.setattr(accounts, "matches", matches)
    return seen


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_pump() -> Iterator[None]:
    """Of one run in the next: the loop is the process's."""
    yield
    assert (loop.running, list(loop.runnable), loop._stepping) == (None, [], False)
