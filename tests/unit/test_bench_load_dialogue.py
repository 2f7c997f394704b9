"""What the load generator says, word by word, and how it counts what it hears."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from postroika.bench.histogram import Histogram
from postroika.kernels import bench_load as kernel
from postroika.kernels.bench_load import Conversation, Plan
from tests.unit.load_plan import counts, make_plan, template

GREETINGS = ("220 hi", "250-me\r\n250-PIPELINING\r\n250-chunking\r\n250 STARTTLS")
OCTETS = template().content_bytes
BDAT = f"BDAT {OCTETS} LAST"


class Talk:
    """A conversation, and what its owner was told."""

    def __init__(self, plan: Plan, *, silent: bool = False) -> None:
        self.plan = plan
        self.told: list[int] = []
        self.conversation = Conversation(plan, self.told.append, silent=silent)
        self.conversation.open(-1)

    def hear(self, *replies: str) -> None:
        """All of them at once."""
        self.conversation.feed("".join(f"{reply}\r\n" for reply in replies).encode())

    def said(self) -> list[str]:
        """All that waits to be sent, by lines, with each content as one word."""
        said = b""
        while piece := self.conversation.pending():
            self.conversation.sent(len(piece))
            said += piece
        text = re.sub(
            r"X-Bench-Id: .{8}\.0*(\d+)\r\n.*?\.\.?dot\r\n", r"<content \1>\r\n", said.decode(), flags=re.DOTALL
        )
        assert text.endswith("\r\n") or not text
        return text.split("\r\n")[:-1]

    def turn(self, *replies: str) -> list[str]:
        """Hear, then say."""
        self.hear(*replies)
        return self.said()


@pytest.fixture
def begin() -> Callable[..., Talk]:
    """`begin(**plan)` gives a conversation that has been greeted; its first commands are not sent yet."""

    def make(**changes: object) -> Talk:
        talk = Talk(make_plan(**changes))
        assert talk.turn(GREETINGS[0]) == ["EHLO me.test"]
        talk.hear(GREETINGS[1])
        return talk

    return make


Begin = Callable[..., Talk]


def test_step_by_step(begin: Begin) -> None:
    talk = begin(recipients=2, domains=2)
    assert talk.said() == ["MAIL FROM:<a@b.test>"]
    assert talk.turn("250 ok") == ["RCPT TO:<r0@d0.test>"]
    assert talk.turn("250 ok") == ["RCPT TO:<r1@d1.test>"]
    assert talk.turn("250 ok") == ["DATA"]
    assert talk.turn("354 go") == ["<content 0>", "."]
    assert talk.turn("250 ok") == ["QUIT"]
    assert counts(talk.plan) == {"acknowledged": 1, "recipients": 2, "octets": OCTETS}
    talk.hear("221 bye")
    assert talk.told == [kernel.READY, kernel.DONE]
    assert talk.plan.errors == {}


def test_pipelined_within_a_message(begin: Begin) -> None:
    talk = begin(pipelining=True, messages=2)
    envelope = ["MAIL FROM:<a@b.test>", "RCPT TO:<r0@d0.test>", "DATA"]
    assert talk.said() == envelope
    assert talk.turn("250 ok", "250 ok", "354 go") == ["<content 0>", "."]
    assert talk.turn("250 ok") == envelope
    assert talk.turn("250 ok", "250 ok", "354 go") == ["<content 1>", "."]
    assert talk.turn("250 ok") == ["QUIT"]
    assert counts(talk.plan) == {"acknowledged": 2, "recipients": 2, "octets": 2 * OCTETS}


def test_pipelined_across_messages(begin: Begin) -> None:
    talk = begin(pipelining=True, across=True, messages=3)
    envelope = ["MAIL FROM:<a@b.test>", "RCPT TO:<r0@d0.test>", "DATA"]
    assert talk.said() == envelope
    assert talk.turn("250 ok", "250 ok", "354 go") == ["<content 0>", ".", *envelope]
    assert talk.turn("250 ok", "250 ok", "250 ok", "354 go") == ["<content 1>", ".", *envelope]
    assert talk.turn("250 ok", "250 ok", "250 ok", "354 go") == ["<content 2>", ".", "QUIT"]
    assert talk.turn("250 ok", "221 bye") == []
    assert counts(talk.plan) == {"acknowledged": 3, "recipients": 3, "octets": 3 * OCTETS}
    assert talk.told == [kernel.READY, kernel.DONE]


def test_chunk_in_one_write_with_its_envelope(begin: Begin) -> None:
    talk = begin(pipelining=True, across=True, bdat=True, messages=1, messages_per_connection=1)
    assert talk.said() == ["MAIL FROM:<a@b.test>", "RCPT TO:<r0@d0.test>", BDAT, "<content 0>", "QUIT"]
    talk.hear("250 ok", "250 ok", "250 ok", "221 bye")
    assert counts(talk.plan) == {"acknowledged": 1, "recipients": 1, "octets": OCTETS}
    assert talk.told == [kernel.READY, kernel.DONE]


def test_chunk_step_by_step(begin: Begin) -> None:
    talk = begin(bdat=True)
    assert talk.said() == ["MAIL FROM:<a@b.test>"]
    assert talk.turn("250 ok") == ["RCPT TO:<r0@d0.test>"]
    assert talk.turn("250 ok") == [BDAT, "<content 0>"]
    assert talk.turn("250 ok") == ["QUIT"]


def test_a_large_body_is_the_same_bytes_as_a_small_one() -> None:
    content = b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000
    talk = Talk(make_plan(pipelining=True, content=content))
    talk.turn(GREETINGS[0])
    talk.turn(GREETINGS[1])
    talk.hear("250 ok", "250 ok", "354 go")
    said = b""
    while piece := talk.conversation.pending(7777):
        talk.conversation.sent(len(piece))
        said += piece
    assert said.endswith(b"@load.test>\r\n" + content + b".\r\n")
    assert len(said) == template(content).content_bytes + 3


def test_recipients_are_spread_over_domains_from_message_to_message(begin: Begin) -> None:
    talk = begin(pipelining=True, recipients=2, domains=3, messages=2)
    assert talk.said()[1:3] == ["RCPT TO:<r0@d0.test>", "RCPT TO:<r1@d1.test>"]
    assert talk.turn("250 ok", "250 ok", "250 ok", "354 go")
    assert talk.turn("250 ok")[1:3] == ["RCPT TO:<r0@d2.test>", "RCPT TO:<r1@d0.test>"]


def test_one_domain_without_a_number(begin: Begin) -> None:
    talk = begin(pipelining=True, domain_head=b"sink.test", domain_tail=b"", domain_numbered=False)
    assert talk.said()[1] == "RCPT TO:<r0@sink.test>"


def test_a_new_connection_for_each_message(begin: Begin) -> None:
    talk = begin(messages=2, messages_per_connection=1)
    talk.said()
    for reply in ("250 ok", "250 ok", "354 go"):
        talk.turn(reply)
    assert talk.turn("250 ok") == ["QUIT"]
    talk.hear("221 bye")
    assert not talk.plan.exhausted
    talk.conversation.open(-1)
    talk.turn(GREETINGS[0])
    assert talk.turn(GREETINGS[1]) == ["MAIL FROM:<a@b.test>"]


def test_messages_take_turns_in_the_order_of_their_sizes() -> None:
    small, large = template(b"\r\nhi\r\n"), template(b"\r\nhi there\r\n")
    plan = make_plan(pipelining=True, across=True, messages=3, templates=[small, large], order=[0, 1])
    talk = Talk(plan)
    talk.turn(GREETINGS[0])
    talk.turn(GREETINGS[1])
    talk.turn("250 ok", "250 ok", "354 go")
    for _ in range(2):
        talk.turn("250 ok", "250 ok", "250 ok", "354 go")
    talk.hear("250 ok")
    assert plan.octets == 2 * small.content_bytes + large.content_bytes


@pytest.mark.parametrize("reply", ["450 4.2.1 later", "550 5.7.1 never"])
@pytest.mark.parametrize(
    ("replies", "stage", "then"),
    [
        ([], "MAIL", "MAIL FROM:<a@b.test>"),
        (["250 ok"], "RCPT", "RSET"),
        (["250 ok", "250 ok"], "DATA", "RSET"),
        (["250 ok", "250 ok", "354 go"], "final dot", "MAIL FROM:<a@b.test>"),
    ],
)
def test_a_refusal_at_any_stage_is_a_failure_and_the_next_message_follows(
    begin: Begin, replies: list[str], stage: str, then: str, reply: str
) -> None:
    talk = begin(messages=2)
    talk.said()
    for one in replies:
        talk.turn(one)
    assert talk.turn(reply) == [then]
    assert talk.plan.errors == {f"{stage}: {reply}": 1}
    assert talk.plan.failed == 1
    if then == "RSET":
        assert talk.turn("250 ok") == ["MAIL FROM:<a@b.test>"]
    for one in ("250 ok", "250 ok", "354 go"):
        assert talk.turn(one)
    assert talk.turn("250 ok") == ["QUIT"]
    assert (talk.plan.failed, talk.plan.acknowledged, talk.plan.in_flight) == (1, 1, 0)


def test_a_refused_sender_is_one_error_when_pipelined(begin: Begin) -> None:
    talk = begin(pipelining=True, recipients=2)
    talk.said()
    assert talk.turn("550 no", "503 no", "503 no", "503 no") == ["QUIT"]
    assert (counts(talk.plan), talk.plan.errors) == ({"failed": 1, "refused": 2}, {"MAIL: 550 no": 1})


def test_without_a_recipient_the_transaction_is_reset(begin: Begin) -> None:
    talk = begin(pipelining=True)
    talk.said()
    assert talk.turn("250 ok", "550 <r0@d0.test>: unknown", "554 no recipients") == ["RSET"]
    assert talk.turn("250 ok") == ["QUIT"]
    assert (counts(talk.plan), talk.plan.errors) == ({"failed": 1, "refused": 1}, {"RCPT: 550 <>: unknown": 1})


@pytest.mark.parametrize("last", ["250 ok", "554 no recipients"])
def test_a_server_that_wants_content_without_a_recipient_gets_an_empty_message(begin: Begin, last: str) -> None:
    talk = begin(pipelining=True, across=True)
    talk.said()
    assert talk.turn("250 ok", "550 no", "354 go") == ["."]
    assert talk.turn(last) == ["QUIT"]
    assert counts(talk.plan) == {"failed": 1, "refused": 1}


def test_some_recipients_refused(begin: Begin) -> None:
    talk = begin(pipelining=True, recipients=3)
    talk.said()
    talk.turn("250 ok", "250 ok", "452 too many", "452 too many", "354 go")
    talk.hear("250 ok")
    assert counts(talk.plan) == {"acknowledged": 1, "recipients": 1, "refused": 2, "octets": OCTETS}
    assert talk.plan.errors == {"RCPT: 452 too many": 2}


def test_a_refused_chunk_is_followed_by_reset(begin: Begin) -> None:
    talk = begin(pipelining=True, bdat=True, messages=2)
    talk.said()
    assert talk.turn("250 ok", "550 no", "554 no recipients") == ["RSET"]
    assert talk.turn("250 ok")[0] == "MAIL FROM:<a@b.test>"
    assert counts(talk.plan) == {"failed": 1, "refused": 1, "in_flight": 1}


def test_the_next_message_does_not_suffer_from_the_refusal_of_the_one_before(begin: Begin) -> None:
    talk = begin(pipelining=True, across=True, messages=2)
    talk.said()
    talk.turn("250 ok", "250 ok", "354 go")
    assert talk.turn("452 full", "250 ok", "250 ok", "354 go") == ["<content 1>", ".", "QUIT"]
    talk.hear("250 ok")
    assert (talk.plan.failed, talk.plan.acknowledged) == (1, 1)


# Lost connections.


def test_a_message_whose_content_was_not_sent_is_begun_again(begin: Begin) -> None:
    talk = begin()
    talk.said()
    talk.turn("250 ok")
    talk.conversation.feed(b"")
    assert talk.told == [kernel.READY, kernel.LOST]
    assert talk.conversation.reason == "the server closed the connection"
    assert counts(talk.plan) == {"retried": 1}
    assert not talk.plan.exhausted
    talk.conversation.open(-1)
    talk.turn(GREETINGS[0])
    assert talk.turn(GREETINGS[1]) == ["MAIL FROM:<a@b.test>"]


def test_a_lost_reply_to_the_final_dot_leaves_the_message_in_doubt(begin: Begin) -> None:
    talk = begin(pipelining=True, across=True, messages=2)
    talk.said()
    talk.turn("250 ok", "250 ok", "354 go")
    talk.conversation.feed(b"")
    assert counts(talk.plan) == {"failed": 1, "in_doubt": 1, "retried": 1}
    assert talk.plan.errors == {"final dot: the server closed the connection": 1}


def test_half_a_content_leaves_no_doubt(begin: Begin) -> None:
    talk = begin()
    talk.said()
    for reply in ("250 ok", "250 ok", "354 go"):
        talk.turn(reply) if reply != "354 go" else talk.hear(reply)
    talk.conversation.sent(len(talk.conversation.pending()) - 1)
    talk.conversation.lose("Connection reset by peer")
    assert counts(talk.plan) == {"retried": 1}


@pytest.mark.parametrize("bdat", [False, True])
def test_421_is_a_refusal_and_ends_the_connection(begin: Begin, bdat: bool) -> None:
    talk = begin(bdat=bdat)
    talk.said()
    for reply in ("250 ok", "250 ok", *([] if bdat else ["354 go"])):
        talk.turn(reply)
    talk.hear("421 4.3.2 going down")
    assert counts(talk.plan) == {"failed": 1}
    assert talk.plan.errors == {"final dot: 421 4.3.2 going down": 1}


def test_421_before_the_content_gives_the_message_back(begin: Begin) -> None:
    talk = begin(pipelining=True, bdat=True)
    talk.said()
    talk.hear("421 too many messages")
    assert counts(talk.plan) == {"retried": 1}


def test_a_message_is_not_begun_for_ever(begin: Begin) -> None:
    talk = begin()
    for _ in range(4):
        talk.conversation.feed(b"")
        talk.conversation.open(-1)
        talk.turn(GREETINGS[0])
        assert talk.turn(GREETINGS[1]) == ["MAIL FROM:<a@b.test>"]
    talk.conversation.feed(b"")
    assert counts(talk.plan) == {"failed": 1, "retried": 4}
    assert talk.plan.exhausted
    assert talk.plan.errors == {
        "MAIL: the server closed the connection": 5,
        "given up after 5 lost connections": 1,
    }


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        (["554 go away"], "greeting: 554 go away"),
        (["220 hi", "500 what"], "EHLO: 500 what"),
        (["hello"], "greeting: not a reply: hello"),
        (["22"], "greeting: not a reply: 22"),
        (["120 wait"], "greeting: not a reply: 120 wait"),
        (["2200"], "greeting: not a reply: 2200"),
    ],
)
def test_no_greeting_no_message(replies: list[str], error: str) -> None:
    talk = Talk(make_plan())
    for reply in replies:
        talk.turn(reply)
    assert (talk.told, talk.plan.errors, counts(talk.plan)) == ([kernel.LOST], {error: 1}, {})


@pytest.mark.parametrize(
    ("changes", "extension"),
    [({"pipelining": True}, "PIPELINING"), ({"bdat": True}, "CHUNKING"), ({"starttls": True}, "STARTTLS")],
)
def test_what_the_server_does_not_offer_ends_the_load(changes: dict[str, bool], extension: str) -> None:
    talk = Talk(make_plan(**changes))
    talk.turn("220 hi")
    talk.hear("250-me\r\n250 SIZE PIPELININGS")
    assert talk.plan.fatal == f"the server does not offer {extension}"
    assert talk.told == [kernel.LOST]


def test_a_reply_line_without_end_is_given_up() -> None:
    talk = Talk(make_plan())
    for _ in range(65):
        talk.conversation.feed(b"2" * 1024)
    assert talk.plan.errors == {f"greeting: not a reply: {'2' * 120}": 1}


def test_replies_that_come_before_the_commands_are_no_acknowledgement(begin: Begin) -> None:
    talk = begin(messages=100)
    talk.said()
    talk.hear("250 ok", "250 ok", "354 go", *["250 ok"] * 100)
    assert talk.plan.acknowledged == 0
    assert talk.told[-1] == kernel.LOST
    assert talk.plan.errors == {"RCPT: a reply before the command: 250 ok": 1}


def test_an_early_refusal_of_the_content_is_a_failure(begin: Begin) -> None:
    talk = begin()
    talk.said()
    talk.turn("250 ok")
    talk.turn("250 ok")
    talk.hear("354 go")
    talk.conversation.sent(10)
    talk.hear("552 too big")
    assert counts(talk.plan) == {"failed": 1}
    assert talk.told[-1] == kernel.LOST


def test_a_reply_while_idle_ends_the_connection() -> None:
    talk = Talk(make_plan(), silent=True)
    talk.turn(GREETINGS[0])
    assert talk.turn(GREETINGS[1]) == []
    assert talk.conversation.idle
    talk.hear("250 what")
    assert talk.plan.errors == {"idle: a reply that was not asked for: 250 what": 1}


def test_errors_of_many_texts_are_bounded() -> None:
    plan = make_plan()
    for number in range(1000):
        plan.note(f"text {number}")
    assert len(plan.errors) == 201
    assert plan.errors["others"] == 800


# Sessions that say nothing, TLS, time.


def test_a_silent_session_says_nothing_until_it_may_go() -> None:
    talk = Talk(make_plan(), silent=True)
    talk.turn(GREETINGS[0])
    assert talk.turn(GREETINGS[1]) == []
    talk.conversation.quit()
    assert talk.told == [kernel.READY, kernel.BLOCKED]
    assert talk.said() == ["QUIT"]
    talk.conversation.feed(b"")
    assert talk.told[-1] == kernel.DONE
    assert counts(talk.plan) == {}


def test_starttls_greets_again(begin: Begin) -> None:
    talk = begin(starttls=True)
    assert talk.said() == ["STARTTLS"]
    assert talk.turn("220 go") == []
    assert talk.told == [kernel.SECURE]
    talk.conversation.secured()
    assert talk.said() == ["EHLO me.test"]
    assert talk.turn(GREETINGS[1]) == ["MAIL FROM:<a@b.test>"]
    assert talk.told == [kernel.SECURE, kernel.READY]


def test_what_comes_in_the_clear_behind_starttls_is_not_believed(begin: Begin) -> None:
    talk = begin(starttls=True)
    talk.said()
    talk.hear("220 go", "250 injected")
    assert talk.plan.errors == {"handshake: more than a reply to STARTTLS": 1}
    assert talk.told[-1] & kernel.LOST


def test_in_open_loop_a_session_waits_until_a_message_is_due(begin: Begin) -> None:
    talk = begin(rate_per_s=0.001, messages=2)
    talk.said()
    for reply in ("250 ok", "250 ok", "354 go"):
        talk.turn(reply)
    assert talk.turn("250 ok") == []
    assert talk.told == [kernel.READY, kernel.WAITING]
    assert talk.conversation.idle
    plan = talk.plan
    assert plan.due_ns == plan.began_ns + 1000 * 10**9
    plan.wake()
    assert talk.conversation.idle
    plan.stop()
    plan.wake()
    assert talk.said() == ["QUIT"]
    assert plan.due_ns == 0


def test_a_message_that_was_given_back_goes_to_a_session_that_waits(begin: Begin) -> None:
    plan = make_plan(rate_per_s=0.001, messages=2)
    first, second = Talk(plan), Talk(plan)
    for talk in (first, second):
        talk.turn(GREETINGS[0])
        talk.turn(GREETINGS[1])
    first.conversation.feed(b"")
    assert plan.due_ns > 0
    plan.wake()
    assert second.said() == ["MAIL FROM:<a@b.test>"]
    assert counts(plan) == {"in_flight": 1, "retried": 1}


def test_a_lost_session_waits_for_nothing(begin: Begin) -> None:
    plan = make_plan(rate_per_s=0.001, messages=2)
    first, second = Talk(plan), Talk(plan)
    for talk in (first, second):
        talk.turn(GREETINGS[0])
        talk.turn(GREETINGS[1])
    second.conversation.lose("gone")
    assert plan.due_ns == 0


def test_nothing_is_begun_after_the_time(begin: Begin) -> None:
    talk = begin(messages=0, duration_ns=1)
    talk.said()
    for reply in ("250 ok", "250 ok", "354 go"):
        talk.turn(reply)
    assert talk.turn("250 ok") == ["QUIT"]
    assert talk.plan.acknowledged == 1


def test_latency_is_counted_for_each_message() -> None:
    histogram = Histogram()
    talk = Talk(make_plan(histogram, messages=3, pipelining=True, across=True))
    talk.turn(GREETINGS[0])
    talk.turn(GREETINGS[1])
    talk.turn("250 ok", "250 ok", "354 go")
    talk.turn("250 ok", "250 ok", "250 ok", "354 go")
    assert histogram.count == 1
    assert histogram.quantile(1) == histogram.max_ns > 0


def test_an_alarm_rings_when_it_should() -> None:
    import select
    import time

    alarm = kernel.Alarm()
    epoll = select.epoll()
    epoll.register(alarm, select.EPOLLIN)
    assert epoll.poll(0) == []
    when_ns = time.monotonic_ns() + 2_000_000
    alarm.set(when_ns)
    assert epoll.poll(10) == [(alarm.fileno(), select.EPOLLIN)]
    assert time.monotonic_ns() >= when_ns
    alarm.clear()
    assert epoll.poll(0) == []
    epoll.close()
    alarm.close()
