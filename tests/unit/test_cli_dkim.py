"""`postroika dkim`: what it refuses, and that it leaves nothing behind then."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from postroika.cli import ExitCode, run
from tests.outputs import Output

MESSAGE = b"From: a@shop.test\n\nhello\n"


@pytest.fixture
def dkim(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`dkim(*args)` runs `postroika dkim` inside an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTROIKA_CONFIG", raising=False)

    def call(*args: str) -> Output:
        code = run(["dkim", *args])
        return Output(int(code), *capsys.readouterr())

    return call


def test_key_is_made_for_its_owner_with_its_record(dkim, tmp_path: Path) -> None:
    made = dkim("keygen", "-a", "ed25519", "s1.pem", "--domain", "SHOP.test.", "--selector", "s1")
    assert (made.code, made.err) == (ExitCode.OK, "Wrote s1.pem\n")
    assert made.out.startswith('s1._domainkey.shop.test. IN TXT "v=DKIM1; k=ed25519; p=')
    assert stat.S_IMODE((tmp_path / "s1.pem").stat().st_mode) == 0o600
    assert dkim("show-dns", "--key", "s1.pem", "--domain", "shop.test", "--selector", "s1").out == made.out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--domain", "a test", "--selector", "s1"), "--domain: 'a test' is not a domain or \".subdomains\""),
        (("--domain", ".a.test", "--selector", "s1"), "--domain: '.a.test' cannot have a key in the DNS"),
        (("--domain", "a.test", "--selector", "s 1"), "--selector: 's 1' is not a selector: labels of a domain name"),
        (("--domain", "a.test"), "--domain and --selector go together"),
        (("--algorithm", "ed25519", "--bits", "4096"), "--bits is of RSA keys; an ed25519 key has always 256"),
    ],
)
def test_no_key_is_made_where_something_else_is_wrong(
    dkim, tmp_path: Path, args: tuple[str, ...], problem: str
) -> None:
    refused = dkim("keygen", *args, "s1.pem")
    assert (refused.code, refused.out, refused.err.splitlines()[-1]) == (ExitCode.USAGE, "", f"Error: {problem}")
    assert list(tmp_path.iterdir()) == []


def test_key_is_never_overwritten(dkim, tmp_path: Path) -> None:
    (tmp_path / "s1.pem").write_text("mine")
    refused = dkim("keygen", "-a", "ed25519", "s1.pem")
    assert (refused.code, refused.err) == (
        ExitCode.FAILED,
        "postroika: s1.pem: is there already, and keys are never overwritten; name another file\n",
    )
    assert (tmp_path / "s1.pem").read_text() == "mine"


def test_missing_directory_is_named(dkim) -> None:
    refused = dkim("keygen", "-a", "ed25519", "keys/s1.pem")
    assert (refused.code, refused.err) == (
        ExitCode.FAILED,
        "postroika: keys/s1.pem: there is no directory keys; make it first\n",
    )


def test_config_without_keys_is_told(dkim, tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text('server.hostname = "mx.test"\n')
    shown = dkim("show-dns")
    assert (shown.code, shown.out, shown.err) == (ExitCode.OK, "", "postroika: postroika.toml has no [[dkim]] key\n")


def test_keys_for_verify_may_be_anything(dkim, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(bytes(range(256)))
    (tmp_path / "message").write_bytes(MESSAGE)
    verified = dkim("verify", "--keys", "keys", "message")
    assert (verified.code, verified.out, verified.err) == (ExitCode.FAILED, "", "no signature\n")


def test_what_is_no_message_is_not_repeated(dkim, tmp_path: Path) -> None:
    (tmp_path / "message").write_bytes(bytes(range(128, 256)) * 100)
    verified = dkim("verify", "message")
    assert verified.code == ExitCode.FAILED
    assert verified.out.startswith("BAD  d= s= a=: not a message: ")
    assert len(verified.out) < 200
