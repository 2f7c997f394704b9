"""A server of a test behind proxies, and clients that say by hand what proxies say.

127.0.0.2 is the proxy, ::2 would be one; 127.0.0.1 and ::1 are strangers, though they are as near.
"""

from __future__ import annotations

import email
import ipaddress
import socket
import ssl
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trustme

from tests.system.command import command
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink

PROXY = "127.0.0.2"
PASSWORD = "correct horse"
DENIED = "550 5.7.1 relay access denied"
NOT_FOR_YOU = "550 5.7.1 XCLIENT is not for you"
MESSAGE = b"From: ann@shop.test\r\nSubject: x\r\n\r\nx\r\n"
_LISTENER = """
[[listener]]
address = "{address}"
proxy_from = {proxy_from}
xclient_from = {xclient_from}
{more}
"""


class World:
    """A server whose listeners trust 127.0.0.2: `plain` and `implicit` as a proxy, `xclient` to use XCLIENT, `both`.
    But `behind_nginx` takes XCLIENT from 127.0.0.1, as nginx cannot choose from where it connects.

    From 127.0.0.2 itself and from 10.0.0.0/8 anything may be relayed, from all others only to ours.test.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self.authority = path / "ca.pem"
        authority.cert_pem.write_to_path(self.authority)
        certificate.private_key_pem.write_to_path(path / "key.pem")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(path / "cert.pem", append=True)
        (path / "key.pem").chmod(0o600)
        self.plain, self.implicit, self.xclient, self.both = (free_port() for _ in range(4))
        self.behind_nginx, self.six = free_port(), free_port("::1")
        pair = 'certificate = "cert.pem"\nkey = "key.pem"\n'
        trusts = '["127.0.0.2/32", "::2/128"]'
        listeners = [
            (f"127.0.0.1:{self.plain}", trusts, "[]", 'tls = "starttls"\n' + pair),
            (f"127.0.0.1:{self.implicit}", trusts, "[]", 'tls = "implicit"\n' + pair),
            (f"127.0.0.1:{self.xclient}", "[]", trusts, 'tls = "starttls"\n' + pair),
            (f"127.0.0.1:{self.both}", trusts, '["127.0.0.2/32", "10.9.0.0/16"]', ""),
            (f"127.0.0.1:{self.behind_nginx}", "[]", '["127.0.0.1/32"]', ""),
            (f"[::1]:{self.six}", trusts, trusts, ""),
        ]
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        self.server = Postroika(
            path,
            "".join(
                _LISTENER.format(address=address, proxy_from=proxy_from, xclient_from=xclient_from, more=more)
                for address, proxy_from, xclient_from, more in listeners
            )
            + '[relay]\nnetworks = ["127.0.0.2/32", "10.0.0.0/8"]\ndomains = ["ours.test"]\n'
            '[accounts]\nfile = "accounts.toml"\nfailure_delay_s = 0\n'
            "[limits]\nmax_connections_per_ip = 5\nproxy_timeout_s = 1.0\n"
            f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{self.sink.address}"\n',
            workers=1,
        )
        add = ("account", "add", "ann@shop.test", "--sender", "@shop.test", "--tenant", "shop")
        added = command(self.server, *add, stdin=PASSWORD.encode())
        assert added.code == 0, added.err
        stack.enter_context(self.server)

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    def received(self, sender: str) -> dict[str, Any]:
        """The event of the one message of a sender."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.server.events_of("received") if event["sender"] == sender]

        wait_until(found, f"the mail of {sender}", 30)
        (event,) = found()
        return event

    def stamp(self, sender: str) -> str:
        """The Received field that we have put on it, unfolded."""

        def found() -> list[Any]:
            return [message for message in self.sink.messages() if message.reverse_path == sender]

        wait_until(found, f"the mail of {sender}", 30)
        field = email.message_from_bytes(found()[0].content)["Received"]
        return " ".join(field.split())

    def rejected(self, stage: str, client_ip: str) -> list[str]:
        """The replies in such events, so far."""
        return [
            event["reply"]["text"]
            for event in self.server.events_of("rejected")
            if event["reply"]["stage"] == stage and event["client"]["ip"] == client_ip
        ]


def version_2(source: str, *, command: int = 0x21) -> bytes:
    block = (
        ipaddress.ip_address(source).packed + ipaddress.ip_address("198.51.100.1").packed + struct.pack("!HH", 1, 25)
    )
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, 0x11, len(block)) + block


def version_1(source: str) -> bytes:
    return f"PROXY TCP4 {source} 198.51.100.1 1 25\r\n".encode()


class Raw(Dialogue):
    """A connection on which the client speaks first."""

    def __init__(self, port: int, first: bytes, source: str = PROXY) -> None:
        self.sock = socket.create_connection(
            ("::1" if ":" in source else "127.0.0.1", port), timeout=30, source_address=(source, 0)
        )
        self._lines = self.sock.makefile("rb")
        self.send(first)
