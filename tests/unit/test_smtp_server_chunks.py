"""smtp.server: BDAT. What it announces is consumed whatever becomes of it, and nothing is set aside for it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroika.mail.reply import Reply, reply
from postroika.smtp.server import Server
from postroika.smtp.server_events import BodyChunk, BodyEnd, BodyRefused, DataBegin, Event, Mail, Rcpt, Refused, Reset
from tests.unit.smtp_dialogue import SETTINGS, talk, talk_in_all_cuts

BEGIN = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
BINARY = b"EHLO c\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nRCPT TO:<c@d>\r\n"
OK = "250 2.0.0 Ok\n"
LOST = "503 5.5.1 a chunk was refused, the transaction has failed; send RSET\n"
BYE = "221 2.0.0 mx.test closing the connection\n"
RUN_ME = b"NOOP\r\nRSET\r\nQUIT\r\n"  # as the content of a chunk it must not be run


def chunk(content: bytes, last: bytes = b"") -> bytes:
    return b"BDAT %d%s\r\n%s" % (len(content), last, content)


def after_rcpt(replies: str) -> str:
    return replies.partition("250 2.1.5 Ok\n")[2]


@pytest.mark.parametrize(
    ("wire", "replies", "content"),
    [
        (chunk(b"hi\r\n", b" LAST"), OK, b"hi\r\n"),
        (chunk(b"hi", b" last ") + b"QUIT\r\n", OK + BYE, b"hi"),
        (chunk(b"", b" LAST"), OK, b""),
        (chunk(b"a\r") + chunk(b"\nb\r\n") + chunk(b"", b" LAST"), OK * 3, b"a\r\nb\r\n"),
        (chunk(RUN_ME) + chunk(RUN_ME, b" LAST") + b"NOOP\r\n", OK * 3, RUN_ME * 2),
        (chunk(b".\r\n..\r\n") + chunk(b"\r\n.\r\n", b" LAST"), OK * 2, b".\r\n..\r\n\r\n.\r\n"),
        (chunk(b"a") + b"NOOP\r\n" + chunk(b"b", b" LAST"), OK * 3, b"ab"),
    ],
)
def test_chunks_make_a_message(wire: bytes, replies: str, content: bytes) -> None:
    dialogue = talk_in_all_cuts(BEGIN + wire)
    assert after_rcpt(dialogue.replies) == replies
    assert b"".join(dialogue.bodies) == content
    ends = [event for event in dialogue.events if isinstance(event, BodyEnd)]
    assert [end.size_bytes for end in ends] == [len(content)]
    assert dialogue.events.count(DataBegin(chunked=True)) == 1


def test_two_messages_in_chunks_may_follow_each_other_in_one_segment() -> None:
    message = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
    dialogue = talk_in_all_cuts(b"EHLO c\r\n" + (message + chunk(b"hi", b" LAST")) * 2)
    assert [event for event in dialogue.events if isinstance(event, BodyChunk)] == [BodyChunk(b"hi")] * 2
    assert dialogue.replies.endswith("250 2.1.0 Ok\n250 2.1.5 Ok\n250 2.0.0 Ok\n" * 2)


def test_binary_chunks_hold_any_octet() -> None:
    content = bytes(range(256)) + b"\n\r\0\n.\n\r"
    dialogue = talk_in_all_cuts(BINARY + chunk(content[:100]) + chunk(content[100:], b" LAST"))
    assert b"".join(dialogue.bodies) == content
    end = dialogue.events[-1]
    assert isinstance(end, BodyEnd)
    assert (end.size_bytes, end.nul, end.eight_bit) == (len(content), True, True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"a\nb\r\n", "550 5.6.0 message has a bare LF: each line must end with CR LF (RFC 5321 section 2.3.8)\n"),
        (b"a\rb\r\n", "550 5.6.0 message has a bare CR: each line must end with CR LF (RFC 5321 section 2.3.8)\n"),
        (b"a\r\nb\r", "550 5.6.0 message has a bare CR: each line must end with CR LF (RFC 5321 section 2.3.8)\n"),
        (b"a\0b\r\n", "550 5.6.0 message has a NUL octet: encode it, or use BINARYMIME (RFC 5321 section 4.5.2)\n"),
    ],
)
def test_text_chunks_are_checked_like_data(content: bytes, what: str) -> None:
    dialogue = talk_in_all_cuts(BEGIN + chunk(content, b" LAST") + b"NOOP\r\n")
    assert after_rcpt(dialogue.replies) == what + OK
    assert sum(isinstance(event, BodyRefused) for event in dialogue.events) == 1


def test_binary_message_needs_bdat() -> None:
    dialogue = talk_in_all_cuts(BINARY + b"DATA\r\n")
    assert after_rcpt(dialogue.replies) == "503 5.5.1 BODY=BINARYMIME needs BDAT\n"


@pytest.mark.parametrize("command", [b"DATA", b"MAIL FROM:<a@b>", b"RCPT TO:<e@f>"])
def test_only_bdat_and_rset_may_follow_bdat(command: bytes) -> None:
    wire = BEGIN + chunk(b"a") + command + b"\r\n"
    refusal = "503 5.5.1 BDAT was begun: only BDAT or RSET may follow\n"
    assert after_rcpt(talk_in_all_cuts(wire).replies) == OK + refusal
    more = [wire, chunk(b"b", b" LAST")]
    assert after_rcpt(talk(more).replies) == OK + refusal + OK
    assert b"".join(talk(more).bodies) == b"ab"


def test_rset_between_chunks_ends_the_transaction() -> None:
    dialogue = talk_in_all_cuts(BEGIN + chunk(b"a") + b"RSET\r\n" + chunk(RUN_ME, b" LAST"))
    assert after_rcpt(dialogue.replies) == OK + OK + "503 5.5.1 need MAIL command\n"
    assert Reset() in dialogue.events


@pytest.mark.parametrize(
    ("before", "refusal"),
    [
        (b"", "503 5.5.1 send HELO or EHLO first\n"),
        (b"EHLO c\r\n", "503 5.5.1 need MAIL command\n"),
        (b"EHLO c\r\nMAIL FROM:<a@b>\r\n", "554 5.5.1 no valid recipients\n"),
        (b"HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "502 5.5.1 BDAT is not offered\n"),
    ],
)
@pytest.mark.parametrize("last", [b"", b" LAST"])
def test_refused_chunk_is_consumed_and_not_run(before: bytes, refusal: str, last: bytes) -> None:
    dialogue = talk_in_all_cuts(before + chunk(RUN_ME, last) + b"NOOP\r\n")
    assert dialogue.replies.endswith(refusal + OK)
    assert dialogue.replies.count(OK) == 1
    assert not dialogue.closed
    assert not any(isinstance(event, BodyChunk) for event in dialogue.events)


def refuse_data(event: Event) -> Reply | None:
    return reply(452, "4.3.1", "no room") if isinstance(event, DataBegin) else None


def test_chunk_refused_by_the_session_is_consumed_before_the_reply() -> None:
    server = Server(SETTINGS)
    server.receive(BEGIN + b"BDAT 5 LAST\r\nNOO")
    while (event := server.next_event()) is not None:
        server.answer(refuse_data(event))
    assert server.take_output().endswith(b"250 2.1.5 Ok\r\n")
    server.receive(b"P\r")
    assert server.next_event() == Reset()
    assert server.take_output() == b"452 4.3.1 no room\r\n"


def test_chunks_behind_a_refused_one_are_consumed_until_last() -> None:
    wire = BEGIN + chunk(b"a") + chunk(b"b") + chunk(RUN_ME, b" LAST") + b"MAIL FROM:<e@f>\r\n"
    dialogue = talk_in_all_cuts(wire, judge=refuse_data)
    assert after_rcpt(dialogue.replies) == f"452 4.3.1 no room\n{LOST}{LOST}250 2.1.0 Ok\n"


def test_rset_mends_a_failed_transaction() -> None:
    wire = BEGIN + chunk(b"a") + b"MAIL FROM:<e@f>\r\nRSET\r\nMAIL FROM:<e@f>\r\n"
    dialogue = talk_in_all_cuts(wire, judge=refuse_data)
    assert after_rcpt(dialogue.replies) == f"452 4.3.1 no room\n{LOST}{OK}250 2.1.0 Ok\n"


def test_chunk_too_large_is_refused_when_announced_and_still_consumed() -> None:
    at_once = talk([BEGIN, b"BDAT 1001 LAST\r\n", *[RUN_ME] * 50, b"x" * 101, b"NOOP\r\n" * 20])
    assert after_rcpt(at_once.replies).startswith("552 5.3.4 message is too large\n" + OK)
    assert not any(isinstance(event, BodyChunk | DataBegin) for event in at_once.events)
    later = talk_in_all_cuts(
        BEGIN + chunk(b"a" * 10) + b"BDAT 991\r\n" + b"b" * 991 + chunk(b"c", b" LAST") + b"NOOP\r\n"
    )
    assert after_rcpt(later.replies) == OK + "552 5.3.4 message is too large\n" + LOST + OK
    assert later.bodies == []


def test_announced_size_reserves_nothing() -> None:
    dialogue = talk([BEGIN, b"BDAT 99999999999999999999\r\n", b"x" * 1000, b""])
    assert (after_rcpt(dialogue.replies), dialogue.closed) == ("", True)


@pytest.mark.parametrize("argument", [b"", b"x", b"-1", b"1 LATS", b"+1", b"1 LAST x", b"1" * 21, b"0x10", b"\xb2"])
def test_bdat_that_cannot_be_understood_closes_the_connection(argument: bytes) -> None:
    dialogue = talk_in_all_cuts(BEGIN + b"BDAT " + argument + b"\r\n" + RUN_ME)
    assert after_rcpt(dialogue.replies) == (
        "501 5.5.4 syntax: BDAT octets [LAST]; closing, as what follows cannot be told apart\n"
    )
    assert dialogue.closed


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"BDAT 1\0\r\n", "NUL octet in a command line"),
        (b"bdat\r 1\r\n", "bare CR in a command line: lines must end with CR LF"),
        (b"Bdat 1\n\r\n", "bare LF in a command line: lines must end with CR LF"),
        (b"BDAT 1\nLAST\r\n", "bare LF in a command line: lines must end with CR LF"),
        (b"BDAT " + b"1" * 5000 + b"\r\n", "command line is longer than 4096 octets"),
    ],
)
def test_bdat_in_a_line_that_is_refused_closes_the_connection(line: bytes, why: str) -> None:
    closing = "421 4.7.0 mx.test closing the connection: what follows BDAT cannot be told apart\n"
    for state in (b"", BEGIN, BEGIN + chunk(b"a")):
        dialogue = talk_in_all_cuts(state + line + RUN_ME)
        assert dialogue.replies.endswith(f"500 5.5.2 {why}\n{closing}")
        assert dialogue.closed


def test_loop_is_found_in_chunks_too() -> None:
    wire = BEGIN + chunk(b"Received: a\r\nRecei") + chunk(b"ved: b\r\nReceived: c\r\n\r\n", b" LAST")
    assert after_rcpt(talk_in_all_cuts(wire).replies) == OK + "554 5.4.6 too many hops: the mail goes in circles\n"


def test_refused_bdat_is_told_for_the_record() -> None:
    refused = [event for event in talk([b"EHLO c\r\n" + chunk(b"a")]).events if isinstance(event, Refused)]
    assert refused == [Refused("data", Reply(503, "5.5.1", ("need MAIL command",)), "1")]


# ---- whatever comes

WORDS = st.sampled_from([
    b"EHLO c\r\n", b"HELO c\r\n", b"MAIL FROM:<a@b>\r\n", b"MAIL FROM:<> BODY=BINARYMIME\r\n", b"RCPT TO:<c@d>\r\n",
    b"DATA\r\n", b"BDAT 3\r\n", b"BDAT 7 LAST\r\n", b"BDAT 0 LAST\r\n", b"abc", b"\r\n.\r\n", b".\r\n", b"RSET\r\n",
    b"NOOP\r\n",
    b"\n", b"\r", b"\0", b"\xff", b"QUIT\r\n", b"x" * 500, b"STARTTLS\r\n", b"Received: x\r\n", b"",
])  # fmt: skip
VERDICTS = st.lists(st.sampled_from([None, None, None, reply(450, "4.2.0", "later"), reply(550, "5.7.1", "no")]))


@given(pieces=st.lists(WORDS, max_size=30), verdicts=VERDICTS)
@example(pieces=[BEGIN, b"BDAT 3\r\n", b"abc", b"BDAT 0 LAST\r\n"], verdicts=[])
@example(pieces=[BEGIN, b"DATA\r\n", b"abc", b"\r\n.\r\n"], verdicts=[])
def test_any_input_gets_well_formed_replies_and_no_message_without_recipients(
    pieces: list[bytes], verdicts: list[Reply | None]
) -> None:
    recipients = 0
    verdicts = list(verdicts)

    def judge(event: Event) -> Reply | None:
        nonlocal recipients
        verdict = verdicts.pop() if verdicts else None
        if isinstance(event, Mail):
            recipients = 0
        elif isinstance(event, Rcpt):
            recipients += verdict is None
        elif isinstance(event, DataBegin | BodyEnd):
            assert recipients > 0
        return verdict

    for line in talk(pieces, judge=judge).replies.splitlines():
        assert line[:3].isdigit()
        assert line[3] in " -"
        assert len(line) <= 510
