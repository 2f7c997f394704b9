"""smtp.client: connections that go away, and peers that break the protocol."""

from __future__ import annotations

import pytest

from postroika.errors import LocalProtocolError, RemoteProtocolError
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client_transaction import Closed, Done, Fate, Verdict
from tests.reference.smtp_server import SmtpServer
from tests.unit.client_dialogue import CHUNKED, FULL, Dialogue, decide_by, ready_client, transaction

# --- when the connection goes away


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
