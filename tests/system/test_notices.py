"""Delivery status notifications, end to end: they arrive in the sender's mailbox of a real Postfix, and are read there.

The mailboxes of sender.test are Postfix's; so are those of shop.test, a next hop that knows the DSN extension.
"""

from __future__ import annotations

import email
import email.policy
import email.utils
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from email.message import EmailMessage, Message
from pathlib import Path

import pytest

from tests.system.postfix_peer import Postfix, start_postfix
from tests.system.process import wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import OurSink, start_our_sink

_CONFIG = """
[retry]
delays_s = [1]
down_delays_s = [1]
jitter = 0
delay_dsn_after_s = 1
expire_after_s = {expire_after_s}
[delivery]
connection_idle_s = 0.2
[[route]]
domains = ["sender.test", "shop.test"]
next_hop = "smtp://{postfix}"
[[route]]
domains = ["nodsn.test"]
next_hop = "smtp://{no_dsn}"
[[route]]
domains = ["*"]
next_hop = "smtp://{sink}"
"""
_HEADER = b"From: Me <me@sender.test>\r\nTo: you@refuse.test\r\nSubject: Hello\r\nMessage-ID: <%d@sender.test>\r\n"
_BODY = b"\r\nSome words.\r\n.\r\nMore words.\r\n"


class Notice:
    """A multipart/report as a program reads it."""

    def __init__(self, content: bytes) -> None:
        self.message = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(self.message, EmailMessage)
        assert self.message.get_content_type() == "multipart/report", content
        assert not self.message.defects
        words, status, self.returned = self.message.iter_parts()
        self.words: str = words.get_content()
        assert status.get_content_type() == "message/delivery-status"
        blocks = status.get_payload()
        assert isinstance(blocks, list)
        self.head, *self.recipients = [_fields(block) for block in blocks]

    def header_returned(self) -> Message:
        """The header of the message that it is about."""
        if self.returned.get_content_type() == "text/rfc822-headers":
            return email.message_from_string(self.returned.get_content())
        assert self.returned.get_content_type() == "message/rfc822"
        content = self.returned.get_payload(0)
        assert isinstance(content, Message)
        return content


def _fields(block: object) -> dict[str, str]:
    assert isinstance(block, Message)
    return {name: " ".join(value.split()) for name, value in block.items()}


class World:
    """A server between a client and its next hops."""

    def __init__(self, path: Path, stack: ExitStack, *, expire_after_s: float = 600) -> None:
        self.postfix: Postfix = start_postfix(stack, virtual=["sender.test", "shop.test"])
        self.no_dsn: OurSink = start_our_sink(path, "--without", "DSN", store=True)
        stack.enter_context(self.no_dsn.process)
        self.sink: OurSink = start_our_sink(path, "--refuse", "*@refuse.test", "--defer", "*@defer.test")
        stack.enter_context(self.sink.process)
        config = _CONFIG.format(
            postfix=self.postfix.address,
            no_dsn=self.no_dsn.address,
            sink=self.sink.address,
            expire_after_s=expire_after_s,
        )
        self.server = stack.enter_context(Postroika(path, config, workers=1))
        self._numbers = itertools.count(1)

    def sender(self) -> str:
        """An address that no other test uses."""
        return f"s{next(self._numbers)}@sender.test"

    def send(self, sender: str, recipients: Sequence[str], parameters: str = "", number: int = 1) -> str:
        """One message. `recipients` may carry parameters behind the address. Returns its id."""
        with self.server.dialogue() as client:
            assert client.say(f"MAIL FROM:<{sender}>{parameters}").startswith("250")
            for recipient in recipients:
                address, _, rest = recipient.partition(" ")
                assert client.say(f"RCPT TO:<{address}> {rest}".rstrip()).startswith("250")
            assert client.say("DATA").startswith("354")
            client.send(_HEADER % number + _BODY.replace(b"\r\n.", b"\r\n.."))
            reply = client.say(".")
            assert reply.startswith("250 2.0.0 Ok: queued as ")
            return reply.rpartition(" ")[2]

    def mail_of(self, address: str) -> list[bytes]:
        """What is in a mailbox."""
        marker = f"\nDelivered-To: {address}\n".encode()
        return [content for content in self.postfix.mailbox() if marker in content]

    def notices(self, sender: str, count: int = 1) -> list[Notice]:
        """The notices that a sender has got, as soon as there are `count`."""
        wait_until(lambda: len(self.mail_of(sender)) >= count, f"{count} notices for {sender}", 30)
        return [Notice(content) for content in self.mail_of(sender)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def test_failure_is_told_to_the_sender(world: World) -> None:
    sender = world.sender()
    message = world.send(sender, ["you@refuse.test", "too@refuse.test", "fine@nodsn.test"])
    (notice,) = world.notices(sender)
    head = notice.message
    assert head["Return-Path"] == "<>"
    assert head["From"] == "Mail Delivery System <MAILER-DAEMON@mx.postroika.test>"
    assert (head["To"], head["Subject"]) == (sender, "Undelivered mail returned to sender")
    assert (head["Auto-Submitted"], head["References"]) == ("auto-replied", "<1@sender.test>")
    assert email.utils.parsedate_to_datetime(head["Date"]).tzinfo is not None
    assert notice.head.pop("Arrival-Date")
    assert notice.head == {"Reporting-MTA": "dns; mx.postroika.test", "X-Postroika-Queue-ID": message}
    for fields, local in zip(notice.recipients, ("you", "too"), strict=True):
        assert fields.pop("Last-Attempt-Date")
        assert fields == {
            "Final-Recipient": f"rfc822; {local}@refuse.test",
            "Action": "failed",
            "Status": "5.1.1",
            "Remote-MTA": "dns; [127.0.0.1]",
            "Diagnostic-Code": f"smtp; 550 5.1.1 <{local}@refuse.test>: the sink refuses this recipient",
        }
        assert f"<{local}@refuse.test>" in notice.words
    assert "fine@nodsn.test" not in notice.words
    returned = notice.header_returned()
    assert (returned["Subject"], returned["Message-ID"]) == ("Hello", "<1@sender.test>")
    assert returned["Received"].startswith("from dialogue.test ([127.0.0.1])")
    assert returned.get_payload() == ""


def test_wishes_of_the_sender_are_heeded(world: World) -> None:
    sender = world.sender()
    world.send(sender, ["never@refuse.test NOTIFY=NEVER", "good@refuse.test NOTIFY=SUCCESS"], number=1)
    world.send(sender, ["delay@refuse.test NOTIFY=DELAY", "fail@refuse.test NOTIFY=DELAY,FAILURE"], number=2)
    world.send(sender, ["last@refuse.test NOTIFY=FAILURE"], number=3)
    told = [fields["Final-Recipient"] for notice in world.notices(sender, 2) for fields in notice.recipients]
    assert told == ["rfc822; fail@refuse.test", "rfc822; last@refuse.test"]


def test_envid_orcpt_and_ret_are_given_back(world: World) -> None:
    sender = world.sender()
    world.send(
        sender,
        ["you@refuse.test ORCPT=rfc822;Ich+2BDu@Shop.test"],
        " RET=FULL ENVID=QQ+2B314159+3D",
    )
    world.send(sender, ["you@refuse.test"], " RET=HDRS")
    full, header = sorted(world.notices(sender, 2), key=lambda notice: "Original-Envelope-Id" not in notice.head)
    assert full.head["Original-Envelope-Id"] == "QQ+314159="
    assert full.recipients[0]["Original-Recipient"] == "rfc822; Ich+Du@Shop.test"
    content = full.header_returned()
    assert content["Subject"] == "Hello"
    assert content.get_payload() == "Some words.\n.\nMore words.\n"
    assert header.returned.get_content_type() == "text/rfc822-headers"


def test_success_is_told_where_the_next_hop_does_not_know_of_dsn(world: World) -> None:
    sender = world.sender()
    world.send(sender, ["you@nodsn.test NOTIFY=SUCCESS ORCPT=rfc822;you@elsewhere.test"], " ENVID=E1")
    (notice,) = world.notices(sender)
    assert notice.message["Subject"] == "Mail passed on to the next server"
    assert notice.head["Original-Envelope-Id"] == "E1"
    (fields,) = notice.recipients
    assert fields.pop("Last-Attempt-Date")
    assert fields == {
        "Original-Recipient": "rfc822; you@elsewhere.test",
        "Final-Recipient": "rfc822; you@nodsn.test",
        "Action": "relayed",
        "Status": "2.0.0",
        "Remote-MTA": "dns; [127.0.0.1]",
        "Diagnostic-Code": "smtp; 250 2.0.0 Ok",
    }
    # A parameter that it has not offered would have been refused with 555.
    (arrived,) = [message for message in world.no_dsn.messages() if message.reverse_path == sender]
    assert arrived.recipients == ("you@nodsn.test",)


def test_wishes_go_on_to_a_next_hop_that_knows_dsn(world: World) -> None:
    """Postfix delivers, and it is Postfix that then tells the sender, with what we have passed on."""
    sender = world.sender()
    world.send(sender, ["Box@shop.test NOTIFY=SUCCESS ORCPT=rfc822;o+2Bo@elsewhere.test"], " RET=HDRS ENVID=E+2B2")
    (notice,) = world.notices(sender)
    assert notice.head["Reporting-MTA"] == "dns; postfix.test"
    assert notice.head["Original-Envelope-Id"] == "E+2"
    (fields,) = notice.recipients
    assert (fields["Original-Recipient"], fields["Action"]) == ("rfc822;o+o@elsewhere.test", "delivered")
    assert notice.returned.get_content_type() == "text/rfc822-headers"
    assert len(world.mail_of("Box@shop.test")) == 1


def test_delay_is_told_once(world: World) -> None:
    sender = world.sender()
    world.send(sender, ["you@defer.test", "quiet@defer.test NOTIFY=FAILURE"])
    (notice,) = world.notices(sender)
    assert notice.message["Subject"] == "Delayed mail (still being tried)"
    (fields,) = notice.recipients
    assert fields.pop("Will-Retry-Until")
    fields.pop("Last-Attempt-Date", None)
    host = fields.pop("Remote-MTA")
    assert host == "dns; [127.0.0.1]"
    assert fields == {
        "Final-Recipient": "rfc822; you@defer.test",
        "Action": "delayed",
        "Status": "4.7.1",
        "Diagnostic-Code": "smtp; 451 4.7.1 <you@defer.test>: the sink defers this recipient",
    }

    def attempts() -> int:
        return max(
            (event["attempt"] for event in world.server.events_of("deferred") if event["sender"] == sender), default=0
        )

    so_far = attempts()
    wait_until(lambda: attempts() >= so_far + 2, "two more attempts", 30)
    assert len(world.mail_of(sender)) == 1


def test_nobody_is_told_of_what_the_null_sender_sent(world: World) -> None:
    """Nor of a notice that cannot be delivered itself."""
    world.send("", ["you@refuse.test"])
    world.send("gone@refuse.test", ["you@refuse.test"])

    def bounced() -> list[tuple[str, str]]:
        return sorted(
            (event["sender"], event["recipient"])
            for event in world.server.events_of("bounced")
            if event["sender"] in {"", "gone@refuse.test"}
        )

    expected = [("", "gone@refuse.test"), ("", "you@refuse.test"), ("gone@refuse.test", "you@refuse.test")]
    wait_until(lambda: bounced() == expected, "the bounces", 30)
    notices = [
        event["recipient"]
        for event in world.server.events_of("received")
        if event["sender"] == "" and "client" not in event and event["destination"] == "refuse.test"
    ]
    assert notices == ["gone@refuse.test"]


def test_expiry_is_told(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack, expire_after_s=3)
        sender = world.sender()
        world.send(sender, ["you@defer.test"])
        notices = {notice.message["Subject"]: notice for notice in world.notices(sender, 2)}
        assert set(notices) == {"Delayed mail (still being tried)", "Undelivered mail returned to sender"}
        (fields,) = notices["Undelivered mail returned to sender"].recipients
        assert (fields["Action"], fields["Status"]) == ("failed", "4.7.1")
        (event,) = world.server.wait_for_events(1, "expired")
        assert event["recipient"] == "you@defer.test"
        assert event["reply"]["text"] == "<you@defer.test>: the sink defers this recipient"
        world.server.wait_until_drained()
