"""config.secret_files: keys and credentials are read from files that are nobody else's, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from postroika.config import secret_files
from postroika.config.secret_files import KeptFiles, SecretFile
from postroika.errors import ConfigError


class Hop(msgspec.Struct, frozen=True):
    host: str
    auth: Annotated[SecretFile, "Credentials."] = ""


class Tls(msgspec.Struct, frozen=True):
    certificate: Annotated[str, "Seen by all."] = ""
    key: Annotated[SecretFile, "The private key."] = ""


class File(msgspec.Struct, frozen=True):
    tls: Tls = Tls()
    hop: tuple[Hop, ...] = ()
    names: tuple[str, ...] = ("a",)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(b"-----BEGIN")
    path.chmod(0o600)
    return path


def refusal(path: Path, **how: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        secret_files.read(str(path), **how)
    return str(caught.value).removeprefix(f"{path}: ")


def test_keys_of_the_config_that_name_such_files() -> None:
    file = File(Tls("/etc/c.pem", "/etc/k.pem"), (Hop("a", "/etc/a"), Hop("b"), Hop("c", "/etc/c")))
    assert list(secret_files.paths(file)) == [
        ("tls.key", "/etc/k.pem"),
        ("hop[0].auth", "/etc/a"),
        ("hop[2].auth", "/etc/c"),
    ]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o700])
def test_private_file_is_read(key: Path, mode: int) -> None:
    key.chmod(mode)
    assert secret_files.read(str(key)) == b"-----BEGIN"


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (0o644, "everybody may read it (mode 0644): chmod o-rwx, and see who has"),
        (0o604, "everybody may read it (mode 0604): chmod o-rwx, and see who has"),
        (0o602, "others may change it (mode 0602): chmod g-w,o-rwx"),
        (0o660, "others may change it (mode 0660): chmod g-w,o-rwx"),
        (0o620, "others may change it (mode 0620): chmod g-w,o-rwx"),
    ],
)
def test_file_that_others_may_read_or_change_is_refused(key: Path, mode: int, problem: str) -> None:
    key.chmod(mode)
    assert refusal(key) == problem


def test_link_is_judged_by_what_it_leads_to(key: Path, tmp_path: Path) -> None:
    link = tmp_path / "live.pem"
    link.symlink_to(key)
    assert secret_files.read(str(link)) == b"-----BEGIN"
    key.chmod(0o644)
    assert refusal(link) == "everybody may read it (mode 0644): chmod o-rwx, and see who has"


def test_file_of_another_user_is_refused_unless_he_is_named() -> None:
    of_another = os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, 65534, 0, 10, 0, 0, 0))
    assert secret_files.exposure(of_another).endswith("who could put another in its place: chown it to root")
    assert secret_files.exposure(of_another, (65534,)) == ""


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refusal(tmp_path / "pipe") == "is not a file"
    assert refusal(tmp_path) == "is not a file"
    assert refusal(tmp_path / "none") == "cannot read it: No such file or directory"


def test_file_that_is_too_large_for_keys(key: Path) -> None:
    with key.open("wb") as file:
        file.truncate(1024 * 1024 + 1)
    assert refusal(key) == "1048577 bytes are too many for keys or credentials"


def test_contents_do_not_stand_in_errors(key: Path) -> None:
    key.write_bytes(b"correct horse")
    key.chmod(0o644)
    assert "correct" not in refusal(key)


def test_file_that_can_be_read_is_read_anew(key: Path) -> None:
    files = KeptFiles({str(key): b"of the start"})
    assert files.read(str(key)) == b"-----BEGIN"
    key.write_bytes(b"replaced")
    assert files.read(str(key)) == b"replaced"


def test_file_that_only_root_may_read_is_as_it_was_at_the_start(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    files = KeptFiles({str(key): b"of the start"})
    assert files.read(str(key)) == b"of the start"
    with pytest.raises(ConfigError, match="another: cannot read it: Permission denied"):
        files.read("/another")


def test_file_that_has_become_open_to_others_is_refused_though_it_was_kept(key: Path) -> None:
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody may read it"):
        KeptFiles({str(key): b"of the start"}).read(str(key))


def test_name_for_a_library_that_opens_files_itself(key: Path) -> None:
    with KeptFiles().file(str(key)) as name:
        assert Path(name).read_bytes() == b"-----BEGIN"
        assert Path(name).read_bytes() == b"-----BEGIN"
    assert not Path(name).exists()
