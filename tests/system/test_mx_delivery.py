"""Delivery by MX, end to end: real name servers, real next hops on loopback addresses of their own.

One Postroika serves all tests of a process; each test has domains of its own, and decides what listens at their hosts.
"""

from __future__ import annotations

import email
import email.policy
import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.system.dns_server import DnsServer
from tests.system.peers import SmtpSink, start_sink
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika

CASES = 60
# N is the number of the case. The server may connect to 127.0.0.1 and 127.1.0.0/16, but not to 127.2.N.9.
_CASE = """
shopN         MX 10 primary.shopN
shopN         MX 20 backup.shopN
primary.shopN A 127.1.N.1
backup.shopN  A 127.1.N.2
bothN         MX 10 primary.shopN
bothN         MX 10 second.shopN
bothN         MX 20 backup.shopN
*.bothN       MX 10 primary.shopN
*.bothN       MX 10 second.shopN
*.bothN       MX 20 backup.shopN
second.shopN  A 127.1.N.3
bareN         A 127.1.N.4
nullN         MX 0 .
oursN         MX 10 primary.shopN
oursN         MX 20 mx.postroika
oursN         MX 30 backup.shopN
onlyoursN     MX 10 mx.postroika
outsideN      MX 10 insideN
insideN       A 127.2.N.9
"""
ZONE = "mx.postroika A 127.0.0.1\n" + "".join(_CASE.replace("N", str(number)) for number in range(CASES))
_CONFIG = """
[dns]
servers = ["{dns}"]
mx_port = {port}
allow_private = ["127.0.0.1/32", "127.1.0.0/16"]
timeout_s = 2
[retry]
delays_s = [600]
down_delays_s = [600]
jitter = 0
[delivery]
connection_idle_s = 0.2
connect_timeout_s = 3
greeting_timeout_s = 3
"""
_MESSAGE = b"Subject: by MX\r\n\r\nx\r\n"


class World:
    """A server, the name servers that it asks, and the port that all hosts of the zone listen on."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.dns = DnsServer(ZONE, path / "dns")
        stack.callback(self.dns.stop)
        self.port = free_port("127.1.0.1")
        config = _CONFIG.format(dns=self.dns.address, port=self.port)
        self.server = stack.enter_context(Postroika(path, config, workers=1))
        self.cases = itertools.count()


class Net:
    """The part of the world that belongs to one test."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.server = world.server
        self.port = world.port
        self.number = next(world.cases)
        self._path = world.path
        self._stack = stack

    def __call__(self, name: str) -> str:
        """The name that "shop", "both", … have in this test: "primary.shop" is "primary.shop7.test"."""
        return f"{name}{self.number}.test"

    def ip(self, name: str) -> str:
        """The address of a host."""
        last = {"primary.shop": 1, "backup.shop": 2, "second.shop": 3, "bare": 4}[name]
        return f"127.1.{self.number}.{last}"

    def host(self, name: str, *options: str) -> SmtpSink:
        """Let something listen at a host; options of smtp-sink(1)."""
        directory = self._path / f"{self(name)}-{len(list(self._path.iterdir()))}"
        sink = start_sink(directory, *options, dump=True, host=self.ip(name), port=self.port)
        self._stack.callback(sink.stop)
        return sink

    def send(self, *recipients: str, sender: str = "") -> None:
        """One message to "local@shop" and the like."""
        addresses = [f"{local}@{self(name)}" for local, name in (one.split("@") for one in recipients)]
        with self.server.dialogue() as client:
            assert client.message(sender, addresses, _MESSAGE).startswith("250")

    def flush(self, name: str) -> None:
        """Try the mail of a destination now."""
        self.server.flush(self(name))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Those of one type that are about this test's domains."""
        return [event for event in self.server.events_of(kind) if event["destination"].endswith(f"{self.number}.test")]

    def wait(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """The events of one type, as soon as there are `count`."""
        wait_until(lambda: len(self.events(kind)) >= count, f"{count} events {kind!r} of {self.number}.test", 30)
        return self.events(kind)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.fixture
def net(world: World) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(world, stack)


def told(event: dict[str, Any]) -> tuple[Any, ...]:
    """What an event says of the outcome: type, attempt, code and enhanced code, stage, whose words, host."""
    reply = event["reply"]
    return (
        event["type"],
        event.get("attempt", 0),
        reply["code"],
        reply.get("enhanced", ""),
        reply["stage"],
        "ours" if reply.get("local") else "theirs",
        event.get("peer", {}).get("host", ""),
    )


def assert_delivered_once_by_the_backup(net: Net, backup: SmtpSink) -> None:
    """At the first attempt, and nobody was told anything else."""
    (event,) = net.wait("delivered")
    assert told(event) == ("delivered", 1, 250, "2.0.0", "final_dot", "theirs", net("backup.shop"))
    assert [message.recipients for message in backup.messages()] == [(f"a@{net('shop')}",)]
    assert net.events("deferred") == net.events("bounced") == []


def test_primary_is_used_while_it_is_there(net: Net) -> None:
    primary, backup = net.host("primary.shop"), net.host("backup.shop")
    net.send("a@shop")
    (event,) = net.wait("delivered")
    assert told(event) == ("delivered", 1, 250, "2.0.0", "final_dot", "theirs", net("primary.shop"))
    assert event["peer"] == {"host": net("primary.shop"), "ip": net.ip("primary.shop"), "port": net.port}
    assert event["site"] == f"{net('backup.shop')},{net('primary.shop')}"
    assert (len(primary.messages()), len(backup.messages())) == (1, 0)


def test_equal_primaries_share_the_mail(net: Net) -> None:
    one, two, backup = net.host("primary.shop"), net.host("second.shop"), net.host("backup.shop")
    # Below bothN, every name has the same MX set: one site, but 24 destinations that choose for themselves.
    net.send(*(f"r@d{number}.both" for number in range(24)))
    net.wait("delivered", 24)
    counts = [sum(len(message.recipients) for message in host.messages()) for host in (one, two, backup)]
    assert sum(counts) == 24
    assert min(counts[:2]) > 0
    assert counts[2] == 0


def test_backup_delivers_while_the_primary_is_down(net: Net) -> None:
    backup = net.host("backup.shop")
    net.send("a@shop", "b@shop")
    events = net.wait("delivered", 2)
    assert {told(event) for event in events} == {
        ("delivered", 1, 250, "2.0.0", "final_dot", "theirs", net("backup.shop"))
    }
    (message,) = backup.wait_for(1)
    assert sorted(message.recipients) == [f"a@{net('shop')}", f"b@{net('shop')}"]


@pytest.mark.parametrize("command", ["CONNECT", "EHLO,HELO", "MAIL", "RCPT", "DATA", "."])
def test_backup_is_tried_when_the_primary_says_4xx(net: Net, command: str) -> None:
    net.host("primary.shop", "-r", command)
    backup = net.host("backup.shop")
    net.send("a@shop")
    assert_delivered_once_by_the_backup(net, backup)


@pytest.mark.parametrize("command", ["CONNECT", "EHLO,HELO"])
def test_backup_is_tried_when_the_primary_will_not_speak_with_us(net: Net, command: str) -> None:
    """5xx to the connection is about the host, not about the recipient."""
    net.host("primary.shop", "-f", command)
    backup = net.host("backup.shop")
    net.send("a@shop")
    assert_delivered_once_by_the_backup(net, backup)


@pytest.mark.parametrize(
    ("command", "stage"), [("MAIL", "mail"), ("RCPT", "rcpt"), ("DATA", "data"), (".", "final_dot")]
)
def test_backup_is_not_tried_after_5xx(net: Net, command: str, stage: str) -> None:
    net.host("primary.shop", "-f", command)
    backup = net.host("backup.shop")
    net.send("a@shop")
    (event,) = net.wait("bounced")
    assert told(event) == ("bounced", 1, 500, "5.3.0", stage, "theirs", net("primary.shop"))
    assert backup.messages() == []


@pytest.mark.parametrize("command", ["EHLO", "MAIL", "RCPT", "DATA"])
def test_backup_is_tried_when_the_primary_hangs_up(net: Net, command: str) -> None:
    net.host("primary.shop", "-q", command)
    backup = net.host("backup.shop")
    net.send("a@shop")
    assert_delivered_once_by_the_backup(net, backup)


def test_nobody_else_gets_a_message_whose_answer_was_lost(net: Net) -> None:
    """It may have been delivered; only the regular next attempt may make a second copy."""
    net.host("primary.shop", "-q", ".")
    backup = net.host("backup.shop")
    net.send("a@shop")
    (event,) = net.wait("deferred")
    assert told(event) == ("deferred", 1, 451, "4.4.2", "final_dot", "ours", net("primary.shop"))
    assert event["reply"]["text"].endswith("was lost with the connection; it may have been delivered")
    assert backup.messages() == []
    doubts = json.loads(net.server.run("queue", "list", "--in-doubt", "--json"))
    assert f"a@{net('shop')}" in json.dumps(doubts)


@pytest.mark.parametrize(("backlog", "fillers"), [(100, 0), (0, 2)])
def test_backup_delivers_while_the_primary_says_nothing(net: Net, backlog: int, fillers: int) -> None:
    """A host that takes connections and is silent; a host whose queue is full, so that it does not even take them."""
    with ExitStack() as stack:
        stack.enter_context(socket.create_server((net.ip("primary.shop"), net.port), backlog=backlog))
        for _ in range(fillers):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((net.ip("primary.shop"), net.port))
        backup = net.host("backup.shop")
        net.send("a@shop")
        (event,) = net.wait("delivered")
        assert told(event) == ("delivered", 1, 250, "2.0.0", "final_dot", "theirs", net("backup.shop"))
        assert event["at"] - event["queued_at"] >= 3
        assert len(backup.messages()) == 1


def test_deferred_by_all_hosts_tells_of_the_last_one(net: Net) -> None:
    net.host("primary.shop", "-r", "RCPT")
    net.host("backup.shop", "-r", "RCPT")
    net.send("a@shop")
    (event,) = net.wait("deferred")
    assert told(event) == ("deferred", 1, 450, "4.3.0", "rcpt", "theirs", net("backup.shop"))
    assert 590 < event["next_attempt_at"] - event["at"] < 610


def test_no_host_is_there_until_one_comes(net: Net) -> None:
    net.send("a@shop")
    (event,) = net.wait("deferred")
    assert told(event) == ("deferred", 1, 451, "4.4.1", "connect", "ours", net("backup.shop"))
    host = f"{net('backup.shop')} [{net.ip('backup.shop')}]:{net.port}"
    assert event["reply"]["text"] == f"{host} refused the connection"
    net.host("primary.shop")
    net.flush("shop")
    (event,) = net.wait("delivered")
    assert event["peer"]["host"] == net("primary.shop")


def test_implicit_mx(net: Net) -> None:
    host = net.host("bare")
    net.send("a@bare")
    (event,) = net.wait("delivered")
    assert told(event) == ("delivered", 1, 250, "2.0.0", "final_dot", "theirs", net("bare"))
    assert len(host.messages()) == 1


@pytest.mark.parametrize(
    ("name", "code", "enhanced", "text"),
    [
        ("null", 556, "5.1.10", "domain {domain} accepts no mail (null MX)"),
        ("nowhere", 550, "5.1.2", "domain {domain} does not exist"),
        ("outside", 550, "5.4.4", "inside{number}.test is refused: 127.2.{number}.9 is not a public address"),
        ("onlyours", 554, "5.4.6", "mail for {domain} loops back to myself"),
    ],
)
def test_what_cannot_be_routed_is_returned_at_once(net: Net, name: str, code: int, enhanced: str, text: str) -> None:
    mailbox = net.host("bare")
    domain, sender = net(name), f"me@{net('bare')}"
    net.send(f"a@{name}", sender=sender)
    (event,) = net.wait("bounced")
    assert told(event) == ("bounced", 1, code, enhanced, "routing", "ours", "")
    text = text.format(domain=domain, number=net.number)
    assert event["reply"]["text"] == text
    (notice,) = mailbox.wait_for(1)
    assert (notice.sender, notice.recipients) == ("", (sender,))
    report = email.message_from_bytes(notice.content, policy=email.policy.default)
    status = report.get_payload(1)
    assert isinstance(status, Message)
    fields = status.get_payload(1)
    assert isinstance(fields, Message)
    in_notice = {name: " ".join(value.split()) for name, value in fields.items()}
    assert in_notice.pop("Last-Attempt-Date")
    assert in_notice == {
        "Final-Recipient": f"rfc822; a@{domain}",
        "Action": "failed",
        "Status": enhanced,
        "Diagnostic-Code": f"x-postroika; {code} {enhanced} {text}",
    }


def test_our_own_name_cuts_the_worse_hosts(net: Net) -> None:
    """ours.test has us at 20: a mail relay must not pass mail on to hosts that are no better (RFC 5321 §5.1)."""
    backup = net.host("backup.shop")
    net.send("a@ours")
    (event,) = net.wait("deferred")
    assert told(event) == ("deferred", 1, 451, "4.4.1", "connect", "ours", net("primary.shop"))
    assert backup.messages() == []


def test_servfail_defers(net: Net) -> None:
    """Knot has no file for broken.test; see dns_server."""
    with net.server.dialogue() as client:
        assert client.message("", ["a@shop.broken.test"], _MESSAGE).startswith("250")

    def deferred() -> list[dict[str, Any]]:
        return [event for event in net.server.events_of("deferred") if event["destination"] == "shop.broken.test"]

    wait_until(deferred, "the deferral")
    (event,) = deferred()
    assert told(event) == ("deferred", 1, 451, "4.4.3", "routing", "ours", "")
    assert event["reply"]["text"] == "DNS look-up of MX for shop.broken.test failed: SERVFAIL"


def test_dead_name_servers_defer_and_are_asked_again(net: Net, world: World) -> None:
    net.host("primary.shop")
    world.dns.stop()
    net.send("a@shop")
    (event,) = net.wait("deferred")
    assert told(event) == ("deferred", 1, 451, "4.4.3", "routing", "ours", "")
    world.dns.start(ZONE)
    net.flush("shop")
    (event,) = net.wait("delivered")
    assert event["peer"]["host"] == net("primary.shop")
    # The failure was a few seconds old at most, and would still be remembered.
    assert len(net.events("deferred")) == 1
