"""Signed mail, seen by others: dkimpy and OpenDKIM find our signatures good; a key that is gone stops the mail."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest

from postroika.cli import ExitCode
from postroika.signing import verify
from postroika.signing.record import read_zone
from tests.system.command import command
from tests.system.dns_server import DnsServer
from tests.system.opendkim import OpenDkim
from tests.system.process import wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.signed_mail import large_message, messages
from tests.system.sink_peer import StartOurSink

COUNT = 504
_CONFIG = """
[retry]
delays_s = [600]
[[route]]
domains = ["*"]
next_hop = "smtp://127.0.0.1:{port}"
[[dkim]]
domain = "shop.test"
selector = "r1"
key = "rsa.pem"
[[dkim]]
domain = "shop.test"
selector = "e1"
key = "ed.pem"
[[dkim]]
domain = "*"
selector = "h1"
key = "rsa.pem"
signing_domain = "postroika.test"
"""


def keygen(file: Path, algorithm: str) -> None:
    command_line = [sys.executable, "-m", "postroika", "dkim", "keygen", "--algorithm", algorithm, str(file)]
    subprocess.run(command_line, check=True, capture_output=True, timeout=60)


def server_at(path: Path, port: int, **options: int) -> Postroika:
    path.mkdir(exist_ok=True)
    keygen(path / "rsa.pem", "rsa")
    keygen(path / "ed.pem", "ed25519")
    return Postroika(path, _CONFIG.format(port=port), **options)


def records(server: Postroika) -> dict[str, bytes]:
    found = read_zone(server.run("dkim", "show-dns"))
    assert set(found) == {
        "r1._domainkey.shop.test", "e1._domainkey.shop.test", "h1._domainkey.postroika.test"
    }  # fmt: skip
    return found


def passed(message: bytes, keys: dict[str, bytes]) -> list[tuple[str, str, bool]]:
    return [(verdict.selector, verdict.algorithm, verdict.passed) for verdict in verify.verify(message, keys.get)]


GOOD = [("r1", "rsa-sha256", True), ("e1", "ed25519-sha256", True)]


def test_others_find_the_signatures_of_all_kinds_of_mail_good(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink(store=True)
    sent = [*messages(COUNT), large_message(20_000_000)]
    with server_at(tmp_path / "server", peer.port) as server:
        keys = records(server)
        with server.dialogue() as dialogue:
            for number, message in enumerate(sent):
                assert dialogue.message("bounce@shop.test", [f"{number}@y.test"], message).startswith("250")
        stored = peer.wait_for(len(sent), 240)
    other = OpenDkim(tmp_path, keys)
    seen = set()
    for kept in stored:
        number = int(kept.recipients[0].partition("@")[0])
        seen.add(number)
        assert kept.content.startswith(b"DKIM-Signature: v=1; a=rsa-sha256;")
        assert kept.content.endswith(sent[number])
        assert (number, passed(kept.content, keys)) == (number, GOOD)
        results = other.results(kept.content)
        assert (number, results) == (number, [("pass", "shop.test")] * 2)
    assert seen == set(range(len(sent)))


# What a message of them may have, and how many of 504 must: else they would not be varied.
KINDS: dict[str, Callable[[bytes, bytes], object]] = {
    "folded fields": lambda header, _: re.search(rb"\r\n[ \t]", header),
    "fields of more than 998 octets": lambda header, _: any(len(line) > 500 for line in header.split(b"\r\n")),
    "8-bit in the header": lambda header, _: not header.isascii(),
    "8-bit in the body": lambda _, body: not body.isascii(),
    "blanks at ends of lines": lambda _, body: re.search(rb"[ \t]\r\n", body),
    "blanks in a row": lambda _, body: re.search(rb"[ \t]{2}", body),
    "empty lines at the end": lambda _, body: body.endswith(b"\r\n\r\n\r\n"),
    "no body": lambda _, body: body == b"",
    "nothing but empty lines": lambda _, body: body and not body.strip(b"\r\n"),
    "lines of dots": lambda _, body: re.search(rb"(?m)^\.", body),
    "control characters": lambda _, body: re.search(rb"[\x01-\x08]", body),
    "base64": lambda _, body: re.fullmatch(rb"(?:[A-Za-z0-9+/=]+\r\n)+", body),
    "a field twice": lambda header, _: header.count(b"Comments:") == 2,
    "two recipients' fields": lambda header, _: len(re.findall(rb"(?m)^To:", header)) == 2,
    "an empty field": lambda header, _: re.search(rb"(?m)^X-Empty:\r$", header),
    "two authors": lambda header, _: b"other@else.test" in header,
}


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_varied(kind: str) -> None:
    found = sum(bool(KINDS[kind](*message.partition(b"\r\n\r\n")[::2])) for message in messages(COUNT))
    assert found >= 4
    assert len(set(messages(COUNT))) == COUNT


CHANGES = (
    (b"\r\nSubject: x", b"\r\nSubject: y"),
    (b"\r\nbody", b"\r\nBody"),
    (b"\r\nFrom: ", b"\r\nFrom: other@evil.test\r\nFrom: "),
    (b"\r\nSubject: x", b"\r\nSubject: x\r\nList-Unsubscribe: <https://evil.test>"),
)


def test_others_find_what_was_changed_on_the_way(tmp_path: Path, sink: StartOurSink) -> None:
    """In a field, in the body; and by fields that were added, as those are oversigned."""
    peer = sink(store=True)
    with server_at(tmp_path / "server", peer.port) as server:
        keys = records(server)
        with server.dialogue() as dialogue:
            text = b"From: a@shop.test\r\nSubject: x\r\n\r\nbody\r\n"
            assert dialogue.message("a@shop.test", ["a@y.test"], text).startswith("250")
        (kept,) = peer.wait_for(1)
    other = OpenDkim(tmp_path, keys)
    assert passed(kept.content, keys) == GOOD
    assert other.results(kept.content) == [("pass", "shop.test")] * 2
    for old, new in CHANGES:
        assert kept.content.count(old) == 1
        changed = kept.content.replace(old, new)
        assert passed(changed, keys) == [(selector, algorithm, False) for selector, algorithm, _ in GOOD]
        for algorithm in ("rsa", "ed25519"):
            # Each signature by itself, so that the verdict is on this one.
            assert other.results(without(changed, algorithm)) == [("fail", "shop.test")], (new, algorithm)


def without(message: bytes, algorithm: str) -> bytes:
    """The message without its signature of one kind."""
    fields = re.findall(rb"DKIM-Signature: (?:[^\r]|\r\n[ \t])*\r\n", message)
    (field,) = [field for field in fields if f"a={algorithm}-".encode() in field]
    return message.replace(field, b"")


def test_mail_of_all_origins_is_signed_by_the_key_that_is_for_it(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink("--refuse", "bounce@*", store=True)
    with server_at(tmp_path / "server", peer.port) as server:
        keys = records(server)
        with server.dialogue() as dialogue:
            text = b"From: a@sub.shop.test\r\n\r\nx\r\n"
            assert dialogue.message("me@shop.test", ["a@y.test", "b@z.test", "bounce@w.test"], text).startswith("250")
        # Two batches, and the notice of the third, which is mail too.
        stored = peer.wait_for(3)
    assert [passed(kept.content, keys) for kept in stored] == [[("h1", "rsa-sha256", True)]] * 3
    assert sorted(kept.reverse_path for kept in stored) == ["", "me@shop.test", "me@shop.test"]


def test_mail_of_a_stranger_is_not_signed_whoever_it_says_it_is_from(tmp_path: Path, sink: StartOurSink) -> None:
    """A naive server signs by From alone: what anybody brings for a domain that we relay for goes out as ours."""
    peer = sink(store=True)
    path = tmp_path / "server"
    path.mkdir()
    for name, algorithm in (("rsa.pem", "rsa"), ("ed.pem", "ed25519")):
        keygen(path / name, algorithm)
    ours = '[relay]\nnetworks = ["127.0.0.1/32"]\ndomains = ["y.test"]\n'
    forged = b"From: CEO <ceo@shop.test>\r\n\r\nwire money\r\n"
    with Postroika(path, ours + _CONFIG.format(port=peer.port)) as server:
        keys = records(server)
        for source in ("127.0.0.2", "127.0.0.1"):
            with Dialogue(server.port, "client.test", source=source) as client:
                assert client.message("ceo@shop.test", [f"{source}@y.test"], forged).startswith("250")
        stored = peer.wait_for(2)
    assert {kept.recipients: passed(kept.content, keys) for kept in stored} == {
        ("127.0.0.2@y.test",): [],
        ("127.0.0.1@y.test",): GOOD,
    }


def test_start_is_refused_with_a_key_that_cannot_be_used(tmp_path: Path) -> None:
    server = server_at(tmp_path / "server", 9)
    for number, name in enumerate(("rsa.pem", "ed.pem")):
        file = server.path / name
        kept = file.read_bytes()
        for contents in (None, b"", kept[: len(kept) // 2]):
            file.unlink()
            if contents is not None:
                file.touch(0o600)
                file.write_bytes(contents)
            for verb in ("serve", "check"):
                refused = command(server, verb)
                assert (refused.code, refused.out) == (ExitCode.CONFIG, "")
                assert f"postroika.toml: dkim[{number}].key: {file}: " in refused.err
            file.unlink(missing_ok=True)
            file.touch(0o600)
            file.write_bytes(kept)
    assert command(server, "check").code == ExitCode.OK


def test_mail_without_its_key_is_deferred_and_nothing_is_sent(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink(store=True)
    with server_at(tmp_path / "server", peer.port) as server:
        keys = records(server)

        def send(number: int, sender: str = "a@shop.test") -> None:
            with server.dialogue() as dialogue:
                content = f"From: {sender}\r\n\r\n{number}\r\n".encode()
                assert dialogue.message(sender, [f"{number}@y.test"], content).startswith("250")

        send(1)
        peer.wait_for(1)
        key = (server.path / "ed.pem").rename(server.path / "kept.pem")
        server.process.signal(signal.SIGHUP)
        wait_until(lambda: server.output().count("ed.pem: cannot read it: No such file") == 2, "both workers to reload")
        send(2)
        (event,) = server.wait_for_events(1, "deferred")
        assert event["reply"] == {
            "code": 451,
            "enhanced": "4.7.5",
            "text": "the message cannot be signed: the key e1 of shop.test cannot be used",
            "stage": "queue",
            "local": True,
        }
        send(3, "a@other.test")  # another key is for it
        assert [kept.recipients for kept in peer.wait_for(2)][1:] == [("3@y.test",)]

        key.rename(server.path / "ed.pem")
        server.process.signal(signal.SIGHUP)

        def delivered() -> bool:
            server.flush()
            return len(peer.messages()) == 3

        wait_until(delivered, "the message to be signed and sent", 30)
        figures = server.metrics()
        assert figures["postroika_signing_failures_total"] >= 1
        # One that was signed while all keys were being read again was signed once more.
        assert figures["postroika_signed_messages_total"] in {3, 4}
        assert {kept.recipients: passed(kept.content, keys) for kept in peer.messages()} == {
            ("1@y.test",): GOOD,
            ("2@y.test",): GOOD,
            ("3@y.test",): [("h1", "rsa-sha256", True)],
        }


def test_new_key_signs_after_sighup(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink(store=True)
    with server_at(tmp_path / "server", peer.port, workers=1) as server:
        old = records(server)
        (server.path / "rsa.pem").unlink()
        keygen(server.path / "rsa.pem", "rsa")
        new = records(server)
        assert new != old
        with server.dialogue() as dialogue:
            for number in range(2):
                content = b"From: a@shop.test\r\n\r\nx\r\n"
                assert dialogue.message("a@shop.test", [f"{number}@y.test"], content).startswith("250")
                peer.wait_for(number + 1)
                server.process.signal(signal.SIGHUP)
                # The worker obeys in order: what it is asked next, it does with the new key.
                server.metrics()
        found = {kept.recipients[0]: kept.content for kept in peer.messages()}
    assert [passed(found["0@y.test"], keys)[0][2] for keys in (old, new)] == [True, False]
    assert [passed(found["1@y.test"], keys)[0][2] for keys in (old, new)] == [False, True]


def test_command_makes_keys_and_verifies(
    tmp_path: Path, sink: StartOurSink, dns_server: Callable[[str], DnsServer]
) -> None:
    peer = sink(store=True)
    with server_at(tmp_path / "server", peer.port) as server:
        with server.dialogue() as dialogue:
            assert dialogue.message("a@shop.test", ["a@y.test"], b"From: a@shop.test\r\n\r\nx\r\n").startswith("250")
        (kept,) = peer.wait_for(1)
        zone = server.run("dkim", "show-dns")
        (tmp_path / "keys").write_text(zone)
        again = command(server, "dkim", "show-dns", "--key", str(server.path / "ed.pem"), "-d", "shop.test", "-s", "e1")
    assert again.out.strip() in zone.splitlines()

    def run(*arguments: str, stdin: bytes = kept.content) -> tuple[int, str, str]:
        line = [sys.executable, "-m", "postroika", "dkim", *arguments]
        done = subprocess.run(line, input=stdin, capture_output=True, timeout=60, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    good = "good d=shop.test s=r1 a=rsa-sha256\ngood d=shop.test s=e1 a=ed25519-sha256\n"
    assert run("verify", "--keys", str(tmp_path / "keys")) == (ExitCode.OK, good, "")
    dns = dns_server(zone)
    assert run("verify", "--server", dns.address) == (ExitCode.OK, good, "")
    assert run("verify", "--keys", str(tmp_path / "keys"), "--most", "1") == (
        ExitCode.OK,
        good.splitlines(keepends=True)[0],
        "1 more signatures were not looked at\n",
    )
    code, out, _ = run("verify", "--server", dns.address, stdin=kept.content + b"more\r\n")
    assert code == ExitCode.FAILED
    assert out.count("BAD  d=shop.test") == 2
    assert run("verify", "--keys", str(tmp_path / "keys"), stdin=b"From: a@b.test\r\n\r\n") == (
        ExitCode.FAILED,
        "",
        "no signature\n",
    )

    made = tmp_path / "new.pem"
    code, out, err = run("keygen", "-a", "ed25519", "-d", "shop.test", "-s", "n1", str(made))
    assert (code, err) == (ExitCode.OK, f"Wrote {made}\n")
    assert out.startswith('n1._domainkey.shop.test. IN TXT "v=DKIM1; k=ed25519; p=')
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert run("keygen", str(made)) == (
        ExitCode.FAILED,
        "",
        f"postroika: {made}: is there already, and keys are never overwritten; name another file\n",
    )


def test_signed_message_reads_as_before(tmp_path: Path, sink: StartOurSink) -> None:
    peer = sink(store=True)
    with server_at(tmp_path / "server", peer.port) as server:
        with server.dialogue() as dialogue:
            content = b"From: a@shop.test\r\nSubject: hello\r\n\r\ntext\r\n"
            assert dialogue.message("a@shop.test", ["a@y.test"], content).startswith("250")
        (kept,) = peer.wait_for(1)
    parsed = message_from_bytes(kept.content)
    assert parsed.keys() == ["DKIM-Signature", "DKIM-Signature", "Received", "From", "Subject"]
    assert parsed.get_payload() == "text\r\n"
