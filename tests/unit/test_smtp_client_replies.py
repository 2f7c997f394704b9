"""smtp.client: replies in every cut, and what each recipient is told by them."""

from __future__ import annotations

import pytest

from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_transaction import BodyWanted, Closed, Done, Fate, Refused, Transaction, Verdict
from tests.reference.smtp_server import DROP, SmtpServer
from tests.unit.client_dialogue import (
    BODY,
    CHUNKED,
    FULL,
    TAKEN,
    Cut,
    Dialogue,
    decide_by,
    ready_client,
    single,
    transaction,
    verdict,
    whole,
)


@pytest.mark.parametrize("cut", [whole, single])
@pytest.mark.parametrize("offers", [FULL, CHUNKED, ("SIZE",), ("CHUNKING",)])
class TestReplies:
    def run(self, offers: tuple[str, ...], cut: Cut, table: dict[str, str], *transactions: Transaction) -> Dialogue:
        dialogue = Dialogue(SmtpServer(offers, decide_by(table)), transactions, cut).run()
        assert dialogue.server.violations == []
        return dialogue

    def test_each_recipient_gets_its_own_reply(self, offers: tuple[str, ...], cut: Cut) -> None:
        table = {"RCPT TO:<gone": "550-5.1.1 no\n550 5.1.1 such", "RCPT TO:<full": "452 4.2.2 later"}
        mixed, after = transaction("gone@y.test", "b@y.test", "full@y.test"), transaction("c@y.test")
        dialogue = self.run(offers, cut, table, mixed, after)
        assert mixed.verdicts == [
            Verdict(Stage.RCPT, Reply(550, "5.1.1", ("no", "such"))),
            TAKEN,
            verdict(Stage.RCPT, 452, "4.2.2", "later"),
        ]
        assert after.verdicts == [TAKEN]
        assert [m.recipients for m in dialogue.server.messages] == [("TO:<b@y.test>",), ("TO:<c@y.test>",)]

    def test_refused_mail_is_the_answer_for_all_recipients(self, offers: tuple[str, ...], cut: Cut) -> None:
        refused, after = transaction("b@y.test", "c@y.test", sender="bad@x.test"), transaction()
        self.run(offers, cut, {"MAIL FROM:<bad": "550 5.7.1 no"}, refused, after)
        assert refused.verdicts == [verdict(Stage.MAIL, 550, "5.7.1", "no")] * 2
        assert after.verdicts == [TAKEN]

    def test_all_recipients_refused(self, offers: tuple[str, ...], cut: Cut) -> None:
        refused, after = transaction("bad@y.test", "bad2@y.test"), transaction("c@y.test")
        dialogue = self.run(offers, cut, {"RCPT TO:<bad": "450 4.7.1 grey"}, refused, after)
        assert refused.verdicts == [verdict(Stage.RCPT, 450, "4.7.1", "grey")] * 2
        assert after.verdicts == [TAKEN]
        assert [m.recipients for m in dialogue.server.messages] == [("TO:<c@y.test>",)]

    def test_all_recipients_refused_but_data_accepted(self, offers: tuple[str, ...], cut: Cut) -> None:
        refused, after = transaction("bad@y.test"), transaction("c@y.test")
        dialogue = self.run(offers, cut, {"RCPT TO:<bad": "550 no", "DATA": "354 go"}, refused, after)
        assert refused.verdicts == [verdict(Stage.RCPT, 550, "", "no")]
        assert after.verdicts == [TAKEN]
        assert [m.recipients for m in dialogue.server.messages] == [("TO:<c@y.test>",)]

    def test_message_refused_at_its_end(self, offers: tuple[str, ...], cut: Cut) -> None:
        answers = iter(["554 5.6.0 spam", "250 2.0.0 taken"])
        server = SmtpServer(offers, lambda verb, _rest: next(answers) if verb == "." else None)
        refused, after = transaction("b@y.test", "c@y.test"), transaction()
        Dialogue(server, [refused, after], cut).run()
        assert server.violations == []
        assert refused.verdicts == [verdict(Stage.FINAL_DOT, 554, "5.6.0", "spam")] * 2
        assert after.verdicts == [TAKEN]

    def test_421_to_a_recipient_closes_and_leaves_the_next_alone(self, offers: tuple[str, ...], cut: Cut) -> None:
        table = {"RCPT TO:<b@": "550 no", "RCPT TO:<c@": "421 4.3.2 closing"}
        broken, after = transaction("b@y.test", "c@y.test", "d@y.test"), transaction()
        dialogue = self.run(offers, cut, table, broken, after)
        closing = verdict(Stage.RCPT, 421, "4.3.2", "closing")
        assert broken.verdicts == [verdict(Stage.RCPT, 550, "", "no"), closing, closing]
        assert dialogue.events[-2:] == [Done(broken), Closed(closing.reply)]
        assert all(fate is Fate.UNTOUCHED for _, fate in dialogue.client.abandon(0))
        assert dialogue.server.messages == []

    def test_421_to_mail_leaves_the_transaction_untouched(self, offers: tuple[str, ...], cut: Cut) -> None:
        broken = transaction()
        dialogue = self.run(offers, cut, {"MAIL": "421 enough"}, broken)
        assert dialogue.events[1:] == [Closed(Reply(421, "", ("enough",)))]
        assert dialogue.client.abandon(0)[0] == (broken, Fate.UNTOUCHED)

    def test_421_to_the_message_is_its_answer(self, offers: tuple[str, ...], cut: Cut) -> None:
        broken = transaction()
        dialogue = self.run(offers, cut, {".": "421 4.3.0 not now"}, broken)
        assert dialogue.done[0].verdicts == [verdict(Stage.FINAL_DOT, 421, "4.3.0", "not now")]

    def test_connection_lost_before_the_answer_to_the_message_is_in_doubt(
        self, offers: tuple[str, ...], cut: Cut
    ) -> None:
        lost = transaction()
        dialogue = self.run(offers, cut, {".": DROP}, lost)
        assert dialogue.events[1:] == [Closed(None)]
        assert dialogue.client.abandon(0)[0] == (lost, Fate.IN_DOUBT)

    def test_unknown_codes_count_by_their_first_digit(self, offers: tuple[str, ...], cut: Cut) -> None:
        odd = transaction("b@y.test", "c@y.test", "d@y.test")
        table = {"MAIL": "233 a", "RCPT TO:<b": "299", "RCPT TO:<c": "499 b", "RCPT TO:<d": "599 c", ".": "277 d"}
        self.run(offers, cut, table, odd)
        assert odd.verdicts == [
            verdict(Stage.FINAL_DOT, 277, "", "d"),
            verdict(Stage.RCPT, 499, "", "b"),
            verdict(Stage.RCPT, 599, "", "c"),
        ]


@pytest.mark.parametrize("offers", [FULL, ()])
def test_refused_data_is_the_answer_for_accepted_recipients(offers: tuple[str, ...]) -> None:
    answers = iter(["451 4.3.0 busy"])
    table = {"RCPT TO:<bad": "550 no"}

    def decide(verb: str, rest: str) -> str | None:
        return next(answers, None) if verb == "DATA" else decide_by(table)(verb, rest)

    refused, after = transaction("bad@y.test", "b@y.test"), transaction()
    dialogue = Dialogue(SmtpServer(offers, decide), [refused, after]).run()
    assert refused.verdicts == [verdict(Stage.RCPT, 550, "", "no"), verdict(Stage.DATA, 451, "4.3.0", "busy")]
    assert after.verdicts == [TAKEN]
    assert dialogue.server.violations == []


@pytest.mark.parametrize("offers", [CHUNKED, ("CHUNKING",)])
def test_refused_chunk_is_the_answer_and_the_rest_is_not_sent(offers: tuple[str, ...]) -> None:
    refused, after = transaction(body=None), transaction(body=BODY)
    server = SmtpServer(offers, decide_by({"BDAT": "552 5.3.4 too much"}))
    dialogue = Dialogue(server, [refused, after], streamed=(b"a\r\n", b"b\r\n", b"c\r\n")).run()
    assert refused.verdicts == [verdict(Stage.DATA, 552, "5.3.4", "too much")]
    assert after.verdicts == [TAKEN]
    assert server.violations == []
    assert "BDAT 3 LAST" not in server.commands
    assert [m.body for m in dialogue.server.messages] == [BODY]


def test_verdict_in_the_middle_of_a_body_ends_the_connection() -> None:
    client = ready_client(FULL)
    t = transaction(body=None)
    client.send(t)
    client.take_output()
    client.receive(b"250 a\r\n250 b\r\n354 c\r\n")
    assert client.next_event() == BodyWanted(t)
    client.body(b"x\r\n", last=False)
    client.take_output()
    client.receive(b"552 5.3.4 too large\r\n")
    assert [client.next_event(), client.next_event(), client.next_event()] == [Done(t), Closed(None), None]
    assert t.verdicts == [verdict(Stage.DATA, 552, "5.3.4", "too large")]


@pytest.mark.parametrize("cut", [whole, single])
@pytest.mark.parametrize(
    ("table", "event"),
    [
        ({"": "554 5.7.1 go away"}, Refused(Stage.GREETING, Reply(554, "5.7.1", ("go away",)))),
        ({"": "421 busy"}, Refused(Stage.GREETING, Reply(421, "", ("busy",)))),
        ({"EHLO": "450 grey"}, Refused(Stage.EHLO, Reply(450, "", ("grey",)))),
        ({"EHLO": "421 busy"}, Refused(Stage.EHLO, Reply(421, "", ("busy",)))),
        ({"EHLO": "500 a", "HELO": "550 b"}, Refused(Stage.EHLO, Reply(550, "", ("b",)))),
    ],
)
def test_session_that_is_refused(table: dict[str, str], event: Refused, cut: Cut) -> None:
    def decide(verb: str, _rest: str) -> str | None:
        return table.get(verb)

    dialogue = Dialogue(SmtpServer(FULL, decide), [transaction()], cut).run()
    assert dialogue.events == [event, Closed(None)]
    assert not dialogue.client.busy


@pytest.mark.parametrize("offers", [FULL, CHUNKED])
def test_more_of_a_body_is_asked_for_only_when_all_before_it_is_sent(offers: tuple[str, ...]) -> None:
    client = ready_client(offers)
    t = transaction(body=None)
    client.send(t)
    client.take_output()
    client.receive(b"250 a\r\n250 b\r\n" + (b"" if "CHUNKING" in offers else b"354 c\r\n"))
    assert client.next_event() == BodyWanted(t)
    client.body(b"x\r\n", last=False)
    assert client.next_event() is None
    client.take_output()
    assert client.next_event(sending=True) is None
    assert client.next_event() == BodyWanted(t)
