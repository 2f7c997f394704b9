"""The files that a config names for TLS: what is wrong with them is told by key, file and reason."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import trustme

from postroika.config import check_files, load
from postroika.errors import ConfigError

CA = trustme.CA()
ONE = CA.issue_cert("one.test")
TWO = CA.issue_cert("two.test")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with two certificates and their keys, an authority, and a config that uses them."""
    for name, leaf in (("one", ONE), ("two", TWO)):
        (tmp_path / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        (tmp_path / f"{name}.key").write_bytes(leaf.private_key_pem.bytes())
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "p.toml").write_text(
        'server.hostname = "mx.test"\n'
        '[[listener]]\naddress = "127.0.0.1:25"\ntls = "starttls"\ncertificate = "one.pem"\nkey = "one.key"\n'
        'client_certificates = "request"\nclient_ca = "ca.pem"\n'
        '[[certificate]]\nnames = ["two.test"]\ncertificate = "two.pem"\nkey = "two.key"\n'
    )
    return tmp_path


def problems(files: Path) -> list[str]:
    """The lines of the error, without the names of the config file and of the directory."""
    path = files / "p.toml"
    config = load(path)  # which does not look at them
    with pytest.raises(ConfigError) as caught:
        check_files(path, config)
    lines = str(caught.value).split("\n")
    return [line.removeprefix(f"{path}: ").replace(f"{files}/", "") for line in lines]


def test_files_that_are_good(files: Path) -> None:
    check_files(files / "p.toml", load(files / "p.toml"))


def test_files_are_not_looked_at_without_tls(files: Path) -> None:
    (files / "p.toml").write_text('server.hostname = "mx.test"')
    check_files(files / "p.toml", load(files / "p.toml"))


def test_missing_files_are_all_told(files: Path) -> None:
    for name in ("one.pem", "two.key", "ca.pem"):
        (files / name).unlink()
    assert problems(files) == [
        "listener[0].certificate: cannot read one.pem: No such file or directory",
        "certificate[0].key: cannot read two.key: No such file or directory",
        "listener[0].client_ca: cannot read ca.pem: No such file or directory",
    ]


def test_unreadable_key(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refused(file: Path) -> bytes:
        if file.name == "one.key":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", refused)  # root, who may run the tests, may read all files
    assert problems(files) == ["listener[0].key: cannot read one.key: Permission denied"]


def test_directory_instead_of_a_file(files: Path) -> None:
    (files / "one.key").unlink()
    (files / "one.key").mkdir()
    assert problems(files) == ["listener[0].key: cannot read one.key: Is a directory"]


def test_key_of_another_certificate(files: Path) -> None:
    (files / "one.key").write_bytes((files / "two.key").read_bytes())
    assert problems(files) == ["listener[0].key: one.key is not the key of one.pem"]


def test_files_in_each_other_s_place(files: Path) -> None:
    (files / "one.key").rename(files / "x")
    (files / "one.pem").rename(files / "one.key")
    (files / "x").rename(files / "one.pem")
    assert problems(files) == ["listener[0].certificate: one.pem holds no certificate in PEM form"]


def test_empty_files(files: Path) -> None:
    for name in ("one.key", "two.pem", "ca.pem"):
        (files / name).write_bytes(b"")
    assert problems(files) == [
        "listener[0].key: one.key holds no private key in PEM form",
        "certificate[0].certificate: two.pem holds no certificate in PEM form",
        "listener[0].client_ca: ca.pem holds no certificate in PEM form",
    ]


@pytest.mark.parametrize(("name", "key"), [("one.pem", "certificate"), ("one.key", "key")])
def test_file_that_is_damaged(files: Path, name: str, key: str) -> None:
    lines = (files / name).read_text().splitlines(keepends=True)
    (files / name).write_text("".join([lines[0], "!!!!\n", *lines[2:]]))
    [problem] = problems(files)
    assert problem == f"listener[0].{key}: {name} cannot be used: it is damaged, or not whole"


def test_encrypted_key_is_not_asked_for_its_passphrase(files: Path) -> None:
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", "one.key", "-out", "new.key", "-passout", "pass:secret"],
        cwd=files, check=True, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    (files / "new.key").replace(files / "one.key")
    assert problems(files) == ["listener[0].key: one.key is encrypted: a key without a passphrase is needed"]


def test_certificate_and_key_may_be_one_file(files: Path) -> None:
    text = (files / "one.pem").read_bytes() + (files / "one.key").read_bytes()
    (files / "one.pem").write_bytes(text)
    (files / "one.key").write_bytes(text)
    check_files(files / "p.toml", load(files / "p.toml"))


def test_authorities_for_policy_hosts(files: Path) -> None:
    (files / "p.toml").write_text('server.hostname = "mx.test"\n[sts]\nca = "ca.pem"\n')
    check_files(files / "p.toml", load(files / "p.toml"))
    (files / "ca.pem").unlink()
    assert problems(files) == ["sts.ca: cannot read ca.pem: No such file or directory"]
