"""smtp.client against the reference server: what goes over the wire, what cannot be sent, limits, and all at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroika.mail.envelope import BodyType, Notify, Recipient
from postroika.mail.outcome import Stage
from postroika.smtp.client import Client
from postroika.smtp.client_base import ClientSettings
from postroika.smtp.client_transaction import Done, Ready, Step, Transaction
from tests.reference.smtp_server import SmtpServer
from tests.unit.client_dialogue import (
    BODY,
    CHUNKED,
    FULL,
    TAKEN,
    Dialogue,
    decide_by,
    envelope,
    ready_client,
    single,
    transaction,
    verdict,
    whole,
)

# --- what goes over the wire


def test_pipelined_messages_take_one_write_each_and_the_next_follows_the_dot() -> None:
    dialogue = Dialogue(SmtpServer(FULL), [transaction("b@y.test", "c@y.test"), transaction("d@y.test")]).run()
    assert dialogue.writes == [
        b"EHLO me.test\r\n",
        b"MAIL FROM:<a@x.test> SIZE=29\r\nRCPT TO:<b@y.test>\r\nRCPT TO:<c@y.test>\r\nDATA\r\n",
        b"Subject: x\r\n\r\n..dot\r\n...\r\nend\r\n.\r\nMAIL FROM:<a@x.test> SIZE=29\r\nRCPT TO:<d@y.test>\r\nDATA\r\n",
        b"Subject: x\r\n\r\n..dot\r\n...\r\nend\r\n.\r\n",
        b"QUIT\r\n",
    ]
    assert dialogue.server.violations == []
    assert [t.verdicts for t in dialogue.done] == [[TAKEN, TAKEN], [TAKEN]]


def test_with_chunking_a_message_is_one_write_and_the_next_one_begins_with_rset() -> None:
    dialogue = Dialogue(SmtpServer(CHUNKED), [transaction(), transaction("d@y.test")]).run()
    first = b"MAIL FROM:<a@x.test> SIZE=29\r\nRCPT TO:<b@y.test>\r\nBDAT 29 LAST\r\n" + BODY
    second = b"RSET\r\nMAIL FROM:<a@x.test> SIZE=29\r\nRCPT TO:<d@y.test>\r\nBDAT 29 LAST\r\n" + BODY
    assert dialogue.writes == [b"EHLO me.test\r\n", first + second, b"QUIT\r\n"]
    assert [m.body for m in dialogue.server.messages] == [BODY, BODY]
    assert dialogue.server.violations == []


def test_without_pipelining_one_command_goes_at_a_time() -> None:
    dialogue = Dialogue(SmtpServer(["SIZE"]), [transaction("b@y.test", "c@y.test"), transaction()]).run()
    assert dialogue.writes == [
        b"EHLO me.test\r\n",
        b"MAIL FROM:<a@x.test> SIZE=29\r\n",
        b"RCPT TO:<b@y.test>\r\n",
        b"RCPT TO:<c@y.test>\r\n",
        b"DATA\r\n",
        b"Subject: x\r\n\r\n..dot\r\n...\r\nend\r\n.\r\n",
        b"MAIL FROM:<a@x.test> SIZE=29\r\n",
        b"RCPT TO:<b@y.test>\r\n",
        b"DATA\r\n",
        b"Subject: x\r\n\r\n..dot\r\n...\r\nend\r\n.\r\n",
        b"QUIT\r\n",
    ]
    assert dialogue.server.violations == []


def test_chunking_without_pipelining_waits_for_each_reply() -> None:
    dialogue = Dialogue(SmtpServer(["CHUNKING"]), [transaction()]).run()
    assert dialogue.writes[1:4] == [b"MAIL FROM:<a@x.test>\r\n", b"RCPT TO:<b@y.test>\r\n", b"BDAT 29 LAST\r\n" + BODY]
    assert dialogue.done[0].verdicts == [TAKEN]


def test_settings_can_turn_pipelining_and_chunking_off() -> None:
    dialogue = Dialogue(SmtpServer(CHUNKED), [transaction()], pipelining=False, chunking=False).run()
    assert dialogue.server.commands == [
        "EHLO me.test", "MAIL FROM:<a@x.test> SIZE=29", "RCPT TO:<b@y.test>", "DATA", "QUIT",
    ]  # fmt: skip
    assert len(dialogue.writes) == 6


def test_large_body_waits_for_the_recipients_and_goes_in_chunks() -> None:
    big = transaction("b@y.test", body=None)
    dialogue = Dialogue(SmtpServer(CHUNKED), [big, transaction()], streamed=(b"one\r\n", b"two\r\n")).run()
    assert dialogue.writes[1:] == [
        b"MAIL FROM:<a@x.test> SIZE=29\r\nRCPT TO:<b@y.test>\r\n",
        b"BDAT 5\r\none\r\n",
        b"BDAT 5 LAST\r\ntwo\r\n",
        b"MAIL FROM:<a@x.test> SIZE=29\r\nRCPT TO:<b@y.test>\r\nBDAT 29 LAST\r\n" + BODY,
        b"QUIT\r\n",
    ]
    assert [m.body for m in dialogue.server.messages] == [b"one\r\ntwo\r\n", BODY]
    assert dialogue.server.violations == []


@pytest.mark.parametrize("offers", [CHUNKED, FULL, (), ("CHUNKING",)])
def test_body_in_pieces_arrives_whole(offers: tuple[str, ...]) -> None:
    pieces = (b".a\r", b"\n", b".", b".b\r\n.")
    dialogue = Dialogue(SmtpServer(offers), [transaction(body=None)], streamed=pieces).run()
    text = b"".join(pieces) + (b"" if "CHUNKING" in offers else b"\r\n")
    assert [m.body for m in dialogue.server.messages] == [text]
    assert dialogue.done[0].verdicts == [TAKEN]


def test_large_body_is_not_sent_if_no_recipient_is_taken() -> None:
    server = SmtpServer(CHUNKED, decide_by({"RCPT": "550 5.1.1 no"}))
    dialogue = Dialogue(server, [transaction(body=None), transaction(body=None)], streamed=(b"x",)).run()
    assert "BDAT 1 LAST" not in server.commands
    assert [t.verdicts for t in dialogue.done] == [[verdict(Stage.RCPT, 550, "5.1.1", "no")]] * 2
    assert server.violations == []


def test_parameters_are_passed_on_where_offered() -> None:
    full = envelope(
        "é@x.test",
        body_type=BodyType.EIGHT_BIT,
        eight_bit=True,
        smtputf8=True,
        utf8_needed=True,
        ret="HDRS",
        envid="a+3Db",
    )
    recipients = [
        Recipient("b@y.test", Notify.SUCCESS | Notify.DELAY, "rfc822;b@y.test"),
        Recipient("ü@y.test", Notify.NEVER, "utf-8;ü@y.test"),
    ]
    dialogue = Dialogue(SmtpServer(FULL), [Transaction(full, recipients, BODY)]).run()
    assert dialogue.server.commands[1:4] == [
        "MAIL FROM:<é@x.test> SIZE=29 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+3Db",
        "RCPT TO:<b@y.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@y.test",
        "RCPT TO:<ü@y.test> NOTIFY=NEVER ORCPT=utf-8;ü@y.test",
    ]


def test_parameters_are_not_passed_on_where_not_offered() -> None:
    plain = envelope(body_type=BodyType.EIGHT_BIT, ret="HDRS", envid="a")
    recipient = Recipient("b@y.test", Notify.NEVER, "rfc822;b@y.test")
    dialogue = Dialogue(SmtpServer(), [Transaction(plain, [recipient], BODY)]).run()
    assert dialogue.server.commands[1:3] == ["MAIL FROM:<a@x.test>", "RCPT TO:<b@y.test>"]


def test_null_reverse_path_is_spoken() -> None:
    dialogue = Dialogue(SmtpServer(), [transaction(sender="")]).run()
    assert dialogue.server.commands[1] == "MAIL FROM:<>"


def test_helo_follows_a_refused_ehlo() -> None:
    dialogue = Dialogue(SmtpServer(CHUNKED, decide_by({"EHLO": "502 5.5.1 no"})), [transaction()]).run()
    assert dialogue.server.commands == [
        "EHLO me.test",
        "HELO me.test",
        "MAIL FROM:<a@x.test>",
        "RCPT TO:<b@y.test>",
        "DATA",
        "QUIT",
    ]
    assert dialogue.done[0].verdicts == [TAKEN]


# --- what cannot be sent


@pytest.mark.parametrize(
    ("offers", "fields", "code", "enhanced"),
    [
        (["SIZE 28"], {}, 552, "5.3.4"),
        (["CHUNKING"], {"body_type": BodyType.BINARY}, 554, "5.6.3"),
        (["BINARYMIME"], {"body_type": BodyType.BINARY}, 554, "5.6.3"),
        (["PIPELINING"], {"body_type": BodyType.EIGHT_BIT, "eight_bit": True}, 554, "5.6.3"),
        (["8BITMIME"], {"utf8_needed": True}, 553, "5.6.7"),
        (["8BITMIME"], {"sender": "é@x.test"}, 553, "5.6.7"),
        (CHUNKED, {"sender": "a@x.test>\r\nRCPT TO:<evil@z.test"}, 553, "5.1.3"),
        (CHUNKED, {"sender": "\udcff@x.test"}, 553, "5.1.3"),
        (CHUNKED, {"body": b"a\n.\r\nMAIL FROM:<>\r\n"}, 554, "5.6.3"),
        (FULL, {"body": b"a\r\n.\rMAIL FROM:<>\r\n"}, 554, "5.6.3"),
        (FULL, {"body": b"a\r"}, 554, "5.6.3"),
    ],
)  # fmt: skip
def test_message_that_the_server_cannot_take_is_refused_by_us(
    offers: tuple[str, ...], fields: dict[str, object], code: int, enhanced: str
) -> None:
    refused, good = transaction("b@y.test", "c@y.test", **fields), transaction("d@y.test")  # type: ignore[arg-type]
    good = Transaction(envelope(size_bytes=20), [Recipient("d@y.test")], BODY)
    dialogue = Dialogue(SmtpServer(offers), [refused, good]).run()
    assert dialogue.done[0] is refused
    for given_verdict in refused.verdicts:
        assert given_verdict is not None
        stage, reply, remote = given_verdict
        assert (stage, reply.code, reply.enhanced, remote) == (Stage.MAIL, code, enhanced, False)
    assert [m.recipients for m in dialogue.server.messages] == [("TO:<d@y.test>",)]


@pytest.mark.parametrize(
    ("offers", "fields"),
    [
        (["SIZE 29"], {}),
        (["SIZE 0"], {}),
        (["SIZE"], {}),
        ([], {"body_type": BodyType.EIGHT_BIT}),
        ([], {"eight_bit": True}),
        ([], {"smtputf8": True}),
        (CHUNKED, {"body_type": BodyType.BINARY, "body": b"a\0\nb\r.\r\n"}),
    ],
)
def test_message_without_real_obstacle_is_sent(offers: tuple[str, ...], fields: dict[str, object]) -> None:
    dialogue = Dialogue(SmtpServer(offers), [transaction(**fields)]).run()  # type: ignore[arg-type]
    assert dialogue.done[0].verdicts == [TAKEN]
    assert dialogue.server.messages[0].body == fields.get("body", BODY)


@pytest.mark.parametrize("offers", [FULL, CHUNKED])
def test_bare_newline_found_half_way_gives_up_before_the_end(offers: tuple[str, ...]) -> None:
    dialogue = Dialogue(SmtpServer(offers), [transaction(body=None)], streamed=(b"a\r\n", b"b\nc", b"\r\n")).run()
    assert dialogue.server.messages == []
    (gone,) = dialogue.done
    assert gone.verdicts[0] is not None
    assert (gone.verdicts[0].reply.enhanced, gone.verdicts[0].remote) == ("5.6.3", False)
    assert dialogue.client.closed


# --- limits


def test_limits_are_read_and_mailmax_is_kept() -> None:
    client = ready_client(("LIMITS RCPTMAX=20 MAILMAX=1 ODD=x", "AUTH PLAIN LOGIN", "AUTH=LOGIN", "STARTTLS"))
    offered = client.capabilities
    assert (offered.max_recipients, offered.max_messages) == (20, 1)
    assert (offered.auth, offered.starttls) == (("PLAIN", "LOGIN"), True)
    assert client.ready_for_next
    client.send(transaction())
    assert client.exhausted
    assert not client.ready_for_next


@pytest.mark.parametrize("value", ["-1", "x", "9" * 30, "٣", ""])
def test_broken_numbers_in_ehlo_are_no_limits(value: str) -> None:
    client = ready_client((f"SIZE {value}", f"LIMITS RCPTMAX={value} MAILMAX={value}"))
    offered = client.capabilities
    assert (offered.size, offered.max_size_bytes, offered.max_recipients, offered.max_messages) == (True, 0, 0, 0)


def test_waiting_tells_the_step_for_the_deadline() -> None:
    client = Client(ClientSettings(ehlo_name="me.test"))
    steps = [client.waiting]
    t = transaction()
    for replies in [
        b"220 a\r\n", b"250-b\r\n250 PIPELINING\r\n", b"250 c\r\n", b"250 d\r\n", b"354 e\r\n", b"250 f\r\n",
        b"221 g\r\n",
    ]:  # fmt: skip
        client.receive(replies)
        while (event := client.next_event()) is not None:
            if isinstance(event, Ready):
                client.send(t)
            if isinstance(event, Done):
                client.quit()
        client.take_output()
        steps.append(client.waiting)
    assert steps == [
        Step.GREETING, Step.EHLO, Step.MAIL, Step.RCPT, Step.DATA, Step.FINAL_DOT, Step.QUIT, Step.NOTHING,
    ]  # fmt: skip


# --- everything at once


ANSWERS = {
    "MAIL": st.sampled_from([None, None, None, "450 4.1.8 a", "550 5.1.8 b"]),
    "RCPT": st.sampled_from([None, None, "450 4.2.1 c", "550 5.1.1 d", "551-e\n551 f"]),
    "DATA": st.sampled_from([None, None, "354 g", "451 h"]),
    "BDAT": st.sampled_from([None, None, None, "452 i"]),
    ".": st.sampled_from([None, None, "250 j", "451 k", "554 l"]),
}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_the_server_answers_every_recipient_gets_what_was_meant_for_it(data: st.DataObject) -> None:
    offers = data.draw(st.sampled_from([FULL, CHUNKED, (), ("CHUNKING",), ("PIPELINING", "CHUNKING")]))

    def decide(verb: str, _rest: str) -> str | None:
        return data.draw(ANSWERS[verb]) if verb in ANSWERS else None

    count = data.draw(st.integers(1, 4))
    transactions = []
    for number in range(count):
        recipients = data.draw(st.integers(1, 3))
        body = data.draw(st.sampled_from([BODY, None]))
        addresses = [f"r{number}.{i}@y.test" for i in range(recipients)]
        transactions.append(transaction(*addresses, body=body, sender=f"s{number}@x.test"))
    cut = data.draw(st.sampled_from([whole, single]))
    server = SmtpServer(offers, decide)
    dialogue = Dialogue(server, transactions, cut, streamed=(b"a\r\n.b", b"\r\n", b".\r\n")).run()

    assert server.violations == []
    assert sorted(t.envelope.reverse_path for t in dialogue.done) == [f"s{i}@x.test" for i in range(count)]
    accepted = {(m.mail.partition(" ")[0], r) for m in server.messages for r in m.recipients}
    told = set()
    for t in transactions:
        for recipient, got in zip(t.recipients, t.verdicts, strict=True):
            assert got is not None
            assert got.remote
            if got.reply.kind == 2:
                assert got.stage is Stage.FINAL_DOT
                told.add((f"FROM:<{t.envelope.reverse_path}>", f"TO:<{recipient.address}>"))
    assert told == accepted
    for message in server.messages:
        assert message.body in {BODY, b"a\r\n.b\r\n.\r\n"}
