"""smtp.server: AUTH. What is a command, what is a response, when it is allowed, and that nothing gets mixed up."""

from __future__ import annotations

from base64 import b64encode

import pytest

from postroika.errors import LocalProtocolError
from postroika.mail.reply import reply
from postroika.smtp.mechanisms import mechanisms, open_exchange
from postroika.smtp.sasl import Challenge, CheckPassword, FindKeys, Proven, Step, Succeeded
from postroika.smtp.scram import Scram
from postroika.smtp.server import Server, ServerSettings
from postroika.smtp.server_base import LINE_BARE_LF, RESPONSE_TOO_LONG
from postroika.smtp.server_events import Auth, AuthResponse, Event, Helo, Mail, Refused
from tests.unit.scram_example import CLIENT_FINAL, CLIENT_FIRST, PENCIL, SERVER_FINAL, SERVER_FIRST, SERVER_NONCE
from tests.unit.smtp_dialogue import cuts

SETTINGS = ServerSettings(hostname="mx.test", max_bad_commands=3, extensions=frozenset(), auth=True)
GREETED = "250-mx.test\n250 AUTH SCRAM-SHA-256 PLAIN LOGIN\n"
WRONG = reply(535, "5.7.8", "wrong")
IN = "235 2.7.0 authentication succeeded\n"
BAD_BASE64 = "501 5.5.2 cannot decode base64\n"
PLAIN = b"AUTH PLAIN " + b64encode(b"\0tim\0secret") + b"\r\n"


class Desk:
    """Lets Tim in who knows "secret", and the user of RFC 7677. Holds one dialogue."""

    def __init__(self, settings: ServerSettings = SETTINGS, *, offers: bool = True, plain: bool = True) -> None:
        self.server = Server(settings)
        self.server._plain = plain
        self.server.mechanisms = mechanisms({}) if offers else ()
        self.server.take_output()
        self.events: list[Event] = []
        self.exchange = open_exchange("PLAIN", {})

    def say(self, wire: bytes) -> str:
        self.server.receive(wire)
        output = b""
        while (event := self.server.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, Auth):
                self.exchange = open_exchange(event.mechanism, {})
                if isinstance(self.exchange, Scram):
                    self.exchange = Scram({}, plus=False, nonce=SERVER_NONCE)
                self.act(self.exchange.begin(event.initial))
            elif isinstance(event, AuthResponse):
                self.act(self.exchange.respond(event.response))
            elif isinstance(event, Helo | Mail):
                self.server.answer()
        output += self.server.take_output()
        return output.decode().replace("\r\n", "\n")

    def act(self, step: Step) -> None:
        if isinstance(step, FindKeys):
            assert isinstance(self.exchange, Scram)
            step = self.exchange.use(PENCIL)
        if isinstance(step, Challenge | Proven):
            self.server.challenge(step.octets)
        else:
            good = step == CheckPassword("tim", "secret") or isinstance(step, Succeeded)
            self.server.answer(None if good else WRONG)


def in_all_cuts(wire: bytes, settings: ServerSettings = SETTINGS, *, offers: bool = True) -> str:
    """The replies behind that to EHLO, which must be the same however TCP splits the input."""
    whole = Desk(settings, offers=offers)
    said = whole.say(b"EHLO c\r\n" + wire)
    for plain in (True, False):
        for pieces in cuts(b"EHLO c\r\n" + wire):
            desk = Desk(settings, offers=offers, plain=plain)
            assert "".join(desk.say(piece) for piece in pieces) == said, pieces
            assert (desk.events, desk.server.closed) == (whole.events, whole.server.closed), pieces
    assert said.startswith(GREETED if offers else "250 mx.test\n")
    return said.removeprefix(GREETED if offers else "250 mx.test\n")


def line(octets: bytes) -> bytes:
    return b64encode(octets) + b"\r\n"


def test_plain_with_the_command() -> None:
    assert in_all_cuts(PLAIN + b"NOOP\r\n") == IN + "250 2.0.0 Ok\n"


def test_plain_behind_a_challenge() -> None:
    assert in_all_cuts(b"auth plain\r\n" + line(b"\0tim\0secret")) == "334 \n" + IN


def test_login() -> None:
    challenges = "334 VXNlcm5hbWU6\n334 UGFzc3dvcmQ6\n"
    assert in_all_cuts(b"AUTH LOGIN\r\n" + line(b"tim") + line(b"secret")) == challenges + IN
    assert in_all_cuts(b"AUTH LOGIN dGlt\r\n" + line(b"wrong")) == "334 UGFzc3dvcmQ6\n535 5.7.8 wrong\n"


def test_scram() -> None:
    wire = b"AUTH SCRAM-SHA-256 " + line(CLIENT_FIRST) + line(CLIENT_FINAL) + b"\r\nNOOP\r\n"
    said = f"334 {b64encode(SERVER_FIRST).decode()}\n334 {b64encode(SERVER_FINAL).decode()}\n{IN}250 2.0.0 Ok\n"
    assert in_all_cuts(wire) == said


def test_empty_initial_response_is_not_none() -> None:
    desk = Desk()
    desk.say(b"EHLO c\r\nAUTH PLAIN =\r\nAUTH PLAIN\r\n")
    assert desk.events[1:] == [Auth("PLAIN", b""), Auth("PLAIN", None)]


@pytest.mark.parametrize("command", [b"MAIL FROM:<a@b>", b"DATA", b"QUIT", b"RCPT TO:<a@b>", b"EHLO x", b"AUTH PLAIN"])
def test_commands_in_an_exchange_are_responses(command: bytes) -> None:
    desk = Desk()
    said = desk.say(b"EHLO c\r\nAUTH LOGIN\r\n" + command + b"\r\n")
    if command in {b"DATA", b"QUIT"}:  # which are base64 as well
        assert said == GREETED + "334 VXNlcm5hbWU6\n334 UGFzc3dvcmQ6\n"
    else:
        assert said == GREETED + "334 VXNlcm5hbWU6\n" + BAD_BASE64
    assert [type(event) for event in desk.events if isinstance(event, Mail)] == []


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (b"*", "501 5.7.0 authentication cancelled\n"),
        (b"!", BAD_BASE64),
        (b"dGlt*", BAD_BASE64),
        (b" dGlt", BAD_BASE64),
        (b"dGl", BAD_BASE64),
        (b"dGlt=", BAD_BASE64),
        (b"dGk=dGk=", BAD_BASE64),
        (b"\0\0\0\0", BAD_BASE64),
        (b"dGlt\rdGlt", BAD_BASE64),
        (b"\xff\xff\xff\xff", BAD_BASE64),
    ],
)
def test_response_that_is_none_ends_the_exchange(response: bytes, said: str) -> None:
    assert in_all_cuts(b"AUTH LOGIN\r\n" + response + b"\r\nNOOP\r\n") == f"334 VXNlcm5hbWU6\n{said}250 2.0.0 Ok\n"


@pytest.mark.parametrize(
    ("wire", "refused"),
    [
        (b"AUTH LOGIN\r\n*\r\n", []),
        (b"AUTH LOGIN\r\n!secret!\r\n", [Refused("auth", reply(501, "5.5.2", "cannot decode base64"))]),
        (b"AUTH PLAIN !secret!\r\n", [Refused("auth", reply(501, "5.5.2", "cannot decode base64"))]),
        (b"AUTH LOGIN\r\n" + b"A" * 12_300 + b"\r\n", [Refused("auth", RESPONSE_TOO_LONG)]),
        (b"AUTH LOGIN\r\nA\nA\r\n", [Refused("auth", LINE_BARE_LF)]),
    ],
    ids=["cancelled", "response", "initial", "endless", "lf"],
)
def test_exchange_that_makes_no_sense_is_told_of_without_what_came(wire: bytes, refused: list[Refused]) -> None:
    desk = Desk()
    desk.say(b"EHLO c\r\n" + wire)
    assert [event for event in desk.events if isinstance(event, Refused)] == refused


def test_bare_lf_ends_no_response() -> None:
    said = in_all_cuts(b"AUTH LOGIN\r\ndGlt\nNOOP\r\nNOOP\r\n")
    assert said == ("334 VXNlcm5hbWU6\n500 5.5.2 bare LF in a command line: lines must end with CR LF\n250 2.0.0 Ok\n")


def test_response_may_be_longer_than_a_command_but_not_endless() -> None:
    desk = Desk()
    desk.say(b"EHLO c\r\n")
    longest = b64encode(b"\0tim\0" + b"x" * 9208)
    assert len(longest) + 2 <= 12_288 < len(longest) + 6
    assert desk.say(b"AUTH PLAIN\r\n" + longest + b"\r\n") == "334 \n535 5.7.8 wrong\n"
    assert desk.say(b"AUTH PLAIN\r\n" + longest + b"AAAA\r\nNOOP\r\n") == (
        "334 \n500 5.5.6 authentication exchange line is too long\n250 2.0.0 Ok\n"
    )
    assert desk.say(b"AUTH PLAIN\r\n" + b"A" * 70_000) == (
        "334 \n500 5.5.6 authentication exchange line is too long\n"
        "421 4.7.0 mx.test closing the connection: lines must end with CR LF\n"
    )
    assert desk.server.closed


def test_command_line_has_the_limit_of_all_commands() -> None:
    said = in_all_cuts(b"AUTH PLAIN \r\n")  # blanks at the end are none
    assert said == "334 \n"
    desk = Desk()
    assert desk.say(b"EHLO c\r\nAUTH PLAIN " + b"A" * 4096 + b"\r\n") == (
        GREETED + "500 5.5.2 command line is longer than 4096 octets\n"
    )


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"AUTH\r\n", "501 5.5.4 syntax: AUTH mechanism [initial-response]\n"),
        (b"AUTH CRAM-MD5\r\n", "504 5.5.4 this authentication mechanism is not offered\n"),
        (b"AUTH SCRAM-SHA-256-PLUS\r\n", "504 5.5.4 this authentication mechanism is not offered\n"),
        (b"AUTH \xff\r\n", "504 5.5.4 this authentication mechanism is not offered\n"),
        (b"AUTH PLAIN AA\r\n", BAD_BASE64),
        (b"AUTH PLAIN AA== AA==\r\n", BAD_BASE64),
        (b"AUTH PLAIN ==\r\n", BAD_BASE64),
        (PLAIN + PLAIN, IN + "503 5.5.1 already authenticated\n"),
        (PLAIN + b"EHLO c\r\n" + PLAIN, IN + GREETED + "503 5.5.1 already authenticated\n"),
        (b"MAIL FROM:<a@b>\r\n" + PLAIN,
         "250 2.1.0 Ok\n503 5.5.1 AUTH is not permitted during a mail transaction\n"),
        (b"MAIL FROM:<a@b>\r\nRSET\r\n" + PLAIN, "250 2.1.0 Ok\n250 2.0.0 Ok\n" + IN),
        (b"HELO c\r\n" + PLAIN, "250 mx.test\n502 5.5.1 AUTH is not offered\n"),
    ],
)  # fmt: skip
def test_when_auth_is_refused(wire: bytes, said: str) -> None:
    assert in_all_cuts(wire) == said


def test_auth_comes_after_ehlo() -> None:
    assert Desk().say(PLAIN) == "503 5.5.1 send HELO or EHLO first\n"


def test_where_it_is_not_allowed_yet_it_is_not_offered() -> None:
    assert in_all_cuts(PLAIN, offers=False) == "538 5.7.11 AUTH is offered under TLS only\n"


def test_where_there_are_no_accounts_it_is_unknown() -> None:
    settings = ServerSettings(hostname="mx.test", extensions=frozenset())
    assert in_all_cuts(PLAIN, settings, offers=False) == "502 5.5.1 AUTH is not offered\n"


def test_after_a_failure_one_may_try_again() -> None:
    wrong = b"AUTH PLAIN " + line(b"\0tim\0wrong")
    assert in_all_cuts(wrong + PLAIN) == "535 5.7.8 wrong\n" + IN


def test_who_never_gets_it_right_is_sent_away() -> None:
    said = in_all_cuts(b"AUTH LOGIN\r\n*\r\n" * 4)
    assert said.endswith("421 4.7.0 mx.test closing the connection: too many bad commands\n")


def test_verdict_421_closes() -> None:
    server = Server(SETTINGS)
    server.mechanisms = ("PLAIN",)
    server.receive(b"EHLO c\r\n")
    server.next_event()
    server.answer()
    server.receive(PLAIN + b"NOOP\r\n")
    assert server.next_event() == Auth("PLAIN", b"\0tim\0secret")
    server.answer(reply(421, "4.7.0", "go away"))
    assert (server.next_event(), server.closed, server.authenticated) == (None, True, False)
    assert server.take_output().endswith(b"\r\n421 4.7.0 go away\r\n")


def test_end_of_input_in_an_exchange_closes() -> None:
    desk = Desk()
    desk.say(b"EHLO c\r\nAUTH LOGIN\r\ndG")
    assert desk.say(b"") == ""
    assert desk.server.closed


@pytest.mark.parametrize("value", [b"<>", b"e+3Dmc2@example.com"])
def test_auth_parameter_of_mail_is_taken(value: bytes) -> None:
    assert in_all_cuts(b"MAIL FROM:<a@b> AUTH=" + value + b"\r\n") == "250 2.1.0 Ok\n"


@pytest.mark.parametrize("value", [b"", b"a+b", b"x" * 501])
def test_bad_auth_parameter_of_mail(value: bytes) -> None:
    assert Desk().say(b"EHLO c\r\nMAIL FROM:<a@b> AUTH=" + value + b"\r\n").startswith(f"{GREETED}501 5.5.4 ")


def test_challenge_at_the_wrong_time_is_a_bug() -> None:
    server = Server(SETTINGS)
    with pytest.raises(LocalProtocolError):
        server.challenge(b"")


def test_secrets_are_not_in_the_text_of_events() -> None:
    assert "geheim" not in f"{Auth('PLAIN', b'geheim')!r}{AuthResponse(b'geheim')!r}"
