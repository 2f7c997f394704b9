"""smtp.server and smtp.xclient: who may say XCLIENT, when, and what may be said in it."""

from __future__ import annotations

import pytest

from postroika.mail.reply import reply
from postroika.smtp.grammar import Refusal
from postroika.smtp.server import ServerSettings
from postroika.smtp.server_events import Event, Helo, Mail, Refused, XClient
from postroika.smtp.xclient import ATTRIBUTES, parse_xclient
from tests.unit.smtp_dialogue import talk, talk_in_all_cuts

SETTINGS = ServerSettings(hostname="mx.test", max_bad_commands=5, extensions=frozenset({"PIPELINING", "CHUNKING"}))
BANNER = "220 mx.test ESMTP Postroika\n"
GREETED = (
    "250-mx.test\n250-PIPELINING\n250-CHUNKING\n"
    "250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\n"
)  # fmt: skip
STRANGERS = "250-mx.test\n250-PIPELINING\n250 CHUNKING\n"
NOT_FOR_YOU = "550 5.7.1 XCLIENT is not for you\n"
IN_MAIL = "503 5.5.1 XCLIENT is not permitted during a mail transaction\n"
TOLD = XClient(
    name="client.example",
    addr="192.0.2.7",
    port=56324,
    proto="ESMTP",
    helo="[192.0.2.7]",
    login="ann@shop.example",
    destaddr="2001:db8::25",
    destport=587,
)
ALL = (
    b"XCLIENT NAME=Client.Example ADDR=192.0.2.7 port=56324 Proto=esmtp HELO=[192.0.2.7] LOGIN=ann+40shop.example "
    b"DESTADDR=IPV6:2001:DB8:0::25  DESTPORT=587\r\n"
)


def test_xclient_takes_the_dialogue_back_to_the_greeting() -> None:
    dialogue = talk_in_all_cuts(
        b"EHLO proxy\r\n" + ALL + b"MAIL FROM:<a@b>\r\nHELO c\r\nxclient addr=192.0.2.8\r\nHELO d\r\n",
        SETTINGS,
        xclient=ATTRIBUTES,
    )
    assert dialogue.replies == (
        GREETED + BANNER + "503 5.5.1 send HELO or EHLO first\n250 mx.test\n" + BANNER + "250 mx.test\n"
    )
    assert [event for event in dialogue.events if not isinstance(event, Refused)] == [
        Helo("EHLO", "proxy"),
        TOLD,
        Helo("HELO", "c"),
        XClient(addr="192.0.2.8"),
        Helo("HELO", "d"),
    ]


def test_xclient_may_come_before_ehlo_and_what_was_offered_counts_no_more() -> None:
    dialogue = talk_in_all_cuts(
        b"XCLIENT ADDR=192.0.2.7\r\nEHLO c\r\nXCLIENT PORT=1\r\nHELO c\r\n"
        b"MAIL FROM:<a@b> BODY=8BITMIME\r\nBDAT 1 LAST\r\nx",
        SETTINGS,
        xclient=ATTRIBUTES,
    )
    assert dialogue.replies == BANNER + GREETED + BANNER + (
        "250 mx.test\n555 5.5.4 parameter not recognised or not offered: BODY\n503 5.5.1 need MAIL command\n"
    )


def test_strangers_are_refused_and_nothing_changes() -> None:
    dialogue = talk_in_all_cuts(
        b"XCLIENT ADDR=192.0.2.7\r\nEHLO c\r\nXCLIENT ADDR=192.0.2.7\r\nXCLIENT\r\n"
        b"MAIL FROM:<a@b>\r\nXCLIENT ADDR=192.0.2.7\r\nRCPT TO:<c@d>\r\n",
        SETTINGS,
    )
    assert dialogue.replies == (
        NOT_FOR_YOU + STRANGERS + NOT_FOR_YOU * 2 + "250 2.1.0 Ok\n" + IN_MAIL + "250 2.1.5 Ok\n"
    )
    assert not any(isinstance(event, XClient) for event in dialogue.events)
    assert [event.stage for event in dialogue.events if isinstance(event, Refused)] == ["xclient"] * 4


def test_strangers_who_go_on_are_sent_away() -> None:
    dialogue = talk([b"EHLO c\r\n" + b"XCLIENT ADDR=192.0.2.7\r\n" * 7], SETTINGS)
    assert dialogue.replies == (
        STRANGERS + NOT_FOR_YOU * 6 + "421 4.7.0 mx.test closing the connection: too many bad commands\n"
    )
    assert dialogue.closed


@pytest.mark.parametrize("begun", [b"", b"RCPT TO:<c@d>\r\n", b"RCPT TO:<c@d>\r\nBDAT 1\r\nx"])
def test_xclient_is_refused_in_a_transaction(begun: bytes) -> None:
    wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\n" + begun + b"XCLIENT ADDR=192.0.2.7\r\nRSET\r\nXCLIENT ADDR=192.0.2.7\r\n"
    dialogue = talk_in_all_cuts(wire, SETTINGS, xclient=ATTRIBUTES)
    assert dialogue.replies.endswith(IN_MAIL + "250 2.0.0 Ok\n" + BANNER)
    assert dialogue.events.count(XClient(addr="192.0.2.7")) == 1


def test_xclient_that_is_refused_leaves_all_as_it_was() -> None:
    no = reply(550, "5.7.8", "no")

    def judge(event: Event) -> object:
        return no if isinstance(event, XClient) else None

    dialogue = talk_in_all_cuts(
        b"EHLO c\r\nXCLIENT ADDR=192.0.2.7\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\nx",
        SETTINGS,
        judge,  # type: ignore[arg-type]
        ATTRIBUTES,
    )
    assert dialogue.replies == GREETED + "550 5.7.8 no\n250 2.1.0 Ok\n250 2.1.5 Ok\n250 2.0.0 Ok\n"
    assert Mail("a@b") in dialogue.events


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        (b"ADDR=[UNAVAILABLE]", XClient(addr="")),
        (b"name=[TempUnavail] PORT=[UNAVAILABLE]", XClient(name="", port=0)),
        (b"LOGIN=+5BUNAVAILABLE+5D", XClient(login="")),
        (b"ADDR=ipv6:::1", XClient(addr="::1")),
        (b"ADDR=IPV6:::ffff:192.0.2.7", XClient(addr="192.0.2.7")),
        (b"HELO=a+0D+0AX:+00+7f+c3+a4", XClient(helo="a??X:????")),
        (b"LOGIN=+c3+a4", XClient(login="ä")),
        (b"NAME=xn--bcher-kva.EXAMPLE.", XClient(name="xn--bcher-kva.example")),
        (b"DESTPORT=0", XClient(destport=0)),
    ],
)
def test_values(argument: bytes, told: XClient) -> None:
    assert parse_xclient(argument, ATTRIBUTES) == told


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b" ",
        b"ADDR",
        b"ADDR=",
        b"=192.0.2.7",
        b"REVERSE_NAME=a.example",
        b"ADDR=192.0.2.7 ADDR=192.0.2.8",
        b"ADDR=2001:db8::1",
        b"ADDR=IPV6:192.0.2.7",
        b"ADDR=IPV6:fe80::1%lo",
        b"ADDR=192.0.2",
        b"ADDR=192.0.2.7+0D+0A",
        b"ADDR=client.example",
        b"PORT=65536",
        b"PORT=+31x",
        b"PORT=+d9+a1",
        b"PROTO=LMTP",
        b"NAME=a+0D+0AX-Evil:+20x",
        b"NAME=a+00",
        b"NAME=a..example",
        b"NAME=[192.0.2.7]",
        b"NAME=" + b"a." * 200,
        b"HELO=" + b"a" * 256,
        b"HELO=a=b",
        b"HELO=a+",
        b"HELO=a+4",
        b"HELO=a+4g",
        b"HELO=a\tb",
        b"HELO=\xc3\xa4",
        b"LOGIN=ann+0A",
        b"LOGIN=ann+00",
        b"LOGIN=ann+E2+80+A8",
        b"LOGIN=+ff",
        b"LOGIN=" + b"a" * 256,
    ],
)
def test_bad_arguments_are_refused_without_an_echo(argument: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse_xclient(argument, ATTRIBUTES)
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (501, "5.5.4")
    assert caught.value.reply.text.isprintable()
    assert "vil" not in caught.value.reply.text


def test_attributes_that_are_not_offered_are_refused() -> None:
    with pytest.raises(Refusal):
        parse_xclient(b"LOGIN=ann", tuple(name for name in ATTRIBUTES if name != "LOGIN"))
