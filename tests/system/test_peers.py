"""The fixtures of real peers work with each other, before anything of ours is between them."""

from tests.system.peers import RunSource, RunSwaks, StartSink
from tests.system.postfix_peer import StartPostfix
from tests.system.process import accepts, wait_until


def test_source_reaches_sink_with_every_message_and_recipient(smtp_sink: StartSink, smtp_source: RunSource) -> None:
    sink = smtp_sink(dump=True)
    smtp_source(sink.address, messages=20, sessions=4, recipients=3, sender="a@x.test", recipient="b@y.test")
    messages = sink.wait_for(20)
    assert {(m.client, m.sender, m.recipients) for m in messages} == {
        ("127.0.0.1", "a@x.test", ("3b@y.test", "2b@y.test", "b@y.test"))
    }
    assert len({m.parsed()["Message-Id"] for m in messages}) == 20


def test_sink_options_reach_the_program(smtp_sink: StartSink, swaks: RunSwaks) -> None:
    sink = smtp_sink("-f", "RCPT")
    transcript = swaks(sink.address)
    assert transcript.returncode == 24  # swaks: RCPT refused
    assert "500 5.3.0 Error: command failed" in transcript.replies


def test_stopped_sink_leaves_its_port(smtp_sink: StartSink) -> None:
    sink = smtp_sink()
    sink.stop()
    assert not accepts(sink.host, sink.port)


def test_swaks_content_arrives_unstuffed(smtp_sink: StartSink, swaks: RunSwaks) -> None:
    sink = smtp_sink(dump=True)
    assert swaks(sink.address, "--data", r"Subject: hi\n\n.dot\n..two\n").returncode == 0
    [message] = sink.wait_for(1)
    received, _, rest = message.content.partition(b"Subject: ")
    assert received.startswith(b"Received: from ")
    assert rest == b"hi\n\n.dot\n..two\n\n"


def test_postfix_relays_to_sink(smtp_sink: StartSink, smtp_source: RunSource, postfix: StartPostfix) -> None:
    sink = smtp_sink(dump=True)
    client = postfix(relayhost=sink.address)
    smtp_source(client.address, messages=5, sender="a@x.test", recipient="b@y.test")
    messages = sink.wait_for(5)
    assert {(m.sender, m.recipients, m.helo) for m in messages} == {("a@x.test", ("b@y.test",), "postfix.test")}
    wait_until(lambda: client.queue_length() == 0, "Postfix's queue to empty")


def test_postfix_delivers_into_its_maildir(swaks: RunSwaks, postfix: StartPostfix) -> None:
    hop = postfix(virtual=["shop.test"])
    assert swaks(hop.address, "--data", r"Subject: hi\n\nbody\n", to="you@shop.test").returncode == 0
    wait_until(lambda: len(hop.mailbox()) == 1, "the message to reach the Maildir")
    [message] = hop.mailbox()
    assert b"\nDelivered-To: you@shop.test\n" in message
    assert message.endswith(b"\nSubject: hi\n\nbody\n\n")


def test_postfix_discards(swaks: RunSwaks, postfix: StartPostfix) -> None:
    hop = postfix(discard=True)
    assert swaks(hop.address, to="you@anywhere.example").returncode == 0
    wait_until(lambda: hop.queue_length() == 0, "Postfix's queue to empty")
    wait_until(lambda: "relay=none" in hop.log() and "status=sent" in hop.log(), "Postfix to log the delivery")


def test_postfix_and_its_children_end_with_the_test(postfix: StartPostfix) -> None:
    hop = postfix(discard=True)
    hop.process.stop()
    assert not accepts(hop.host, hop.port)
