"""Mail comes in from real clients: swaks, smtplib, aiosmtplib. (Postfix and smtp-source are in test_relay.)"""

from __future__ import annotations

import asyncio
import email.message
import email.policy
import itertools
import smtplib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiosmtplib
import pytest

from tests.system.peers import RunSwaks
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, StartOurSink, start_our_sink

_TO = '[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{address}"\n'
_EHLO = (
    "PIPELINING",
    "SIZE 52428800",
    "8BITMIME",
    "SMTPUTF8",
    "CHUNKING",
    "BINARYMIME",
    "DSN",
    "ENHANCEDSTATUSCODES",
    "LIMITS RCPTMAX=5000",
)


class World:
    """A server that trusts us, and a next hop that takes all."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        self.server = stack.enter_context(Postroika(path, _TO.format(address=self.sink.address), workers=1))

    def arrived(self, sender: str, recipients: int) -> dict[str, bytes]:
        """What came from a sender, by recipient, as soon as it has come for so many."""

        def found() -> list[tuple[str, bytes]]:
            return [
                (recipient, message.content)
                for message in self.sink.messages()
                if message.reverse_path == sender
                for recipient in message.recipients
            ]

        wait_until(lambda: len(found()) >= recipients, f"the mail of {sender}", 30)
        assert len(found()) == recipients
        return dict(found())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def test_what_ehlo_offers(world: World) -> None:
    with world.server.dialogue(helo="") as client:
        assert client.greeting == "220 mx.postroika.test ESMTP Postroika"
        reply = client.say("EHLO me.test").split("\n")
        assert reply == ["250-mx.postroika.test", *(f"250-{word}" for word in _EHLO[:-1]), f"250 {_EHLO[-1]}"]
        assert client.say("HELO me.test") == "250 mx.postroika.test"
        assert client.say("MAIL FROM:<a@x.test> SIZE=1") == "555 5.5.4 parameter not recognised or not offered: SIZE"


def test_swaks(world: World, swaks: RunSwaks) -> None:
    transcript = swaks(f"127.0.0.1:{world.server.port}", to="you@shop.test", sender="swaks@x.test")
    assert transcript.returncode == 0
    assert transcript.replies[1:-2] == [
        "250-mx.postroika.test",
        *(f"250-{word}" for word in _EHLO[:-1]),
        f"250 {_EHLO[-1]}",
        "250 2.1.0 Ok",
        "250 2.1.5 Ok",
        "354 End data with <CR><LF>.<CR><LF>",
    ]
    assert b"This is a test mailing" in world.arrived("swaks@x.test", 1)["you@shop.test"]


def test_swaks_with_pipelining_and_two_recipients(world: World, swaks: RunSwaks) -> None:
    transcript = swaks(
        f"127.0.0.1:{world.server.port}", "--pipeline", to="one@shop.test,two@other.test", sender="pipe@x.test"
    )
    assert transcript.returncode == 0
    assert set(world.arrived("pipe@x.test", 2)) == {"one@shop.test", "two@other.test"}


def test_smtplib_with_helo_alone(world: World) -> None:
    with smtplib.SMTP("127.0.0.1", world.server.port, timeout=30) as client:
        client.helo("old.test")
        client.sendmail("helo@x.test", ["you@shop.test"], b"Subject: x\r\n\r\nx\r\n")
    content = world.arrived("helo@x.test", 1)["you@shop.test"]
    assert content.startswith(
        b"Received: from old.test ([127.0.0.1])\r\n\tby mx.postroika.test (Postroika) with SMTP id "
    )


def test_smtplib_with_a_thousand_recipients(world: World) -> None:
    recipients = [f"r{number}@d{number % 7}.test" for number in range(1000)]
    with smtplib.SMTP("127.0.0.1", world.server.port, timeout=30) as client:
        assert client.sendmail("many@x.test", recipients, b"Subject: many\r\n\r\nx\r\n") == {}
    arrived = world.arrived("many@x.test", 1000)
    assert sorted(arrived) == sorted(recipients)
    # A recipient must not learn of the others (RFC 5321 §7.2).
    assert all(b"\tfor <" not in content for content in arrived.values())


def test_smtplib_with_internationalised_addresses(world: World) -> None:
    message = email.message.EmailMessage(policy=email.policy.SMTPUTF8)
    message["From"], message["To"], message["Subject"] = "jörg@x.test", "jürgen@bücher.test", "Grüße"
    message.set_content("Schöne Grüße\n")
    with smtplib.SMTP("127.0.0.1", world.server.port, timeout=30) as client:
        client.send_message(message)
    ((recipient, content),) = world.arrived("jörg@x.test", 1).items()
    assert recipient == "jürgen@bücher.test"
    assert b" with UTF8SMTP id " in content.partition(b"From: ")[0]
    assert "Subject: Grüße\r\n".encode() in content


def test_aiosmtplib(world: World) -> None:
    async def send(number: int) -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=world.server.port, timeout=30) as client:
            for part in range(5):
                recipients, content = [f"r{number}-{part}@shop.test"], b"Subject: x\r\n\r\nx\r\n"
                await client.sendmail("aio@x.test", recipients, content, mail_options=["BODY=8BITMIME"])

    async def send_all() -> None:
        await asyncio.gather(*(send(number) for number in range(20)))

    asyncio.run(send_all())
    assert len(world.arrived("aio@x.test", 100)) == 100


def test_size_is_judged_before_the_message_comes(world: World) -> None:
    with smtplib.SMTP("127.0.0.1", world.server.port, timeout=30) as client:
        client.ehlo()
        assert client.mail("a@x.test", ["SIZE=52428801"]) == (552, b"5.3.4 message is too large")
        assert client.mail("a@x.test", ["SIZE=52428800"]) == (250, b"2.1.0 Ok")


def test_groups_of_commands_are_answered_in_order(world: World) -> None:
    with world.server.dialogue() as client:
        client.send(
            b"MAIL FROM:<group@x.test>\r\nRCPT TO:<bad\r\nRCPT TO:<a@shop.test>\r\nNOOP\r\nDATA\r\n"
            b"Subject: x\r\n\r\n.\r\n"
            b"MAIL FROM:<group@x.test>\r\nRCPT TO:<a@>\r\nDATA\r\nQUIT\r\n"
        )
        replies = [client.reply()[:3] for _ in range(10)]
    assert replies == ["250", "501", "250", "250", "354", "250", "250", "501", "554", "221"]


def test_line_ends_are_mended_for_trusted_networks_only(tmp_path: Path, sink: StartOurSink) -> None:
    """Whoever may send what he likes may hide nothing in it; a stranger could hide a second message."""
    ours, port = sink(store=True), free_port()
    config = (
        f'[[listener]]\naddress = "127.0.0.1:{port}"\nbare_newlines = "normalise"\n'
        '[relay]\nnetworks = ["127.0.0.2/32"]\ndomains = ["ours.test"]\n' + _TO.format(address=ours.address)
    )
    with Postroika(tmp_path, config, workers=1):
        replies = {}
        for source, content in itertools.product(("127.0.0.1", "127.0.0.2"), (b"a\nb\r\n", b"a\rb\r\n")):
            with Dialogue(port, "client.test", source=source) as client:
                reply = client.message("", ["you@ours.test"], b"Subject: x\r\n\r\n" + content)
                replies[source, content] = reply.partition(":")[0]
        assert replies == {
            ("127.0.0.1", b"a\nb\r\n"): "550 5.6.0 message has a bare LF",
            ("127.0.0.1", b"a\rb\r\n"): "550 5.6.0 message has a bare CR",
            ("127.0.0.2", b"a\nb\r\n"): "250 2.0.0 Ok",
            ("127.0.0.2", b"a\rb\r\n"): "250 2.0.0 Ok",
        }
        arrived = [message.content.partition(b"\r\n\r\n")[2] for message in ours.wait_for(2)]
        assert arrived == [b"a\r\nb\r\n"] * 2


def test_mail_that_goes_in_circles_is_returned(tmp_path: Path, sink: StartOurSink) -> None:
    mailbox = sink(store=True)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    rest = _TO.format(address=mailbox.address)
    one = Postroika(tmp_path / "one", hostname="one.test", workers=1)
    to_one = f'[[route]]\ndomains = ["loop.test"]\nnext_hop = "smtp://127.0.0.1:{one.port}"\n'
    two = Postroika(tmp_path / "two", to_one + rest, hostname="two.test", workers=1)
    to_two = f'[[route]]\ndomains = ["loop.test"]\nnext_hop = "smtp://127.0.0.1:{two.port}"\n'
    one.config_file.write_text(one.config_file.read_text() + to_two + rest)
    with one, two:
        with one.dialogue() as client:
            assert client.message("me@sender.test", ["you@loop.test"], b"Subject: x\r\n\r\nx\r\n").startswith("250")
        (notice,) = mailbox.wait_for(1)
        assert (notice.reverse_path, notice.recipients) == ("", ("me@sender.test",))
        one.wait_until_drained()
        two.wait_until_drained()
        assert one.stop() == two.stop() == 0  # the event logs are complete
        (event,) = one.events_of("bounced") + two.events_of("bounced")
        assert event["reply"] == {
            "code": 554,
            "enhanced": "5.4.6",
            "text": "too many hops: the mail goes in circles",
            "stage": "final_dot",
        }
        assert len(one.events_of("delivered") + two.events_of("delivered")) == 50 + 1  # the last one is the notice
    assert len(mailbox.messages()) == 1


def test_client_that_only_talks_is_sent_away_and_one_that_waits_for_its_next_message_is_not(world: World) -> None:
    away = "421 4.7.0 mx.postroika.test closing the connection: too many bad commands"
    with world.server.dialogue("talker.test") as talker:
        said = list(
            itertools.takewhile(lambda reply: reply == "250 2.0.0 Ok", (talker.say("NOOP") for _ in range(200)))
        )
        assert len(said) in {119, 120}  # the last of them comes with the 421, perhaps in one piece
    wait_until(lambda: [e for e in world.server.events_of("rejected") if e["reply"]["text"] == away[10:]], "the event")
    with smtplib.SMTP("127.0.0.1", world.server.port, timeout=30) as client:
        for number in range(8):
            for _ in range(30):
                assert client.noop() == (250, b"2.0.0 Ok")
            client.sendmail("patient@x.test", [f"you{number}@shop.test"], b"Subject: x\r\n\r\nx\r\n")
            assert client.rset() == (250, b"2.0.0 Ok")
    assert len(world.arrived("patient@x.test", 8)) == 8
