"""smtp.server: the content of messages by DATA. Nothing may end one but its dot, and nothing odd gets in."""

from __future__ import annotations

import msgspec
import pytest

from postroika.mail.reply import Reply, reply
from postroika.smtp.server_events import BodyEnd, BodyRefused, DataBegin, Event, Helo, Mail, Quit, Rcpt, Refused
from tests.unit.smtp_dialogue import SETTINGS, Dialogue, Judge, cuts, talk, talk_in_all_cuts

BEGIN = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
BARE_LF = "550 5.6.0 message has a bare LF: each line must end with CR LF (RFC 5321 section 2.3.8)\n"
BARE_CR = "550 5.6.0 message has a bare CR: each line must end with CR LF (RFC 5321 section 2.3.8)\n"
HAS_NUL = "550 5.6.0 message has a NUL octet: encode it, or use BINARYMIME (RFC 5321 section 4.5.2)\n"
TOO_LARGE = "552 5.3.4 message is too large\n"
NORMALISE = msgspec.structs.replace(SETTINGS, bare_newlines="normalise")
BYE = "221 2.0.0 mx.test closing the connection\n"


def after_354(dialogue: Dialogue) -> str:
    return dialogue.replies.partition("354 End data with <CR><LF>.<CR><LF>\n")[2]


# What has been used to smuggle: octets that some other server takes for the end of the message, then commands.
# With each, the flaws that the refusal may name: the first that is seen depends on how TCP cuts.
SMUGGLING = {
    b"\n.\n": {BARE_LF},
    b"\n.\r\n": {BARE_LF},
    b"\r\n.\n": {BARE_LF},
    b"\n.\r": {BARE_LF, BARE_CR},
    b"\r.\r": {BARE_CR},
    b"\r.\r\n": {BARE_CR},
    b"\r.\n": {BARE_LF, BARE_CR},
    b"\r\n.\r": {BARE_CR},
    b"\r\n.\r\r\n": {BARE_CR},
    b"\r\n\r.\r\n": {BARE_CR},
    b"\r\r\n.\r\r\n": {BARE_CR},
    b"\n\n.\n\n": {BARE_LF},
    b"\r\n.\n\r\n": {BARE_LF},
    b"\0\n.\n": {HAS_NUL, BARE_LF},
    b"\r\n\0.\r\n": {HAS_NUL},
    b"\r\n.\0\r\n": {HAS_NUL},
    b"\r\0\n.\r\0\n": {HAS_NUL, BARE_CR, BARE_LF},
}
SMUGGLED = b"MAIL FROM:<evil@x>\r\nRCPT TO:<victim@y>\r\nDATA\r\nSubject: forged\r\n\r\n"


@pytest.mark.parametrize("end", SMUGGLING)
def test_nothing_is_smuggled_behind_a_false_end(end: bytes) -> None:
    wire = BEGIN + b"a" + end + SMUGGLED + b"\r\n.\r\nQUIT\r\n"
    for pieces in ([wire], *cuts(wire)):
        dialogue = talk(pieces)
        assert after_354(dialogue) in {flaw + BYE for flaw in SMUGGLING[end]}
        kinds = [type(event) for event in dialogue.events]
        assert kinds == [Helo, Mail, Rcpt, DataBegin, BodyRefused, Quit]


@pytest.mark.parametrize("end", [end for end in SMUGGLING if HAS_NUL not in SMUGGLING[end]])
def test_normalised_content_has_only_cr_lf_and_nothing_is_smuggled(end: bytes) -> None:
    dialogue = talk_in_all_cuts(BEGIN + b"a" + end + SMUGGLED + b"\r\n.\r\nQUIT\r\n", NORMALISE)
    assert after_354(dialogue) == "250 2.0.0 Ok\n" + BYE
    (content,) = dialogue.bodies
    assert content.startswith(b"a\r\n")
    assert content.endswith(SMUGGLED + b"\r\n")
    assert not set(content.replace(b"\r\n", b"")) & set(b"\r\n")
    assert sum(isinstance(event, Mail) for event in dialogue.events) == 1


def test_nul_is_refused_also_where_newlines_are_normalised() -> None:
    assert after_354(talk_in_all_cuts(BEGIN + b"a\0b\r\n.\r\n", NORMALISE)) == HAS_NUL


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".a\r\nb.\r\nc..d\r\n..\r\n.\r\n", b"a\r\nb.\r\nc..d\r\n.\r\n"),
        (b"\r\n\r\n..\r\n\r\n.\r\n", b"\r\n\r\n.\r\n\r\n"),
    ],
)
def test_dots_are_unstuffed_at_the_start_of_lines_only(wire: bytes, content: bytes) -> None:
    dialogue = talk_in_all_cuts(BEGIN + wire + b"QUIT\r\n")
    assert b"".join(dialogue.bodies) == content
    assert after_354(dialogue) == "250 2.0.0 Ok\n" + BYE


def test_bare_lf_clients_are_understood_where_newlines_are_normalised() -> None:
    wire = b"EHLO c\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\nDATA\none\n..two\nthree\r\n.\r\nQUIT\n"
    dialogue = talk_in_all_cuts(wire, NORMALISE)
    assert dialogue.bodies == [b"one\r\n.two\r\nthree\r\n"]
    assert dialogue.replies.endswith("250 2.0.0 Ok\n" + BYE)


def test_message_larger_than_allowed_is_read_to_its_end_but_not_kept() -> None:
    line = b"x" * 98 + b"\r\n"
    fits = talk([BEGIN, line * 10, b".\r\nNOOP\r\n"])
    assert after_354(fits) == "250 2.0.0 Ok\n250 2.0.0 Ok\n"
    grows = talk([BEGIN, *[line] * 20, b".\r\nNOOP\r\n"])
    assert after_354(grows) == TOO_LARGE + "250 2.0.0 Ok\n"
    assert grows.bodies == []
    assert grows.events[-1] == BodyRefused(Reply(552, "5.3.4", ("message is too large",)))


def test_size_is_counted_after_unstuffing() -> None:
    assert after_354(talk([BEGIN + b"..\r\n" * 333 + b".\r\n"])) == "250 2.0.0 Ok\n"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Received: a\r\n" * 2, "250 2.0.0 Ok\n"),
        (b"Received: a\r\n" * 2 + b"X-Received: a\r\nSubject: b\r\n", "250 2.0.0 Ok\n"),
        (b"Received: a\r\nReceived: b\r\nRECEIVED : c\r\n", "554 5.4.6 too many hops: the mail goes in circles\n"),
        (b"X: " + b"y" * 290 + b"\r\n", "250 2.0.0 Ok\n"),
        (b"X: " + b"y" * 300 + b"\r\n", "552 5.3.4 message header is too large\n"),
    ],
)
def test_header_is_judged(header: bytes, expected: str) -> None:
    wire = BEGIN + header + b"\r\n" + b"Received: in the body\r\n" * 5 + b"y" * 400 + b"\r\n.\r\n"
    assert after_354(talk([wire])) == expected
    assert after_354(talk([wire[i : i + 1] for i in range(len(wire))])) == expected


def test_long_lines_are_taken() -> None:
    dialogue = talk([BEGIN + b"\r\n" + b"x" * 990 + b"\r\n.\r\n"])
    assert dialogue.events[-1] == BodyEnd(994, False, False, 990, 0, False)


def test_next_message_may_follow_in_the_same_segment() -> None:
    message = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
    dialogue = talk_in_all_cuts(
        b"EHLO c\r\n" + message + b"1\r\n.\r\n" + message + b"2\r\n.\r\n" + message + b"3\r\n.\r\n"
    )
    assert dialogue.bodies == [b"1\r\n", b"2\r\n", b"3\r\n"]
    assert dialogue.replies.count("250 2.0.0 Ok\n") == 3


# ---- DATA that is refused: its content must never be run


def refuse_rcpt(event: Event) -> Reply | None:
    return reply(550, "5.7.1", "no") if isinstance(event, Rcpt) else None


def refuse_data(event: Event) -> Reply | None:
    return reply(452, "4.3.1", "no room") if isinstance(event, DataBegin) else None


@pytest.mark.parametrize(
    ("judge", "refusal"),
    [(refuse_rcpt, "554 5.5.1 no valid recipients\n"), (refuse_data, "452 4.3.1 no room\n")],
)
def test_content_sent_behind_a_refused_data_is_not_run(judge: Judge, refusal: str) -> None:
    content = b"RSET\r\nMAIL FROM:<evil@x>\r\nRCPT TO:<victim@y>\r\nDATA\r\nforged\r\n.\r\n"
    dialogue = talk([BEGIN + content], judge=judge)
    assert dialogue.replies.endswith(
        refusal + "421 4.7.0 mx.test closing the connection: content was sent although DATA was refused\n"
    )
    assert sum(isinstance(event, Mail) for event in dialogue.events) == 1
    assert dialogue.closed


@pytest.mark.parametrize("begin", [b"Subject: x", b"Received: from y", b"From:<a@b>", b"X-Mailer: z", b"to:"])
def test_content_sent_late_is_known_by_its_header_and_not_run(begin: bytes) -> None:
    content = begin + b"\r\n\r\nRSET\r\nMAIL FROM:<evil@x>\r\n"
    dialogue = talk([BEGIN, *[content[i : i + 1] for i in range(len(content))]], judge=refuse_rcpt)
    assert dialogue.replies.endswith("421 4.7.0 mx.test closing the connection: that is not SMTP\n")
    assert sum(isinstance(event, Mail) for event in dialogue.events) == 1


@pytest.mark.parametrize(("tail", "said"), [(b"QUIT\r\n", BYE), (b"rset\r\n", "250 2.0.0 Ok\n")])
def test_harmless_command_behind_a_refused_data_is_answered(tail: bytes, said: str) -> None:
    dialogue = talk_in_all_cuts(BEGIN + tail, judge=refuse_rcpt)
    assert dialogue.replies.endswith("554 5.5.1 no valid recipients\n" + said)


def test_data_may_be_tried_again_after_a_recipient_has_been_accepted() -> None:
    pieces = [
        b"EHLO c\r\nMAIL FROM:<a@b>\r\n", b"DATA\r\n", b"RCPT TO:<c@d>\r\n", b"DATA x\r\n", b"DATA\r\n", b".\r\n",
    ]  # fmt: skip
    assert talk(pieces).replies.endswith(
        "250 2.1.0 Ok\n554 5.5.1 no valid recipients\n250 2.1.5 Ok\n501 5.5.4 this command takes no argument\n"
        "354 End data with <CR><LF>.<CR><LF>\n250 2.0.0 Ok\n"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        *[
            (line, "that is not SMTP")
            for line in (
                b"GET / HTTP/1.1",
                b"post /x HTTP/1.0",
                b"CONNECT mx:25 HTTP/1.1",
                b"PRI * HTTP/2.0",
                b"Host: x",
            )
        ],
        (b"\x16\x03\x01", "that is TLS, and a session begins in the clear here"),
    ],
)
def test_peer_that_speaks_something_else_is_sent_away_at_once(line: bytes, said: str) -> None:
    dialogue = talk([line + b"\r\nMAIL FROM:<a@b>\r\n"])
    assert dialogue.replies == f"421 4.7.0 mx.test closing the connection: {said}\n"
    assert [type(event) for event in dialogue.events] == [Refused]


# ---- command lines


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"MAIL FROM:<a@b>\nRCPT TO:<c@d>\r\n", "500 5.5.2 bare LF in a command line: lines must end with CR LF\n"),
        (b"\nMAIL FROM:<a@b>\r\n", "500 5.5.2 bare LF in a command line: lines must end with CR LF\n"),
        (b"MAIL FROM:<a@b>\rRCPT TO:<c@d>\r\n", "500 5.5.2 bare CR in a command line: lines must end with CR LF\n"),
        (b"MAIL FROM:<a@b>\r\r\n", "500 5.5.2 bare CR in a command line: lines must end with CR LF\n"),
        (b"MAIL FROM:<a@b>\0\r\n", "500 5.5.2 NUL octet in a command line\n"),
        (b"MAIL\0 FROM:<a@b>\rX\r\n", "500 5.5.2 NUL octet in a command line\n"),
        (b"MAIL FROM:<" + b"a" * 4096 + b"@b>\r\n", "500 5.5.2 command line is longer than 4096 octets\n"),
    ],
)
def test_odd_command_line_is_refused_as_one_line(line: bytes, refusal: str) -> None:
    whole = talk([b"EHLO c\r\n" + line + b"NOOP\r\n"])
    assert whole.replies.partition("RCPTMAX=3\n")[2] == refusal + "250 2.0.0 Ok\n"
    assert len(whole.events) == 1
    for at in range(0, len(line), 1 if len(line) < 100 else 61):
        assert talk([b"EHLO c\r\n" + line[:at], line[at:] + b"NOOP\r\n"]) == whole
    wire = b"EHLO c\r\n" + line + b"NOOP\r\n"
    assert talk([wire[i : i + 1] for i in range(len(wire))]) == whole


def test_client_that_only_sends_bare_lf_is_told_at_once_and_then_sent_away() -> None:
    assert talk([b"EHLO c\n"]).replies == "500 5.5.2 bare LF in a command line: lines must end with CR LF\n"
    assert talk_in_all_cuts(b"EHLO c\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\n").replies == (
        "500 5.5.2 bare LF in a command line: lines must end with CR LF\n"
        "421 4.7.0 mx.test closing the connection: lines must end with CR LF\n"
    )


def test_longest_command_line_is_taken() -> None:
    line = b"NOOP " + b"x" * 4089 + b"\r\n"
    assert len(line) == 4096
    assert talk([line]).replies == talk([line[:-1], line[-1:]]).replies == "250 2.0.0 Ok\n"
    assert talk([b"x" + line]).replies == "500 5.5.2 command line is longer than 4096 octets\n"


def test_line_without_end_does_not_pile_up() -> None:
    dialogue = talk([b"x" * 4000] * 20)
    assert dialogue.replies == (
        "500 5.5.2 command line is longer than 4096 octets\n"
        "421 4.7.0 mx.test closing the connection: lines must end with CR LF\n"
    )


def test_bad_commands_are_limited() -> None:
    dialogue = talk_in_all_cuts(b"EHLO c\r\nFOO\r\nMAIL BAR\r\nFOO\r\nFOO\r\nFOO\r\nNOOP\r\n")
    assert dialogue.replies.partition("RCPTMAX=3\n")[2] == (
        "500 5.5.1 command not recognised\n501 5.5.4 syntax: MAIL FROM:<address>\n500 5.5.1 command not recognised\n"
        "500 5.5.1 command not recognised\n421 4.7.0 mx.test closing the connection: too many bad commands\n"
    )
    assert dialogue.closed


def test_accepted_message_forgives_bad_commands() -> None:
    message = b"FOO\r\nFOO\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n"
    assert not talk([b"EHLO c\r\n" + message * 5]).closed


def test_pipelined_group_behind_a_refused_mail_is_not_held_against_the_client() -> None:
    group = b"MAIL FROM:<a@b> SIZE=2000\r\n" + b"RCPT TO:<c@d>\r\n" * 3 + b"DATA\r\n"
    dialogue = talk([b"EHLO c\r\n", group, group, b"MAIL FROM:<a@b>\r\n"])
    assert dialogue.replies.partition("RCPTMAX=3\n")[2] == (
        (TOO_LARGE + "503 5.5.1 need MAIL command\n" * 4) * 2 + "250 2.1.0 Ok\n"
    )


def test_helo_name_is_bounded_and_printable() -> None:
    names = [event.name for event in talk([b"EHLO a\x07b\xc3\xa4 (c)\r\nHELO " + b"x" * 256 + b"\r\n"]).events]  # type: ignore[union-attr]
    assert names == ["a?b?? (c)"]
