"""The quick ways of smtp.client against its slow ones: replies to a whole group at once, plain commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from postroika.errors import RemoteProtocolError
from postroika.mail.envelope import BodyType, Envelope, Recipient
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client import Client
from postroika.smtp.client_base import ClientSettings
from postroika.smtp.client_capabilities import (
    Capabilities,
    envelope_commands,
    obstacle,
    parse_capabilities,
    plain_commands,
)
from postroika.smtp.client_transaction import BodyWanted, Closed, Done, Fate, Transaction, Verdict

BODY = b"Subject: x\r\n\r\n.dot\r\nend\r\n"
COMMANDS = (b"RSET", b"MAIL ", b"RCPT ", b"DATA", b"BDAT ")
REPLIES = st.lists(
    st.sampled_from(
        [*[b"250 2.0.0 Ok\r\n"] * 12, *[b"354 go on\r\n"] * 4, b"250-a\r\n250 b\r\n", b"250\r\n", b"550 5.1.1 no\r\n",
         b"452 4.5.3 too many\r\n", b"421 4.3.2 bye\r\n", b"354\r\n", b"nonsense\r\n"]
    ),
    max_size=24,
)  # fmt: skip


@dataclass
class Heard:
    """All that a driver could see."""

    written: list[bytes] = field(default_factory=list)
    events: list[tuple[object, ...]] = field(default_factory=list)
    fates: list[tuple[int, Fate]] = field(default_factory=list)
    replies: int = 0


def converse(capabilities: bytes, counts: list[int], script: list[bytes], *, good_ends: bool, whole: bool) -> Heard:
    """Transactions with so many recipients each; each command written is answered by the next of `script`, or, if
    `good_ends`, by what is meant to follow once that is used up."""
    heard = Heard()
    client = Client(ClientSettings(ehlo_name="me.test"))
    transactions = [
        Transaction(Envelope(n, "a@x.test", 0.0, len(BODY), 1), [Recipient(f"r{i}@y.test") for i in range(count)], BODY)
        for n, count in enumerate(counts)
    ]
    waiting = list(transactions)
    script = list(script)

    def listen() -> None:
        while (event := client.next_event()) is not None:
            match event:
                case Done(t):
                    heard.events.append((t.envelope.message, tuple(t.verdicts)))
                case Closed(said):
                    heard.events.append(("closed", said))
                case BodyWanted():
                    raise AssertionError("the body is there")

    try:
        client.receive(b"220 hello\r\n")
        listen()
        client.receive(capabilities)
        listen()
        client.take_output()
        while not client.closed:
            while waiting and client.ready_for_next:
                client.send(waiting.pop(0))
            out = b"".join(client.take_output())
            heard.written.append(out)
            answers = b""
            for line in out.split(b"\r\n"):
                if line == b"." or line.startswith(COMMANDS):
                    if not script and not good_ends:
                        break
                    answers += script.pop(0) if script else b"354 go\r\n" if line == b"DATA" else b"250 Ok\r\n"
            if not answers:
                break
            for piece in [answers] if whole else [answers[i : i + 1] for i in range(len(answers))]:
                client.receive(piece)
                listen()
    except RemoteProtocolError as error:
        heard.events.append(("error", str(error)))
    heard.replies = client.replies
    heard.fates = [(t.envelope.message, fate) for t, fate in client.abandon(0)]
    return heard


@given(
    chunking=st.booleans(),
    counts=st.lists(st.integers(min_value=1, max_value=3), max_size=4),
    script=REPLIES,
    good_ends=st.booleans(),
)
def test_replies_to_a_group_mean_the_same_at_once_and_octet_by_octet(
    chunking: bool, counts: list[int], script: list[bytes], good_ends: bool
) -> None:
    offered = b"250-y.test\r\n250-CHUNKING\r\n250 PIPELINING\r\n" if chunking else b"250-y.test\r\n250 PIPELINING\r\n"
    assert converse(offered, counts, script, good_ends=good_ends, whole=True) == converse(
        offered, counts, script, good_ends=good_ends, whole=False
    )


def test_a_peer_that_takes_all_gives_each_recipient_the_answer_to_its_message() -> None:
    script = [b"250 m\r\n", b"250 r\r\n", b"250 r\r\n", b"354 d\r\n", b"250 first\r\n"]
    heard = converse(b"250-y.test\r\n250 PIPELINING\r\n", [2, 1], script, good_ends=True, whole=True)
    first, second = (Verdict(Stage.FINAL_DOT, Reply(250, "", (text,))) for text in ("first", "Ok"))
    assert heard.events == [(0, (first, first)), (1, (second,))]
    assert heard.replies == 2 + 5 + 4
    assert heard.fates == []


texts = st.text(st.sampled_from("ab@.é\x00\r\n\t\ud800 "), max_size=6)
flags = st.booleans()


@given(
    envelope=st.builds(
        Envelope,
        message=st.just(1),
        reverse_path=texts | st.just("a@x.test"),
        received_at=st.just(0.0),
        size_bytes=st.sampled_from([0, 100, 1000]),
        chunks=st.just(1),
        body_type=st.sampled_from(BodyType),
        eight_bit=flags,
        utf8_needed=flags,
        ret=st.sampled_from(["", "", "FULL"]),
        envid=st.sampled_from(["", "", "x"]),
    ),
    recipients=st.lists(
        st.builds(
            Recipient,
            address=texts | st.just("b@y.test"),
            notify=st.sampled_from([0, 0, 3]),
            orcpt=st.sampled_from(["", "", "rfc822;x"]),
        ),
        min_size=1,
        max_size=2,
    ),
    offered=st.builds(
        Capabilities,
        chunking=flags,
        binarymime=flags,
        size=flags,
        max_size_bytes=st.sampled_from([0, 99, 100]),
        eight_bit_mime=flags,
        smtputf8=flags,
        dsn=flags,
    ),
)
def test_plain_commands_are_those_that_the_long_way_makes(
    envelope: Envelope, recipients: list[Recipient], offered: Capabilities
) -> None:
    plain = plain_commands(envelope, recipients, offered)
    if plain is not None:
        assert (plain, None) == (
            envelope_commands(envelope, recipients, offered),
            obstacle(envelope, recipients, offered),
        )


def test_ordinary_mail_is_plain() -> None:
    offered = parse_capabilities(Reply(250, "", ("y.test", "PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN")))
    envelope = Envelope(1, "a@x.test", 0.0, 100, 1, body_type=BodyType.EIGHT_BIT)
    assert (
        plain_commands(envelope, [Recipient("b@y.test")], offered)
        == b"MAIL FROM:<a@x.test> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<b@y.test>\r\n"
    )
