"""Who may send what, with real name servers and real clients: block lists, sender domains, rates, the null sender."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from postroika.policy.blocklists import reversed_address
from tests.system.command import command
from tests.system.dns_server import DnsServer
from tests.system.peers import RunSource, RunSwaks, SmtpSink, start_sink
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.submission import IN, PASSWORD, credentials

ZONE = f"""
2.0.0.127.bl          A 127.0.0.2
4.0.0.127.bl          A 127.0.0.10
{reversed_address("::1")}.bl A 127.0.0.3
2.0.0.127.codes       A 127.0.0.2
4.0.0.127.codes       A 127.0.0.10
*.everybody           A 127.0.0.2
*.refuses             A 127.255.255.254
mx.ours               A 127.0.0.1
good                  MX 10 mx.ours
address               A 192.0.2.1
address6              AAAA 2001:db8::1
nullmx                MX 0 .
text                  TXT "no mail here"
"""
STRANGERS = '[relay]\nnetworks = ["192.0.2.0/24"]\ndomains = ["ours.test"]\n'
BODY = b"Subject: x\r\n\r\nx\r\n"


class World:
    """A server for strangers, with a next hop that takes all."""

    def __init__(self, path: Path, stack: ExitStack, config: str, *, workers: int = 1, host: str = "") -> None:
        self.sink: SmtpSink = start_sink(path / "sink", dump=True)
        stack.callback(self.sink.stop)
        path = path / "server"
        path.mkdir()
        self.port6 = free_port("::1") if host else 0
        more = f'[[listener]]\naddress = "[{host}]:{self.port6}"\n' if host else ""
        self.server = Postroika(
            path,
            f'{more}{config}[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{self.sink.address}"\n',
            workers=workers,
        )
        self._stack = stack

    def start(self) -> None:
        self._stack.enter_context(self.server)

    def dialogue(self, source: str = "127.0.0.1") -> Dialogue:
        return Dialogue(self.server.port, "client.test", source=source)

    def refusals(self, **wanted: Any) -> list[dict[str, Any]]:
        return [
            event
            for event in self.server.events_of("rejected")
            if all(event.get(member) == value for member, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsServer]:
    server = DnsServer(ZONE, tmp_path_factory.mktemp("dns"))
    yield server
    server.stop()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    with ExitStack() as stack:

        def start(config: str, **how: Any) -> World:
            world = World(tmp_path, stack, config, **how)
            world.start()
            return world

        yield start


def resolving(dns: DnsServer) -> str:
    return f'{STRANGERS}[dns]\nservers = ["{dns.address}"]\n'


# ---- block lists


def test_clients_on_block_lists_are_refused(make: Callable[..., World], dns: DnsServer, swaks: RunSwaks) -> None:
    world = make(
        f'{resolving(dns)}[[blocklist]]\nzone = "codes.test"\nanswers = ["127.0.0.10"]\n'
        'reply = "ask {zone} of {ip}"\n[[blocklist]]\nzone = "BL.test"\n',
        host="::1",
    )
    server = f"127.0.0.1:{world.server.port}"
    listed = swaks(server, "--local-interface", "127.0.0.2", to="you@ours.test")
    assert listed.returncode == 24
    assert "550 5.7.1 127.0.0.2 is listed at bl.test" in listed.replies
    assert (
        "550 5.7.1 ask codes.test of 127.0.0.4"
        in swaks(server, "--local-interface", "127.0.0.4", to="you@ours.test").replies
    )
    free = swaks(server, "--local-interface", "127.0.0.3", to="you@ours.test", sender="free@swaks.test")
    assert free.returncode == 0
    with Dialogue(world.port6, "six.test", host="::1") as client:
        assert client.say("MAIL FROM:<a@six.test>") == "250 2.1.0 Ok"
        assert client.say("RCPT TO:<you@ours.test>") == "550 5.7.1 ::1 is listed at bl.test"
        assert client.say("RCPT TO:<me@ours.test>") == "550 5.7.1 ::1 is listed at bl.test"
    (message,) = world.sink.wait_for(1)
    assert message.sender == "free@swaks.test"
    wait_until(lambda: len(world.refusals()) == 4, "four events", 30)
    event = world.refusals()[0]
    assert event["reply"] == {
        "code": 550, "enhanced": "5.7.1", "text": "127.0.0.2 is listed at bl.test", "stage": "rcpt", "local": True,
    }  # fmt: skip
    assert (event["client"]["ip"], event["recipient"]) == ("127.0.0.2", "you@ours.test")
    assert world.server.metrics()['postroika_policy_refusals_total{check="blocklists"}'] == 4


def test_refused_at_once(make: Callable[..., World], dns: DnsServer) -> None:
    world = make(f'{resolving(dns)}[policy]\nconnect = ["blocklists"]\n[[blocklist]]\nzone = "bl.test"\n')
    with world.dialogue("127.0.0.2") as client:
        assert client.greeting == "554 5.7.1 127.0.0.2 is listed at bl.test"
        assert client.reply() == ""
    with world.dialogue("127.0.0.3") as client:
        assert client.greeting.startswith("220 ")


def test_who_has_logged_in_or_is_exempt_may_be_on_a_list(tmp_path: Path, dns: DnsServer) -> None:
    with ExitStack() as stack:
        port = free_port()
        world = World(
            tmp_path,
            stack,
            f'[[listener]]\naddress = "127.0.0.1:{port}"\nrole = "submission"\nauth_without_tls = true\n'
            f'{resolving(dns)}[accounts]\nfile = "accounts.toml"\n[policy]\nexempt = ["127.0.0.4/32"]\n'
            '[[blocklist]]\nzone = "bl.test"\n',
        )
        added = command(world.server, "account", "add", "ann@shop.test", stdin=PASSWORD.encode())
        assert added.code == 0, added.err
        world.start()
        with Dialogue(port, "home.test", source="127.0.0.2") as client:
            assert client.say(f"AUTH PLAIN {credentials('ann@shop.test')}") == IN
            content = b"From: ann@shop.test\r\n\r\nx\r\n"
            assert client.message("ann@shop.test", ["you@else.test"], content).startswith("250 2.0.0 ")
        with world.dialogue("127.0.0.4") as client:
            assert client.message("partner@x.test", ["you@ours.test"], BODY).startswith("250 2.0.0 ")
            assert client.say("MAIL FROM:<partner@x.test>") == "250 2.1.0 Ok"
            assert client.say("RCPT TO:<you@else.test>") == "550 5.7.1 relay access denied"
        assert len(world.sink.wait_for(2)) == 2


def test_lists_that_fail_block_no_mail(make: Callable[..., World], tmp_path: Path) -> None:
    dns = DnsServer(ZONE, tmp_path / "own-dns")
    zones = ("list.broken.test", "everybody.test", "refuses.test")
    lists = "".join(f'[[blocklist]]\nzone = "{zone}"\n' for zone in zones)
    try:
        world = make(f"{resolving(dns)}[policy]\ndns_timeout_s = 1.5\n{lists}")
        for number in range(2, 7):
            with world.dialogue(f"127.0.0.{number}") as client:
                assert client.message("a@x.test", ["you@ours.test"], BODY).startswith("250 2.0.0 ")
        log = world.server.output()
        assert "the block list list.broken.test is left alone for 60 s: it does not answer" in log
        assert "the block list everybody.test is left alone for 600 s: it lists 127.0.0.1, so it lists everybody" in log
        assert "the block list refuses.test is left alone for 600 s: it answers 127.255.255.254" in log
        assert world.server.metrics()["postroika_blocklist_failures_total"] >= 4
        dns.stop()
        with world.dialogue("127.0.0.9") as client:
            assert client.message("a@x.test", ["you@ours.test"], BODY).startswith("250 2.0.0 ")
    finally:
        dns.stop()


def test_name_servers_that_are_gone_block_no_mail(make: Callable[..., World]) -> None:
    world = make(
        f'{STRANGERS}[dns]\nservers = ["127.0.0.1:{free_port()}"]\n[policy]\ndns_timeout_s = 1\n'
        '[[blocklist]]\nzone = "bl.test"\n'
    )
    with world.dialogue("127.0.0.2") as client:
        assert client.message("a@x.test", ["you@ours.test"], BODY).startswith("250 2.0.0 ")


# ---- the domain of the reverse-path


def test_domain_of_the_reverse_path_has_to_resolve(make: Callable[..., World], dns: DnsServer, swaks: RunSwaks) -> None:
    world = make(f"{resolving(dns)}[policy]\nsender_domain_resolves = true\n")
    no_domain = "550 5.1.8 the domain of the reverse-path does not exist"
    with world.dialogue() as client:
        for sender, said in (
            ("a@good.test", "250 2.1.0 Ok"),
            ("a@address.test", "250 2.1.0 Ok"),
            ("a@address6.test", "250 2.1.0 Ok"),
            ("", "250 2.1.0 Ok"),
            ("a@[192.0.2.1]", "250 2.1.0 Ok"),
            ("a@nowhere.test", no_domain),
            ("a@text.test", "550 5.1.8 the domain of the reverse-path has neither MX nor address records"),
            ("a@nullmx.test", "550 5.7.27 the domain of the reverse-path takes no mail (null MX)"),
            (
                "a@deep.broken.test",
                "451 4.4.3 the domain of the reverse-path cannot be looked up, please try again later",
            ),
        ):
            assert (sender, client.say(f"MAIL FROM:<{sender}>")) == (sender, said)
            client.say("RSET")
    transcript = swaks(f"127.0.0.1:{world.server.port}", to="you@ours.test", sender="a@nowhere.test")
    assert (transcript.returncode, no_domain in transcript.replies) == (23, True)
    assert swaks(f"127.0.0.1:{world.server.port}", to="you@ours.test", sender="a@good.test").returncode == 0
    wait_until(lambda: len(world.refusals()) == 5, "five events", 30)
    assert [event["reply"]["enhanced"] for event in world.refusals(sender="a@nullmx.test")] == ["5.7.27"]
    assert world.server.metrics()['postroika_policy_refusals_total{check="sender_domain"}'] == 5


# ---- rates


def test_rates_hold_over_all_workers(make: Callable[..., World]) -> None:
    world = make(f"{STRANGERS}[policy]\nconnections_per_minute = 10\nmessages_per_minute = 6\n", workers=2)
    greetings = []
    for _ in range(14):
        with Dialogue(world.server.port) as client:
            greetings.append(client.greeting[:9])
    assert sorted(set(greetings)) == ["220 mx.po", "421 4.7.0"]
    assert greetings.count("220 mx.po") == 10
    with world.dialogue("127.0.0.2") as client:
        said = [(client.say("MAIL FROM:<a@x.test>")[:9], client.say("RSET"))[0] for _ in range(4)]
    assert said == ["250 2.1.0"] * 3 + ["450 4.7.1"]  # one worker's share
    wait_until(lambda: len(world.refusals()) == 5, "five events", 30)
    assert sorted(event["reply"]["stage"] for event in world.refusals()) == ["connect"] * 4 + ["mail"]
    figures = world.server.metrics()
    assert figures['postroika_policy_refusals_total{check="rates"}'] == 5
    assert figures['postroika_rejections_total{stage="connect"}'] == 4


def test_a_network_has_limits_of_its_own(make: Callable[..., World]) -> None:
    world = make(
        f"{STRANGERS}[policy]\nmax_connections_per_net = 2\nnet_recipients_per_minute = 3\nipv4_net_bits = 24\n"
    )
    with world.dialogue("127.0.0.1") as first, world.dialogue("127.0.0.2") as second:
        with world.dialogue("127.0.0.3") as third:
            assert third.greeting == "421 4.7.0 too many connections from 127.0.0.0/24, please try again later"
        with world.dialogue("127.0.1.1") as other:
            assert other.greeting.startswith("220 ")
        said = []
        for client in (first, second):
            client.say("MAIL FROM:<a@x.test>")
            said += [client.say(f"RCPT TO:<r{number}@ours.test>")[:9] for number in range(2)]
        assert said == ["250 2.1.5"] * 3 + ["450 4.7.1"]

    def lets_in() -> bool:
        with world.dialogue("127.0.0.3") as again:
            return again.greeting.startswith("220 ")

    wait_until(lets_in, "the two to be gone", 10)


def test_trusted_networks_have_no_rates(make: Callable[..., World], smtp_source: RunSource) -> None:
    world = make(
        "[policy]\nconnections_per_minute = 1\nmessages_per_minute = 1\nrecipients_per_minute = 1\n"
        "max_connections_per_net = 1\nnull_sender_recipients = 1\nnull_sender_messages_per_minute = 1\n"
    )
    address = f"127.0.0.1:{world.server.port}"
    smtp_source(address, messages=50, sessions=5, recipients=3)
    smtp_source(address, messages=10, sessions=5, recipients=3, sender="")
    assert world.server.wait_for_events(180, "received")
    assert world.refusals() == []


def test_a_stranger_is_held_to_its_rate(make: Callable[..., World], smtp_source: RunSource) -> None:
    world = make(f"{STRANGERS}[policy]\nmessages_per_minute = 5\n")
    smtp_source(f"127.0.0.1:{world.server.port}", messages=5, recipient="you@ours.test")
    sent = smtp_source(f"127.0.0.1:{world.server.port}", messages=1, recipient="you@ours.test", check=False)
    assert "450 4.7.1 too many messages from your address; try again in " in sent.output
    assert len(world.sink.wait_for(5)) == 5


# ---- the null sender


def test_null_sender_is_limited(make: Callable[..., World], swaks: RunSwaks) -> None:
    world = make(f"{STRANGERS}[policy]\nnull_sender_recipients = 1\nnull_sender_messages_per_minute = 2\n")
    server = f"127.0.0.1:{world.server.port}"
    notice = swaks(server, to="a@ours.test,b@ours.test", sender="<>")
    assert "452 4.5.3 too many recipients for a message without sender" in notice.replies
    assert swaks(server, to="a@ours.test,b@ours.test").returncode == 0
    assert [message.recipients for message in world.sink.wait_for(2)].count(("a@ours.test",)) >= 1
    assert swaks(server, to="a@ours.test", sender="<>").returncode == 0
    third = swaks(server, to="a@ours.test", sender="<>")
    assert third.returncode == 23
    assert any(
        line.startswith("450 4.7.1 too many messages without sender; try again in ") for line in third.replies
    ), third.text
    assert [event["sender"] for event in world.refusals(recipient="b@ours.test")] == [""]
