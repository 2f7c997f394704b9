"""Submission with programs that others wrote: msmtp, Postfix with Cyrus SASL, OpenSSL, aiosmtplib, gsasl."""

from __future__ import annotations

import asyncio
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiosmtplib
import pytest

from tests.outputs import Output
from tests.system.peers import RunSource
from tests.system.postfix_peer import Postfix, StartPostfix
from tests.system.process import program, run, wait_until
from tests.system.submission import PASSWORD, World, without_trace

IN = "235 2.7.0 authentication succeeded"
WRONG = "535 5.7.8 authentication credentials are invalid"
BODY = b"\r\n.\r\n..\r\na line\r\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def header(sender: str) -> bytes:
    return f"From: {sender}\r\nSubject: x\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@x>\r\n".encode()


# ---- msmtp


def msmtp(world: World, path: Path, way: str, mechanism: str, sender: str, password: str = PASSWORD) -> Output:
    config = path / "msmtprc"
    config.write_text(
        f"account default\nhost localhost\nport {getattr(world, way)}\ntls on\ntls_trust_file {world.authority}\n"
        f"tls_starttls {'on' if way == 'starttls' else 'off'}\nauth {mechanism}\nuser ann@shop.test\n"
        f'password "{password}"\nfrom {sender}\n'
    )
    config.chmod(0o600)
    command = [program("msmtp", "msmtp"), "--file", str(config), "you@x.test"]
    content = (header(sender) + BODY).replace(b"\r\n", b"\n")
    done = subprocess.run(command, input=content, capture_output=True, timeout=60, check=False)
    return Output(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("way", ["starttls", "implicit"])
@pytest.mark.parametrize("mechanism", ["plain", "login", "scram-sha-256", "on"])
def test_msmtp(world: World, tmp_path: Path, mechanism: str, way: str) -> None:
    sender = f"msmtp-{mechanism}-{way}@shop.test"
    assert msmtp(world, tmp_path, way, mechanism, sender) == Output(0, "", "")
    (stored,) = world.stored(sender)
    assert without_trace(stored.content) == header(sender) + BODY
    assert world.event("received", sender=sender)["account"] == "ann@shop.test"


@pytest.mark.parametrize("mechanism", ["plain", "login", "scram-sha-256"])
def test_msmtp_with_a_wrong_password(world: World, tmp_path: Path, mechanism: str) -> None:
    done = msmtp(world, tmp_path, "starttls", mechanism, "wrong@shop.test", "wrong password")
    assert done.code == 77  # EX_NOPERM
    assert f"server message: {WRONG}" in done.err


# ---- Postfix


def client(world: World, postfix: StartPostfix, way: str, mechanism: str, password: str = PASSWORD) -> Postfix:
    port = getattr(world, way)
    return postfix(
        relayhost=f"127.0.0.1:{port}",
        settings={
            "smtp_tls_security_level": "secure",
            "smtp_tls_secure_cert_match": "localhost",
            "smtp_tls_CAfile": str(world.authority),
            "smtp_tls_wrappermode": "yes" if way == "implicit" else "no",
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": f"inline:{{{{ [127.0.0.1]:{port} = ann@shop.test:{password} }}}}",
            "smtp_sasl_tls_security_options": "noanonymous",
            "smtp_sasl_mechanism_filter": mechanism,
        },
    )


@pytest.mark.parametrize(
    ("way", "mechanism"),
    [("starttls", "plain"), ("implicit", "login"), ("starttls", "scram-sha-256"), ("implicit", "")],
)
def test_postfix(world: World, postfix: StartPostfix, smtp_source: RunSource, way: str, mechanism: str) -> None:
    hop = client(world, postfix, way, mechanism)
    sender = f"postfix-{mechanism or 'any'}-{way}@shop.test"
    smtp_source(hop.address, sender=sender, recipient="you@x.test", messages=5, sessions=2, size_bytes=20_000)
    contents = [stored.content for stored in world.stored(sender, 5)]
    assert all(b" with ESMTPSA id " in content.partition(b"\r\n\tfor ")[0] for content in contents)
    events = world.events("received", 5, sender=sender)
    assert [(event["account"], event["tenant"]) for event in events] == [("ann@shop.test", "shop")] * 5
    wait_until(lambda: hop.queue_length() == 0, "Postfix to be done")
    assert hop.log().count(", status=sent (250 2.0.0 Ok: queued as ") == 5


def test_postfix_with_a_wrong_password_keeps_its_mail(
    world: World, postfix: StartPostfix, smtp_source: RunSource
) -> None:
    hop = client(world, postfix, "starttls", "plain", "wrong password")
    smtp_source(hop.address, sender="wrong@shop.test", recipient="you@x.test")
    said = f"status=deferred (SASL authentication failed; server 127.0.0.1[127.0.0.1] said: {WRONG}"
    wait_until(lambda: said in hop.log(), "the log of Postfix", 30)
    assert hop.queue_length() == 1


# ---- OpenSSL


@pytest.mark.parametrize("way", ["starttls", "implicit"])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl(world: World, way: str, version: str) -> None:
    sender = f"openssl-{way}{version.replace('_', '')}@shop.test"
    command = ["timeout", "60", program("openssl", "openssl"), "s_client", "-quiet", "-CAfile", str(world.authority)]
    command += ["-verify_return_error", "-verify_hostname", "localhost", version]
    command += ["-connect", f"localhost:{getattr(world, way)}", *(["-starttls", "smtp"] if way == "starttls" else [])]
    credentials = b64encode(f"\0ann@shop.test\0{PASSWORD}".encode()).decode()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def say(octets: bytes) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(octets + b"\r\n")
            process.stdin.flush()
            while (line := process.stdout.readline())[3:4] == b"-":
                pass
            return line.decode().rstrip("\r\n")

        try:
            if way == "implicit":  # else it has read the greeting itself
                assert process.stdout.readline().startswith(b"220 ")
            assert say(b"EHLO me.test").startswith("250 ")
            assert say(f"AUTH PLAIN {credentials}".encode()) == IN
            assert say(f"MAIL FROM:<{sender}>".encode()) == "250 2.1.0 Ok"
            assert say(b"RCPT TO:<you@x.test>").startswith("250 ")
            assert say(b"DATA").startswith("354 ")
            assert say(header(sender) + b"\r\nx\r\n.").startswith("250 2.0.0 Ok: queued as ")
            assert say(b"QUIT").startswith("221 ")
        finally:
            process.kill()
    (stored,) = world.stored(sender)
    assert without_trace(stored.content) == header(sender) + b"\r\nx\r\n"


# ---- aiosmtplib


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("way", ["starttls", "implicit"])
def test_aiosmtplib(world: World, way: str, mechanism: str) -> None:
    sender = f"aio-{way}-{mechanism}@shop.test"

    async def send() -> None:
        async with world.aio_client(way) as smtp:
            await smtp.ehlo()
            await getattr(smtp, f"auth_{mechanism}")("ann@shop.test", PASSWORD)
            await smtp.sendmail(sender, ["you@x.test"], header(sender) + BODY)

    asyncio.run(send())
    (stored,) = world.stored(sender)
    assert without_trace(stored.content) == header(sender) + BODY


def test_aiosmtplib_with_a_wrong_password(world: World) -> None:
    async def send() -> None:
        async with world.aio_client("implicit") as smtp:
            with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refused:
                await smtp.login("ann@shop.test", "wrong password")
            assert (refused.value.code, refused.value.message) == (535, WRONG.partition(" ")[2])

    asyncio.run(send())


# ---- gsasl


@pytest.mark.parametrize(
    ("mechanism", "version", "password", "good"),
    [
        ("SCRAM-SHA-256-PLUS", "1.2", PASSWORD, True),
        ("SCRAM-SHA-256-PLUS", "1.2", "wrong password", False),
        ("SCRAM-SHA-256", "1.2", PASSWORD, True),
        ("SCRAM-SHA-256", "1.3", PASSWORD, True),
        ("PLAIN", "1.3", PASSWORD, True),
        ("LOGIN", "1.3", PASSWORD, True),
    ],
)
def test_gsasl(world: World, mechanism: str, version: str, password: str, good: bool) -> None:
    result = run(
        [
            program("gsasl", "gsasl"), "--client", "--smtp", "--connect", f"localhost:{world.starttls}",
            "--x509-ca-file", world.authority, "--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}",
            "--mechanism", mechanism, "--authentication-id", "ann@shop.test",
            "--password", password, *([] if mechanism.endswith("-PLUS") else ["--no-cb"]),
        ],
        within_s=60,
    )  # fmt: skip
    assert (IN in result.stdout, WRONG in result.stdout) == (good, not good), result.stdout
