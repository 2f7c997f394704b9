"""Secrets of every kind are in no log, event, notice or output of a command, whatever goes wrong around them.

One server has them all and is put through all that they are there for, with success and without. Then everything that
it has written and everything that it answers is searched for each of them, in each form that somebody could read.
"""

from __future__ import annotations

import re
import secrets
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import scramp
import trustme

from tests.system.command import command
from tests.system.process import free_port, wait_until
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import OurSink, start_our_sink
from tests.system.speaking_hop import USUAL, speaking_hop

ANN = "ann@shop.test"
_CONFIG = """
[dns]
ipv6 = "never"
[[listener]]
address = "127.0.0.1:{port}"
role = "submission"
tls = "starttls"
certificate = "mx.pem"
key = "mx.pem"
auth_without_tls = true
[[account]]
name = "inline@shop.test"
password = "{inline_hash}"
[accounts]
file = "accounts.toml"
failure_delay_s = 0
failures_per_session = 1000
failures_per_ip = 10000
[delivery]
tls_ca = "ca.pem"
pipelining = false
[retry]
delays_s = [600]
[[dkim]]
domain = "shop.test"
selector = "r1"
key = "rsa.pem"
[[dkim]]
domain = "shop.test"
selector = "e1"
key = "ed.pem"
[policy]
hooks = "hooks.py"
[[route]]
domains = [".smart.test"]
next_hop = "smtp://127.0.0.1:{hop}"
auth = "smarthost.toml"
auth_without_tls = true
certificate = "client.pem"
[[route]]
domains = ["*"]
next_hop = "smtp://{sink}"
"""
# A hook that fails where everything about the client is at hand.
_HOOKS = """
from postroika.hooks import *

async def mail(client, mail):
    if mail.sender.startswith("crash"):
        raise RuntimeError(f"{client} {mail}")
"""


def new_secret() -> str:
    """One that stands nowhere by accident, in letters that every form leaves as they are."""
    return "Zq" + secrets.token_hex(12)


class World:
    """The server, and a smarthost that says back all that it is told."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.password, self.inline, self.smarthost = new_secret(), new_secret(), new_secret()
        self.tried: list[str] = []
        self.said_back = b""
        self.refuses_login = True
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        hop = stack.enter_context(speaking_hop(self._say_back, self._note))
        authority = trustme.CA()
        (path / "ca.pem").write_bytes(authority.cert_pem.bytes())
        for name in ("mx", "client"):
            pem = authority.issue_cert("localhost", f"{name}.test").private_key_and_cert_chain_pem.bytes()
            self._write(f"{name}.pem", pem)
        for name, algorithm in (("rsa", "rsa"), ("ed", "ed25519")):
            self._run("dkim", "keygen", "-a", algorithm, str(path / f"{name}.pem"))
        self._write("smarthost.toml", f'user = "alice"\npassword = "{self.smarthost}"\n'.encode())
        (path / "hooks.py").write_text(_HOOKS)
        (path / "hooks.py").chmod(0o644)
        made = Postroika(path, '[accounts]\nfile = "accounts.toml"\n')
        for name, password in ((ANN, self.password), ("inline@shop.test", self.inline)):
            assert command(made, "account", "add", name, stdin=password.encode()).code == 0
        text = (path / "accounts.toml").read_text()
        # One account moves into the config, with its hash.
        inline = re.search(r'\[\[account\]\]\nname = "inline@shop\.test"\n(?:(?!\[\[).*\n?)*', text)
        assert inline is not None
        self._write("accounts.toml", text.replace(inline[0], "").encode())
        self.hashes = re.findall(r'^(?:password|scram) = "([^"]+)"', text, re.MULTILINE)
        assert len(self.hashes) == 4
        (found,) = re.findall(r'^password = "([^"]+)"', inline[0], re.MULTILINE)
        self.port = free_port()
        config = _CONFIG.format(port=self.port, hop=hop, sink=self.sink.address, inline_hash=found)
        self.server = stack.enter_context(Postroika(path, config, workers=1))
        self.server.config_file.chmod(0o600)

    def _write(self, name: str, octets: bytes) -> None:
        (self.path / name).write_bytes(octets)
        (self.path / name).chmod(0o600)

    def _run(self, *arguments: str) -> None:
        line = [sys.executable, "-m", "postroika", *arguments]
        subprocess.run(line, check=True, capture_output=True, timeout=60)

    def _note(self, line: bytes) -> None:
        if line.startswith(b"AUTH"):
            self.said_back = line.split()[-1]

    def _say_back(self, verb: str) -> list[bytes]:
        plain = b64decode(self.said_back).replace(b"\0", b" ") if self.said_back else b""
        again = self.said_back + b" that is " + plain
        match verb:
            case "EHLO":
                return [b"250-hop.test\r\n250 AUTH PLAIN\r\n"]
            case "AUTH":
                return [b"535 5.7.8 what is " + again + b"\r\n" if self.refuses_login else b"235 2.7.0 welcome\r\n"]
            case "RCPT":
                return [b"550-5.1.1 not for " + again + b"\r\n550 5.1.1 no\r\n"]
            case _:
                return [USUAL.get(verb, b"250 ok\r\n")]

    # --- what is to be found nowhere

    def forms(self) -> dict[str, list[str]]:
        """Each secret in the forms in which it could be read, by what it is."""
        found: dict[str, list[str]] = {}
        passwords = {"password of an account": self.password, "password of an account in the config": self.inline}
        passwords["password for the smarthost"] = self.smarthost
        passwords |= {f"wrong password {number}": tried for number, tried in enumerate(self.tried)}
        for what, password in passwords.items():
            blobs = [password, *(f"\0{name}\0{password}" for name in (ANN, "alice", "inline@shop.test"))]
            forms = [password, password[::-1], password.encode().hex()]
            forms += [b64encode(blob.encode()).decode().rstrip("=")[:-2] for blob in blobs]
            found[what] = forms
        for number, hashed in enumerate(self.hashes):
            # The part that is worth something: what stands behind the parameters.
            found[f"hash {number}"] = re.findall(r"[A-Za-z0-9+/]{20,}", hashed)
        for file in ("mx.pem", "client.pem", "rsa.pem", "ed.pem"):
            blocks = re.findall(r"PRIVATE KEY-----\n(.*?)\n-----END", (self.path / file).read_text(), re.DOTALL)
            # The first line of a key is the same for all keys of a kind.
            found[f"key {file}"] = [line for block in blocks for line in block.split("\n")[-2:] if len(line) > 12]
            assert found[f"key {file}"]
        return found

    def where(self) -> dict[str, str]:
        """Everything that somebody could look at, as text, by what it is."""
        server = self.server
        logs = sorted(self.path.glob("events.jsonl*"))  # SIGHUP, after which the log may be another file
        places = {"output": server.output(), "events": "".join(log.read_text() for log in logs)}
        commands = (
            ("check",), ("check", "--json"), ("account", "list"), ("account", "list", "--json"), ("dkim", "show-dns"),
            ("queue", "list"), ("queue", "list", "--json"), ("queue", "stats"), ("queue", "doubts"),
            ("events", "tail", "-n", "1000"), ("events", "tail", "-n", "1000", "--json"),
        )  # fmt: skip
        for words in commands:
            done = command(server, *words)
            assert done.code == 0, (words, done.err)
            places[" ".join(words)] = done.out + done.err
        for message in re.findall(r'"id": "(\w{13})"', places["queue list --json"]):
            places[f"show {message}"] = server.run("queue", "show", message, "--json")
        for target in ("status", "metrics", "queue", "queue/stats", "queue/doubts", "config", "accounts"):
            places[f"/v1/{target}"] = self._ask(f"/v1/{target}")
        for pid in (server.process.pid, *server.worker_pids()):
            for file in ("cmdline", "environ", "comm"):
                places[f"{file} of {pid}"] = Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace")
        for number, message in enumerate(self.sink.messages()):
            places[f"message {number}"] = message.content.decode(errors="replace")
        for file in server.spool.rglob("*"):
            if file.is_file():
                places[f"spool {file.name}"] = file.read_bytes().decode("latin-1")
        return places

    def _ask(self, target: str) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(self.path / "control.sock"))
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            with sock.makefile("rb") as answer:
                return answer.read().decode(errors="replace")

    # --- what is done with them

    complaints: list[str]

    def wrong(self) -> str:
        self.tried.append(new_secret())
        return self.tried[-1]

    def log_in_in_every_way(self) -> None:
        context = ssl.create_default_context(cafile=str(self.path / "ca.pem"))
        for name, right in ((ANN, self.password), ("inline@shop.test", self.inline), ("nobody@shop.test", "")):
            for given in (right or self.wrong(), self.wrong()):
                blob = b64encode(f"\0{name}\0{given}".encode()).decode()
                with Dialogue(self.port, "client.test") as client:
                    said = client.say(f"AUTH PLAIN {blob}")
                    assert said.startswith("235" if given == right else "535")
                with Dialogue(self.port, "client.test") as client:
                    client.say("AUTH LOGIN")
                    client.say(b64encode(name.encode()))
                    client.say(b64encode(given.encode()))
                with smtplib.SMTP("localhost", self.port, timeout=30) as secure:
                    secure.starttls(context=context)
                    with suppress(smtplib.SMTPAuthenticationError):
                        secure.login(name, given)
                with Dialogue(self.port, "client.test") as client:
                    scram = scramp.ScramClient(["SCRAM-SHA-256"], name, given)
                    said = client.say(b"AUTH SCRAM-SHA-256 " + b64encode(scram.get_client_first().encode()))
                    scram.set_server_first(b64decode(said[4:]).decode())
                    client.say(b64encode(scram.get_client_final().encode()))

    def make_mistakes(self) -> None:
        """What people and programs do wrong with a password."""
        given = self.wrong()
        blob = b64encode(f"\0{ANN}\0{given}".encode()).decode()
        for lines in (
            (f"AUTH PLAIN {given}",),  # not encoded
            (f"AUTH PLAIN {blob} {blob}",),
            (f"AUTH {blob}",),
            (f"AUTH CRAM-MD5 {blob}",),
            (f"AUTH PLAIN{blob}",),
            ("AUTH PLAIN", given),
            ("AUTH LOGIN", given, given),
            ("AUTH LOGIN", blob, "*"),
            (blob,),  # as a command
            (given,),
            (f"{given} {given}",),
            (f"PASS {given}",),
            (f"AUTH PLAIN {blob}" + "A" * 20_000,),
        ):
            with Dialogue(self.port, "client.test") as client:
                for line in lines:
                    client.say(line)

    def send_through_the_smarthost(self) -> None:
        """It refuses the login, and then, with the login taken, the recipient; each time it says all of it back."""
        for refuses, kind in ((True, "deferred"), (False, "bounced")):
            self.refuses_login = refuses
            with self.server.dialogue() as client:
                content = f"From: {ANN}\r\nSubject: x\r\n\r\nx\r\n".encode()
                assert client.message(ANN, [f"you@{kind}.smart.test"], content).startswith("250")
            self.server.wait_for_events(1, kind)
        wait_until(lambda: any(m.recipients == (ANN,) for m in self.sink.messages()), "the notice", 30)

    def break_files(self) -> None:
        """SIGHUP with files that are broken in the middle of what is secret; and a command that meets them."""
        for name in ("mx.pem", "client.pem", "rsa.pem", "ed.pem", "smarthost.toml", "accounts.toml"):
            file = self.path / name
            whole = file.read_bytes()
            for broken in (whole.replace(b"A", b"*").replace(b'"', b"'", 1), whole[: len(whole) * 2 // 3], whole[10:]):
                file.write_bytes(broken)
                done = command(self.server, "check")
                self.complaints.append(done.out + done.err)
                before = self.server.output()
                self.server.process.signal(signal.SIGHUP)
                self.server.metrics()  # the worker obeys in order
                self.complaints.append(self.server.output()[len(before) :])
            file.write_bytes(whole)
        self.server.process.signal(signal.SIGHUP)
        self.server.metrics()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        world = World(tmp_path_factory.mktemp("world"), stack)
        world.complaints = []
        world.log_in_in_every_way()
        world.make_mistakes()
        with Dialogue(world.port, "client.test") as client:
            client.say("AUTH PLAIN " + b64encode(f"\0{ANN}\0{world.password}".encode()).decode())
            assert client.say(f"MAIL FROM:<{ANN}>").startswith("250")
            client.say("RSET")
        with world.server.dialogue() as client:
            assert client.say("MAIL FROM:<crash@x.test>").startswith("451")
        world.send_through_the_smarthost()
        world.break_files()
        yield world


def leaks(forms: dict[str, list[str]], places: dict[str, str]) -> list[tuple[str, str, str]]:
    """What was found where, in which form."""
    return [
        (what, place, form)
        for what, all_forms in forms.items()
        for form in all_forms
        for place, text in places.items()
        if form in text
    ]


def test_naive_log_has_them() -> None:
    """The search finds what a server that logs its dialogues would write."""
    password = new_secret()
    line = "AUTH PLAIN " + b64encode(f"\0{ANN}\0{password}".encode()).decode()
    naive = {"log": f"client said {line}", "trace": f"check(password={password!r})"}
    forms = {"password": [password, b64encode(f"\0{ANN}\0{password}".encode()).decode().rstrip("=")[:-2]]}
    assert {place for _, place, _ in leaks(forms, naive)} == {"log", "trace"}


def test_no_secret_is_written_anywhere(world: World) -> None:
    places = world.where()
    assert len(world.tried) == 5
    assert "wrong password" in places["events"]
    assert "[…]" in places["events"]
    assert "(hidden)" in places["check"]
    assert any("550 5.1.1" in text for place, text in places.items() if place.startswith("message "))
    assert leaks(world.forms(), places) == []


def test_no_complaint_about_a_broken_file_quotes_it(world: World) -> None:
    assert len([text for text in world.complaints if text]) >= 18
    assert leaks(world.forms(), {str(number): text for number, text in enumerate(world.complaints)}) == []
