"""OpenSSL's own server, `openssl s_server`, as a next hop with TLS from the first octet on.

It does the TLS; what is said inside is that of the oracle in tests/reference, which a thread carries to and fro.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.reference.smtp_server import SmtpServer
from tests.system.process import free_port, program, wait_until


class OpenSslPeer:
    """One that is running, and takes one connection."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.session = SmtpServer(("PIPELINING", "8BITMIME", "SIZE 10000000"))
        self._log = log

    def log(self) -> str:
        """What it has said of its handshakes."""
        return self._log.read_text(errors="replace")


@contextmanager
def run_s_server(directory: Path, certificate: Path, *options: str) -> Iterator[OpenSslPeer]:
    """A server for one connection.

    Args:
        certificate: with its key.
        options: of s_server(1), as "-tls1_2", "-Verify", "1".
    """
    port = free_port()
    log = directory / "s_server.log"
    command = [program("openssl", "openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(certificate)]
    command += ["-key", str(certificate), "-quiet", "-no_ign_eof", "-naccept", "1", *options]
    peer = OpenSslPeer(port, log)
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdin is not None
    assert process.stdout is not None
    said, hears = process.stdin, process.stdout.fileno()

    def carry() -> None:
        try:
            said.write(peer.session.greet())
            said.flush()
            while (chunk := os.read(hears, 65536)) != b"":
                said.write(peer.session.receive(chunk))
                said.flush()
        except OSError:
            return  # the connection is over

    thread = threading.Thread(target=carry)
    try:
        wait_until(lambda: _listens(port), "s_server")
        thread.start()
        yield peer
    finally:
        process.kill()
        process.wait()
        if thread.ident is not None:
            thread.join()
        process.stdout.close()
        with suppress(OSError):
            said.close()


def _listens(port: int) -> bool:
    """Without connecting: it would take that for its one connection."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(wanted) and line.split()[3] == "0A" for line in lines)
