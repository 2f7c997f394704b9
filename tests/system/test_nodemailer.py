"""Submission with nodemailer: each way in, a pool, attachments, text of every kind; and what is refused."""

from __future__ import annotations

import email
import email.policy
import hashlib
import random
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.system.nodemailer_peer import RunNodemailer
from tests.system.submission import PASSWORD, World, without_trace

ANN = {"user": "ann@shop.test", "pass": PASSWORD}
UNICODE = "Grüße – 你好 – Привет – 🚂🐎"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


def transport(world: World, way: str = "starttls", method: str = "PLAIN", **more: Any) -> dict[str, Any]:
    """Options of createTransport: the certificate is checked, and STARTTLS is insisted on."""
    return {
        "host": "localhost",
        "port": getattr(world, way),
        "secure": way == "implicit",
        "requireTLS": way == "starttls",
        "auth": ANN,
        "authMethod": method,
        "tls": {"ca": world.authority.read_text()},
        **more,
    }


def message(sender: str, **more: Any) -> dict[str, Any]:
    return {"from": f"Ann <{sender}>", "to": "you@x.test", "subject": "x", "text": "x", **more}


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("way", ["starttls", "implicit"])
def test_each_way_in(world: World, nodemailer: RunNodemailer, way: str, method: str) -> None:
    sender = f"nm-{way}-{method.lower()}@shop.test"
    text = "a line\n.\n..dots in front\n\nFrom here, and the end\n.\n"
    (result,) = nodemailer(
        transport(world, way, method),
        [message(sender, subject=UNICODE, text=text, cc="cc@y.test", bcc="bcc@z.test", exact=True)],
    )
    everybody = ["you@x.test", "cc@y.test", "bcc@z.test"]
    assert (result["accepted"], result["rejected"]) == (everybody, [])
    assert result["response"].startswith("250 2.0.0 Ok: queued as ")
    copies = world.stored(sender, 3)  # one for each domain
    assert {recipient for copy in copies for recipient in copy.recipients} == set(everybody)
    assert {without_trace(copy.content) for copy in copies} == {b64decode(result["raw"])}
    received = world.event("received", sender=sender, recipient="you@x.test")
    assert (received["account"], received["tenant"]) == ("ann@shop.test", "shop")
    assert received["tls"].startswith("TLSv1.3 ")
    assert b" with ESMTPSA id " in copies[0].content


def test_text_of_every_kind_arrives_as_it_was_written(world: World, nodemailer: RunNodemailer) -> None:
    sender = "kinds@shop.test"
    attachment = random.Random(4).randbytes(300_000)
    (result,) = nodemailer(
        transport(world),
        [
            message(
                sender,
                subject=UNICODE * 5,
                text=UNICODE + "\n" + "x" * 5000 + "\n.\n",
                html=f"<p>{UNICODE}</p>",
                attachments=[
                    {
                        "filename": "ängström № 1.bin",
                        "content": b64encode(attachment).decode(),
                        "encoding": "base64",
                    },
                    {"filename": "notes.txt", "content": ".\n..\nend"},
                ],
                list={"unsubscribe": {"url": "https://shop.test/u"}},
            )
        ],
    )
    assert result["accepted"] == ["you@x.test"]
    (stored,) = world.stored(sender)
    parsed = email.message_from_bytes(stored.content, policy=email.policy.default)
    assert parsed["Subject"] == UNICODE * 5
    assert parsed["List-Unsubscribe"] == "<https://shop.test/u>"
    plain, html = (parsed.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None
    assert html is not None
    assert plain.get_content() == UNICODE + "\r\n" + "x" * 5000 + "\r\n.\r\n"
    assert html.get_content().strip() == f"<p>{UNICODE}</p>"
    binary, notes = parsed.iter_attachments()
    assert (binary.get_filename(), binary.get_content()) == ("ängström № 1.bin", attachment)
    assert notes.get_content().rstrip("\n") == ".\n..\nend"


def test_eight_bit_text_goes_as_it_is(world: World, nodemailer: RunNodemailer) -> None:
    sender = "eight@shop.test"
    header = f"From: {sender}\r\nSubject: x\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <8@x>\r\n"
    raw = f"{header}\r\n{UNICODE}\r\n"
    envelope = {"from": sender, "to": ["you@x.test"], "use8BitMime": True}
    (result,) = nodemailer(transport(world), [{"envelope": envelope, "raw": raw}])
    assert result["accepted"] == ["you@x.test"]
    (stored,) = world.stored(sender)
    assert without_trace(stored.content) == raw.encode()


def test_pool_sends_many_messages_over_few_connections(world: World, nodemailer: RunNodemailer) -> None:
    sender = "pool@shop.test"
    rng = random.Random(5)
    files = [rng.randbytes(rng.choice((0, 100, 3000, 100_000))) for _ in range(60)]
    results = nodemailer(
        transport(world, pool=True, maxConnections=3, maxMessages=15),
        [
            message(
                sender,
                to=f"you{number}@x.test",
                subject=f"number {number}",
                attachments=[{"filename": "f.bin", "content": b64encode(file).decode(), "encoding": "base64"}],
            )
            for number, file in enumerate(files)
        ],
    )
    assert [result["accepted"] for result in results] == [[f"you{number}@x.test"] for number in range(60)]
    got = {}
    for stored in world.stored(sender, 60):
        parsed = email.message_from_bytes(stored.content, policy=email.policy.default)
        (attachment,) = parsed.iter_attachments()
        number = int(parsed["Subject"].removeprefix("number "))
        assert stored.recipients == (f"you{number}@x.test",)
        got[number] = hashlib.sha256(attachment.get_content()).hexdigest()
    assert got == {number: hashlib.sha256(file).hexdigest() for number, file in enumerate(files)}


@pytest.mark.parametrize("user", ["ann@shop.test", "nobody@shop.test"])
def test_wrong_password_is_told_as_such(world: World, nodemailer: RunNodemailer, user: str) -> None:
    options = transport(world, auth={"user": user, "pass": "wrong password"})
    (result,) = nodemailer(options, [message("wrong@shop.test")])
    assert result == {"code": "EAUTH", "responseCode": 535, "command": "AUTH PLAIN"}


def test_mail_as_somebody_else_is_refused_and_the_pool_goes_on(world: World, nodemailer: RunNodemailer) -> None:
    sender = "after@shop.test"
    results = nodemailer(
        transport(world, pool=True, maxConnections=1),
        [
            message("ceo@bank.test"),
            {**message("ceo@bank.test"), "envelope": {"from": sender, "to": ["you@x.test"]}},
            message(sender),
        ],
    )
    assert results[:2] == [
        {"code": "EENVELOPE", "responseCode": 550, "command": "MAIL FROM"},
        {"code": "EMESSAGE", "responseCode": 550, "command": "DATA"},
    ]
    assert results[2]["accepted"] == ["you@x.test"]
    assert len(world.stored(sender)) == 1


def test_certificate_that_it_does_not_trust_keeps_the_password_from_going_out(
    world: World, nodemailer: RunNodemailer
) -> None:
    for way in ("starttls", "implicit"):
        (result,) = nodemailer(transport(world, way, tls={}), [message("untrusted@shop.test")])
        assert result["code"] == "ESOCKET"
