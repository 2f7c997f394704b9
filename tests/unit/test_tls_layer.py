"""The TLS engine: both ends in memory, and its words for what goes wrong."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from postroika.tls import context
from postroika.tls.facts import TlsFacts
from postroika.tls.layer import TlsError, TlsLayer, TlsUntrusted
from tests.chains import issue, with_octets_for_names
from tests.unit.tls_pump import pump

CA = trustme.CA()
NAME = "mx.test"
CERTIFICATE = CA.issue_cert(NAME)


def server_context() -> ssl.SSLContext:
    made = context.server_context()
    CERTIFICATE.configure_cert(made)
    return made


def client_context(*, trusts: bool = True) -> ssl.SSLContext:
    made = context.client_context(verify=True)
    if trusts:
        CA.configure_trust(made)
    return made


def pair(client: ssl.SSLContext | None = None, server: ssl.SSLContext | None = None) -> tuple[TlsLayer, TlsLayer]:
    return (
        TlsLayer(client or client_context(), server_side=False, server_name=NAME),
        TlsLayer(server or server_context(), server_side=True),
    )


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_what_one_end_writes_the_other_reads_however_it_is_cut(at_once: int) -> None:
    client, server = pair()
    assert (client.handshaken, server.handshaken) == (False, False)
    assert pump(client, server, at_once=at_once) == (b"", b"")
    assert (client.handshaken, server.handshaken) == (True, True)
    body = bytes(range(256)) * 300
    client.write(body)
    server.write(b"220 there\r\n")
    assert pump(client, server, at_once=at_once) == (b"220 there\r\n", body)


def test_both_ends_know_what_was_agreed_on() -> None:
    client, server = pair()
    with pytest.raises(TlsError, match="the handshake is not done"):
        client.facts  # noqa: B018 - it is what raises
    pump(client, server)
    facts = client.facts
    assert facts == TlsFacts("TLSv1.3", facts.cipher, NAME, facts.peer_name, verified=True)
    assert facts.text() == f"TLSv1.3 {facts.cipher}"
    assert server.facts == TlsFacts("TLSv1.3", facts.cipher, NAME)


def test_a_handshake_by_itself_reads_nothing_of_what_follows_it() -> None:
    client, server = pair()
    assert (client.shake_hands(), server.shake_hands()) == (False, False)
    server.feed(client.take_output())
    assert not server.shake_hands()
    client.feed(server.take_output())
    assert client.shake_hands()
    client.write(b"EHLO there\r\n")
    assert not server.idle
    server.feed(client.take_output())  # the end of the handshake, and the first words, at once
    assert (server.shake_hands(), server.shake_hands(), server.idle) == (True, True, False)
    assert (server.read(), server.idle, server.read()) == (b"EHLO there\r\n", True, None)


def test_what_was_fed_is_read_to_its_end_though_it_is_more_than_a_record() -> None:
    client, server = pair()
    pump(client, server)
    body = bytes(range(256)) * 1000
    client.write(body)
    ciphertext = client.take_output()
    server.feed(ciphertext[:-1])
    got = b""
    while piece := server.read():
        assert not server.idle or server.read() is None
        got += piece
    assert (got, server.idle, len(body) - len(got) < 1 << 14) == (body[: len(got)], True, True)
    server.feed(ciphertext[-1:])
    while piece := server.read():
        got += piece
    assert (got == body, server.idle) == (True, True)


def test_a_failed_handshake_stays_failed() -> None:
    _, server = pair()
    server.feed(b"EHLO there\r\n" * 3)
    with pytest.raises(TlsError):
        server.shake_hands()
    with pytest.raises(TlsError, match=r"^the handshake has failed$"):
        server.shake_hands()
    assert (server.read(), server.handshaken) == (b"", False)


def test_a_good_end_and_a_cut_are_told_apart() -> None:
    client, server = pair()
    pump(client, server)
    client.write(b"QUIT\r\n")
    client.shut_down()
    server.feed(client.take_output())
    assert (server.read(), server.read(), server.read(), server.truncated) == (b"QUIT\r\n", b"", b"", False)
    client, server = pair()
    pump(client, server)
    server.feed(b"")
    assert (server.read(), server.truncated) == (b"", True)


def test_an_end_in_the_handshake_is_an_error() -> None:
    client, server = pair()
    client.read()
    server.feed(client.take_output()[:20])
    assert server.read() is None
    server.feed(b"")
    with pytest.raises(TlsError, match="the connection was closed in the middle of the handshake"):
        server.read()
    assert server.read() == b""


def test_who_does_not_speak_tls_is_told_so_in_words() -> None:
    _, server = pair()
    server.feed(b"EHLO there\r\n" * 3)
    with pytest.raises(TlsError, match=r"^(what came is not TLS|packet length too long)$"):
        server.read()


def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_reason() -> None:
    client, server = pair(client=client_context(trusts=False))
    with pytest.raises(TlsError, match=r"^certificate verify failed: unable to get local issuer certificate$"):
        pump(client, server)


def test_a_certificate_of_somebody_else_is_refused() -> None:
    other = context.server_context()
    CA.issue_cert("elsewhere.test").configure_cert(other)
    client, server = pair(server=other)
    with pytest.raises(TlsError, match="certificate verify failed: Hostname mismatch"):
        pump(client, server)


def test_a_judge_that_raises_trusts_nobody() -> None:
    def judge(_chain: Sequence[bytes]) -> str:
        raise LookupError("of a kind that\nnobody knows")

    client = TlsLayer(client_context(), server_side=False, server_name=NAME, judge=judge)
    server = TlsLayer(server_context(), server_side=True)
    with pytest.raises(TlsUntrusted) as caught:
        pump(client, server)
    assert str(caught.value) == "its certificates cannot be judged: of a kind that nobody knows"
    assert (client.handshaken, client.read(), client.take_output()) == (False, b"", b"")


@pytest.mark.parametrize(
    "name", ["a" * 64 + ".test", ".".join([r"\000" * 15] * 5), "a\0b"], ids=["long label", "long name", "NUL"]
)
def test_a_name_that_cannot_be_asked_for_is_an_error(name: str) -> None:
    with pytest.raises(TlsError) as caught:
        TlsLayer(context.client_context(verify=False), server_side=False, server_name=name)
    assert str(caught.value).startswith(f"{name!r} cannot be asked for: ")


def test_nothing_is_written_before_the_handshake() -> None:
    client, _ = pair()
    with pytest.raises(TlsError, match="nothing can be written before the handshake"):
        client.write(b"MAIL FROM:<a@b.test>\r\n")


def test_a_client_certificate_is_named() -> None:
    strict = server_context()
    strict.verify_mode = ssl.CERT_REQUIRED
    CA.configure_trust(strict)
    asking = client_context()
    CA.issue_cert("shop.test", common_name="shop.test").configure_cert(asking)
    client, server = pair(asking, strict)
    pump(client, server)
    assert (server.facts.peer_name, server.facts.verified) == ("shop.test", True)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ([x509.RFC822Name("app@shop.test"), x509.DNSName("app.shop.test")], "app.shop.test"),
        ([x509.UniformResourceIdentifier("urn:app"), x509.RFC822Name("app@shop.test")], "urn:app"),
        ([x509.IPAddress(ip_address("192.0.2.7"))], "192.0.2.7"),
        ([x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], ""),
    ],
    ids=["dns", "uri", "ip", "nothing"],
)
def test_a_client_certificate_without_a_common_name_is_named_by_another(
    tmp_path: Path, names: list[x509.GeneralName], named: str
) -> None:
    root = issue("root", authority=True)
    leaf = issue("", root, more=[(x509.SubjectAlternativeName(names), True)])
    strict = server_context()
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_verify_locations(root.write(tmp_path / "root.pem"))
    asking = client_context()
    asking.load_cert_chain(leaf.write(tmp_path / "client.pem"))
    client, server = pair(asking, strict)
    pump(client, server)
    assert (server.facts.peer_name, server.facts.verified) == (named, True)


def test_a_certificate_that_python_cannot_read_is_an_error(tmp_path: Path) -> None:
    root = issue("root", authority=True)
    leaf = issue("client", root, more=[(with_octets_for_names(b"\xff"), False)])
    strict = server_context()
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_verify_locations(root.write(tmp_path / "root.pem"))
    asking = client_context()
    asking.load_cert_chain(leaf.write(tmp_path / "client.pem"))
    client, server = pair(asking, strict)
    pump(client, server)
    with pytest.raises(TlsUntrusted, match=r"^its certificate cannot be read: 'utf-8' codec "):
        server.facts  # noqa: B018 - it is what raises


def test_the_binding_exists_below_tls_1_3_only() -> None:
    old = client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    client, server = pair(client=old)
    pump(client, server)
    assert client.channel_binding() == server.channel_binding() != b""
    client, server = pair()
    pump(client, server)
    assert (client.channel_binding(), server.channel_binding()) == (b"", b"")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
@pytest.mark.parametrize("side", ["client", "server"])
def test_what_is_older_than_tls_1_2_is_refused(side: str) -> None:
    old = client_context() if side == "client" else server_context()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    refusals = "unsupported protocol|no protocols available|no ciphers available|tlsv1 alert protocol version"
    with pytest.raises(TlsError, match=rf"^({refusals})$"):
        pump(*(pair(client=old) if side == "client" else pair(server=old)))
