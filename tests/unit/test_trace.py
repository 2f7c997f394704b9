"""mail.trace: the Received field."""

from __future__ import annotations

from email.headerregistry import HeaderRegistry
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.trace import clean_helo, received_field, with_protocol

AT = 1_700_000_000.9


def stamp(helo: str = "client.example", ip: str = "192.0.2.1", recipient: str = "", tls: str = "") -> bytes:
    return received_field(
        helo=helo,
        ip=ip,
        hostname="mx.test",
        protocol="ESMTPS" if tls else "ESMTP",
        id_text="0123456789abc",
        at=AT,
        recipient=recipient,
        tls=tls,
    )


def test_field_for_one_recipient() -> None:
    assert stamp(recipient="a@b.example") == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\tby mx.test (Postroika) with ESMTP id 0123456789abc\r\n"
        b"\tfor <a@b.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_field_for_several_recipients_names_none() -> None:
    assert stamp(ip="2001:db8::1") == (
        b"Received: from client.example ([IPv6:2001:db8::1])\r\n"
        b"\tby mx.test (Postroika) with ESMTP id 0123456789abc; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_field_of_a_message_that_came_over_tls_says_how() -> None:
    assert stamp(recipient="a@b.example", tls="using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384") == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n"
        b"\tby mx.test (Postroika) with ESMTPS id 0123456789abc\r\n"
        b"\tfor <a@b.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


@pytest.mark.parametrize("recipient", ["a\u2028b@c", "x" * 301])
def test_recipient_that_would_spoil_the_line_is_not_named(recipient: str) -> None:
    assert stamp(recipient=recipient) == stamp()


def test_recipient_beyond_ascii_is_named_in_utf8() -> None:
    assert "\tfor <пётр@почта.рф>;".encode() in stamp(recipient="пётр@почта.рф")


@pytest.mark.parametrize(
    ("esmtp", "smtputf8", "tls", "authenticated", "keyword"),
    [
        (False, False, False, False, "SMTP"),
        (True, False, False, False, "ESMTP"),
        (True, False, True, False, "ESMTPS"),
        (True, False, False, True, "ESMTPA"),
        (True, False, True, True, "ESMTPSA"),
        (True, True, False, False, "UTF8SMTP"),
        (True, True, True, True, "UTF8SMTPSA"),
    ],
)
def test_with_keyword(esmtp: bool, smtputf8: bool, tls: bool, authenticated: bool, keyword: str) -> None:
    assert with_protocol(esmtp=esmtp, smtputf8=smtputf8, tls=tls, authenticated=authenticated) == keyword


@pytest.mark.parametrize(
    ("helo", "clean"),
    [
        ("mx.example", "mx.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("", "unknown"),
        ("a b", "a?b"),
        ("evil) by (x", "evil??by??x"),
        ("x\r\nBcc: y", "x??Bcc:?y"),
        ("x;id=<y>\\", "x?id=?y??"),
        ("ümlaut", "?mlaut"),
        ("x" * 500, "x" * 125 + "..."),
    ],
)
def test_helo_is_made_harmless(helo: str, clean: str) -> None:
    assert clean_helo(helo) == clean


@given(helo=st.text(max_size=300))
def test_any_helo_gives_one_well_formed_field(helo: str) -> None:
    field = stamp(helo=helo, recipient="a@b")
    lines = field.split(b"\r\n")
    assert [line[:1] for line in lines] == [b"R", b"\t", b"\t", b""]
    assert all(len(line) < 300 and line.isascii() for line in lines)
    name, _, value = field.decode().partition(": ")
    header = HeaderRegistry()(name, value.replace("\r\n", ""))
    assert not header.defects
    assert parsedate_to_datetime(value.rpartition(";")[2].strip()).timestamp() == int(AT)
