"""policy.checks: who is asked, in which order, and who is not."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from postroika.config import Blocklist, Config, Policy
from postroika.mail.envelope import Recipient
from postroika.mail.reply import Reply, reply
from postroika.policy.checks import Checks
from postroika.policy.names import Found
from postroika.policy.null_sender import TOO_MANY_RECIPIENTS
from postroika.policy.pipeline import STAGES, Client
from postroika.policy.sender_domain import NO_DOMAIN
from postroika.smtp.server_events import Mail, Rcpt
from tests.component.login_world import House as ProxyHouse
from tests.component.smtp_client import Inbound
from tests.component.xclient_peer import OPEN, begin

MAIL = Mail("a@elsewhere.example")
NOTICE = Mail("")
RCPT = Rcpt("you@ours.example", "you", "ours.example")
LISTED = reply(550, "5.7.1", "192.0.2.1 is listed at bl.example")
ALL = {
    "max_connections_per_net": 100, "messages_per_minute": 1, "recipients_per_minute": 1,
    "null_sender_recipients": 1, "null_sender_messages_per_minute": 1, "sender_domain_resolves": True,
}  # fmt: skip


class Names:
    """Every client is on every list, no domain exists."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ipv4(self, name: str) -> Found:
        self.asked.append(name)
        return Found(("127.0.0.2",)) if not name.startswith("1.0.0.127.") else Found(exists=False)

    async def ipv6(self, name: str) -> Found:
        raise NotImplementedError

    async def mail_hosts(self, name: str) -> Found:
        self.asked.append(name)
        return Found(exists=False)


def checks(names: Names | None = None, **settings: Any) -> Checks:
    lists = (Blocklist(zone="bl.example"),) if settings.pop("listed", False) else ()
    return Checks(Config(policy=Policy(**settings), blocklist=lists), names or Names(), lambda: 100.0)


def stages(checks: Checks, client: Client) -> list[str]:
    return [stage for stage in STAGES if checks.pipeline.of(client).judges(stage)]


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, []),
        ({"connections_per_minute": 1}, ["connect"]),
        ({"messages_per_minute": 1}, ["mail"]),
        ({"net_recipients_per_minute": 1}, ["rcpt"]),
        ({"null_sender_messages_per_minute": 1}, ["mail"]),
        ({"null_sender_recipients": 1}, ["rcpt"]),
        ({"sender_domain_resolves": True}, ["mail"]),
        ({"listed": True}, ["rcpt"]),
        ({"listed": True, "connect": ("blocklists",), "ehlo": ("blocklists",), "rcpt": ()}, ["connect", "helo"]),
        ({**ALL, "listed": True}, ["connect", "mail", "rcpt"]),
        ({**ALL, "listed": True, "connect": (), "mail": (), "rcpt": ()}, []),
    ],
)
def test_what_is_not_configured_is_not_asked(settings: dict[str, Any], asked: list[str]) -> None:
    assert stages(checks(**settings), Client("192.0.2.1")) == asked


def test_trusted_and_exempt_clients_are_not_asked() -> None:
    made = checks(**ALL, listed=True, exempt=("198.51.100.0/24", "2001:db8::/32"))
    assert stages(made, Client("203.0.113.1", trusted=True)) == []
    assert stages(made, Client("198.51.100.7")) == []
    assert stages(made, Client("2001:db8:1::7")) == []
    assert stages(made, Client("198.51.101.7")) == ["connect", "mail", "rcpt"]
    assert stages(made, Client("2001:db9::7")) == ["connect", "mail", "rcpt"]


def test_whose_address_is_not_known_is_not_exempt() -> None:
    made = checks(**ALL, exempt=("198.51.100.0/24",))
    assert stages(made, Client("198.51.100.7", known=False)) == ["connect", "mail", "rcpt"]


async def test_who_has_logged_in_is_let_pass() -> None:
    names = Names()
    pipeline = checks(names, **ALL, listed=True).pipeline
    client = Client("192.0.2.1", account="ann", mail=NOTICE, recipients=[Recipient("x@y.example")])
    for _ in range(3):
        assert await pipeline.judge("mail", client, MAIL) is None
        assert await pipeline.judge("mail", client, NOTICE) is None
        assert await pipeline.judge("rcpt", client, RCPT) is None
    assert names.asked == []


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        (("null_sender", "blocklists"), TOO_MANY_RECIPIENTS),
        (("blocklists", "null_sender"), LISTED),
        (("null_sender",), TOO_MANY_RECIPIENTS),
        ((), None),
    ],
)
async def test_the_operator_says_the_order(order: tuple[str, ...], verdict: Reply | None) -> None:
    pipeline = checks(rcpt=order, null_sender_recipients=1, listed=True).pipeline
    client = Client("192.0.2.1", mail=NOTICE, recipients=[Recipient("x@y.example")])
    assert await pipeline.judge("rcpt", client, RCPT) == verdict


async def test_cheap_checks_come_first_by_default() -> None:
    names = Names()
    pipeline = checks(names, messages_per_minute=1, sender_domain_resolves=True).pipeline
    client = Client("192.0.2.1")
    assert await pipeline.judge("mail", client, MAIL) == NO_DOMAIN
    assert await pipeline.judge("mail", client, MAIL) == reply(
        450, "4.7.1", "too many messages from your address; try again in 60 s"
    )
    assert names.asked == ["elsewhere.example"]


async def test_connection_that_ends_makes_room(nursery: trio.Nursery) -> None:
    pipeline = checks(max_connections_per_net=1).pipeline
    first = Inbound(nursery, pipeline=pipeline, ip="192.0.2.1")
    await first.greet()
    second = Inbound(nursery, pipeline=pipeline, ip="192.0.2.2")
    full = "421 4.7.0 too many connections from 192.0.2.0/24, please try again later\n"
    assert await second.read() == full
    await second.ended.wait()
    assert await Inbound(nursery, pipeline=pipeline, ip="192.0.2.3").read() == full
    await first.say(b"QUIT\r\n")
    await first.ended.wait()
    await Inbound(nursery, pipeline=pipeline, ip="192.0.2.4").greet()
    assert [(event.stage, event.reply.code) for event in second.events] == [("connect", 421)]


async def test_trusted_client_keeps_the_short_way(nursery: trio.Nursery) -> None:
    """10.0.0.1 is in the trusted network of `Inbound`: nobody is asked, and all is answered in one go."""
    inbound = Inbound(nursery, pipeline=checks(**ALL, listed=True).pipeline)
    await inbound.greet()
    said = await inbound.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\nDATA\r\n")
    assert said == "250 2.1.0 Ok\n250 2.1.5 Ok\n250 2.1.5 Ok\n354 End data with <CR><LF>.<CR><LF>\n"


async def test_client_of_a_proxy_is_judged_by_its_own_address(nursery: trio.Nursery) -> None:
    """The proxy is trusted, and nobody is asked about it; whoever comes through it is a stranger."""
    made = checks(max_connections_per_net=1, messages_per_minute=1)
    peer = await begin(ProxyHouse(nursery, rules=OPEN), pipeline=made.pipeline)
    mail = b"MAIL FROM:<a@b.example>\r\nRSET\r\n"
    accepted, reset = "250 2.1.0 Ok\n", "250 2.0.0 Ok\n"
    assert await peer.say(mail * 2) == (accepted + reset) * 2
    await peer.introduce(b"ADDR=192.0.2.1")
    refused = "450 4.7.1 too many messages from your address; try again in 60 s\n"
    assert await peer.say(mail * 2) == accepted + reset + refused + reset
    full = "421 4.7.0 too many connections from 192.0.2.0/24, please try again later\n"
    assert await Inbound(nursery, pipeline=made.pipeline, ip="192.0.2.2").read() == full
    await peer.introduce(b"ADDR=198.51.100.1")
    assert await peer.say(mail) == accepted + reset
    await Inbound(nursery, pipeline=made.pipeline, ip="192.0.2.2").greet()


async def test_block_lists_are_asked_apart_from_senders() -> None:
    names, list_names = Names(), Names()
    config = Config(policy=Policy(sender_domain_resolves=True), blocklist=(Blocklist(zone="bl.example"),))
    pipeline = Checks(config, names, lambda: 100.0, list_names=list_names).pipeline
    client = Client("192.0.2.1")
    assert await pipeline.judge("mail", client, MAIL) == NO_DOMAIN
    assert await pipeline.judge("rcpt", client, RCPT) == LISTED
    assert (names.asked, list_names.asked) == (
        ["elsewhere.example"], ["1.2.0.192.bl.example", "1.0.0.127.bl.example"],
    )  # fmt: skip
