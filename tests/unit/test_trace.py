"""mail.trace: the Received field."""

from __future__ import annotations

from email.headerregistry import HeaderRegistry
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.trace import clean_helo, received_field, tls_comment, with_protocol
from postroika.tls.facts import TlsFacts

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


PLAIN = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384")


def test_comment_on_tls_says_what_is_known() -> None:
    plain = "using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"
    assert tls_comment(PLAIN) == plain
    assert tls_comment(PLAIN._replace(server_name="mx.test")) == f"{plain}, SNI mx.test"
    named = PLAIN._replace(server_name="mx.test", peer_name="App 7, Shop", verified=True)
    assert tls_comment(named) == f'{plain}, SNI mx.test\r\n\t client certificate "App 7, Shop" verified'
    assert tls_comment(PLAIN._replace(verified=True)) == f'{plain}\r\n\t client certificate "" verified'
    assert tls_comment(PLAIN._replace(peer_name="x")) == f'{plain}\r\n\t client certificate "x" not verified'


def test_names_of_a_client_stay_within_their_quotes_and_the_comment() -> None:
    evil = 'a" verified)\r\nX: y\0\x7f\\é\u2028(' + "z" * 20_000
    facts = PLAIN._replace(server_name=evil, peer_name=evil, verified=True)
    clean = "a??verified???X:?y??????" + "z" * 101 + "..."
    quoted = "a? verified???X: y??????" + "z" * 101 + "..."
    assert stamp(tls=tls_comment(facts)) == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384, SNI " + clean.encode() + b"\r\n"
        b'\t client certificate "' + quoted.encode() + b'" verified)\r\n'
        b"\tby mx.test (Postroika) with ESMTPS id 0123456789abc; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


@given(st.text(), st.text(), st.booleans())
def test_field_has_one_comment_of_tls_whatever_the_names_are(server_name: str, peer_name: str, verified: bool) -> None:
    field = stamp(tls=tls_comment(PLAIN._replace(server_name=server_name, peer_name=peer_name, verified=verified)))
    lines = field.split(b"\r\n")
    assert field.isascii()
    assert max(map(len, lines)) < 998
    assert all(not line or line.startswith((b"Received: ", b"\t")) for line in lines)
    assert (field.count(b"("), field.count(b")")) == (3, 3)
    assert field.count(b'"') in {0, 2}


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
