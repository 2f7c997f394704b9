"""Real mail, octet for octet: what is accepted arrives as it was sent behind our Received field, at next hops that can
take all, less, and little; what is refused is refused in clear words.

Each message goes out over DATA and over BDAT, in one transaction, to four next hops:

- full.test: `postroika sink` with everything; gets BDAT
- data.test: `postroika sink` without CHUNKING; gets DATA
- plain.test: `postroika sink` that offers PIPELINING alone
- other.test: Postfix's smtp-sink, software that we did not write (it keeps LF for CR LF)
"""

from __future__ import annotations

import email.message
import itertools
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.system.peers import SmtpSink, start_sink
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink

ALL = ("full", "data", "plain", "other")
CORPUS = sorted(Path(__file__).with_name("real_mail").glob("*.txt"))
_NOT_OFFERED = {
    "full": (),
    "data": ("CHUNKING", "BINARYMIME"),
    "plain": ("CHUNKING", "BINARYMIME", "8BITMIME", "SMTPUTF8", "DSN", "SIZE", "LIMITS"),
}
_CONFIG = """
[[listener]]
address = "127.0.0.1:{trusted}"
bare_newlines = "normalise"
[delivery]
connection_idle_s = 60
[[route]]
domains = ["data.test"]
next_hop = "smtp://{data}"
[[route]]
domains = ["plain.test"]
next_hop = "smtp://{plain}"
[[route]]
domains = ["other.test"]
next_hop = "smtp://{other}"
[[route]]
domains = ["*"]
next_hop = "smtp://{full}"
"""
_RECEIVED = re.compile(
    rb"Received: from dialogue\.test \(\[127\.0\.0\.1\]\)\r?\n"
    rb"\tby mx\.postroika\.test \(Postroika\) with (?:UTF8SMTP|ESMTP) id [0-9a-z]{13}(?:\r?\n\tfor <[^>\r\n]+>)?;"
    rb"(?:\r?\n\t| )\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d \+0000\r?\n"
)
_FIRST_FIELD = re.compile(rb"Received: [^\n]*\n(?:\t[^\n]*\n)*")
_HEADER = b"From: a@sender.test\r\nSubject: test\r\n\r\n"


class World:
    """A server, its next hops, and a count of messages that tells them apart: by the local part of the sender."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._ours: dict[str, OurSink] = {}
        for name, missing in _NOT_OFFERED.items():
            options = itertools.chain.from_iterable(("--without", keyword) for keyword in missing)
            self._ours[name] = start_our_sink(path, *options, store=True)
            stack.enter_context(self._ours[name].process)
        self._other: SmtpSink = start_sink(path / "other", dump=True)
        stack.callback(self._other.stop)
        self.trusted_port = free_port()
        addresses = {name: sink.address for name, sink in self._ours.items()}
        config = _CONFIG.format(**addresses, other=self._other.address, trusted=self.trusted_port)
        self.server = stack.enter_context(Postroika(path, config, workers=1))
        self._numbers = itertools.count(1)
        self._arrived: dict[tuple[str, str], bytes] = {}

    def send(
        self,
        content: bytes,
        *,
        hops: tuple[str, ...] = ALL,
        chunks: list[int] | None = None,
        parameters: str = "",
        local: str = "r",
        port: int | None = None,
    ) -> tuple[str, str]:
        """Send content in a transaction of its own.

        Args:
            chunks: sizes of the first chunks: use BDAT. None: use DATA.
            parameters: of MAIL.
            local: of the recipients.

        Returns:
            The local part of the sender, and the last reply.
        """
        name = f"m{next(self._numbers)}"
        with Dialogue(port or self.server.port, "dialogue.test") as client:
            commands = [
                f"MAIL FROM:<{name}@sender.test>{parameters}",
                *(f"RCPT TO:<{local}@{hop}.test>" for hop in hops),
            ]
            for command in commands:
                reply = client.say(command)
                assert reply.startswith("250"), reply
            if chunks is None:
                assert client.say("DATA").startswith("354")
                stuffed = re.sub(rb"(?m)^\.", b"..", content) if b"\n." in content or content[:1] == b"." else content
                client.send(stuffed)
                end = b"" if not content or content.endswith(b"\r\n") else b"\r\n"
                return name, client.say(end + b".")
            start = 0
            for size in chunks:
                client.send(b"BDAT %d\r\n" % size)
                client.send(content[start : start + size])
                reply = client.reply()
                if not reply.startswith("250"):
                    return name, reply
                start += size
            client.send(b"BDAT %d LAST\r\n" % (len(content) - start))
            client.send(content[start:])
            return name, client.reply()

    def outcomes(self, name: str, count: int) -> dict[str, tuple[Any, ...]]:
        """What became of a message, by hop: type, and for what was not delivered code, enhanced code and text."""
        sender = f"{name}@sender.test"

        def finals() -> list[dict[str, Any]]:
            return [e for e in self.server.events_of("delivered", "bounced", "deferred") if e["sender"] == sender]

        wait_until(lambda: len(finals()) >= count, f"the outcome of {name}", 30)
        found: dict[str, tuple[Any, ...]] = {}
        for event in finals():
            reply = event["reply"]
            words = () if event["type"] == "delivered" else (reply["code"], reply["enhanced"], reply["text"])
            found[event["destination"].removesuffix(".test")] = (event["type"], *words)
        return found

    def arrived(self, hop: str, name: str) -> bytes:
        """What a hop got, without our Received field; its own is gone too."""
        if (hop, name) not in self._arrived:
            if hop == "other":
                # Its own Received field comes first.
                stored = [(one.sender, _FIRST_FIELD.sub(b"", one.content, 1)) for one in self._other.messages()]
            else:
                stored = [(one.reverse_path, one.content) for one in self._ours[hop].messages()]
            self._arrived |= {(hop, sender.removesuffix("@sender.test")): content for sender, content in stored}
        content = self._arrived[hop, name]
        stamp = _RECEIVED.match(content)
        assert stamp is not None, content[:500]
        return content[stamp.end() :]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def lines(content: bytes) -> bytes:
    """CR LF line ends, as a client of SMTP has to make them."""
    return re.sub(rb"\r?\n", b"\r\n", content)


def whole(content: bytes, how: str) -> bytes:
    """With DATA, a message cannot end but with a line end."""
    return content if how == "BDAT" or not content or content.endswith(b"\r\n") else content + b"\r\n"


def some_chunks(content: bytes, seed: object) -> list[int]:
    """Sizes of chunks that cut the content at random; now and then the last chunk is empty."""
    rng = random.Random(repr(seed))
    cuts = sorted(rng.sample(range(len(content) + 1), min(4, len(content) + 1)))
    return [end - start for start, end in itertools.pairwise([0, *cuts])]


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) == 48
    assert sum(len(path.read_bytes()) for path in CORPUS) == 60_722


@pytest.mark.parametrize("how", ["DATA", "BDAT"])
def test_messages_of_cpython_arrive_octet_for_octet(world: World, how: str) -> None:
    sent: dict[str, bytes] = {}
    for path in CORPUS:
        content = lines(path.read_bytes())
        name, reply = world.send(content, chunks=some_chunks(content, path.name) if how == "BDAT" else None)
        assert reply.startswith("250 2.0.0 Ok: queued as "), (path.name, reply)
        sent[name] = whole(content, how)
    for name, content in sent.items():
        assert world.outcomes(name, 4) == dict.fromkeys(ALL, ("delivered",))
        assert world.arrived("full", name) == content
        for hop in ("data", "plain"):
            assert world.arrived(hop, name) == whole(content, "DATA")
        assert world.arrived("other", name) == whole(content, "DATA").replace(b"\r\n", b"\n")


def test_messages_of_cpython_with_unix_line_ends_are_refused(world: World) -> None:
    for path in CORPUS:
        content = path.read_bytes()
        if content == lines(content):
            continue
        _, reply = world.send(content, hops=("full",))
        assert reply == ("550 5.6.0 message has a bare LF: each line must end with CR LF (RFC 5321 section 2.3.8)"), (
            path.name
        )


def test_messages_of_cpython_with_unix_line_ends_are_normalised_where_that_is_allowed(world: World) -> None:
    for path in CORPUS[::6]:
        content = path.read_bytes().rstrip(b"\n")
        name, reply = world.send(content, hops=("full", "other"), port=world.trusted_port)
        assert reply.startswith("250 2.0.0 Ok: queued as "), (path.name, reply)
        assert world.outcomes(name, 2) == {"full": ("delivered",), "other": ("delivered",)}
        assert world.arrived("full", name) == whole(lines(content), "DATA")
        assert world.arrived("other", name) == whole(lines(content), "DATA").replace(b"\r\n", b"\n")


def _attachment(size: int) -> bytes:
    message = email.message.EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@sender.test", "b@full.test", "An attachment"
    message.set_content("See the attachment.\n")
    message.add_attachment(random.Random(20).randbytes(size), maintype="application", subtype="octet-stream")
    return message.as_bytes(policy=email.policy.SMTP)


SEVEN_BIT = {
    "empty body": _HEADER,
    "header only": b"From: a@sender.test\r\nSubject: test\r\n",
    "nothing": b"",
    "one empty line": b"\r\n",
    "no header": b"\r\nJust a body.\r\n",
    "dots at line starts": _HEADER + b".\r\n..\r\n...\r\n.a\r\n..a\r\na.\r\n \r\n.\r\n.\r\n",
    "dot alone": b".\r\n",
    "dots to the end": _HEADER + b"a\r\n.",
    "smuggling words": _HEADER + b"x\r\nQUIT\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<v@x.test>\r\nDATA\r\n..\r\n",
    "line of 998": _HEADER + b"x" * 998 + b"\r\n",
    "line of 998 of dots": _HEADER + b"." * 998 + b"\r\n",
    "line of 100000": _HEADER + b"x" * 100_000 + b"\r\nend\r\n",
    "folded header of 60000": b"Subject: x\r\nX-Long:" + b" word\r\n\t" * 7000 + b"end\r\n\r\nx\r\n",
    "no final line end": _HEADER + b"the end",
    "blanks before line ends": _HEADER + b"a \r\nb\t\r\n \r\n",
    "from line": _HEADER + b"From here on\r\n>From there\r\n",
    "attachment of 1 MB": _attachment(1_000_000),
}


@pytest.mark.parametrize("how", ["DATA", "BDAT"])
@pytest.mark.parametrize("title", SEVEN_BIT)
def test_made_messages_arrive_octet_for_octet(world: World, title: str, how: str) -> None:
    content = SEVEN_BIT[title]
    hops = ("full", "data", "plain") if "100000" in title else ALL  # smtp-sink cuts long lines
    name, reply = world.send(content, hops=hops, chunks=some_chunks(content, title) if how == "BDAT" else None)
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    assert world.outcomes(name, len(hops)) == dict.fromkeys(hops, ("delivered",))
    content = whole(content, how)
    assert world.arrived("full", name) == content
    for hop in ("data", "plain"):
        assert world.arrived(hop, name) == whole(content, "DATA")
    if "other" in hops:
        assert world.arrived("other", name) == whole(content, "DATA").replace(b"\r\n", b"\n")


@pytest.mark.parametrize("how", ["DATA", "BDAT"])
def test_twenty_megabytes_arrive_octet_for_octet(world: World, how: str) -> None:
    content = _attachment(20_000_000)
    hops = ("full", "data")
    chunks = [9_999_999, 1, 1, 10_000_000] if how == "BDAT" else None
    name, reply = world.send(content, hops=hops, chunks=chunks, parameters=f" SIZE={len(content)}")
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    assert world.outcomes(name, 2) == dict.fromkeys(hops, ("delivered",))
    for hop in hops:
        assert world.arrived(hop, name) == content


NO_8BIT = ("bounced", 554, "5.6.3", "The message is 8-bit and the next host does not offer 8BITMIME")
NO_BINARY = ("bounced", 554, "5.6.3", "The message is binary and the next host does not offer BINARYMIME")
NO_UTF8 = (
    "bounced",
    553,
    "5.6.7",
    "The message needs internationalised mail and the next host does not offer SMTPUTF8",
)


@pytest.mark.parametrize("how", ["DATA", "BDAT"])
@pytest.mark.parametrize("declared", [True, False])
def test_eight_bit_content(world: World, how: str, declared: bool) -> None:
    content = _HEADER + "Grüße aus Köln\r\n".encode() + bytes(range(128, 256)) + b"\r\n"
    chunks = some_chunks(content, "8") if how == "BDAT" else None
    name, reply = world.send(content, chunks=chunks, parameters=" BODY=8BITMIME" if declared else "")
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    # A client that has not declared it wants what Postfix does: to let it go as it came.
    plain = NO_8BIT if declared else ("delivered",)
    assert world.outcomes(name, 4) == {**dict.fromkeys(ALL, ("delivered",)), "plain": plain}
    for hop in ("full", "data") if declared else ("full", "data", "plain"):
        assert world.arrived(hop, name) == content
    assert world.arrived("other", name) == content.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("how", ["DATA", "BDAT"])
def test_internationalised_mail(world: World, how: str) -> None:
    content = "From: jörg@sender.test\r\nSubject: Grüße\r\n\r\nx\r\n".encode()
    name, reply = world.send(
        content,
        hops=("full", "data", "plain"),
        chunks=some_chunks(content, "utf8") if how == "BDAT" else None,
        parameters=" BODY=8BITMIME SMTPUTF8",
        local="jürgen",
    )
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    outcomes = world.outcomes(name, 3)
    assert outcomes.pop("plain") in {NO_UTF8, NO_8BIT}
    assert outcomes == {"full": ("delivered",), "data": ("delivered",)}
    for hop in ("full", "data"):
        assert world.arrived(hop, name) == content


def test_smtputf8_that_was_asked_for_and_is_not_needed_goes_everywhere(world: World) -> None:
    name, reply = world.send(_HEADER + b"x\r\n", parameters=" SMTPUTF8")
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    assert world.outcomes(name, 4) == dict.fromkeys(ALL, ("delivered",))
    assert world.arrived("plain", name) == _HEADER + b"x\r\n"


def test_binary_content(world: World) -> None:
    content = _HEADER + bytes(range(256)) * 300 + b"\n.\n\r\n.\r\n\r.\r\0end"
    name, reply = world.send(content, chunks=some_chunks(content, "binary"), parameters=" BODY=BINARYMIME")
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    outcomes = world.outcomes(name, 4)
    assert outcomes == {"full": ("delivered",), "data": NO_BINARY, "plain": NO_BINARY, "other": NO_BINARY}
    assert world.arrived("full", name) == content


BARE_LF = "550 5.6.0 message has a bare LF: each line must end with CR LF (RFC 5321 section 2.3.8)"
BARE_CR = "550 5.6.0 message has a bare CR: each line must end with CR LF (RFC 5321 section 2.3.8)"
NUL = "550 5.6.0 message has a NUL octet: encode it, or use BINARYMIME (RFC 5321 section 4.5.2)"


@pytest.mark.parametrize("how", ["DATA", "BDAT"])
@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        (_HEADER + b"a\0b\r\n", NUL),
        (b"Subject: a\0b\r\n\r\nx\r\n", NUL),
        (_HEADER + b"a\nb\r\n", BARE_LF),
        (_HEADER + b"a\n.\nMAIL FROM:<evil@x.test>\r\n", BARE_LF),
        (_HEADER + b"a\n.\r\nMAIL FROM:<evil@x.test>\r\n", BARE_LF),
        (_HEADER + b"a\r.\rMAIL FROM:<evil@x.test>\r\n", BARE_CR),
        (_HEADER + b"a\r\r\n", BARE_CR),
        (b"Subject: a\rb\r\n\r\nx\r\n", BARE_CR),
        (_HEADER + b"x" * 300_000 + b"\n" + b"x" * 300_000 + b"\r\n", BARE_LF),
    ],
)
def test_what_could_smuggle_is_refused(world: World, content: bytes, refusal: str, how: str) -> None:
    name, reply = world.send(content, hops=("full",), chunks=[len(content)] if how == "BDAT" else None)
    assert reply == refusal
    rejected = [event for event in world.server.events_of("rejected") if event["sender"] == f"{name}@sender.test"]
    wait_until(
        lambda: any(event["sender"] == f"{name}@sender.test" for event in world.server.events_of("rejected")),
        "the event of the refusal",
    )
    rejected = [event for event in world.server.events_of("rejected") if event["sender"] == f"{name}@sender.test"]
    code, enhanced, text = refusal.split(" ", 2)
    assert [event["reply"] for event in rejected] == [
        {"code": int(code), "enhanced": enhanced, "text": text, "stage": "final_dot", "local": True}
    ]


@pytest.mark.parametrize("how", ["DATA", "BDAT"])
def test_too_large_is_refused_while_it_comes(world: World, how: str) -> None:
    content = _HEADER + (b"x" * 998 + b"\r\n") * 53_000
    chunks = [20_000_000, 20_000_000] if how == "BDAT" else None
    _, reply = world.send(content, hops=("full",), chunks=chunks)
    assert reply == "552 5.3.4 message is too large"
    with world.server.dialogue() as client:
        assert client.say("MAIL FROM:<a@sender.test> SIZE=53000000") == "552 5.3.4 message is too large"
