"""Smuggling: a second message hidden in the content of a first, for us or for the next hop to take apart.

In: nothing but CR LF . CR LF ends a message here, however it arrives. Out: nothing goes to the next hop in which a
lenient one could see the end of a message. docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.naive_server import Fault, naive_server
from tests.system.process import free_port, wait_until
from tests.system.segments import send_apart
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink

# With bare CR, bare LF or NUL: no such message is taken.
ILL_FORMED = (
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r.\n", b"\n.\r",
    b"\r\n\n.\r\r\n", b"\r\n.\r\r\n", b"\n\r.\n\r", b"\n\n.\n\n", b"\r\r.\r\r", b"\r\n.\0\r\n", b"\0\r\n.\r\0\n",
    b"\r\0\n.\r\n", b"\n.\0\n", b"\0.\0",
)  # fmt: skip
# A dot between any two of these, but for what is the end of a message.
LINE_ENDS = (b"\r\n", b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\r", b"\r\0\n", b"\0")
EVERY_ILL_FORMED = tuple(
    dict.fromkeys(
        end
        for end in (*ILL_FORMED, *(one + b"." + other for one in LINE_ENDS for other in LINE_ENDS))
        if b"\r\n.\r\n" not in end
    )
)
# Content like any other, though somebody may have seen an end in it.
CONTENT = (
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
    b"\xc2\x85.\xc2\x85",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\r\n..\r\n",
    b"\r\n .\r\n",
)
MENDED = (b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r\n.\r\r\n")  # what a listener may be told to mend
SEEN_BY_NAIVE = EVERY_ILL_FORMED + CONTENT[:5]
BEFORE, HIDDEN = (
    b"Subject: outer\r\n\r\nbefore",
    b"MAIL FROM:<smuggled@evil.test>\r\nRCPT TO:<victim@shop.test>\r\nDATA\r\nSubject: inner\r\n\r\nsmuggled\r\n.\r\n",
)
# What of CONTENT does not have to be looked for after the dots are off again.
_STUFFED = {b"\r\n. \r\n": b"\r\n \r\n", b"\r\n.\t\r\n": b"\r\n\t\r\n", b"\r\n..\r\n": b"\r\n.\r\n"}


def smuggle(port: int, end: bytes, pieces: list[bytes], sender: str) -> list[str]:
    """Send a message with another one hidden behind `end`; returns the codes of all replies after DATA's."""
    with Dialogue(port, "attacker.test") as client:
        client.say(f"MAIL FROM:<{sender}>")
        client.say("RCPT TO:<you@shop.test>")
        assert client.say("DATA").startswith("354")
        send_apart(client.sock, pieces)
        client.send(b"QUIT\r\n")
        codes = []
        while (reply := client.reply()) and not reply.startswith("221"):
            codes.append(reply[:3])
    return codes


def all_splits(end: bytes) -> Iterator[list[bytes]]:
    """The attack in one piece, and cut in two in each place in and around `end`."""
    whole = BEFORE + end + HIDDEN
    yield [whole]
    for cut in range(len(BEFORE) - 1, len(BEFORE) + len(end) + 2):
        yield [whole[:cut], whole[cut:]]
    # An octet at a time.
    first, last = len(BEFORE), len(BEFORE) + len(end)
    yield [whole[:first], *(whole[at : at + 1] for at in range(first, last)), whole[last:]]


class World:
    """A server that trusts us, with listeners that refuse and that mend bare newlines, and a next hop."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        self.lenient = stack.enter_context(naive_server(Fault.LENIENT_END | Fault.LENIENT_LINES))
        self.mending = free_port()
        config = (
            f'[[listener]]\naddress = "127.0.0.1:{self.mending}"\nbare_newlines = "normalise"\n'
            "[retry]\ndelays_s = [600]\n"
            f'[[route]]\ndomains = ["lenient.test"]\nnext_hop = "smtp://127.0.0.1:{self.lenient.port}"\n'
            f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{self.sink.address}"\n'
        )
        self.server = stack.enter_context(Postroika(path, config, workers=1))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.mark.parametrize("end", SEEN_BY_NAIVE, ids=repr)
def test_naive_server_takes_the_hidden_message(end: bytes) -> None:
    with naive_server(Fault.LENIENT_END) as naive:
        assert smuggle(naive.port, end, [BEFORE + end + HIDDEN], "outer@evil.test") == [
            "250",
            "250",
            "250",
            "354",
            "250",
        ]
        assert [message.reverse_path for message in naive.messages] == ["outer@evil.test", "smuggled@evil.test"]


@pytest.mark.parametrize("end", EVERY_ILL_FORMED, ids=repr)
def test_other_ends_of_data_end_nothing(world: World, end: bytes) -> None:
    for pieces in all_splits(end):
        assert smuggle(world.server.port, end, pieces, "ill@evil.test") == ["550"], pieces
    assert [event for event in world.server.events_of("received") if event["sender"] == "ill@evil.test"] == []


@pytest.mark.parametrize("end", CONTENT, ids=repr)
def test_what_only_looks_like_an_end_is_content(world: World, end: bytes) -> None:
    splits = list(all_splits(end))
    sender = f"content-{end.hex()}@evil.test"
    for pieces in splits:
        assert smuggle(world.server.port, end, pieces, sender) == ["250"], pieces

    def arrived() -> list[bytes]:
        return [message.content for message in world.sink.messages() if message.reverse_path == sender]

    wait_until(lambda: len(arrived()) == len(splits), "the messages", 30)
    body = BEFORE.partition(b"\r\n\r\n")[2] + _STUFFED.get(end, end) + HIDDEN.removesuffix(b".\r\n")
    assert {content.partition(b"\r\n\r\n")[2] for content in arrived()} == {body}


# --- out


def deliver(port: int, content: bytes, sender: str) -> None:
    """What a naive relay does: dots are stuffed behind CR LF, and the content goes as it is."""
    with Dialogue(port, "relay.test") as client:
        client.say(f"MAIL FROM:<{sender}>")
        client.say("RCPT TO:<you@lenient.test>")
        client.say("DATA")
        client.send(content.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\nQUIT\r\n")
        while (reply := client.reply()) and not reply.startswith("221"):
            pass


@pytest.mark.parametrize("end", [end for end in SEEN_BY_NAIVE if b"\r\n." not in end], ids=repr)
def test_lenient_next_hop_of_a_naive_relay_takes_the_hidden_message(end: bytes) -> None:
    with naive_server(Fault.LENIENT_END | Fault.LENIENT_LINES) as lenient:
        deliver(lenient.port, BEFORE + end + HIDDEN.removesuffix(b".\r\n"), "outer@evil.test")
        assert "smuggled@evil.test" in [message.reverse_path for message in lenient.messages]


def chunk(port: int, content: bytes, sender: str, *more: str) -> str:
    """The same in one chunk, where no end has to be found: the reply."""
    with Dialogue(port, "attacker.test") as client:
        assert client.say(" ".join((f"MAIL FROM:<{sender}>", *more))).startswith("250")
        client.say("RCPT TO:<you@lenient.test>")
        client.send(f"BDAT {len(content)} LAST\r\n".encode() + content)
        return client.reply()


@pytest.mark.parametrize("end", ILL_FORMED, ids=repr)
@pytest.mark.parametrize("kind", ["7BIT", "8BITMIME"])
def test_chunks_cannot_bring_it_in(world: World, end: bytes, kind: str) -> None:
    content = BEFORE + end + HIDDEN
    assert chunk(world.server.port, content, "chunk@evil.test", f"BODY={kind}").startswith("550 5.6.0 ")


@pytest.mark.parametrize("end", ILL_FORMED, ids=repr)
def test_binary_message_does_not_go_to_who_reads_lines(world: World, end: bytes) -> None:
    """BINARYMIME may hold anything, in chunks. The next hop that does not offer it gets nothing."""
    sender = f"binary-{end.hex()}@evil.test"
    content = BEFORE + end + HIDDEN
    assert chunk(world.server.port, content, sender, "BODY=BINARYMIME", "RET=FULL").startswith("250")

    def bounced() -> list[str]:
        return [event["reply"]["enhanced"] for event in world.server.events_of("bounced") if event["sender"] == sender]

    wait_until(bounced, "the bounce", 30)
    assert bounced() == ["5.6.3"]
    # The notice has to stand where the message could not.
    wait_until(lambda: [m for m in world.sink.messages() if sender in m.recipients], "the notice", 30)
    (notice,) = [message for message in world.sink.messages() if sender in message.recipients]
    assert notice.content.count(b"\r\n") == notice.content.count(b"\n") == notice.content.count(b"\r")
    assert b"\0" not in notice.content
    assert b"\nMAIL FROM" not in notice.content
    assert world.lenient.commands.count(b"MAIL FROM:<smuggled@evil.test>") == 0


@pytest.mark.parametrize("end", [*CONTENT[:2], *CONTENT[5:], *MENDED], ids=repr)
def test_lenient_next_hop_sees_one_message(world: World, end: bytes) -> None:
    """What is mended for a trusted client, and what has to be taken as it is, holds no end for the next hop to see."""
    sender = f"out-{end.hex()}@evil.test"
    with Dialogue(world.mending, "client.test") as client:
        client.say(f"MAIL FROM:<{sender}>")
        client.say("RCPT TO:<you@lenient.test>")
        client.say("DATA")
        client.send(BEFORE + end + HIDDEN)
        assert client.reply().startswith("250")
    wait_until(lambda: [m for m in world.lenient.messages if m.reverse_path == sender], "the message", 30)
    world.server.wait_until_drained(30)
    taken = [message for message in world.lenient.messages if message.reverse_path in {sender, "smuggled@evil.test"}]
    assert [message.reverse_path for message in taken] == [sender]
    assert HIDDEN.removesuffix(b".\r\n") in taken[0].content
