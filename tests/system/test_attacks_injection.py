"""CR, LF and NUL in all that ends up in a header, a command or a notice: nobody writes a line of his own there.

Logs are in test_log_injection; docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.command import command
from tests.system.dns_server import DnsServer
from tests.system.naive_server import Fault, naive_server
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink
from tests.system.speaking_hop import saying, speaking_hop

INJECTED = "X-Injected: yes"
SEPARATORS = ("\r", "\n", "\0", "\n\r", "\0\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "%0d%0a", "\\r\\n")
# A value that injects a header field, in each field of a dialogue that takes one: verb and argument.
FIELDS = (
    ("EHLO", "a{x}"),
    ("HELO", "a{x}"),
    ("EHLO", "[127.0.0.1{x}]"),
    ("MAIL", "FROM:<{x}@evil.test>"),
    ("MAIL", 'FROM:<"{x}"@evil.test>'),
    ("MAIL", 'FROM:<"\\{x}"@evil.test>'),
    ("MAIL", "FROM:<a@evil.{x}.test>"),
    ("MAIL", "FROM:<a@[{x}]>"),
    ("MAIL", "FROM:<@a{x}:a@evil.test>"),
    ("MAIL", 'FROM:<"{x}"@evil.test> SMTPUTF8'),
    ("MAIL", "FROM:<a{x}@evil.test> SMTPUTF8"),
    ("MAIL", "FROM:<a@evil.test> ENVID={x}"),
    ("MAIL", "FROM:<a@evil.test> RET=FULL ENVID=a+0D+0AX-Injected:+20yes"),
    ("MAIL", "FROM:<a@evil.test> AUTH={x}"),
    ("MAIL", "FROM:<a@evil.test> BODY=8BITMIME{x}"),
    ("MAIL", "FROM:<a@evil.test>{x}"),
    ("RCPT", 'TO:<"{x}"@gone.test>'),
    ("RCPT", "TO:<a{x}@gone.test>"),
    ("RCPT", "TO:<a@gone{x}.gone.test>"),
    ("RCPT", "TO:<a@gone.test> ORCPT=rfc822;{x}"),
    ("RCPT", "TO:<a@gone.test> ORCPT=rfc822;a+0D+0AX-Injected:+20yes"),
    ("RCPT", "TO:<a@gone.test> ORCPT=rfc822;a+0AX-Injected:+20yes+00"),
    ("RCPT", "TO:<a@gone.test> ORCPT=utf-8;a\\x{{0D}}\\x{{0A}}X-Injected:\\x{{20}}yes"),
    ("RCPT", "TO:<a@gone.test> ORCPT=X-Injected:;a"),
    ("RCPT", "TO:<a@gone.test> ORCPT={x};a"),
    ("RCPT", "TO:<a@gone.test> NOTIFY=FAILURE{x}"),
)
CONTENT = b"Subject: x\r\nMessage-ID: <id@x.test>\r\n\r\nbody\r\n"
_LINE = re.compile(r"\r\n|[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def inject(port: int, verb: str, argument: str) -> list[str]:
    """Hold a transaction in which one field is this; where it is refused, a usual one takes its place."""
    usual = {"EHLO": "client.test", "MAIL": "FROM:<back@x.test>", "RCPT": "TO:<a@gone.test>"}
    given = {"HELO": "", **usual, verb: argument}
    replies = []
    with Dialogue(port) as client:
        for word in (verb if verb == "HELO" else "EHLO", "MAIL", "RCPT"):
            replies.append(client.say(f"{word} {given[word]}"))
            if not replies[-1].startswith("250"):
                replies.append(client.say(f"{word.replace('HELO', 'EHLO')} {usual.get(word, 'client.test')}"))
            if replies[-1].startswith("421"):
                return replies
            # A client that is out of step with its replies has lost already.
            assert replies[-1].startswith("250"), replies
        assert client.say("DATA").startswith("354")
        client.send(CONTENT)
        replies.append(client.say("."))
        assert client.say("QUIT").startswith("221")
    return replies


def lines_of(content: bytes) -> list[str]:
    """As a generous reader sees them."""
    return _LINE.split(content.decode("utf-8", "surrogateescape"))


class World:
    """A server that trusts us, with a next hop that refuses everybody, and one that gets the notices."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        words = f"5.1.1 no\n{INJECTED}\r{INJECTED}\0{INJECTED}\x0b{INJECTED}".encode()
        refuses = saying(RCPT=b"550-" + words.replace(b"\n", b" ") + b"\r\n550 " + words + b"\r\n")
        gone = stack.enter_context(speaking_hop(refuses))
        self.submission = free_port()
        config = (
            f'[[listener]]\naddress = "127.0.0.1:{self.submission}"\nrole = "submission"\nauth_without_tls = true\n'
            '[accounts]\nfile = "accounts.toml"\n'
            "failure_delay_s = 0\nfailures_per_session = 100\nfailures_per_ip = 10000\n"
            "[delivery]\nchunking = false\n[retry]\ndelays_s = [600]\n"
            f'[[route]]\ndomains = ["gone.test", ".gone.test"]\nnext_hop = "smtp://127.0.0.1:{gone}"\n'
            f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{self.sink.address}"\n'
        )
        self.server = Postroika(path, config, workers=1)
        assert command(self.server, "account", "add", "ann@x.test", stdin=b"correct horse").code == 0
        stack.enter_context(self.server)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.mark.parametrize(("verb", "argument"), [field for field in FIELDS if "{x}" in field[1] or "+0D" in field[1]])
def test_naive_server_lets_a_field_in(verb: str, argument: str) -> None:
    with naive_server(Fault.COPIES) as naive:
        inject(naive.port, verb, argument.format(x=f"\n{INJECTED}\n"))
        assert [line for line in lines_of(naive.messages[0].content) if line.startswith("X-Injected: yes")]


def test_no_field_of_the_dialogue_makes_a_line(world: World) -> None:
    taken, refused = 0, 0
    for verb, argument in FIELDS:
        for separator in SEPARATORS if "{x}" in argument else ("",):
            replies = inject(world.server.port, verb, argument.format(x=f"{separator}{INJECTED}{separator}"))
            assert replies[-1].startswith(("250", "421")), (verb, argument, separator, replies)
            taken += replies[-1].startswith("250")
            refused += any(reply[0] == "5" for reply in replies)
    assert taken > 100
    assert refused > 100
    world.server.wait_until_drained(60)
    notices = world.sink.messages()
    assert len(notices) == taken
    for notice in notices:
        lines = lines_of(notice.content)
        assert not [line for line in lines if line.startswith("X-Injected")], notice.content
        assert b"\0" not in notice.content
        assert re.fullmatch(rb"(?:[^\r\n]{0,998}\r\n)*", notice.content)
        assert notice.reverse_path == ""
        assert all(recipient.isprintable() for recipient in notice.recipients)
    names = {event[key] for event in world.server.events_of("received") for key in ("sender", "recipient")}
    assert [name for name in names if not name.isprintable()] == []


@pytest.mark.parametrize("separator", SEPARATORS, ids=repr)
@pytest.mark.parametrize("place", ["name", "authorisation", "password"])
def test_names_that_log_in_have_no_line_ends(world: World, separator: str, place: str) -> None:
    parts = {"authorisation": "", "name": "ann@x.test", "password": "x"}
    parts[place] = f"a{separator}{INJECTED}"
    plain = base64.b64encode("\0".join(parts.values()).encode()).decode()
    with Dialogue(world.submission, "client.test") as client:
        assert client.say(f"AUTH PLAIN {plain}")[:3] in {"501", "535"}
        assert client.say("AUTH LOGIN").startswith("334")
        assert client.say(base64.b64encode(parts["name"].encode())).startswith("334")
        assert client.say(base64.b64encode(parts["password"].encode()))[:3] in {"501", "535"}
        assert client.say("NOOP").startswith("250")
    world.server.wait_for_events(1, "auth_failed")  # written after the reply
    lines = world.server.event_log.read_bytes().decode().split("\n")
    assert all(line.isprintable() for line in lines)
    assert not [line for line in world.server.output().splitlines() if line.startswith(INJECTED)]


def test_names_of_hosts_have_no_line_ends(tmp_path: Path, world: World) -> None:
    """The DNS can hold any octets in a name, and a notice tells which host it was."""
    label = r"a\013\010X-Injected\058\032yes"
    dns = DnsServer(f"one MX 10 {label}.one\n{label}.one A 127.0.0.1\ntwo MX 10 {label}.\n", tmp_path / "dns")
    try:
        config = (
            f'[dns]\nservers = ["{dns.address}"]\nipv6 = "never"\n[retry]\nexpire_after_s = 1\ndelays_s = [1]\n'
            f'[[route]]\ndomains = ["x.test"]\nnext_hop = "smtp://{world.sink.address}"\n'
        )
        with Postroika(tmp_path, config, workers=1) as server:
            for name in ("one", "two"):
                with server.dialogue() as client:
                    reply = client.message(f"{name}@x.test", [f"a@{name}.test"], CONTENT)
                    assert reply.startswith("250")
            wait_until(lambda: {"one@x.test", "two@x.test"} <= told(world), "the notices", 60)
            lines = (server.output() + server.event_log.read_text()).split("\n")
            assert all(line.isprintable() for line in lines)
    finally:
        dns.stop()
    for notice in world.sink.messages():
        assert not [line for line in lines_of(notice.content) if line.startswith("X-Injected")]


def told(world: World) -> set[str]:
    """Who has got a notice."""
    return {recipient for message in world.sink.messages() for recipient in message.recipients}
