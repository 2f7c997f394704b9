"""Signatures of mail as nobody should write it, seen by dkimpy and OpenDKIM: each kind by itself."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import dkim

from postroika.signing import verify
from tests.system.opendkim import OpenDkim
from tests.system.server import Dialogue
from tests.system.sink_peer import StartOurSink
from tests.system.test_dkim import records, server_at

FROM, TO = b"From: Joe <joe@shop.test>\r\n", b"To: a@y.test\r\n"
FOLDED = b"Subject: " + b"\r\n ".join([b"x" * 70] * 12_500) + b"\r\n"
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(60_000))


class Kind(NamedTuple):
    """A message, and what others say of its signatures.

    Args:
        dkimpy: "good", "bad", or "no message": it looks at none of them.
        opendkim: result of each; "" where its test mode does not get so far as to judge.
    """

    content: bytes
    dkimpy: str = "good"
    opendkim: str = "pass"


# A message that both refuse as a whole can be helped by no signature.
KINDS = {
    "two From": Kind(FROM + b"From: b@other.test\r\n" + TO + b"\r\nx\r\n"),
    "two From, the other way round": Kind(b"From: b@other.test\r\n" + FROM + b"\r\nx\r\n"),
    "group": Kind(b"From: friends: Joe <joe@shop.test>, b@other.test;\r\n\r\nx\r\n"),
    "blanks around @": Kind(b"From: Sale @ Shop, Inc. <sale@shop.test>\r\n\r\nx\r\n"),
    "UTF-8": Kind("From: Jürgen <joe@shop.test>\r\nSubject: größe\r\n\r\nü\r\n".encode()),
    "Latin-1": Kind(b"From: J\xfcrgen <joe@shop.test>\r\nSubject: gr\xf6\xdfe\r\n\r\n\xfc\r\n"),
    "field of nearly 1 MB": Kind(FROM + FOLDED + b"\r\nx\r\n", opendkim=""),
    "many fields": Kind(FROM + MANY + b"\r\nx\r\n", opendkim=""),
    "forty of a name": Kind(FROM + TO * 40 + b"\r\nx\r\n"),
    "no body": Kind(FROM + TO + b"\r\n"),
    "only blank lines": Kind(FROM + TO + b"\r\n\r\n\r\n\r\n"),
    "only blanks": Kind(FROM + TO + b"\r\n \r\n\t\r\n"),
    "blank lines first and last": Kind(FROM + TO + b"\r\n\r\n\r\nx\r\n\r\n\r\n"),
    "no value": Kind(FROM + b"Subject:\r\n" + TO + b"\r\nx\r\n"),
    "folded to nothing": Kind(FROM + b"Subject: a\r\n \r\n\t\r\n b\r\n" + TO + b"\r\nx\r\n"),
    "no blank behind the colon": Kind(FROM + b"Subject:x\r\nDATE:y\r\n\r\nx\r\n"),
    "blank before the colon": Kind(FROM + b"Subject : x\r\n" + TO + b"\r\nx\r\n", dkimpy="no message"),
    "blank before the colon of From": Kind(b"From : Joe <joe@shop.test>\r\n\r\nx\r\n", "bad", ""),
    "no colon": Kind(FROM + b"no colon here\r\n" + TO + b"\r\nx\r\n", "no message", ""),
    "no name": Kind(FROM + b": x\r\n" + TO + b"\r\nx\r\n", "no message", ""),
    "name of 8 bits": Kind(FROM + b"S\xc3\xbcbject: x\r\n" + TO + b"\r\nx\r\n", "no message", ""),
}


def dkimpy_says(message: bytes, keys: dict[str, bytes]) -> str:
    def lookup(name: bytes, timeout: float = 0) -> bytes | None:
        del timeout
        return keys.get(name.decode().rstrip("."))

    try:
        found = {dkim.DKIM(message).verify(idx=index, dnsfunc=lookup) for index in (0, 1)}
    except dkim.MessageFormatError:
        return "no message"
    except dkim.ValidationError:
        return "bad"
    return "good" if found == {True} else "bad"


def test_others_find_signatures_good_where_they_find_a_message(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink(store=True)
    with server_at(tmp_path / "server", peer.port) as server:
        keys = records(server)
        with server.dialogue() as dialogue:
            for number, kind in enumerate(KINDS.values()):
                assert dialogue.message("bounce@shop.test", [f"{number}@y.test"], kind.content).startswith("250")
        stored = {int(kept.recipients[0].partition("@")[0]): kept.content for kept in peer.wait_for(len(KINDS), 120)}
    opendkim = OpenDkim(tmp_path, keys)
    said: dict[str, tuple[str, str]] = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        message = stored[number]
        assert message.startswith(b"DKIM-Signature: v=1; a=rsa-sha256;"), name
        assert message.endswith(kind.content), name
        results = {result for result, _ in opendkim.results(message)} if kind.opendkim else {""}
        said[name] = dkimpy_says(message, keys), " ".join(results)
        # `postroika dkim verify` looks at no header as large as those that OpenDKIM's test mode cannot take.
        good = [verdict.passed for verdict in verify.verify(message, keys.get)]
        assert (name, good) == (name, [kind.dkimpy == "good" and kind.opendkim == "pass"] * len(good))
    assert said == {name: (kind.dkimpy, kind.opendkim) for name, kind in KINDS.items()}


def test_message_without_a_line_end_is_signed_as_it_arrives(tmp_path: Path, sink: StartOurSink) -> None:
    """With BDAT one can be sent. Who is sent it with DATA gets the line end that is missing."""
    content = FROM + TO + b"\r\nthe end"
    for name, options, end in (("chunks", (), b""), ("dots", ("--without", "CHUNKING"), b"\r\n")):
        peer = sink(*options, store=True)
        with server_at(tmp_path / name, peer.port) as server:
            keys = records(server)
            with server.dialogue() as dialogue:
                assert submitted(dialogue, content).startswith("250")
            (kept,) = peer.wait_for(1)
        assert kept.content.endswith(content + end)
        assert dkimpy_says(kept.content, keys) == "good"


def test_lone_line_ends_are_signed_as_they_are_where_they_can_be_at_all(tmp_path: Path, sink: StartOurSink) -> None:
    """RFC 6376 does not say what they are: only what was declared to be binary may have them."""
    peer = sink(store=True)
    with server_at(tmp_path / "server", peer.port) as server:
        keys = records(server)
        for octets in (b"a\nb\r\n", b"a\rb\r\n", b"a \n b\r\n"):
            content = FROM + TO + b"\r\n" + octets
            with server.dialogue() as dialogue:
                assert submitted(dialogue, content).startswith("5")
            with server.dialogue() as dialogue:
                assert submitted(dialogue, content, " BODY=BINARYMIME").startswith("250")
        stored = peer.wait_for(3)
    # dkimpy makes line ends of lone LFs before it looks; lone CRs are text for it, as for us.
    assert {kept.content.rpartition(b"\r\n\r\n")[2]: dkimpy_says(kept.content, keys) for kept in stored} == {
        b"a\nb\r\n": "bad",
        b"a\rb\r\n": "good",
        b"a \n b\r\n": "bad",
    }


def submitted(dialogue: Dialogue, content: bytes, parameters: str = "") -> str:
    """The answer to a message in one chunk."""
    dialogue.say(f"MAIL FROM:<a@shop.test>{parameters}")
    dialogue.say("RCPT TO:<r@y.test>")
    dialogue.send(b"BDAT %d LAST\r\n" % len(content) + content)
    return dialogue.reply()
