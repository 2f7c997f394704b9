"""Files with passwords: who may read them, what may be in them, and what errors must not tell."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from postroika.errors import PostroikaError
from postroika.outbound.credentials import CredentialFiles

GOOD = 'user = "alice"\npassword = "s3cret"\n'


def file_with(directory: Path, text: str, mode: int = 0o600) -> str:
    file = directory / "relay.toml"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_user_and_password_are_read(tmp_path: Path) -> None:
    file = file_with(tmp_path, GOOD)
    credentials = CredentialFiles([file]).get(file)
    assert (credentials.user, credentials.password) == ("alice", "s3cret")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_file_for_its_owner_alone_is_taken(tmp_path: Path, mode: int) -> None:
    CredentialFiles([file_with(tmp_path, GOOD, mode)])


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o666, 0o777])
def test_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(
        PostroikaError, match=r"relay\.toml: others than its owner may read it; mend it with: chmod 600"
    ):
        CredentialFiles([file_with(tmp_path, GOOD, mode)])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user = 's3cret",
        "s3cret",
        'user = "alice"',
        'password = "s3cret"',
        'user = 1\npassword = "s3cret"',
        GOOD + "more = 1",
        'user = ""\npassword = "s3cret"',
        'user = "a\\u0000"\npassword = "s3cret"',
    ],
)
def test_what_cannot_be_meant_is_refused_in_words_that_do_not_tell_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(PostroikaError) as caught:
        CredentialFiles([file_with(tmp_path, text)])
    assert "relay.toml: " in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(PostroikaError):
            CredentialFiles([str(path)])


def test_changed_file_counts_and_a_broken_one_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = file_with(tmp_path, GOOD)
    files = CredentialFiles([file])
    file_with(tmp_path, 'user = "bob"\npassword = "another"\n')
    assert files.get(file).user == "bob"
    for broken in (lambda: file_with(tmp_path, "s3cret = "), lambda: file_with(tmp_path, GOOD, 0o644)):
        broken()
        with caplog.at_level(logging.WARNING):
            assert files.get(file).user == "bob"
        assert "go on to be used" in caplog.text
    Path(file).unlink()
    assert files.get(file).user == "bob"
    assert "s3cret" not in caplog.text
