"""IPv6: clients come over it, next hops are reached over it, by name and by address, and IPv4 stays where it fails."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.command import command
from tests.system.dns_server import DnsServer
from tests.system.peers import RunSource, StartSink
from tests.system.process import free_port
from tests.system.server import Dialogue, Postroika

_MESSAGE = b"Subject: six\r\n\r\nx\r\n"
_BY_MX = """
[dns]
servers = ["{dns}"]
mx_port = {port}
ipv6 = "prefer"
allow_private = ["::1/128", "127.1.0.0/16"]
[delivery]
connection_idle_s = 0.2
"""


@pytest.fixture(autouse=True)
def _loopback() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"missing peer: this machine has no IPv6 loopback ({error.strerror})")


def listening_on_both(path: Path, config: str) -> Postroika:
    """A server that listens on the same port of 127.0.0.1 and of ::1."""
    server = Postroika(path, config, workers=1)
    text = server.config_file.read_text()
    server.config_file.write_text(f'{text}[[listener]]\naddress = "[::1]:{server.port}"\n')
    return server


def test_mail_comes_in_and_goes_out(tmp_path: Path, smtp_source: RunSource, smtp_sink: StartSink) -> None:
    sink = smtp_sink(dump=True, host="::1")
    with listening_on_both(tmp_path, f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{sink.address}"\n') as server:
        smtp_source(f"[::1]:{server.port}", messages=3, sender="me@six.test", recipient="you@shop.test")
        events = server.wait_for_events(3, "delivered")
        assert {event["recipient"] for event in events} == {"you@shop.test"}
        assert [event["peer"] for event in events] == [{"host": "::1", "ip": "::1", "port": sink.port}] * 3
        assert {event["site"] for event in events} == {sink.address}
        assert {event["client"]["ip"] for event in server.events_of("received")} == {"::1"}
        arrived = sink.wait_for(3)
        assert {message.client for message in arrived} == {"ipv6:::1"}  # the words of smtp-sink
        stamp = re.compile(rb"(?m)^Received: from \S+ \(\[IPv6:::1\]\)$")
        assert [len(stamp.findall(message.content)) for message in arrived] == [1] * 3
        sent = command(server, "send", "--to", "you@shop.test", "--server", f"[::1]:{server.port}", "--wait")
        assert (sent.code, sent.err) == (0, "")


def test_networks_of_both_kinds_are_told_apart(tmp_path: Path, smtp_sink: StartSink) -> None:
    sink = smtp_sink(dump=True, host="::1")
    config = (
        '[relay]\nnetworks = ["::1/128"]\ndomains = []\n'
        f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{sink.address}"\n'
    )
    with listening_on_both(tmp_path, config) as server:
        replies = {}
        for host in ("127.0.0.1", "::1"):
            with Dialogue(server.port, "both.test", host=host) as client:
                client.say("MAIL FROM:<>")
                replies[host] = client.say("RCPT TO:<you@shop.test>")
        assert replies == {"127.0.0.1": "550 5.7.1 relay access denied", "::1": "250 2.1.5 Ok"}


def test_mx_host_is_reached_where_it_listens(
    tmp_path: Path, dns_server: Callable[[str], DnsServer], smtp_sink: StartSink
) -> None:
    """six.test has an IPv6 address alone; nobody is at home at that of both.test, and its IPv4 address takes over."""
    port = free_port("::1")
    sink6, sink4 = smtp_sink(dump=True, host="::1", port=port), smtp_sink(dump=True, host="127.1.0.1", port=port)
    dns = dns_server(
        "six MX 10 mx.six\nmx.six AAAA ::1\n"
        "both MX 10 mx.both\nmx.both A 127.1.0.1\nmx.both AAAA ::ffff:127.1.0.9\n"
        "prefers MX 10 mx.prefers\nmx.prefers A 127.1.0.1\nmx.prefers AAAA ::1\n"
    )
    with Postroika(tmp_path, _BY_MX.format(dns=dns.address, port=port), workers=1) as server:
        with server.dialogue() as client:
            recipients = ["a@six.test", "b@both.test", "c@prefers.test"]
            assert client.message("", recipients, _MESSAGE).startswith("250")
        events = server.wait_for_events(3, "delivered")
        reached = {event["recipient"]: (event["attempt"], event["peer"]["ip"]) for event in events}
        assert reached == {"a@six.test": (1, "::1"), "b@both.test": (1, "127.1.0.1"), "c@prefers.test": (1, "::1")}
        assert sorted(message.recipients for message in sink6.wait_for(2)) == [("a@six.test",), ("c@prefers.test",)]
        assert [message.recipients for message in sink4.wait_for(1)] == [("b@both.test",)]
