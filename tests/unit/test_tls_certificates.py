"""The certificates of listeners: which one a client gets, and what becomes of them when their files change."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from postroika.config import Certificate, Config, Listener
from postroika.config.certificates import not_valid
from postroika.errors import ConfigError
from postroika.tls import context
from postroika.tls.certificates import Certificates, ListenerTls
from postroika.tls.facts import TlsFacts
from postroika.tls.layer import TlsError, TlsLayer
from tests.unit.tls_pump import pump

CA = trustme.CA()
OTHER_CA = trustme.CA()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, *names: str) -> tuple[str, str]:
    """A new certificate for `names` and its key, in `path` under the first name."""
    leaf = CA.issue_cert(*names, common_name=names[0])
    certificate, key = path / f"{names[0]}.pem", path / f"{names[0]}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return str(certificate), str(key)


def listener(path: Path, **more: Any) -> Listener:
    certificate, key = write(path, "mx.test")
    return Listener(address="127.0.0.1:25", tls="starttls", certificate=certificate, key=key, **more)


def dialled(tls: ListenerTls, name: str = "", client: ssl.SSLContext | None = None) -> tuple[TlsFacts, TlsFacts, int]:
    """What a client that asks for `name` sees, what the server does, and the serial number of the certificate."""
    if client is None:
        client = context.client_context(verify=True)
        client.check_hostname = False
        CA.configure_trust(client)
    theirs = TlsLayer(client, server_side=False, server_name=name)
    ours = tls.layer()
    pump(theirs, ours)
    certificate = theirs._object.getpeercert()
    assert certificate is not None
    return theirs.facts, ours.facts, int(str(certificate["serialNumber"]), 16)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("", "mx.test"),
        ("mx.test", "mx.test"),
        ("unknown.test", "mx.test"),
        ("one.test", "one.test"),
        ("ONE.test", "one.test"),
        ("two.test", "one.test"),
        ("a.wild.test", "*.wild.test"),
        ("a.b.wild.test", "mx.test"),
        ("wild.test", "mx.test"),
    ],
)
def test_the_name_that_is_asked_for_chooses_the_certificate(tmp_path: Path, asked: str, given: str) -> None:
    one, wild = write(tmp_path, "one.test", "two.test"), write(tmp_path, "*.wild.test")
    tls = ListenerTls(
        listener(tmp_path),
        [
            Certificate(names=("one.test", "two.test"), certificate=one[0], key=one[1]),
            Certificate(names=("*.wild.test",), certificate=wild[0], key=wild[1]),
        ],
    )
    seen, known, _ = dialled(tls, asked)
    assert (seen.peer_name, known.server_name) == (given, asked.lower())


def test_listeners_have_their_own(tmp_path: Path) -> None:
    plain = Listener(address="127.0.0.1:26")
    certificates = Certificates(Config(listener=(plain, listener(tmp_path))))
    assert [tls is None for tls in certificates.listeners] == [True, False]


def test_what_listeners_share_is_loaded_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = listener(tmp_path)
    second = msgspec.structs.replace(first, address="127.0.0.1:465", tls="implicit")
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    third = msgspec.structs.replace(second, client_certificates="request", client_ca=str(tmp_path / "ca.pem"))
    clock = Clock()
    certificates = Certificates(Config(listener=(first, second, third)), clock)
    smtp, smtps, known = certificates.listeners
    assert smtp is smtps
    assert smtp is not known
    certificates.reload()
    clock.now += 1
    for tls in (smtp, smtps, known):
        assert tls is not None
        tls.layer()
    assert caplog.messages == [f"the certificate in {tmp_path}/mx.test.pem has been loaded anew"] * 2


def test_certificate_that_has_expired_is_told_when_it_is_loaded_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = ListenerTls(listener(tmp_path))
    old = CA.issue_cert(
        "mx.test", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2020, 2, 1, tzinfo=UTC)
    )
    (tmp_path / "mx.test.pem").write_bytes(old.cert_chain_pems[0].bytes())
    (tmp_path / "mx.test.key").write_bytes(old.private_key_pem.bytes())
    tls.reload()
    assert caplog.messages == [
        f"{tmp_path}/mx.test.pem has expired on 2020-02-01 00:00 UTC: who looks at it will refuse it"
    ]


def test_certificate_that_others_cannot_read_disturbs_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """OpenSSL takes one of version 2, which nobody makes any more; the library that tells its times does not."""
    tls = ListenerTls(listener(tmp_path))
    file = tmp_path / "mx.test.pem"
    der = ssl.PEM_cert_to_DER_cert(file.read_text()).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1)
    file.write_text(ssl.DER_cert_to_PEM_cert(der))
    assert not_valid(str(file), datetime.now(UTC)) == ""
    caplog.set_level(logging.INFO)
    tls.reload()
    assert caplog.messages == [f"the certificate in {file} has been loaded anew"]


def test_new_files_are_seen_by_connections_a_second_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    tls = ListenerTls(listener(tmp_path), clock=clock)
    *_, first = dialled(tls)
    write(tmp_path, "mx.test")
    assert dialled(tls)[2] == first
    clock.now += 1
    *_, second = dialled(tls)
    assert second != first
    clock.now += 1
    assert dialled(tls)[2] == second
    assert caplog.messages == [f"the certificate in {tmp_path}/mx.test.pem has been loaded anew"]


def test_new_files_of_other_names_are_seen_too(tmp_path: Path) -> None:
    clock = Clock()
    one = write(tmp_path, "one.test")
    tls = ListenerTls(
        listener(tmp_path), [Certificate(names=("one.test",), certificate=one[0], key=one[1])], clock=clock
    )
    *_, before = dialled(tls, "one.test")
    *_, default = dialled(tls)
    write(tmp_path, "one.test")
    clock.now += 1
    assert dialled(tls, "one.test")[2] != before
    assert dialled(tls)[2] == default


@pytest.mark.parametrize("broken", ["gone", "empty", "half", "of another"])
def test_broken_files_keep_the_old_certificate_and_are_told_once(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    tls = ListenerTls(listener(tmp_path), clock=clock)
    *_, before = dialled(tls)
    key = tmp_path / "mx.test.key"
    if broken == "gone":
        key.unlink()
    elif broken == "empty":
        key.write_bytes(b"")
    elif broken == "half":
        key.write_bytes(key.read_bytes()[:100])
    else:
        key.write_bytes(Path(write(tmp_path, "other.test")[1]).read_bytes())
    for _ in range(3):
        clock.now += 1
        assert dialled(tls)[2] == before
    (told,) = caplog.records
    assert told.levelname == "ERROR"
    assert told.getMessage().startswith(f"the certificate that was loaded from {tmp_path}/mx.test.pem before stays: ")
    tls.reload()
    assert (dialled(tls)[2], len(caplog.records)) == (before, 2)
    write(tmp_path, "mx.test")
    clock.now += 1
    assert dialled(tls)[2] != before


def test_files_are_read_at_once_when_told(tmp_path: Path) -> None:
    certificates = Certificates(Config(listener=(listener(tmp_path),)), Clock())
    (tls,) = certificates.listeners
    assert tls is not None
    *_, before = dialled(tls)
    write(tmp_path, "mx.test")
    certificates.reload()
    assert dialled(tls)[2] != before


def test_files_that_cannot_be_used_at_the_start_are_an_error(tmp_path: Path) -> None:
    made = listener(tmp_path)
    Path(made.key).unlink()
    with pytest.raises(ConfigError, match=rf"^cannot read {made.key}: No such file or directory$"):
        Certificates(Config(listener=(made,)))


# ---- certificates of clients


def asking(tmp_path: Path, how: str) -> ListenerTls:
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    one = write(tmp_path, "one.test")
    return ListenerTls(
        listener(tmp_path, client_certificates=how, client_ca=str(tmp_path / "ca.pem")),
        [Certificate(names=("one.test",), certificate=one[0], key=one[1])],
    )


def client_with(authority: trustme.CA | None) -> ssl.SSLContext:
    made = context.client_context(verify=True)
    made.check_hostname = False
    CA.configure_trust(made)
    if authority is not None:
        authority.issue_cert("shop.test", common_name="shop.test").configure_cert(made)
    return made


@pytest.mark.parametrize("how", ["request", "require"])
@pytest.mark.parametrize("name", ["mx.test", "one.test"])
def test_good_certificate_of_a_client_is_known(tmp_path: Path, how: str, name: str) -> None:
    _, known, _ = dialled(asking(tmp_path, how), name, client_with(CA))
    assert (known.server_name, known.peer_name, known.verified) == (name, "shop.test", True)


@pytest.mark.parametrize("name", ["mx.test", "one.test"])
def test_client_without_a_certificate(tmp_path: Path, name: str) -> None:
    _, known, _ = dialled(asking(tmp_path, "request"), name, client_with(None))
    assert (known.peer_name, known.verified) == ("", False)
    with pytest.raises(TlsError, match=r"^peer did not return a certificate$"):
        dialled(asking(tmp_path, "require"), name, client_with(None))


@pytest.mark.parametrize("how", ["request", "require"])
def test_client_with_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, how: str) -> None:
    with pytest.raises(TlsError, match=r"^certificate verify failed: "):
        dialled(asking(tmp_path, how), "mx.test", client_with(OTHER_CA))


def test_nobody_is_asked_who_need_not_be(tmp_path: Path) -> None:
    _, known, _ = dialled(ListenerTls(listener(tmp_path)), "mx.test", client_with(OTHER_CA))
    assert (known.peer_name, known.verified) == ("", False)
