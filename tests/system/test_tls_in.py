"""Mail comes in over TLS from real clients: OpenSSL's s_client, swaks, smtplib, Postfix; certificates that change."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.system.peers import RunSource, RunSwaks
from tests.system.postfix_peer import StartPostfix
from tests.system.process import free_port, program, run, wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import OurSink, start_our_sink

CA = trustme.CA()
OTHER_CA = trustme.CA()
NAME = "mx.postroika.test"
_TO = '[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{address}"\n'


def write_certificate(path: Path, stem: str, *names: str) -> None:
    """A new certificate for `names` and its key, in place of any of that stem."""
    leaf = CA.issue_cert(*names, common_name=names[0])
    for suffix, text in (
        ("pem", b"".join(blob.bytes() for blob in leaf.cert_chain_pems)),
        ("key", leaf.private_key_pem.bytes()),
    ):
        new = path / f"{stem}.new"
        new.write_bytes(text)
        new.chmod(0o600)
        new.replace(path / f"{stem}.{suffix}")


def listener(path: Path, port: int, tls: str, *more: str) -> str:
    return "\n".join([
        "[[listener]]", f'address = "127.0.0.1:{port}"', f'tls = "{tls}"', f'certificate = "{path}/mx.pem"',
        f'key = "{path}/mx.key"', *more, "",
    ])  # fmt: skip


def client_context(*, certificate_of: trustme.CA | None = None, verify: bool = True) -> ssl.SSLContext:
    made = ssl.create_default_context()
    if verify:
        CA.configure_trust(made)
    else:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if certificate_of is not None:
        certificate_of.issue_cert("shop.test", common_name="shop.test").configure_cert(made)
    return made


class World:
    """A server with all kinds of TLS, and a next hop that takes all."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.ca = path / "ca.pem"
        CA.cert_pem.write_to_path(str(self.ca))
        write_certificate(path, "mx", NAME)
        write_certificate(path, "other", "other.test")
        write_certificate(path, "wild", "*.wild.test")
        self.starttls, self.implicit, self.request, self.require, self.require_later = (free_port() for _ in range(5))
        self.tls_only = free_port()
        asks = f'client_ca = "{self.ca}"'
        config = "".join([
            listener(path, self.starttls, "starttls"),
            listener(path, self.implicit, "implicit"),
            listener(path, self.request, "starttls", 'client_certificates = "request"', asks),
            listener(path, self.require, "implicit", 'client_certificates = "require"', asks),
            listener(path, self.require_later, "starttls", 'client_certificates = "require"', asks),
            listener(path, self.tls_only, "starttls", "require_tls = true"),
            f'[[certificate]]\nnames = ["other.test"]\ncertificate = "{path}/other.pem"\nkey = "{path}/other.key"\n',
            f'[[certificate]]\nnames = ["*.wild.test"]\ncertificate = "{path}/wild.pem"\nkey = "{path}/wild.key"\n',
        ])  # fmt: skip
        self.sink: OurSink = start_our_sink(path, store=True)
        stack.enter_context(self.sink.process)
        self.server = stack.enter_context(Postroika(path, config + _TO.format(address=self.sink.address)))

    def arrived(self, sender: str) -> bytes:
        """The one message of a sender."""
        found: list[bytes] = []

        def there() -> bool:
            found[:] = [message.content for message in self.sink.messages() if message.reverse_path == sender]
            return bool(found)

        wait_until(there, f"the mail of {sender}", 30)
        (content,) = found
        return content

    def received_event(self, sender: str) -> dict[str, Any]:
        def events() -> list[dict[str, Any]]:
            return [event for event in self.server.events_of("received") if event["sender"] == sender]

        wait_until(events, f"the event of {sender}")
        (event,) = events()
        return event

    def failures(self) -> list[dict[str, Any]]:
        """What clients did not come through the handshake for, each event's `reply`."""
        return [reply for event in self.server.events_of("rejected") if (reply := event["reply"])["stage"] == "tls"]

    def wait_for_failures(self, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.failures()) >= count, f"{count} failed handshakes")
        return self.failures()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("world"), stack)
        yield made
        assert "Traceback" not in made.server.output()


def s_client(
    port: int, *options: str | Path, starttls: bool = True, say: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """openssl s_client(1), which ends when the server does, or (with nothing to say) after the handshake."""
    command = [program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *options]
    command += ["-starttls", "smtp", "-name", "client.test"] if starttls else []
    return subprocess.run(command, input=say, capture_output=True, timeout=30, check=False)


def serial_number(port: int) -> int:
    """Of the certificate that a client is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as sock,
        client_context().wrap_socket(sock, server_hostname=NAME) as tls,
    ):
        certificate = tls.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


# ---- clients


def test_starttls_is_offered_until_it_has_begun(world: World) -> None:
    with smtplib.SMTP("127.0.0.1", world.starttls, timeout=30) as client:
        assert client.ehlo()[0] == 250
        assert client.has_extn("starttls")
        assert client.starttls(context=client_context(verify=False))[0] == 220
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.docmd("STARTTLS") == (503, b"5.5.1 TLS has begun already")
    with smtplib.SMTP("127.0.0.1", world.server.port, timeout=30) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.docmd("STARTTLS") == (502, b"5.5.1 STARTTLS is not offered")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("starttls", [True, False])
def test_openssl_trusts_us(world: World, version: str, starttls: bool) -> None:
    done = s_client(
        world.starttls if starttls else world.implicit, "-CAfile", world.ca, "-verify_return_error",
        "-verify_hostname", NAME, "-servername", NAME, f"-{version.replace('v', '').replace('.', '_').lower()}",
        starttls=starttls,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Verification: OK" in done.stdout
    assert f"New, {version}, Cipher is".encode() in done.stdout


@pytest.mark.parametrize("starttls", [True, False])
def test_openssl_sends_a_message(world: World, starttls: bool) -> None:
    sender = f"s_client-{starttls}@x.test".lower()
    wire = (
        f"EHLO client.test\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<you@shop.test>\r\nDATA\r\n"
        "Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"
    ).encode()
    done = s_client(world.starttls if starttls else world.implicit, "-quiet", starttls=starttls, say=wire)
    assert b"250 2.0.0 Ok: queued as " in done.stdout
    assert done.stdout.endswith(b"221 2.0.0 mx.postroika.test closing the connection\r\n")
    event = world.received_event(sender)
    version, cipher = event["tls"].split()
    assert version == "TLSv1.3"
    assert world.arrived(sender).startswith(
        b"Received: from client.test ([127.0.0.1])\r\n"
        b"\t(using TLSv1.3 with cipher %s)\r\n"
        b"\tby mx.postroika.test (Postroika) with ESMTPS id %s\r\n" % (cipher.encode(), event["message"].encode())
    )


@pytest.mark.parametrize(("version", "option"), [("TLSv1.1", "-tls1_1"), ("TLSv1", "-tls1")])
def test_what_is_older_than_tls_1_2_is_refused(world: World, version: str, option: str) -> None:
    before = len(world.failures())
    done = s_client(world.starttls, option, "-cipher", "DEFAULT@SECLEVEL=0")
    assert done.returncode != 0
    assert b"protocol version" in done.stderr, version
    assert world.wait_for_failures(before + 1)[-1]["text"] == "the TLS handshake failed: unsupported protocol"


@pytest.mark.parametrize("how", ["--tls", "--tls-on-connect"])
def test_swaks(world: World, swaks: RunSwaks, how: str) -> None:
    port = world.starttls if how == "--tls" else world.implicit
    sender = f"swaks{how}@x.test"
    transcript = swaks(
        f"127.0.0.1:{port}", how, "--tls-verify", "--tls-ca-path", str(world.ca), "--tls-sni", NAME,
        to="you@shop.test", sender=sender,
    )  # fmt: skip
    assert transcript.returncode == 0, transcript.text
    assert transcript.replies.count("250-STARTTLS") + transcript.replies.count("250 STARTTLS") == (how == "--tls")
    assert b" with ESMTPS id " in world.arrived(sender)
    assert world.received_event(sender)["tls"].startswith("TLSv1.3 ")


@pytest.mark.parametrize("starttls", [True, False])
def test_smtplib_sends_twenty_megabytes(world: World, starttls: bool) -> None:
    sender = f"large-{starttls}@x.test".lower()
    line = b"".join(b"%02x" % number for number in range(35)) + b"\r\n"
    body = line * (20_000_000 // len(line)) + b"the end\r\n"
    with contextlib.ExitStack() as stack:
        if starttls:
            client = stack.enter_context(smtplib.SMTP("127.0.0.1", world.starttls, timeout=60))
            client._host = NAME  # type: ignore[attr-defined]  # what the certificate is for
            client.starttls(context=client_context())
        else:
            context = client_context(verify=False)
            client = stack.enter_context(smtplib.SMTP_SSL("127.0.0.1", world.implicit, timeout=60, context=context))
        assert client.sendmail(sender, ["you@shop.test"], b"Subject: large\r\n\r\n" + body) == {}
    content = world.arrived(sender).partition(b"\r\n\r\n")[2]
    assert (len(content), hashlib.sha256(content).digest()) == (len(body), hashlib.sha256(body).digest())


def test_many_messages_in_one_session(world: World) -> None:
    with smtplib.SMTP("127.0.0.1", world.starttls, timeout=30) as client:
        client.starttls(context=client_context(verify=False))
        for number in range(200):
            client.sendmail("many@x.test", [f"r{number}@shop.test"], b"Subject: x\r\n\r\nx\r\n" * (number + 1))

    def found() -> int:
        return sum(message.reverse_path == "many@x.test" for message in world.sink.messages())

    wait_until(lambda: found() == 200, "all of them", 30)


@pytest.mark.parametrize("how", ["encrypt", "wrapper"])
def test_postfix_as_a_client(world: World, postfix: StartPostfix, smtp_source: RunSource, how: str) -> None:
    port = world.starttls if how == "encrypt" else world.implicit
    settings = {
        "smtp_tls_security_level": "secure" if how == "encrypt" else "encrypt",
        "smtp_tls_secure_cert_match": NAME,
        "smtp_tls_servername": NAME,
        "smtp_tls_CAfile": str(world.ca),
        "smtp_tls_wrappermode": "yes" if how == "wrapper" else "no",
        "smtp_tls_loglevel": "1",
    }
    client = postfix(relayhost=f"127.0.0.1:{port}", settings=settings)
    sender = f"{how}@postfix.test"
    smtp_source(client.address, sender=sender, recipient="you@shop.test", messages=20, sessions=4, size_bytes=50_000)

    def found() -> list[bytes]:
        return [message.content for message in world.sink.messages() if message.reverse_path == sender]

    wait_until(lambda: len(found()) == 20, "the mail of Postfix", 60)
    assert all(b" with ESMTPS id " in content.partition(b"\r\n\r\n")[0] for content in found())
    assert "TLS connection established" in client.log()
    events = [event for event in world.server.events_of("received") if event["sender"] == sender]
    assert [event["tls"].partition(" ")[0] for event in events] == ["TLSv1.3"] * 20


# ---- injection


STARTTLS = b"STARTTLS\r\n"
BEHIND = b"EHLO thief.test\r\nMAIL FROM:<thief@x.test>\r\nRCPT TO:<victim@shop.test>\r\nDATA\r\nstolen\r\n.\r\n"


@pytest.mark.parametrize("behind", [BEHIND, b"NOOP\r\n", b"RSET\r\nNOOP\r\n" * 1000, b"QUIT\r\n", b"half a comm"])
def test_what_is_sent_with_starttls_is_never_run(world: World, behind: bytes) -> None:
    with socket.create_connection(("127.0.0.1", world.starttls), timeout=30) as sock:
        lines = sock.makefile("rb")
        assert lines.readline().startswith(b"220 ")
        sock.sendall(b"EHLO honest.test\r\n")
        while lines.readline()[3:4] == b"-":
            pass
        sock.sendall(STARTTLS + behind)
        assert lines.readline() == b"220 2.0.0 ready to start TLS\r\n"
        context = client_context()
        with context.wrap_socket(sock, server_hostname=NAME) as tls:
            replies = tls.makefile("rb")
            tls.sendall(b"RCPT TO:<x@shop.test>\r\nVRFY honest\r\nQUIT\r\n")
            assert replies.read() == (
                b"503 5.5.1 send HELO or EHLO first\r\n"
                b"252 2.5.0 cannot verify the address, but will take mail for it and try to deliver\r\n"
                b"221 2.0.0 mx.postroika.test closing the connection\r\n"
            )
    assert not [event for event in world.server.events_of("received") if event["sender"] == "thief@x.test"]


def test_commands_in_place_of_a_handshake_end_the_session_with_an_event(world: World) -> None:
    before = len(world.failures())
    for port in (world.starttls, world.implicit):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            if port == world.starttls:
                sock.recv(1000)
                sock.sendall(b"EHLO honest.test\r\n")
                sock.recv(1000)
                sock.sendall(STARTTLS)
                assert sock.recv(1000).startswith(b"220 ")
            sock.sendall(BEHIND)
            said = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(1000):
                    said += piece
            assert b"250" not in said
    failures = world.wait_for_failures(before + 2)[before:]
    assert [(failure["code"], failure["local"]) for failure in failures] == [(421, True)] * 2
    assert world.server.metrics()['postroika_rejections_total{stage="tls"}'] >= 2


# ---- names and client certificates


@pytest.mark.parametrize(
    ("name", "subject"),
    [("", NAME), (NAME, NAME), ("unknown.test", NAME), ("other.test", "other.test"), ("OTHER.test", "other.test"),
     ("a.wild.test", "*.wild.test"), ("a.b.wild.test", NAME)],
)  # fmt: skip
@pytest.mark.parametrize("starttls", [True, False])
def test_certificate_is_chosen_by_name(world: World, name: str, subject: str, starttls: bool) -> None:
    options = ["-servername", name] if name else ["-noservername"]
    done = s_client(world.starttls if starttls else world.implicit, *options, starttls=starttls)
    (line,) = [line for line in done.stdout.decode().splitlines() if line.startswith("subject=")]
    assert line.endswith(f"CN = {subject}")


def test_client_certificate_is_asked_for(world: World) -> None:
    for authority in (CA, None):
        with smtplib.SMTP("127.0.0.1", world.request, timeout=30) as client:
            client.starttls(context=client_context(certificate_of=authority, verify=False))
            assert client.ehlo()[0] == 250
    context = client_context(certificate_of=OTHER_CA, verify=False)
    with (
        pytest.raises((OSError, smtplib.SMTPException)),
        smtplib.SMTP("127.0.0.1", world.request, timeout=30) as client,
    ):
        client.starttls(context=context)
        client.ehlo()  # in TLS 1.3 the client learns it with the first answer


def test_client_certificate_and_name_that_was_asked_for_are_recorded(world: World) -> None:
    leaf = CA.issue_cert("shop.test", common_name="shop.test")
    with leaf.private_key_and_cert_chain_pem.tempfile() as pem:
        wire = b"EHLO c.test\r\nMAIL FROM:<named@x.test>\r\nRCPT TO:<you@shop.test>\r\nDATA\r\n\r\nx\r\n.\r\n"
        wire += b"MAIL FROM:<refused@x.test> SIZE=x\r\nQUIT\r\n"
        done = s_client(world.request, "-quiet", "-servername", "MX.Shop.Example", "-cert", pem, say=wire)
    assert b"250 2.0.0 Ok: queued as " in done.stdout
    event = world.received_event("named@x.test")
    wait_until(lambda: any(e.get("sender") == "refused@x.test" for e in world.server.events_of("rejected")), "refusal")
    (refused,) = [e for e in world.server.events_of("rejected") if e.get("sender") == "refused@x.test"]
    asked = {"ip": "127.0.0.1", "helo": "c.test", "server_name": "mx.shop.example"}
    assert event["client"] == refused["client"] == {**asked, "certificate": "shop.test", "verified": True}
    assert event["tls"] == refused["tls"]
    version, cipher = event["tls"].split()
    comment = (
        f'(using {version} with cipher {cipher}, SNI mx.shop.example\r\n\t client certificate "shop.test" verified)'
    )
    assert comment.encode() in world.arrived("named@x.test")


def test_client_certificate_is_needed(world: World) -> None:
    context = client_context(certificate_of=CA, verify=False)
    with smtplib.SMTP_SSL("127.0.0.1", world.require, timeout=30, context=context) as client:
        client.sendmail("known@x.test", ["you@shop.test"], b"Subject: x\r\n\r\nx\r\n")
    assert b" with ESMTPS id " in world.arrived("known@x.test")
    before = len(world.failures())
    for authority in (OTHER_CA, None):
        with pytest.raises((OSError, smtplib.SMTPException)):
            smtplib.SMTP_SSL(
                "127.0.0.1", world.require, timeout=30, context=client_context(certificate_of=authority, verify=False)
            )
    failures = world.wait_for_failures(before + 2)[before:]
    assert any("peer did not return a certificate" in failure["text"] for failure in failures)


def test_client_certificate_is_needed_by_those_too_who_do_not_begin_tls(world: World) -> None:
    with smtplib.SMTP("127.0.0.1", world.require_later, timeout=30) as client:
        client.ehlo()
        assert client.mail("clear@x.test") == (530, b"5.7.0 must issue a STARTTLS command first")
        client.starttls(context=client_context(certificate_of=CA, verify=False))
        client.sendmail("later@x.test", ["you@shop.test"], b"Subject: x\r\n\r\nx\r\n")
    assert b" with ESMTPS id " in world.arrived("later@x.test")


def test_tls_can_be_required(world: World) -> None:
    def refusals() -> list[dict[str, Any]]:
        return [event for event in world.server.events_of("rejected") if event.get("sender") == "only-clear@x.test"]

    with smtplib.SMTP("127.0.0.1", world.tls_only, timeout=30) as client:
        client.ehlo()
        assert client.mail("only-clear@x.test") == (530, b"5.7.0 must issue a STARTTLS command first")
        client.starttls(context=client_context(verify=False))
        client.sendmail("only@x.test", ["you@shop.test"], b"Subject: x\r\n\r\nx\r\n")
    assert b" with ESMTPS id " in world.arrived("only@x.test")
    wait_until(refusals, "the event of the refusal")
    assert [(event["reply"]["code"], event["reply"]["stage"]) for event in refusals()] == [(530, "mail")]


# ---- certificates that change


class Changing:
    """A server whose certificate changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        write_certificate(path, "mx", NAME)
        self.port = free_port()
        self.server = Postroika(path, listener(path, self.port, "implicit"))

    def shown(self) -> set[int]:
        """The serial numbers that some clients are shown, of all workers."""
        return {serial_number(self.port) for _ in range(4)}

    def in_file(self) -> int:
        command = [program("openssl", "openssl"), "x509", "-in", f"{self.path}/mx.pem", "-noout", "-serial"]
        return int(run(command, within_s=30).stdout.partition("=")[2], 16)


def test_new_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    changing = Changing(tmp_path)
    with changing.server as server:
        before = changing.in_file()
        assert changing.shown() == {before}
        context = client_context(verify=False)
        with smtplib.SMTP_SSL("127.0.0.1", changing.port, timeout=30, context=context) as client:
            write_certificate(tmp_path, "mx", NAME)
            wait_until(lambda: changing.shown() == {changing.in_file()}, "the new certificate")
            assert client.noop()[0] == 250  # who is there stays
        assert changing.in_file() != before
        assert server.output().count("has been loaded anew") == 2
        assert "stays" not in server.output()


def test_sighup_loads_what_does_not_seem_to_have_changed(tmp_path: Path) -> None:
    changing = Changing(tmp_path)
    for name in ("mx.pem", "mx.key"):
        file = tmp_path / name
        file.write_bytes(file.read_bytes().ljust(8000))
        os.utime(file, (1, 1))
    with changing.server as server:
        before = changing.in_file()
        assert changing.shown() == {before}
        write_certificate(tmp_path / "..", f"{tmp_path.name}-new", NAME)
        for suffix in ("pem", "key"):
            new = (tmp_path.parent / f"{tmp_path.name}-new.{suffix}").read_bytes().ljust(8000)
            with (tmp_path / f"mx.{suffix}").open("r+b") as file:  # the same inode and size
                file.write(new)
            os.utime(tmp_path / f"mx.{suffix}", (1, 1))
        assert changing.in_file() != before
        assert changing.shown() == {before}
        server.process.signal(signal.SIGHUP)
        wait_until(lambda: changing.shown() == {changing.in_file()}, "the new certificate")


@pytest.mark.parametrize("told", ["by its change", "by SIGHUP"])
def test_broken_certificate_keeps_the_old_one(tmp_path: Path, told: str) -> None:
    changing = Changing(tmp_path)
    with changing.server as server:
        before = changing.in_file()
        (tmp_path / "mx.key").write_bytes(b"broken")
        if told == "by SIGHUP":
            server.process.signal(signal.SIGHUP)
        wait_until(lambda: changing.shown() == {before} and server.output().count(" stays: ") >= 2, "the complaint")
        assert "holds no private key in PEM form" in server.output()
        write_certificate(tmp_path, "mx", NAME)
        wait_until(lambda: changing.shown() == {changing.in_file()}, "the new certificate")
        assert changing.in_file() != before
        assert "Traceback" not in server.output()


def test_start_is_refused_with_a_key_that_does_not_fit(tmp_path: Path) -> None:
    changing = Changing(tmp_path)
    write_certificate(tmp_path, "two", NAME)
    (tmp_path / "two.key").replace(tmp_path / "mx.key")
    file = changing.server.config_file
    for verb in ("check", "serve"):
        done = run([sys.executable, "-m", "postroika", verb, "--config", file], within_s=30, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (
            78,
            f"postroika: {file}: listener[1].key: {tmp_path}/mx.key is not the key of {tmp_path}/mx.pem\n",
        )
    (tmp_path / "mx.pem").unlink()
    done = run([sys.executable, "-m", "postroika", "check", "--config", file], within_s=30, cwd=tmp_path)
    assert done.stdout == (
        f"postroika: {file}: listener[1].certificate: cannot read {tmp_path}/mx.pem: No such file or directory\n"
    )


def test_others_need_not_read_the_keys(tmp_path: Path) -> None:
    """Who looks at the queue is not who runs the server."""
    changing = Changing(tmp_path)
    with changing.server as server:
        (tmp_path / "mx.key").unlink()
        assert server.run("queue", "stats", "--json")
