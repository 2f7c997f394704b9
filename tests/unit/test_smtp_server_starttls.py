"""smtp.server: STARTTLS, and that nothing which was said in the clear survives it, in every cut."""

from __future__ import annotations

import msgspec
import pytest

from postroika.mail.reply import reply
from postroika.smtp.server import Server, ServerSettings
from postroika.smtp.server_events import Helo, Mail, Quit, Rcpt, Refused, Reset, StartTls
from postroika.smtp.states import State
from tests.unit.smtp_dialogue import EHLO, SETTINGS, cuts, talk, talk_in_all_cuts

OFFERED = msgspec.structs.replace(SETTINGS, tls="offered")
ACTIVE = msgspec.structs.replace(SETTINGS, tls="active")
EHLO_WITH_TLS = EHLO.replace("250-PIPELINING", "250-STARTTLS\n250-PIPELINING")
EHLO_IN_TLS = EHLO.replace("250 LIMITS", "250-LIMITS") + "250 REQUIRETLS\n"
FIRST = msgspec.structs.replace(OFFERED, tls_first=True, max_bad_commands=20)
TLS_FIRST = "530 5.7.0 must issue a STARTTLS command first\n"
READY = "220 2.0.0 ready to start TLS\n"
BEGIN = b"EHLO c\r\nSTARTTLS\r\n"


def test_starttls_is_offered_and_ends_the_dialogue_in_the_clear() -> None:
    dialogue = talk_in_all_cuts(BEGIN, OFFERED)
    assert (dialogue.replies, dialogue.closed) == (EHLO_WITH_TLS + READY, True)
    assert dialogue.events == (Helo("EHLO", "c"), StartTls())


@pytest.mark.parametrize("command", [b"starttls\r\n", b"StartTLS \r\n", b"STARTTLS\t\r\n"])
def test_ways_to_write_it(command: bytes) -> None:
    assert talk_in_all_cuts(b"HELO c\r\n" + command, OFFERED).events[-1] == StartTls()


@pytest.mark.parametrize(
    "behind",
    [
        b"MAIL FROM:<thief@x>\r\nRCPT TO:<c@d>\r\nDATA\r\nstolen\r\n.\r\n",
        b"NOOP\r\n",
        b"EHLO thief\r\nMAIL FROM:<>\r\n",
        b"STARTTLS\r\nSTARTTLS\r\n",
        b"QUIT\r\n",
        b"GET / HTTP/1.1\r\n",
        b"BDAT 5\r\nNOOP\r\nNOOP\r\n",
        b"half a comm",
        b"\r\n" * 50,
        b"x" * 100_000,
    ],
)
def test_what_comes_behind_it_is_never_run(behind: bytes) -> None:
    whole = talk([BEGIN + behind], OFFERED)
    assert (whole.replies, whole.events) == (EHLO_WITH_TLS + READY, (Helo("EHLO", "c"), StartTls()))
    for pieces in cuts(BEGIN + behind[:60]):
        assert talk(pieces, OFFERED) == whole
    server = Server(OFFERED)
    server.receive(BEGIN)
    assert server.next_event() == Helo("EHLO", "c")
    server.answer()
    assert server.next_event() == StartTls()
    server.take_output()
    server.receive(behind)  # later, but before the handshake
    assert (server.next_event(), server.take_output()) == (None, b"")
    assert server.advance(behind) is None
    assert (server.next_event(), server.take_output(), server.closed) == (None, b"", True)


def test_what_comes_behind_it_is_not_run_where_nobody_is_asked() -> None:
    class Client:
        mail = None
        recipients: list[object] = []  # noqa: RUF012 - nothing may be put in

    server = Server(OFFERED)
    server.accept_unasked(Client(), set(), lambda: True, mail=True, rcpt=True, data=True)
    assert server.advance(b"EHLO c\r\n") is None
    assert server.next_event() == Helo("EHLO", "c")
    server.answer()
    server.take_output()
    assert server.advance(b"MAIL FROM:<a@b>\r\n") == b"250 2.1.0 Ok\r\n"
    assert server.advance(b"STARTTLS\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n") is None
    assert [server.next_event() for _ in range(3)] == [Reset(), StartTls(), None]
    assert (server.take_output(), Client.recipients) == (b"220 2.0.0 ready to start TLS\r\n", [])


@pytest.mark.parametrize("before", [b"MAIL FROM:<a@b>\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"])
def test_a_transaction_is_void(before: bytes) -> None:
    dialogue = talk_in_all_cuts(b"EHLO c\r\n" + before + b"STARTTLS\r\n", OFFERED)
    assert dialogue.events[-2:] == (Reset(), StartTls())
    assert dialogue.replies.endswith(READY)


def test_the_server_behind_it_knows_nothing_and_does_not_greet() -> None:
    server = Server(ACTIVE, greet=False)
    assert (server.take_output(), server.state, server.esmtp, server.in_transaction) == (b"", State.START, False, False)
    server.receive(b"MAIL FROM:<a@b> SIZE=1\r\n")
    assert isinstance(server.next_event(), Refused)
    assert server.take_output() == b"503 5.5.1 send HELO or EHLO first\r\n"
    server.shut_down(reply(421, "4.3.2", "bye"))
    assert server.take_output() == b"421 4.3.2 bye\r\n"


def test_it_is_neither_offered_nor_taken_twice() -> None:
    wire = b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nSTARTTLS\r\nQUIT\r\n"
    dialogue = talk_in_all_cuts(wire, ACTIVE)
    assert dialogue.replies == (
        f"{EHLO_IN_TLS}503 5.5.1 TLS has begun already\n250 2.1.0 Ok\n250 2.1.5 Ok\n503 5.5.1 TLS has begun already\n"
        "221 2.0.0 mx.test closing the connection\n"
    )
    assert dialogue.events == (Helo("EHLO", "c"), Mail("a@b"), Rcpt("c@d", "c", "d"), Quit())


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"STARTTLS\r\n", "503 5.5.1 send HELO or EHLO first\n"),
        (b"EHLO c\r\nSTARTTLS now\r\n", f"{EHLO_WITH_TLS}501 5.5.4 this command takes no argument\n"),
        (
            b"EHLO c\r\nSTARTTLS\n\r\n",
            f"{EHLO_WITH_TLS}500 5.5.2 bare LF in a command line: lines must end with CR LF\n",
        ),
        (
            b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nhiSTARTTLS\r\n",
            (
                f"{EHLO_WITH_TLS}250 2.1.0 Ok\n250 2.1.5 Ok\n250 2.0.0 Ok\n"
                "503 5.5.1 BDAT was begun: only BDAT or RSET may follow\n"
            ),
        ),
        (
            b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSTARTTLS\r\n.\r\n",
            f"{EHLO_WITH_TLS}250 2.1.0 Ok\n250 2.1.5 Ok\n354 End data with <CR><LF>.<CR><LF>\n250 2.0.0 Ok\n",
        ),
    ],
)
def test_where_it_does_not_belong(wire: bytes, said: str) -> None:
    dialogue = talk_in_all_cuts(wire, OFFERED)
    assert (dialogue.replies, dialogue.closed, StartTls() in dialogue.events) == (said, False, False)


def test_it_is_unknown_where_there_is_no_tls() -> None:
    assert talk_in_all_cuts(b"STARTTLS\r\nEHLO c\r\nSTARTTLS\r\n").replies == (
        f"502 5.5.1 STARTTLS is not offered\n{EHLO}502 5.5.1 STARTTLS is not offered\n"
    )


# --- REQUIRETLS (RFC 8689)


def test_requiretls_is_taken_in_tls() -> None:
    dialogue = talk_in_all_cuts(b"EHLO c\r\nMAIL FROM:<a@b> requiretls SIZE=7\r\nRCPT TO:<c@d>\r\n", ACTIVE)
    assert dialogue.events[1] == Mail("a@b", 7, requiretls=True)


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"EHLO c\r\nMAIL FROM:<a@b> REQUIRETLS=YES\r\n", "501 5.5.4 REQUIRETLS has no value"),
        (b"EHLO c\r\nMAIL FROM:<a@b> REQUIRETLS REQUIRETLS\r\n", "501 5.5.4 REQUIRETLS is given twice"),
        (b"HELO c\r\nMAIL FROM:<a@b> REQUIRETLS\r\n", "555 5.5.4 parameter not recognised or not offered: REQUIRETLS"),
    ],
)
def test_requiretls_that_makes_no_sense(wire: bytes, said: str) -> None:
    assert talk_in_all_cuts(wire, ACTIVE).replies.splitlines()[-1] == said


@pytest.mark.parametrize("settings", [SETTINGS, OFFERED], ids=["no TLS", "TLS is offered"])
def test_requiretls_is_neither_offered_nor_taken_in_the_clear(settings: ServerSettings) -> None:
    replies = talk_in_all_cuts(b"EHLO c\r\nMAIL FROM:<a@b> REQUIRETLS\r\n", settings).replies
    assert "REQUIRETLS" not in replies[: replies.index("555")]
    assert replies.splitlines()[-1] == "555 5.5.4 parameter not recognised or not offered: REQUIRETLS"


@pytest.mark.parametrize("hello", [b"EHLO c\r\n", b"HELO c\r\n", b""])
@pytest.mark.parametrize(
    "command",
    [
        b"MAIL FROM:<a@b>", b"mail FROM:<>", b"RCPT TO:<c@d>", b"VRFY c", b"EXPN c", b"HELP", b"AUTH PLAIN AAAA",
        b"XCLIENT ADDR=192.0.2.7", b"WHAT",
    ],
)  # fmt: skip
def test_nothing_is_had_in_the_clear_where_tls_has_to_come_first(hello: bytes, command: bytes) -> None:
    settings = msgspec.structs.replace(FIRST, auth=True)
    greeted = talk([hello], settings)
    dialogue = talk_in_all_cuts(hello + command + b"\r\n", settings, xclient=("ADDR",))
    assert dialogue.replies.startswith(greeted.replies if b"HELO" in hello else "")
    assert dialogue.replies.endswith(TLS_FIRST)
    assert [event for event in dialogue.events if not isinstance(event, Helo | Refused)] == []


@pytest.mark.parametrize(
    "command", [b"DATA\r\nNOOP\r\n.\r\n", b"BDAT 6\r\nNOOP\r\nRSET\r\n", b"BDAT 0 LAST\r\nRSET\r\n"]
)
def test_no_content_is_taken_in_the_clear_where_tls_has_to_come_first(command: bytes) -> None:
    dialogue = talk([b"HELO c\r\n" + command], FIRST)
    assert dialogue.replies.startswith("250 mx.test\n" + TLS_FIRST)
    assert [type(event) for event in dialogue.events if not isinstance(event, Refused)] == [Helo]


def test_what_is_had_in_the_clear_where_tls_has_to_come_first() -> None:
    dialogue = talk_in_all_cuts(b"NOOP\r\nRSET\r\nEHLO c\r\nSTARTTLS\r\n", FIRST)
    assert dialogue.replies == "250 2.0.0 Ok\n" * 2 + EHLO_WITH_TLS + READY
    assert talk_in_all_cuts(b"QUIT\r\n", FIRST).closed


def test_in_tls_all_is_had_where_it_had_to_come_first() -> None:
    settings = msgspec.structs.replace(FIRST, tls="active")
    wire = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
    assert talk([wire], settings) == talk([wire], ACTIVE)


def test_nobody_is_let_in_unasked_where_tls_has_to_come_first() -> None:
    class Client:
        mail = None
        recipients: list[object] = []  # noqa: RUF012 - nothing may be put in

    server = Server(FIRST)
    server.accept_unasked(Client(), set(), lambda: True, mail=True, rcpt=True, data=True)
    assert server.advance(b"EHLO c\r\n") is None
    assert server.next_event() == Helo("EHLO", "c")
    server.answer()
    server.take_output()
    assert server.advance(b"MAIL FROM:<a@b>\r\n") is None
    assert [type(server.next_event()) for _ in range(2)] == [Refused, type(None)]
    assert (server.take_output().decode().replace("\r\n", "\n"), Client.mail) == (TLS_FIRST, None)
