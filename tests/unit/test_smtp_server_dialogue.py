"""smtp.server: whole dialogues with the replies that they get, the same in every cut."""

from __future__ import annotations

import msgspec
import pytest

from postroika.errors import LocalProtocolError
from postroika.mail.envelope import BodyType, Notify
from postroika.mail.reply import Reply, reply
from postroika.smtp.server import EXTENSIONS, Server
from postroika.smtp.server_events import BodyChunk, BodyEnd, DataBegin, Event, Helo, Mail, Quit, Rcpt, Refused, Reset
from postroika.smtp.states import State
from tests.unit.smtp_dialogue import EHLO, SETTINGS, talk, talk_in_all_cuts

GO_ON = "354 End data with <CR><LF>.<CR><LF>\n"
BYE = "221 2.0.0 mx.test closing the connection\n"


DIALOGUES = {
    "a message": (
        b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n",
        f"{EHLO}250 2.1.0 Ok\n250 2.1.5 Ok\n{GO_ON}250 2.0.0 Ok\n{BYE}",
    ),
    "two messages in one session, any case, blanks at the end": (
        (
            b"ehlo c \r\nmail from:<>\r\nrcpt to:<Postmaster> \r\ndata\t\r\n.\r\n"
            b"MaIl FrOm: <a@b>\r\nRCPT TO: <c@d>\r\nDATA\r\n.\r\n"
        ),
        f"{EHLO}250 2.1.0 Ok\n250 2.1.5 Ok\n{GO_ON}250 2.0.0 Ok\n250 2.1.0 Ok\n250 2.1.5 Ok\n{GO_ON}250 2.0.0 Ok\n",
    ),
    "HELO": (
        b"HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n",
        f"250 mx.test\n250 2.1.0 Ok\n250 2.1.5 Ok\n{GO_ON}250 2.0.0 Ok\n",
    ),
    "small talk": (
        b"NOOP\r\nNOOP x y\r\nHELP\r\nHELP MAIL\r\nVRFY a\r\nRSET\r\nQUIT\r\nNOOP\r\n",
        (
            "250 2.0.0 Ok\n250 2.0.0 Ok\n"
            "214 2.0.0 RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\n"
            "214 2.0.0 RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT\n"
            "252 2.5.0 cannot verify the address, but will take mail for it and try to deliver\n"
            f"250 2.0.0 Ok\n{BYE}"
        ),
    ),
    "what is not offered": (
        b"EHLO c\r\nSTARTTLS\r\nAUTH PLAIN AA==\r\nEXPN list\r\n",
        f"{EHLO}502 5.5.1 STARTTLS is not offered\n502 5.5.1 AUTH is not offered\n502 5.5.1 EXPN is not offered\n",
    ),
    "HELO first": (
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2 LAST\r\nhi",
        "503 5.5.1 send HELO or EHLO first\n" * 3,
    ),
    "out of order": (
        b"EHLO c\r\nRCPT TO:<c@d>\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nMAIL FROM:<x@y>\r\n",
        (
            f"{EHLO}503 5.5.1 need MAIL command\n250 2.1.0 Ok\n503 5.5.1 nested MAIL command; send RSET first\n"
            "250 2.1.5 Ok\n503 5.5.1 nested MAIL command; send RSET first\n"
        ),
    ),
    "RSET forgets the transaction": (
        b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRSET\r\nRCPT TO:<c@d>\r\nMAIL FROM:<a@b>\r\nDATA\r\n",
        (
            f"{EHLO}250 2.1.0 Ok\n250 2.1.5 Ok\n250 2.0.0 Ok\n503 5.5.1 need MAIL command\n250 2.1.0 Ok\n"
            "554 5.5.1 no valid recipients\n"
        ),
    ),
    "arguments where none belong": (
        b"EHLO c\r\nRSET x\r\nQUIT x\r\nVRFY\r\n",
        (
            f"{EHLO}501 5.5.4 this command takes no argument\n501 5.5.4 this command takes no argument\n"
            "501 5.5.4 syntax: VRFY address\n"
        ),
    ),
    "HELO without name": (b"EHLO\r\nHELO \r\n", "501 5.5.4 syntax: EHLO hostname\n501 5.5.4 syntax: HELO hostname\n"),
    "unknown commands": (b"XYZZY\r\n\r\n MAIL\r\n", "500 5.5.1 command not recognised\n" * 3),
}


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogue_is_the_same_in_every_cut(name: str) -> None:
    wire, expected = DIALOGUES[name]
    assert talk_in_all_cuts(wire).replies == expected


def test_replies_to_a_pipelined_group_come_in_one_write_and_in_order() -> None:
    server = Server(SETTINGS)
    server.receive(b"EHLO c\r\n")
    assert server.next_event() == Helo("EHLO", "c")
    server.answer()
    assert server.next_event() is None
    server.take_output()
    server.receive(b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<bad\r\nRCPT TO:<e@f>\r\nDATA\r\n")
    verdicts = {
        Mail("a@b"): None,
        Rcpt("c@d", "c", "d"): reply(450, "4.2.0", "later"),
        Rcpt("e@f", "e", "f"): reply(250, "2.1.5", "with pleasure"),
        DataBegin(chunked=False): None,
    }
    while (event := server.next_event()) is not None:
        if event in verdicts:
            assert server.next_event() is None  # nothing goes on without a verdict
            server.answer(verdicts[event])
    assert server.take_output() == (
        b"250 2.1.0 Ok\r\n450 4.2.0 later\r\n"
        b"501 5.1.3 bad recipient address syntax: the path is not closed by >, or has a bad character\r\n"
        b"250 2.1.5 with pleasure\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
    )
    assert server.take_output() == b""


def test_events_carry_all_that_was_said() -> None:
    wire = (
        b"EHLO [192.0.2.1]\r\n"
        b"MAIL FROM:<@r.example:Jo.Do@B.Example> SIZE=900 BODY=8BITMIME RET=hdrs ENVID=a+2Bb SMTPUTF8\r\n"
        + "RCPT TO:<пётр@почта.РФ> NOTIFY=success,Delay ORCPT=rfc822;a+2Bb@c\r\n".encode()
        + b'RCPT TO:<"a b"@C.Example> NOTIFY=NEVER\r\n'
        b"DATA\r\nSubject: \xc3\xa4\r\n\r\n..\r\n.\r\nQUIT\r\n"
    )
    dialogue = talk_in_all_cuts(wire)
    mail = Mail("Jo.Do@b.example", 900, BodyType.EIGHT_BIT, smtputf8=True, ret="HDRS", envid="a+2Bb")
    assert dialogue.events == (
        Helo("EHLO", "[192.0.2.1]"),
        mail,
        Rcpt("пётр@почта.рф", "пётр", "почта.рф", Notify.SUCCESS | Notify.DELAY, "rfc822;a+2Bb@c", utf8_address=True),
        Rcpt('"a b"@c.example', '"a b"', "c.example", Notify.NEVER),
        DataBegin(chunked=False),
        BodyChunk(b"Subject: \xc3\xa4\r\n\r\n.\r\n"),
        BodyEnd(18, eight_bit=True, header_eight_bit=True, longest_line=11, received=0, nul=False),
        Quit(),
    )
    assert dialogue.closed


@pytest.mark.parametrize("command", [b"RSET", b"EHLO again", b"HELO again"])
def test_transaction_is_reset_by(command: bytes) -> None:
    wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n" + command + b"\r\nDATA\r\n"
    dialogue = talk_in_all_cuts(wire)
    assert Reset() in dialogue.events
    assert dialogue.replies.endswith("503 5.5.1 need MAIL command\n")


def test_refused_ehlo_leaves_the_transaction_alone() -> None:
    def judge(event: Event) -> Reply | None:
        return reply(550, "5.7.1", "not you") if isinstance(event, Helo) and event.name == "evil" else None

    wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\nEHLO evil\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\n"
    dialogue = talk_in_all_cuts(wire, judge=judge)
    assert dialogue.replies == f"{EHLO}250 2.1.0 Ok\n550 5.7.1 not you\n250 2.1.5 Ok\n"
    assert Reset() not in dialogue.events


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("SIZE=1001", "552 5.3.4 message is too large"),
        ("SIZE=1000", "250 2.1.0 Ok"),
        ("SIZE=99999999999999999999", "552 5.3.4 message is too large"),
        ("SIZE=999999999999999999999", "501 5.5.4 bad SIZE value"),
        ("SIZE", "501 5.5.4 bad SIZE value"),
        ("SIZE=-1", "501 5.5.4 bad SIZE value"),
        ("SIZE=1 SIZE=1", "501 5.5.4 SIZE is given twice"),
        ("SIZE=", "501 5.5.4 SIZE has an empty or bad value"),
        ("SIZE=1=2", "501 5.5.4 bad character in SIZE"),
        ("=1", "501 5.5.4 bad parameter keyword"),
        ("BODY=7bit", "250 2.1.0 Ok"),
        ("BODY=BINARYMIME", "250 2.1.0 Ok"),
        ("BODY=9BIT", "501 5.5.4 bad BODY value"),
        ("BODY", "501 5.5.4 bad BODY value"),
        ("SMTPUTF8=1", "501 5.5.4 SMTPUTF8 has no value"),
        ("RET=FULL", "250 2.1.0 Ok"),
        ("RET=HALF", "501 5.5.4 bad RET value"),
        ("ENVID=QQ+3D314159", "250 2.1.0 Ok"),
        ("ENVID=a+3d", "501 5.5.4 bad ENVID value"),
        ("ENVID=a+", "501 5.5.4 bad ENVID value"),
        ("ENVID=" + "x" * 101, "501 5.5.4 bad ENVID value"),
        ("ENVID=ä", "501 5.5.4 bad ENVID value"),
        ("AUTH=<>", "555 5.5.4 parameter not recognised or not offered: AUTH"),
        ("NOTIFY=NEVER", "555 5.5.4 parameter not recognised or not offered: NOTIFY"),
        ("HOLDFOR=60", "555 5.5.4 parameter not recognised or not offered: HOLDFOR"),
    ],
)
def test_parameter_of_mail(parameters: str, expected: str) -> None:
    wire = f"EHLO c\r\nMAIL FROM:<a@b> {parameters}\r\n".encode()
    assert talk([wire]).replies == f"{EHLO}{expected}\n"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("NOTIFY=SUCCESS,FAILURE,DELAY", "250 2.1.5 Ok"),
        ("NOTIFY=NEVER,SUCCESS", "501 5.5.4 NOTIFY=NEVER excludes all others"),
        ("NOTIFY=DELAY,NEVER", "501 5.5.4 NOTIFY=NEVER excludes all others"),
        ("NOTIFY=DELAY,DELAY", "501 5.5.4 bad NOTIFY value"),
        ("NOTIFY=", "501 5.5.4 NOTIFY has an empty or bad value"),
        ("NOTIFY", "501 5.5.4 bad NOTIFY value"),
        ("NOTIFY=SOMETIMES", "501 5.5.4 bad NOTIFY value"),
        ("NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4 NOTIFY is given twice"),
        ("ORCPT=rfc822;a@b", "250 2.1.5 Ok"),
        ("ORCPT=rfc822;a+2Bb@c", "250 2.1.5 Ok"),
        ("ORCPT=rfc822;a+zz", "501 5.5.4 bad ORCPT value: not xtext"),
        ("ORCPT=a@b", "501 5.5.4 bad ORCPT value"),
        ("ORCPT=;a@b", "501 5.5.4 bad ORCPT value"),
        ("ORCPT=rfc822;", "501 5.5.4 bad ORCPT value"),
        ("ORCPT=rfc822;" + "x" * 500, "501 5.5.4 bad ORCPT value"),
        ("ORCPT=utf-8;ä@b", "501 5.5.4 bad ORCPT value: SMTPUTF8 is needed"),
        ("ORCPT=utf-8;\x9f@b", "501 5.5.4 bad ORCPT value: SMTPUTF8 is needed"),
        ("SIZE=1", "555 5.5.4 parameter not recognised or not offered: SIZE"),
    ],
)
def test_parameter_of_rcpt(parameters: str, expected: str) -> None:
    wire = f"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d> {parameters}\r\n".encode()
    assert talk([wire]).replies == f"{EHLO}250 2.1.0 Ok\n{expected}\n"


def test_session_after_helo_takes_no_parameters() -> None:
    wire = b"HELO c\r\nMAIL FROM:<a@b> SIZE=1\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\n"
    assert talk_in_all_cuts(wire).replies == (
        "250 mx.test\n555 5.5.4 parameter not recognised or not offered: SIZE\n250 2.1.0 Ok\n"
        "555 5.5.4 parameter not recognised or not offered: NOTIFY\n"
    )


@pytest.mark.parametrize("extension", sorted(EXTENSIONS - {"PIPELINING", "ENHANCEDSTATUSCODES", "LIMITS"}))
def test_extension_that_is_not_offered_is_refused(extension: str) -> None:
    use = {
        "SIZE": b"MAIL FROM:<a@b> SIZE=1\r\n",
        "8BITMIME": b"MAIL FROM:<a@b> BODY=8BITMIME\r\n",
        "SMTPUTF8": b"MAIL FROM:<a@b> SMTPUTF8\r\n",
        "BINARYMIME": b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n",
        "DSN": b"MAIL FROM:<a@b> RET=FULL\r\n",
        "CHUNKING": b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2 LAST\r\nhi",
    }[extension]
    settings = msgspec.structs.replace(SETTINGS, extensions=EXTENSIONS - {extension})
    replies = talk([b"EHLO c\r\n" + use], settings).replies
    assert extension not in replies[: replies.index("RCPTMAX")]
    assert replies.splitlines()[-1].split()[:2] in (["555", "5.5.4"], ["501", "5.5.4"], ["502", "5.5.1"])
    assert talk([b"EHLO c\r\n" + use]).replies.splitlines()[-1].startswith("250 ")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("MAIL FROM:<ä@b>", "553 5.6.7 address has characters beyond ASCII: SMTPUTF8 is needed"),
        ("MAIL FROM:<a@ä>", "553 5.6.7 address has characters beyond ASCII: SMTPUTF8 is needed"),
        ("MAIL FROM:<a@ä> SMTPUTF8", "250 2.1.0 Ok"),
        ("MAIL FROM:<a\u200db@ä> SMTPUTF8", "250 2.1.0 Ok"),
        ('MAIL FROM:<"a\x85"@ä> SMTPUTF8', "501 5.1.7 bad sender address syntax: control characters"),
        ("MAIL FROM:<a\u2028@ä> SMTPUTF8", "501 5.1.7 bad sender address syntax: control characters"),
        ("MAIL FROM:<a@\u2028> SMTPUTF8", "501 5.1.7 bad sender address syntax: the domain is not a valid name"),
        ("MAIL FROM:<a@[x]>", "501 5.1.7 bad sender address syntax: bad address literal"),
        ("MAIL FROM:<a@[IPv6:x]>", "501 5.1.7 bad sender address syntax: bad address literal"),
        ("MAIL FROM:<a@[IPv6:fe80::1%lo]>", "501 5.1.7 bad sender address syntax: bad address literal"),
        ("MAIL FROM:<a>", "501 5.1.7 bad sender address syntax: the domain is missing"),
        ("MAIL FROM:a@b", "501 5.5.4 syntax: MAIL FROM:<address>"),
        ("MAIL a@b", "501 5.5.4 syntax: MAIL FROM:<address>"),
        ("MAIL", "501 5.5.4 syntax: MAIL FROM:<address>"),
        ("MAIL FROM:<postmaster>", "501 5.1.7 bad sender address syntax: the domain is missing"),
    ],
)
def test_sender_address(command: str, expected: str) -> None:
    assert talk([f"EHLO c\r\n{command}\r\n".encode()]).replies == f"{EHLO}{expected}\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("<ä@b>", "553 5.6.7 address has characters beyond ASCII: SMTPUTF8 is needed"),
        ("<>", "501 5.1.3 bad recipient address syntax: the domain is missing"),
        ("<user>", "501 5.1.3 bad recipient address syntax: the domain is missing"),
        ("<PostMaster>", "250 2.1.5 Ok"),
        ("c@d", "501 5.5.4 syntax: RCPT TO:<address>"),
        ("<c@[192.0.2.1]>", "250 2.1.5 Ok"),
        ("<c@[192.0.2]>", "501 5.1.3 bad recipient address syntax: bad address literal"),
        ("<c@[ipv6:2001:DB8::1]>", "250 2.1.5 Ok"),
    ],
)
def test_recipient_address(path: str, expected: str) -> None:
    wire = f"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:{path}\r\n".encode()
    assert talk([wire]).replies == f"{EHLO}250 2.1.0 Ok\n{expected}\n"


def test_recipients_beyond_the_limit_are_put_off() -> None:
    wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 5 + b"DATA\r\n.\r\n"
    assert talk_in_all_cuts(wire).replies == (
        EHLO
        + "250 2.1.0 Ok\n"
        + "250 2.1.5 Ok\n" * 3
        + "452 4.5.3 too many recipients\n" * 2
        + GO_ON
        + "250 2.0.0 Ok\n"
    )


def test_thousand_recipients_are_taken_by_default() -> None:
    settings = msgspec.structs.replace(SETTINGS, max_recipients=5000)
    wire = (
        b"EHLO c\r\nMAIL FROM:<a@b>\r\n" + b"".join(b"RCPT TO:<c%d@d>\r\n" % i for i in range(1000)) + b"DATA\r\n.\r\n"
    )
    dialogue = talk([wire], settings)
    assert dialogue.replies.count("250 2.1.5 Ok\n") == 1000
    assert dialogue.replies.endswith(f"{GO_ON}250 2.0.0 Ok\n")


def test_verdict_that_nobody_waits_for_is_a_bug() -> None:
    server = Server(SETTINGS)
    with pytest.raises(LocalProtocolError):
        server.answer()


def test_421_as_a_verdict_closes_behind_it() -> None:
    def judge(event: Event) -> Reply | None:
        return reply(421, "4.3.2", "enough") if isinstance(event, Mail) else None

    dialogue = talk_in_all_cuts(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", judge=judge)
    assert (dialogue.replies, dialogue.closed) == (f"{EHLO}421 4.3.2 enough\n", True)


def test_refusal_of_the_whole_message_is_the_reply_to_its_dot() -> None:
    def judge(event: Event) -> Reply | None:
        return reply(451, "4.3.0", "no disk") if isinstance(event, BodyEnd) else None

    wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nMAIL FROM:<a@b>\r\n"
    dialogue = talk_in_all_cuts(wire, judge=judge)
    assert dialogue.replies == f"{EHLO}250 2.1.0 Ok\n250 2.1.5 Ok\n{GO_ON}451 4.3.0 no disk\n250 2.1.0 Ok\n"


def test_commands_before_the_end_of_input_are_answered() -> None:
    dialogue = talk([b"EHLO c\r\nNOOP\r\nRSE", b""])
    assert (dialogue.replies, dialogue.closed) == (f"{EHLO}250 2.0.0 Ok\n", True)


@pytest.mark.parametrize("tail", [b"DATA\r\nhalf a mess", b"BDAT 10 LAST\r\nhalf"])
def test_message_cut_off_by_the_end_of_input_is_no_message(tail: bytes) -> None:
    dialogue = talk([b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n" + tail, b""])
    assert dialogue.closed
    assert not any(isinstance(event, BodyEnd) for event in dialogue.events)


def test_shut_down_before_the_banner_replaces_it() -> None:
    server = Server(SETTINGS)
    server.shut_down(reply(421, "4.3.2", "too busy"))
    server.shut_down(reply(421, "4.3.2", "again"))
    assert (server.take_output(), server.closed) == (b"421 4.3.2 too busy\r\n", True)


def test_shut_down_drops_what_waits_for_a_verdict() -> None:
    server = Server(SETTINGS)
    server.take_output()
    server.receive(b"NOOP\r\nEHLO c\r\nNOOP\r\n")
    assert server.next_event() == Helo("EHLO", "c")
    server.shut_down(reply(421, "4.3.2", "bye"))
    assert server.take_output() == b"250 2.0.0 Ok\r\n421 4.3.2 bye\r\n"
    assert server.next_event() is None


def test_any_kind_of_buffer_is_taken() -> None:
    wire = b"EHLO c\r\nQUIT\r\n"
    octets = bytearray(wire)
    assert talk([octets, memoryview(wire)]) == talk([wire])  # type: ignore[list-item]
    server = Server(SETTINGS)
    server.receive(memoryview(octets))
    octets[:] = b"x" * len(octets)  # the caller's buffer is its own again
    assert server.next_event() == Helo("EHLO", "c")


def test_state_follows_the_dialogue() -> None:
    server = Server(SETTINGS)
    seen = [server.state]
    for line in (b"EHLO c", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA", b".", b"RSET"):
        server.receive(line + b"\r\n")
        while server.next_event() is not None:
            server.answer()
        seen.append(server.state)
    assert seen == [State.START, State.READY, State.MAIL, State.RCPT, State.DATA, State.READY, State.READY]


def test_refusals_are_told_to_the_session_for_the_record() -> None:
    dialogue = talk([b"EHLO c\r\nMAIL FROM:<bad\r\nRCPT TO:<c@d>\r\nFOO\r\n"])
    assert [
        (event.stage, event.reply.code, event.detail) for event in dialogue.events if isinstance(event, Refused)
    ] == [
        ("mail", 501, "FROM:<bad"),
        ("rcpt", 503, "TO:<c@d>"),
    ]


LOST_CHUNK = "503 5.5.1 a chunk was refused, the transaction has failed; send RSET\n"
SENT_AWAY = "421 4.7.0 mx.test closing the connection: too many bad commands\n"
FEW = msgspec.structs.replace(SETTINGS, max_junk_commands=5, max_bad_commands=3)
MESSAGE = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n"
STORED = f"250 2.1.0 Ok\n250 2.1.5 Ok\n{GO_ON}250 2.0.0 Ok\n"


@pytest.mark.parametrize(
    "junk", [b"NOOP", b"noop x", b"RSET", b"VRFY a", b"HELP", b"EHLO c", b"HELO c", b"MAIL FROM:<a@b>\r\nRSET"]
)
def test_who_says_nothing_of_use_for_ever_is_sent_away(junk: bytes) -> None:
    answer = talk([b"EHLO c\r\n" + junk + b"\r\n"], SETTINGS).replies.removeprefix(EHLO)
    dialogue = talk_in_all_cuts(b"EHLO c\r\n" + (junk + b"\r\n") * 20, FEW)
    # EHLO and four more are free, three more count as bad, and the one behind them is the last.
    assert dialogue.replies == EHLO + answer * 8 + SENT_AWAY
    assert dialogue.closed
    assert isinstance(dialogue.events[-1], Refused)
    assert talk([b"EHLO c\r\n" + (junk + b"\r\n") * 1000], msgspec.structs.replace(FEW, max_junk_commands=0)) == talk(
        [b"EHLO c\r\n" + (junk + b"\r\n") * 1000], msgspec.structs.replace(FEW, max_junk_commands=10_000)
    )


@pytest.mark.parametrize(
    ("empty", "answer"),
    [
        (b"MAIL FROM:<a@b>\r\nBDAT 0 LAST\r\n", "250 2.1.0 Ok\n554 5.5.1 no valid recipients\n"),
        (
            b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 0\r\nBDAT 0 LAST\r\n",
            f"250 2.1.0 Ok\n250 2.1.5 Ok\n550 5.7.1 no\n{LOST_CHUNK}",
        ),
    ],
    ids=["no recipient", "refused"],
)
def test_last_chunk_that_is_refused_is_worth_no_more_than_reset(empty: bytes, answer: str) -> None:
    def judge(event: Event) -> Reply | None:
        return reply(550, "5.7.1", "no") if isinstance(event, DataBegin) else None

    dialogue = talk([b"EHLO c\r\n" + empty * 20], FEW, judge=judge)
    assert (dialogue.replies, dialogue.closed) == (EHLO + answer * 8 + SENT_AWAY, True)


def test_who_keeps_a_connection_open_between_messages_is_not_sent_away() -> None:
    between = b"RSET\r\nNOOP\r\nNOOP\r\nRSET\r\n"
    dialogue = talk([b"EHLO c\r\n" + (MESSAGE + between) * 100], FEW)
    assert (dialogue.replies, dialogue.closed) == (EHLO + (STORED + "250 2.0.0 Ok\n" * 4) * 100, False)


def test_message_that_is_refused_does_not_make_up_for_junk() -> None:
    def judge(event: Event) -> Reply | None:
        return reply(550, "5.7.1", "no") if isinstance(event, BodyEnd) else None

    dialogue = talk([b"EHLO c\r\n" + (MESSAGE + b"NOOP\r\n") * 20], FEW, judge=judge)
    assert dialogue.replies.endswith(SENT_AWAY)
    assert dialogue.replies.count("550 5.7.1 no\n") == 8
