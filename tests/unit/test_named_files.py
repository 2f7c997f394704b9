"""config.named_files: keys and credentials are read from files that are nobody else's, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from postroika.config import named_files
from postroika.config.named_files import CertificateFile, Named, PublicFile, SecretFile
from postroika.errors import ConfigError


class Hop(msgspec.Struct, frozen=True):
    host: str
    auth: Annotated[SecretFile, "Credentials."] = ""


class Tls(msgspec.Struct, frozen=True):
    certificate: Annotated[PublicFile, "Seen by all."] = ""
    key: Annotated[SecretFile, "The private key."] = ""


class File(msgspec.Struct, frozen=True):
    tls: Tls = Tls()
    hop: tuple[Hop, ...] = ()
    names: tuple[str, ...] = ("/etc/k.pem",)


FILE = File(Tls("/etc/c.pem", "/etc/k.pem"), (Hop("/etc/a", "/etc/a"), Hop("b"), Hop("c", "/etc/c")))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(b"-----BEGIN")
    path.chmod(0o600)
    return path


def read(path: Path, *, secret: bool = True, **how: Any) -> bytes | None:
    return named_files.read(Named("dkim[0].key", str(path), secret), **how)


def refusal(path: Path, **how: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, **how)
    assert str(caught.value).startswith(f"dkim[0].key: {path} ")
    return str(caught.value).removeprefix(f"dkim[0].key: {path} ")


def test_files_that_a_config_names() -> None:
    assert list(named_files.named(FILE)) == [
        Named("tls.certificate", "/etc/c.pem", secret=False),
        Named("tls.key", "/etc/k.pem", secret=True),
        Named("hop[0].auth", "/etc/a", secret=True),
        Named("hop[2].auth", "/etc/c", secret=True),
    ]


class Client(msgspec.Struct, frozen=True):
    certificate: Annotated[CertificateFile, "With its key, unless that is elsewhere."] = ""
    key: Annotated[SecretFile, "Its key."] = ""


def test_certificate_with_its_key_in_the_same_file_is_a_secret() -> None:
    assert list(named_files.named(Client("/etc/c.pem"))) == [Named("certificate", "/etc/c.pem", secret=True)]
    assert list(named_files.named(Client("/etc/c.pem", "/etc/k.pem"))) == [
        Named("certificate", "/etc/c.pem", secret=False),
        Named("key", "/etc/k.pem", secret=True),
    ]


@pytest.mark.parametrize("path", ["/etc/postroika/k.pem", "/etc/straße/k.pem", "/x" * 200, "/etc/k.pem (deleted)"])
def test_copy_is_read_under_its_name_and_told_under_that_of_the_file(path: str) -> None:
    descriptor = named_files.copy(Named("key", path, secret=True), b"-----BEGIN")
    try:
        name = named_files.name_of_copy(descriptor)
        assert Path(name).read_bytes() == b"-----BEGIN"
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o400
        assert named_files.told(name) == path[-249:]
        assert (named_files.is_copy(name), named_files.is_copy(path)) == (True, False)
    finally:
        os.close(descriptor)
    assert named_files.told(name) == name
    assert named_files.told(path) == path


def test_other_names_for_them_and_for_nothing_else() -> None:
    renamed = named_files.renamed(FILE, {"/etc/k.pem": "/proc/self/fd/7", "/etc/a": "/proc/self/fd/8"})
    assert renamed == File(
        Tls("/etc/c.pem", "/proc/self/fd/7"), (Hop("/etc/a", "/proc/self/fd/8"), Hop("b"), Hop("c", "/etc/c"))
    )


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o700])
def test_private_file_is_read(key: Path, mode: int) -> None:
    key.chmod(mode)
    assert read(key) == b"-----BEGIN"


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (0o644, "may be read by everybody (mode 0644): chmod o-rwx, and see who has"),
        (0o604, "may be read by everybody (mode 0604): chmod o-rwx, and see who has"),
        (0o602, "may be changed by others (mode 0602): chmod g-w,o-rwx"),
        (0o660, "may be changed by others (mode 0660): chmod g-w,o-rwx"),
        (0o620, "may be changed by others (mode 0620): chmod g-w,o-rwx"),
    ],
)
def test_file_of_secrets_that_others_may_read_or_change_is_refused(key: Path, mode: int, problem: str) -> None:
    key.chmod(mode)
    assert refusal(key) == problem
    assert read(key, secret=False) == b"-----BEGIN"


def test_link_is_judged_by_what_it_leads_to(key: Path, tmp_path: Path) -> None:
    link = tmp_path / "live.pem"
    link.symlink_to(key)
    assert read(link) == b"-----BEGIN"
    key.chmod(0o644)
    assert refusal(link) == "may be read by everybody (mode 0644): chmod o-rwx, and see who has"


def test_file_of_another_user_is_refused_unless_he_is_named() -> None:
    of_another = os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, 65534, 0, 10, 0, 0, 0))
    assert named_files.exposure(of_another).endswith("who could put another in its place: chown it to root")
    assert named_files.exposure(of_another, (65534,)) == ""


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refusal(tmp_path / "pipe") == "is not a file"
    assert refusal(tmp_path) == "is not a file"


def test_file_that_is_not_there_is_told_by_who_needs_it(tmp_path: Path) -> None:
    assert read(tmp_path / "none") is None


def test_file_that_is_too_large(key: Path) -> None:
    with key.open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    assert refusal(key) == "has 16777217 bytes, too many for what it is for"


def test_contents_do_not_stand_in_errors(key: Path) -> None:
    key.write_bytes(b"correct horse")
    key.chmod(0o644)
    assert "correct" not in refusal(key)
