"""smtp.client against the strict oracle server, its input cut in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postroika.errors import LocalProtocolError, RemoteProtocolError
from postroika.mail.envelope import BodyType, Envelope, Notify, Recipient
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client import Client
from postroika.smtp.client_base import ClientSettings
from postroika.smtp.client_transaction import (
    BodyWanted,
    Closed,
    Done,
    Event,
    Fate,
    Ready,
    Refused,
    Step,
    Transaction,
    Verdict,
)
from tests.reference.smtp_server import DROP, SmtpServer

FULL = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
CHUNKED = (*FULL, "CHUNKING", "BINARYMIME")
BODY = b"Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n"
Cut = Callable[[bytes], Iterable[bytes]]


def whole(octets: bytes) -> Iterator[bytes]:
    yield octets


def single(octets: bytes) -> Iterator[bytes]:
    for i in range(len(octets)):
        yield octets[i : i + 1]


def envelope(sender: str = "a@x.test", **fields: object) -> Envelope:
    values: dict[str, object] = {"message": 1, "received_at": 0.0, "size_bytes": len(BODY), "chunks": 1}
    return Envelope(reverse_path=sender, **{**values, **fields})  # type: ignore[arg-type]


def transaction(*addresses: str, body: bytes | None = BODY, **fields: object) -> Transaction:
    return Transaction(envelope(**fields), [Recipient(a) for a in addresses or ("b@y.test",)], body)


def verdict(stage: Stage, code: int, enhanced: str = "", text: str = "", *, remote: bool = True) -> Verdict:
    return Verdict(stage, Reply(code, enhanced, (text,)), remote)


TAKEN = verdict(Stage.FINAL_DOT, 250, "2.0.0", "taken")


class Dialogue:
    """Client and server mouth to mouth: each write of the client is one write, the replies are cut by `cut`."""

    def __init__(
        self,
        server: SmtpServer,
        transactions: Iterable[Transaction],
        cut: Cut = whole,
        streamed: tuple[bytes, ...] = (),
        **options: object,
    ) -> None:
        self.server = server
        self.client = Client(ClientSettings(ehlo_name="me.test", **options))  # type: ignore[arg-type]
        self.waiting = list(transactions)
        self.cut = cut
        self.streamed = streamed
        self.pieces: dict[Transaction, list[bytes]] = {}
        self.events: list[Event] = []
        self.writes: list[bytes] = []

    def run(self) -> Dialogue:
        self._hear(self.server.greet())
        while not self.client.closed:
            output = b"".join(self.client.take_output())
            if not output:
                if not self.client.busy and not self.client.closed and self.client.waiting is not Step.QUIT:
                    self.client.quit()
                    continue
                break
            self.writes.append(output)
            self._hear(self.server.receive(output))
        return self

    def _hear(self, replies: bytes) -> None:
        for piece in self.cut(replies):
            self.client.receive(piece)
            self._events()
        if self.server.closed:
            self.client.receive(b"")
            self._events()

    def _events(self) -> None:
        while (event := self.client.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, BodyWanted):
                pieces = self.pieces.setdefault(event.transaction, list(self.streamed))
                self.client.body(pieces.pop(0), last=not pieces)
                output = b"".join(self.client.take_output())
                self.writes.append(output)
                if replies := self.server.receive(output):
                    self.client.receive(replies)
        while self.waiting and self.client.ready_for_next:
            self.client.send(self.waiting.pop(0))
            self._events()

    @property
    def done(self) -> list[Transaction]:
        return [event.transaction for event in self.events if isinstance(event, Done)]


def decide_by(table: dict[str, str]) -> Callable[[str, str], str | None]:
    """Replies by verb, or by verb and the start of the rest: {"RCPT TO:<bad": "550 no"}."""

    def decide(verb: str, rest: str) -> str | None:
        for key, answer in table.items():
            if f"{verb} {rest}".strip().startswith(key) and (key or not verb):
                return answer
        return None

    return decide


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


# --- replies


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


# --- when the connection goes away


def ready_client(offers: tuple[str, ...], **options: object) -> Client:
    client = Client(ClientSettings(ehlo_name="me.test", **options))  # type: ignore[arg-type]
    client.receive(b"220 hello\r\n")
    assert client.next_event() is None
    client.take_output()
    client.receive("".join(f"250-{line}\r\n" for line in ("name", *offers)).encode() + b"250 HELP\r\n")
    assert isinstance(client.next_event(), Ready)
    return client


def test_message_is_in_doubt_only_if_all_of_it_reached_the_kernel() -> None:
    for unsent, fate in [(0, Fate.IN_DOUBT), (1, Fate.STARTED)]:
        client = ready_client(FULL)
        t = transaction()
        client.send(t)
        client.take_output()
        client.receive(b"250 a\r\n250 b\r\n354 c\r\n")
        assert client.next_event() is None
        assert client.finals == [t]
        client.take_output()
        assert client.abandon(unsent) == [(t, fate)]


def test_pipelined_successor_is_untouched_when_the_connection_is_lost() -> None:
    client = ready_client(FULL)
    first, second = transaction(), transaction()
    client.send(first)
    client.take_output()
    client.receive(b"250 a\r\n250 b\r\n354 c\r\n")
    assert client.next_event() is None
    client.send(second)
    client.take_output()
    client.receive(b"")
    assert client.next_event() == Closed(None)
    assert client.abandon(0) == [(first, Fate.IN_DOUBT), (second, Fate.UNTOUCHED)]


def test_successor_behind_421_is_untouched_although_its_chunk_was_sent() -> None:
    client = ready_client(CHUNKED)
    first, second = transaction(), transaction()
    client.send(first)
    client.send(second)
    client.take_output()
    client.receive(b"250 a\r\n250 b\r\n421 4.3.2 bye\r\n")
    assert client.next_event() == Done(first)
    assert client.next_event() == Closed(Reply(421, "4.3.2", ("bye",)))
    assert client.abandon(0) == [(second, Fate.UNTOUCHED)]


def test_chunked_messages_without_any_answer_are_all_in_doubt() -> None:
    client = ready_client(CHUNKED)
    first, second = transaction(), transaction()
    client.send(first)
    client.send(second)
    client.take_output()
    client.receive(b"")
    assert client.next_event() == Closed(None)
    assert client.abandon(0) == [(first, Fate.IN_DOUBT), (second, Fate.IN_DOUBT)]


def test_421_on_an_idle_connection_closes_it() -> None:
    client = ready_client(FULL)
    client.receive(b"421 4.4.2 idle too long\r\n")
    assert client.next_event() == Closed(Reply(421, "4.4.2", ("idle too long",)))
    assert client.exhausted
    client.quit()
    assert client.take_output() == []


def test_chatty_refusal_is_kept_within_bounds() -> None:
    client = ready_client(FULL)
    t = transaction()
    client.send(t)
    client.take_output()
    client.receive(b"250 a\r\n" + b"550-5.1.1 " + b"x" * 1000 + b"\r\n" + b"550-5.1.1 y\r\n" * 100 + b"550 5.1.1 z\r\n")
    assert client.next_event() is None
    assert t.verdicts[0] is not None
    reply = t.verdicts[0].reply
    assert (reply.code, reply.enhanced, reply.lines[:2], len(reply.lines)) == (550, "5.1.1", ("x" * 1000, "y"), 102)
    client.receive(b"554 no\r\n")
    assert client.next_event() == Done(t)
    second = transaction()
    client.send(second)
    client.take_output()
    client.receive(b"250 reset\r\n250 a\r\n" + (b"550-" + b"x" * 1500 + b"\r\n") * 120 + b"550 y\r\n554 no\r\n")
    assert client.next_event() == Done(second)
    assert second.verdicts == [Verdict(Stage.RCPT, Reply(550, "", ("x" * 1500,)))]


# --- what breaks the protocol


@pytest.mark.parametrize(
    "replies",
    [b"250 unasked\r\n", b"354 go\r\n", b"hello\r\n", b"250-a\r\n" * 129, b"250 " + b"x" * 2049],
)
def test_what_no_reply_was_asked_for_breaks_the_protocol(replies: bytes) -> None:
    client = ready_client(FULL)
    client.receive(replies)
    with pytest.raises(RemoteProtocolError):
        client.next_event()
    assert client.closed
    assert client.next_event() is None


@pytest.mark.parametrize("replies", [b"354 a\r\n", b"250 a\r\n354 b\r\n", b"250 a\r\n250 b\r\n250 c\r\n"])
def test_reply_of_the_wrong_kind_breaks_the_protocol_and_nothing_is_in_doubt(replies: bytes) -> None:
    client = ready_client(FULL)
    t = transaction()
    client.send(t)
    client.take_output()
    client.receive(replies)
    with pytest.raises(RemoteProtocolError, match="not an answer to"):
        client.next_event()
    ((lost, fate),) = client.abandon(0)
    assert lost is t
    assert fate is not Fate.IN_DOUBT


def test_message_cannot_be_accepted_before_it_was_sent() -> None:
    client = ready_client(FULL)
    t = transaction()
    client.send(t)
    client.take_output()
    client.receive(b"250 a\r\n250 b\r\n354 c\r\n250 d\r\n")
    with pytest.raises(RemoteProtocolError, match="before it was sent"):
        client.next_event()
    assert client.abandon(0) == [(t, Fate.STARTED)]


def test_refused_rset_breaks_the_protocol() -> None:
    server = SmtpServer(FULL, decide_by({"RCPT TO:<bad": "550 no", "RSET": "500 what?"}))
    with pytest.raises(RemoteProtocolError, match="not an answer to RSET"):
        Dialogue(server, [transaction("bad@y.test"), transaction()]).run()


def test_misuse_is_a_bug_of_ours() -> None:
    client = ready_client(FULL)
    with pytest.raises(LocalProtocolError):
        client.body(b"x", last=True)
    client.send(transaction())
    with pytest.raises(LocalProtocolError):
        client.send(transaction())
    with pytest.raises(LocalProtocolError):
        client.quit()


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
