"""`postroika check` and `postroika serve` try all files that the config names: key, file and reason, and code 78."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from postroika.cli import ExitCode, run

CA = trustme.CA()
GOOD = CA.issue_cert("one.test")
OTHER = CA.issue_cert("one.test")
OLD = CA.issue_cert("one.test", not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2020, 2, 1, tzinfo=UTC))
HEAD = (
    f'[server]\nhostname = "mx.test"\n[process]\nuser = "{os.geteuid()}"\n'
    '[[listener]]\naddress = "127.0.0.1:0"\n[log]\nevents = ""\n'
)
ROUTE = '[[route]]\ndomains = ["*"]\nnext_hop = "smtp://127.0.0.1:9"\n'
TLS = f'{HEAD}[[listener]]\naddress = "127.0.0.2:0"\ntls = "starttls"\ncertificate = "one.pem"\nkey = "one.key"\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with certificates in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTROIKA_CONFIG", raising=False)
    for name, leaf in (("one", GOOD), ("other", OTHER), ("old", OLD)):
        write(tmp_path / f"{name}.pem", b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        write(tmp_path / f"{name}.key", leaf.private_key_pem.bytes())
    return tmp_path


def write(file: Path, content: bytes) -> None:
    file.touch(0o600)
    file.write_bytes(content)


def config(place: Path, text: str) -> None:
    (place / "postroika.toml").write_text(text)


@pytest.mark.parametrize(
    ("text", "credentials", "problem"),
    [
        ('auth = "up.toml"', None, "route[0].auth: HERE/up.toml: cannot read it: No such file or directory"),
        (
            'auth = "up.toml"',
            b"password = geheim",
            'route[0].auth: HERE/up.toml: not TOML; write user = "…" and password = "…"',
        ),
        (
            'auth = "up.toml"',
            b"password = 'geheim'",
            "route[0].auth: HERE/up.toml: needs `user` and `password`, both text, and nothing else",
        ),
        ('certificate = "no.pem"', None, "route[0].certificate: cannot read HERE/no.pem: No such file or directory"),
        ('certificate = "one.pem"', None, "route[0].key: HERE/one.pem holds no private key in PEM form"),
        (
            'certificate = "one.pem"\nkey = "other.key"',
            None,
            "route[0].key: HERE/other.key is not the key of HERE/one.pem",
        ),
        ('[delivery]\ntls_ca = "no.pem"', None, "delivery.tls_ca: cannot read HERE/no.pem: No such file or directory"),
        ('[delivery]\ntls_ca = "one.key"', None, "delivery.tls_ca: HERE/one.key holds no certificate in PEM form"),
        (
            '[accounts]\nfile = "up.toml"',
            b"geheim",
            "accounts: HERE/up.toml: not TOML: Expected '=' after a key in a key/value pair (at end of document)",
        ),
        (
            '[[dkim]]\ndomain = "a.test"\nselector = "s1"\nkey = "no.pem"',
            None,
            "dkim[0].key: HERE/no.pem: cannot read it: No such file or directory (key s1 of a.test)",
        ),
    ],
)
def test_file_that_cannot_be_used_refuses_the_start(
    place: Path, capsys: pytest.CaptureFixture[str], text: str, credentials: bytes | None, problem: str
) -> None:
    config(place, HEAD + ROUTE + text)
    if credentials is not None:
        write(place / "up.toml", credentials)
    expected = f"postroika: postroika.toml: {problem.replace('HERE', str(place))}\n"
    assert run(["check"]) == ExitCode.CONFIG
    assert capsys.readouterr() == ("", expected)
    assert run(["serve"]) == ExitCode.CONFIG
    assert capsys.readouterr() == ("", expected)
    assert not (place / "var").exists()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("route[0].auth", f'{ROUTE}auth = "pipe"\n'),
        ("route[0].certificate", f'{ROUTE}certificate = "pipe"\nkey = "one.key"\n'),
        ("accounts.file", '[accounts]\nfile = "pipe"\n'),
        ("dkim[0].key", '[[dkim]]\ndomain = "a.test"\nselector = "s1"\nkey = "pipe"\n'),
        ("sts.ca", '[sts]\nca = "pipe"\n'),
    ],
    ids=["credentials", "certificate", "accounts", "signing key", "authorities"],
)
def test_nobody_waits_for_what_comes_through_a_pipe(place: Path, key: str, text: str) -> None:
    config(place, HEAD + text)
    os.mkfifo(place / "pipe", 0o600)
    done = subprocess.run(
        [sys.executable, "-m", "postroika", "check"], capture_output=True, text=True, timeout=20, check=False
    )
    told = f"postroika: postroika.toml: {key}: {place}/pipe is not a file\n"
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.CONFIG, "", told)


def test_all_that_is_wrong_is_told_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(place, f'{TLS.replace("one.key", "no.key")}{ROUTE}auth = "up.toml"\n')
    assert run(["check"]) == ExitCode.CONFIG
    assert capsys.readouterr().err.splitlines() == [
        f"postroika: postroika.toml: listener[1].key: cannot read {place}/no.key: No such file or directory",
        f"postroika: postroika.toml: route[0].auth: {place}/up.toml: cannot read it: No such file or directory",
    ]


def test_key_that_others_may_read_is_told_with_the_config_that_names_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config(place, TLS)
    (place / "one.key").chmod(0o644)
    told = (
        f"postroika.toml: listener[1].key: {place}/one.key may be read by everybody (mode 0644): "
        "chmod o-rwx, and see who has\n"
    )
    assert run(["check"]) == ExitCode.OK
    assert capsys.readouterr().err == f"postroika: warning: a start here is refused: {told}"
    done = subprocess.run(  # a start changes the process that it happens in
        [sys.executable, "-m", "postroika", "serve"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.CONFIG, "", f"postroika: {told}")


def test_certificate_out_of_its_time_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tomorrow = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=1)
    early = CA.issue_cert("one.test", not_before=tomorrow, not_after=tomorrow + timedelta(days=1))
    write(place / "early.pem", early.cert_chain_pems[0].bytes())
    write(place / "early.key", early.private_key_pem.bytes())
    more = '[[certificate]]\nnames = ["x.test"]\ncertificate = "early.pem"\nkey = "early.key"\n'
    ours = 'certificate = "old.pem"\nkey = "old.key"\n'
    config(place, f"{TLS}{more}{ROUTE}{ours}")
    assert run(["check"]) == ExitCode.OK
    of_name, of_route = capsys.readouterr().err.splitlines()
    assert of_name == (
        f"postroika: warning: postroika.toml: certificate[0].certificate: {place}/early.pem is not valid before "
        f"{tomorrow:%Y-%m-%d %H:%M} UTC: who looks at it will refuse it"
    )
    assert of_route == (
        f"postroika: warning: postroika.toml: route[0].certificate: {place}/old.pem has expired on "
        "2020-02-01 00:00 UTC: who looks at it will refuse it"
    )


def test_file_of_accounts_that_is_not_there_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(place, f'{HEAD}[accounts]\nfile = "acounts.toml"\n')
    assert run(["check"]) == ExitCode.OK
    assert capsys.readouterr().err == (
        f"postroika: warning: postroika.toml: accounts.file: there is no {place}/acounts.toml yet; "
        "`postroika account add` makes it\n"
    )


def test_hooks_that_cannot_be_used_are_told_with_the_key(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(place, f'{HEAD}[policy]\nhooks = "hooks.py"\n')
    (place / "hooks.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    assert run(["check"]) == ExitCode.CONFIG
    assert capsys.readouterr().err == (
        f"postroika: postroika.toml: policy.hooks: {place}/hooks.py: had Python killed by signal 9\n"
    )
