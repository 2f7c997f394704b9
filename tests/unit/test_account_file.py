"""The file of accounts, and `postroika account`, which writes it."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import tomllib
from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from postroika import config
from postroika.cli import ExitCode, run
from postroika.errors import ConfigError
from postroika.policy import account_file, accounts
from postroika.policy.account_file import AccountFile
from postroika.policy.passwords import hash_of, hash_of_nothing, matches
from postroika.smtp.scram import keys_of, read_keys
from tests.outputs import Output

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"
SCRAM = keys_of("pencil", iterations=4096).text()
ANN = config.Account(
    name="ann@shop.example",
    password=config.Secret(HASH),
    scram=config.Secret(SCRAM),
    tenant='s"hop',
    senders=("@shop.example",),
    max_connections=3,
)
SEED = b64encode(b"s" * 32).decode()


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    content = AccountFile(SEED, (ANN, config.Account(name="bob@shop.example", disabled=True)))
    account_file.write(path, content)
    assert account_file.read(path) == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["accounts.toml"]


def test_file_gets_a_seed_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    account_file.write(path, AccountFile())
    first = account_file.read(path)
    assert len(first.seed_bytes) == 32
    account_file.write(path, first)
    assert account_file.read(path) == first


def test_no_file_is_no_accounts(tmp_path: Path) -> None:
    assert account_file.read(tmp_path / "accounts.toml") == AccountFile()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o777])
def test_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "accounts.toml", "", mode)
    with pytest.raises(ConfigError) as caught:
        account_file.read(path)
    assert str(caught.value) == f"{path}: has to be a file of mode 0600, for it holds hashes of passwords"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[account", "not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("x = 1", "x: unknown key; known here: seed, account"),
        ("seed = 'a'", "seed: is not base64"),
        ("[[account]]", "account[0]: the key 'name' is missing"),
        ("[[account]]\nname = 'a@b'\nsender = []", "account[0].sender: unknown key; did you mean 'senders'?"),
        ("[[account]]\nname = 'app'", "account[0].senders: is needed: the name 'app' is not an address"),
        ("[[account]]\nname = ' a@b'", "account[0].name: ' a@b' is not a name"),
        ("[[account]]\nname = 'a@b'\n[[account]]\nname = 'A@b'", "account[1].name: 'A@b' is the name of account[0] already"),
        ("[[account]]\nname = 'a@b'\npassword = 'geheim'", "account[0].password: is not an argon2id hash; `postroika account` makes one"),
        ("[[account]]\nname = 'a@b'\nscram = 'geheim'", "account[0].scram: is not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"),
        ("[[account]]\nname = 'a@b'\ntenant = '\\u0007'", "account[0].tenant: has to be visible, and of at most 100 characters"),
        ("[[account]]\nname = 'a@b'\nsenders = ['b']", "account[0].senders[0]: 'b' is not an address, \"@domain\", \"@.domain\" or \"*\""),
        ("[[account]]\nname = 'a@b'\nsenders = ['@@b']", "account[0].senders[0]: '@@b' is not an address, \"@domain\", \"@.domain\" or \"*\""),
        ("[[account]]\nname = 'a@b'\nfrom_addresses = ['@a b']", "account[0].from_addresses[0]: 'a b' is not a domain or \".subdomains\""),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_without_secrets(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path / "accounts.toml", text.replace("'\\u", '"\\u').replace("7'", '7"'))
    with pytest.raises(ConfigError) as caught:
        account_file.read(path)
    assert str(caught.value) == f"{path}: {problem}"
    assert "geheim" not in str(caught.value)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "accounts.toml"
    account_file.write(path, AccountFile(SEED, (ANN,)))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="cannot write it: No space left on device"):
        account_file.write(path, AccountFile(SEED))
    monkeypatch.undo()
    assert account_file.read(path) == AccountFile(SEED, (ANN,))
    assert [file.name for file in tmp_path.iterdir()] == ["accounts.toml"]


@pytest.mark.parametrize("kind", ["symlink", "symlink to nothing", "hard link", "pipe"])
def test_lock_that_is_no_file_of_its_own_is_not_opened(tmp_path: Path, kind: str) -> None:
    path, lock, other = tmp_path / "accounts.toml", tmp_path / "accounts.toml.lock", tmp_path / "other"
    if kind != "symlink to nothing":
        written(other, "mine")
    if kind == "hard link":
        lock.hardlink_to(other)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(other)
    with pytest.raises(ConfigError) as caught, account_file.locked(path):
        pass
    problem = "cannot open it: Too many levels of symbolic links" if "symlink" in kind else "is no file of its own"
    assert str(caught.value) == f"{lock}: {problem}"
    assert other.exists() == (kind != "symlink to nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("is_there", [True, False])
def test_lock_of_root_is_for_who_may_change_the_file(tmp_path: Path, is_there: bool) -> None:
    path, lock = tmp_path / "accounts.toml", tmp_path / "accounts.toml.lock"
    owner = None if is_there else (12345, 54321)
    if is_there:
        os.chown(written(path, ""), 12345, 54321)
    written(lock, "")  # as root has left it
    for _ in range(2):
        with account_file.locked(path, owner):
            facts = lock.stat()
            assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (12345, 54321, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_lock_of_a_new_file_is_for_the_owner_of_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    os.chown(directory, 12345, 54321)
    with account_file.locked(directory / "accounts.toml"):
        facts = (directory / "accounts.toml.lock").stat()
    assert (facts.st_uid, facts.st_gid) == (12345, 54321)


# ---- passwords


def test_hash_matches_its_password_alone() -> None:
    made = hash_of("correct horse")
    assert made.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert matches(made, "correct horse")
    assert not matches(made, "correct horsf")
    assert not matches("nonsense", "x")


def test_hash_of_nothing_costs_what_most_do() -> None:
    cheap, dear = "$argon2id$v=19$m=8,t=1,p=1$", "$argon2id$v=19$m=16,t=3,p=2$"
    ending = HASH.partition("p=1$")[2]
    assert hash_of_nothing([cheap + ending, dear + ending, dear + ending]).startswith(dear)
    assert hash_of_nothing([]).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_hashes_that_cannot_be_computed_are_told() -> None:
    with pytest.raises(
        ValueError, match=r"no password can be checked against the hashes of most accounts: Memory cost is"
    ):
        hash_of_nothing([HASH.replace("m=19456,", "m=1,")])


@pytest.mark.parametrize(
    "wrong",
    [
        ("m=19456", "m=7"), ("t=2", "t=0"), ("p=1", "p=0"), ("m=19456,t=2,p=1", "m=15,t=2,p=2"),
        ("c2FsdHNhbHRzYWx0c2FsdA", "c2FsdHNhbH"), ("c2FsdHNhbHRzYWx0c2FsdA", "c2FsdHNhbHRzY"), ("aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g", "aGFz"),
    ],
)  # fmt: skip
def test_hash_that_cannot_be_computed_is_none(tmp_path: Path, wrong: tuple[str, str]) -> None:
    path = tmp_path / "accounts.toml"
    written(path, f"[[account]]\nname = 'a@b'\npassword = '{HASH}'\n")
    account_file.read(path)
    written(path, f"[[account]]\nname = 'a@b'\npassword = '{HASH.replace(*wrong)}'\n")
    with pytest.raises(ConfigError) as caught:
        account_file.read(path)
    assert str(caught.value) == f"{path}: account[0].password: is not an argon2id hash; `postroika account` makes one"


@pytest.mark.parametrize(
    "costs",
    ["m=262144,t=4,p=16", "m=19456,t=53,p=1", "m=65536,t=3,p=4", "m=65536,t=4,p=1", "m=102400,t=2,p=8", "m=8,t=131072,p=1"],
)  # fmt: skip
def test_hash_may_cost_what_others_usually_do(tmp_path: Path, costs: str) -> None:
    path = tmp_path / "accounts.toml"
    written(path, f"[[account]]\nname = 'a@b'\npassword = '{HASH.replace('m=19456,t=2,p=1', costs)}'\n")
    assert len(account_file.read(path).account) == 1


@pytest.mark.parametrize(
    "costs",
    [
        "m=262145,t=1,p=1", "m=262144,t=5,p=1", "m=19456,t=54,p=1", "m=19456,t=2,p=17", "m=2097152,t=1,p=4",
        "m=9999999999,t=9999999999,p=1", "m=8,t=131073,p=1",
    ],
)  # fmt: skip
def test_hash_that_costs_too_much_is_refused_and_never_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costs: str
) -> None:
    monkeypatch.setattr(accounts, "hash_of_nothing", lambda like: pytest.fail(f"{like} was tried"))
    path = tmp_path / "accounts.toml"
    written(path, f"[[account]]\nname = 'a@b'\npassword = '{HASH.replace('m=19456,t=2,p=1', costs)}'\n")
    with pytest.raises(ConfigError) as caught:
        accounts.Accounts((), path)
    assert str(caught.value) == (
        f"{path}: account[0].password: costs too much ({costs}): at most 256 MiB, 1024 MiB times passes, and 16 lanes; "
        "take it out, and give the account another password with `postroika account passwd`"
    )


# ---- the command


@pytest.fixture
def account(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`account(*args, password=…)` runs `postroika account` in a directory with a config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTROIKA_CONFIG", raising=False)
    (tmp_path / "postroika.toml").write_text('[accounts]\nfile = "accounts.toml"\n')

    def call(*args: str, password: str = "") -> Output:
        monkeypatch.setattr("sys.stdin", io.StringIO(password))
        code = run(["account", *args])
        return Output(int(code), *capsys.readouterr())

    return call


def test_account_is_added_with_hash_and_keys_of_its_password(account, tmp_path: Path) -> None:
    output = account(
        "add", "ann@shop.example", "--tenant", "shop", "--sender", "@shop.example", "--sender", "x@y.example",
        "--from", "@shop.example", "--recipients-per-hour", "100", password="correct horse\n",
    )  # fmt: skip
    assert (output.code, output.out, output.err) == (
        0, "", f"postroika: account ann@shop.example added to {tmp_path}/accounts.toml\n",
    )  # fmt: skip
    text = (tmp_path / "accounts.toml").read_text()
    assert "correct horse" not in text
    (entry,) = tomllib.loads(text)["account"]
    keys = read_keys(entry.pop("scram"))
    assert keys == keys_of("correct horse", salt=keys.salt, iterations=keys.iterations)
    assert matches(entry.pop("password"), "correct horse")
    assert entry == {
        "name": "ann@shop.example",
        "tenant": "shop",
        "senders": ["@shop.example", "x@y.example"],
        "from_addresses": ["@shop.example"],
        "recipients_per_hour": 100,
    }


def test_password_and_state_are_changed(account, tmp_path: Path) -> None:
    account("add", "Ann@shop.example", password="correct horse")
    account("add", "bob@shop.example", password="battery staple")
    assert account("passwd", "ann@SHOP.example", password="other horse\n").code == 0
    assert account("disable", "bob@shop.example").code == 0
    ann, bob = account_file.read(tmp_path / "accounts.toml").account
    assert (ann.name, matches(ann.password.reveal(), "other horse"), ann.disabled, bob.disabled) == (
        "Ann@shop.example", True, False, True,
    )  # fmt: skip
    assert account("enable", "bob@shop.example").code == 0
    assert account("remove", "ann@shop.example").code == 0
    (bob,) = account_file.read(tmp_path / "accounts.toml").account
    assert (bob.name, bob.disabled) == ("bob@shop.example", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a file that the server may not read")
@pytest.mark.parametrize("where", ["file", "directory"])
def test_change_that_the_server_cannot_see_is_told(account, tmp_path: Path, where: str) -> None:
    with TemporaryDirectory() as name:
        directory, path = Path(name), Path(name) / "accounts.toml"
        directory.chmod(0o755)
        (tmp_path / "postroika.toml").write_text(f'[accounts]\nfile = "{path}"\n[process]\nuser = "nobody"\n')
        warning = (
            f"postroika: warning: nobody, whom the server runs as, may not read {path}: a server that is running goes on "
            "with the accounts that it found at its start; restart it\n"
        )
        commands = [("add", f"added to {path}"), ("disable", "is disabled"), ("enable", "is enabled"),
                    ("passwd", "has another password"), ("remove", "is removed")]  # fmt: skip
        for late in (False, True):
            if late and where == "file":
                os.chown(path, 0, 0)
            elif late:
                directory.chmod(0o700)
            for command, done in commands:
                output = account(command, "ann@shop.example", password="correct horse")
                said = f"postroika: account ann@shop.example {done}\n"
                assert (output.code, output.err) == (0, said + (warning if late else "")), command


def test_list_shows_no_hashes(account, tmp_path: Path) -> None:
    account("add", "ann@shop.example", "--tenant", "shop", "--recipients-per-day", "5", password="correct horse")
    (tmp_path / "postroika.toml").write_text(
        f"[accounts]\nfile = 'accounts.toml'\n[[account]]\nname = 'app'\nsenders = ['*']\npassword = '{HASH}'\n"
    )
    output = account("list")
    assert [line.split() for line in output.out.splitlines()] == [
        ["account", "tenant", "may", "send", "as", "limits", "state"],
        ["ann@shop.example", "shop", "ann@shop.example", "5/d", "enabled"],
        ["app", "-", "*", "-", "enabled"],
    ]
    listed = account("list", "--json")
    assert [(entry["name"], entry["password"], entry["scram"]) for entry in listed.json] == [
        ("ann@shop.example", True, True),
        ("app", True, False),
    ]
    assert "argon2" not in output.out + listed.out


@pytest.mark.parametrize(
    ("args", "password", "problem"),
    [
        (("add", "ann@shop.example"), "correct horse", "there is an account ann@shop.example already; see `postroika account passwd`"),
        (("add", "app"), "", "--sender: is needed: the name 'app' is not an address"),
        (("add", "bob@shop.example", "--from", "x"), "", "--from: 'x' is not an address, \"@domain\", \"@.domain\" or \"*\""),
        (("add", "bob@shop.example", "--recipients-per-day", "9" * 20), "", f"Invalid value for '--recipients-per-day': {'9' * 20} is not in the range 0<=x<=9007199254740992."),
        (("add", "bob@shop.example"), "short", "a password has 8 to 1000 characters"),
        (("add", "bob@shop.example"), "", "a password has 8 to 1000 characters"),
        (("add", "bob@shop.example"), "control \x07 character", "this cannot be a password: control characters"),
        (("passwd", "bob@shop.example"), "correct horse", "there is no account bob@shop.example in FILE"),
        (("disable", "bob@shop.example"), "", "there is no account bob@shop.example in FILE"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(account, tmp_path: Path, args: tuple[str, ...], password: str, problem: str) -> None:
    account("add", "ann@shop.example", password="correct horse")
    before = (tmp_path / "accounts.toml").read_bytes()
    output = account(*args, password=password)
    assert output.code == ExitCode.USAGE
    assert output.err.endswith(f"Error: {problem.replace('FILE', f'{tmp_path}/accounts.toml')}\n")
    assert (tmp_path / "accounts.toml").read_bytes() == before


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    account_file.write(path, AccountFile(SEED, (ANN,)))
    with pytest.raises(ConfigError, match=r"account\[0\]\.max_connections: expected a whole number <= "):
        account_file.write(path, AccountFile(SEED, (config.Account(name="a@b", max_connections=2**60),)))
    assert account_file.read(path) == AccountFile(SEED, (ANN,))


def test_account_of_the_config_is_not_changed_by_the_command(account, tmp_path: Path) -> None:
    with (tmp_path / "postroika.toml").open("a") as file:
        file.write("[[account]]\nname = 'app@shop.example'\n")
    output = account("disable", "APP@shop.example")
    assert output.code == ExitCode.USAGE
    assert output.err.endswith("Error: the account APP@shop.example is one of the config, and is changed there\n")


def test_others_are_not_kept_waiting_by_who_types_a_password(
    account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account("add", "ann@shop.example", password="correct horse")
    free = []

    class Typist(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            with (tmp_path / "accounts.toml.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while somebody has it
            free.append(True)
            return super().readline(-1 if size is None else size)

    monkeypatch.setattr("io.StringIO", Typist)
    assert account("passwd", "ann@shop.example", password="other horse").code == 0
    assert account("add", "bob@shop.example", password="other horse").code == 0
    assert free == [True, True]


FULL_WIDTH = "\uff41nn@shop.example"
"""The same as ann@shop.example once it is prepared."""


def test_account_that_a_worker_takes_for_another_is_not_written(account, tmp_path: Path) -> None:
    account("add", "ann@shop.example", password="correct horse")
    before = (tmp_path / "accounts.toml").read_bytes()
    output = account("add", FULL_WIDTH, "--sender", "@shop.example", password="correct horse")
    assert (output.code, output.err) == (
        ExitCode.CONFIG,
        f"postroika: account {FULL_WIDTH!r} is there twice, perhaps in the config and in accounts.file\n",
    )
    assert (tmp_path / "accounts.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (f"[[account]]\nname = 'ann@shop.example'\n[[account]]\nname = '{FULL_WIDTH}'\nsenders = ['*']\n",
         f"account {FULL_WIDTH!r} is there twice, perhaps in the config and in accounts.file"),
        ("[[account]]\nname = 'a@b'\n", "account 'a@b' is there twice, perhaps in the config and in accounts.file"),
        (f"[[account]]\nname = 'b@b'\nscram = '{SCRAM.replace('$4096:', '$4095:')}'\n",
         "account 'b@b': has 4095 iterations; 4096 to 10000000 are sensible"),
        ("[[account]]\nname = '\u05d0b@b'\nsenders = ['*']\n", "account '\u05d0b@b': text in both directions"),
        (f"[[account]]\nname = 'b@b'\npassword = '{HASH.replace('m=19456', 'm=262144')}'\n",
         "no password can be checked against the hashes of most accounts: not enough memory"),
    ],
)  # fmt: skip
def test_check_finds_what_a_worker_would_not_take(
    account,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entries: str,
    problem: str,
) -> None:
    def hash_of_nothing(like: list[str]) -> str:
        if any("m=262144" in made for made in like):
            raise ValueError("no password can be checked against the hashes of most accounts: not enough memory")
        return HASH

    monkeypatch.setattr(accounts, "hash_of_nothing", hash_of_nothing)
    (tmp_path / "postroika.toml").write_text("[accounts]\nfile = 'accounts.toml'\n[[account]]\nname = 'a@b'\n")
    written(tmp_path / "accounts.toml", entries)
    assert run(["check"]) == ExitCode.CONFIG
    assert capsys.readouterr().err == f"postroika: postroika.toml: accounts: {problem}\n"


def test_command_needs_to_know_the_file(account, tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text("")
    output = account("add", "ann@shop.example", password="correct horse")
    assert output.code == ExitCode.CONFIG
    assert "accounts.file: names no file" in output.err


def test_check_looks_at_the_file_and_hides_hashes(account, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text(
        f"[accounts]\nfile = 'accounts.toml'\n[[account]]\nname = 'a@b'\npassword = '{HASH}'\nscram = '{SCRAM}'\n"
    )
    assert run(["check"]) == 0
    shown = capsys.readouterr().out
    assert 'password = "(hidden)"\nscram = "(hidden)"\n' in shown
    assert "argon2" not in shown
    assert "SHA-256" not in shown
    written(tmp_path / "accounts.toml", "", 0o644)
    assert run(["check"]) == ExitCode.CONFIG
