"""HTTPS servers for policies of MTA-STS: OpenSSL's own, `openssl s_server -HTTP`, one for each host, on loopback.

All listen on one port, each at an address of its own, so that records in a zone lead to them.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.system.certificates import Authority
from tests.system.process import Process, free_port, program

PLAIN = "Content-Type: text/plain"


def response(body: str | bytes, *fields: str, status: str = "200 OK") -> bytes:
    """What a server answers, octet by octet."""
    octets = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(octets)}", "Connection: close"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + octets


class PolicyHost:
    """A server at an address.

    Args:
        name: that it is to be called by (SNI); who asks for another gets an alert.
        certificate: with its key.
        options: more for openssl(1).
    """

    def __init__(
        self, directory: Path, address: str, port: int, name: str, certificate: Path, options: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.address = address
        self._file = directory / ".well-known" / "mta-sts.txt"
        self._file.parent.mkdir(parents=True)
        self.log = directory / "s_server.log"
        literal = f"[{address}]" if ":" in address else address
        command = [program("openssl", "openssl"), "s_server", "-HTTP", "-accept", f"{literal}:{port}"]
        command += ["-cert", certificate, "-key", certificate, "-cert2", certificate, "-key2", certificate]
        command += ["-servername", name, "-servername_fatal", *options]
        self.process = Process(command, log=self.log, cwd=directory)
        self.process.wait_accepting(address, port)

    def answers(self, octets: bytes) -> Self:
        """From now on."""
        self._file.write_bytes(octets)
        return self

    def holds_its_tongue(self) -> None:
        """It accepts connections, and says nothing on them."""
        self.process.signal(signal.SIGSTOP)

    def times_asked(self) -> int:
        """How many requests have come."""
        return self.log.read_text(errors="replace").count("FILE:")


class PolicyHosts:
    """All of them; a context manager that ends them.

    Args:
        directory: theirs, empty.
        domain: below which their policies are for.
    """

    def __init__(self, directory: Path, domain: str = "test") -> None:
        self.port = free_port()
        self.authority = Authority(directory)
        self._directory = directory
        self._domain = domain
        self._running = ExitStack()
        self._addresses = (f"127.0.0.{number}" for number in itertools.count(10))
        self._zone = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.close()

    def start(
        self,
        label: str,
        *names: str,
        called: str = "",
        address: str = "",
        expired: bool = False,
        authority: Authority | None = None,
        options: Sequence[str] = (),
    ) -> PolicyHost:
        """The policy host of LABEL.test.

        Args:
            names: in its certificate; its own without any.
            called: the name that it is asked for by, if not its own.
            address: a loopback one of its own without any.
            options: more for openssl(1).
        """
        name = f"mta-sts.{label}.{self._domain}"
        address = address or next(self._addresses)
        directory = self._directory / label
        directory.mkdir()
        certificate = (authority or self.authority).issue(*(names or (name,)), expired=expired)
        host = PolicyHost(directory, address, self.port, called or name, certificate, options)
        self._running.callback(host.process.kill)
        kind = "AAAA" if ":" in address else "A"
        self._zone += f'_mta-sts.{label} TXT "v=STSv1; id=1;"\nmta-sts.{label} {kind} {address}\n'
        return host

    @property
    def zone(self) -> str:
        """The records of all of them."""
        return self._zone
