"""The frame of the command line: how verbs are found, and what errors look like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

from postroika import __version__, cli
from postroika.cli import ExitCode, run
from postroika.config import Listener
from postroika.errors import ConfigError, ControlError, PostroikaError, SpoolLockedError
from tests.outputs import Output

GOOD = f'[server]\nhostname = "mx.shop.example"\n[process]\nuser = "{os.geteuid()}"\n'


@pytest.fixture
def postroika(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`postroika(*args)` runs the command line inside an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTROIKA_CONFIG", raising=False)

    def call(*args: str) -> Output:
        code = run(args)
        return Output(int(code), *capsys.readouterr())

    return call


def test_version(postroika) -> None:
    output = postroika("version")
    assert (output.code, output.out, output.err) == (0, f"postroika {__version__}\n", "")


def test_version_for_programs(postroika) -> None:
    report = postroika("version", "--json").json
    assert report["postroika"] == __version__
    assert sorted(report["libraries"]) == ["dnspython", "lmdb", "msgspec", "trio"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_all_verbs(postroika, flag: str) -> None:
    output = postroika(flag)
    assert output.code == 0
    context = click.Context(cli.command)
    for verb in cli.command.list_commands(context):
        assert f"\n  {verb} " in output.out


def test_every_module_is_a_verb_of_its_own_name() -> None:
    context = click.Context(cli.command)
    verbs = cli.command.list_commands(context)
    assert {"check", "default-config", "version"} <= set(verbs)
    for verb in verbs:
        command = cli.command.get_command(context, verb)
        assert command is not None
        assert command.name == verb
        assert command.help, f"{verb} does not say what it does"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_verbs_know_both_flags_for_help(postroika, flag: str) -> None:
    output = postroika("check", flag)
    assert output.code == 0
    assert output.out.startswith("Usage: postroika check [OPTIONS]\n")


@pytest.mark.parametrize(
    "group", [(), ("account",), ("bench",), ("dkim",), ("events",), ("queue",), ("sts",), ("tlsrpt",)]
)
def test_lists_of_verbs_tell_each_in_a_whole_sentence(postroika, group: tuple[str, ...]) -> None:
    listed = postroika(*group, "-h").out.partition("\nCommands:\n")[2].partition("\n\n")[0]
    assert listed
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


def test_unknown_verb_names_the_nearest(postroika) -> None:
    output = postroika("chek")
    assert output.code == ExitCode.USAGE
    assert output.out == ""
    assert output.err.endswith("\nError: No such command 'chek'. Did you mean 'check'?\n")


def test_unknown_verb_that_is_near_to_none_lists_all(postroika) -> None:
    output = postroika("xyzzy")
    assert output.code == ExitCode.USAGE
    assert "Error: No such command 'xyzzy'. Known: " in output.err


def test_unknown_option_is_a_usage_error(postroika) -> None:
    assert postroika("check", "--frobnicate").code == ExitCode.USAGE
    assert postroika("--frobnicate").code == ExitCode.USAGE


def test_no_verb_shows_help(postroika) -> None:
    output = postroika()
    assert output.code == ExitCode.USAGE
    assert "Usage: postroika [OPTIONS] COMMAND" in output.out + output.err


def test_check_prints_what_applies(postroika, tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text(GOOD)
    output = postroika("check")
    assert (output.code, output.err) == (0, "")
    assert output.out.startswith('# The effective config of postroika.toml\n[server]\nhostname = "mx.shop.example"\n')
    assert f'spool = "{tmp_path}/var/spool"\n' in output.out


def test_what_check_prints_is_a_config_file(postroika, tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text(GOOD)
    first = postroika("check").out
    (tmp_path / "again.toml").write_text(first)
    second = postroika("check", "--config", "again.toml").out
    assert first.partition("\n")[2] == second.partition("\n")[2]


HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g"


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (0o644, True), (0o604, True), (0o640, False), (0o600, False),
    ],
)  # fmt: skip
def test_check_warns_of_hashes_that_others_may_read(postroika, tmp_path: Path, mode: int, told: bool) -> None:
    file = tmp_path / "postroika.toml"
    file.write_text(f"{GOOD}[[account]]\nname = 'ann@shop.example'\npassword = '{HASH}'\n")
    file.chmod(mode)
    output = postroika("check")
    warning = (
        f"postroika: warning: postroika.toml has hashes of passwords ([[account]]), and may be read by everybody (mode "
        f"{mode:04o}): chmod o-rwx, or move them to accounts.file\n"
    )
    assert (output.code, output.err) == (0, warning if told else "")
    assert HASH not in output.err


def test_check_does_not_mind_accounts_without_hashes(postroika, tmp_path: Path) -> None:
    file = tmp_path / "postroika.toml"
    file.write_text(f"{GOOD}[[account]]\nname = 'ann@shop.example'\n")
    file.chmod(0o644)
    output = postroika("check")
    assert (output.code, output.err) == (0, "")


def test_check_tells_on_stderr_what_this_machine_would_not_allow(postroika, tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text(
        '[process]\nuser = "no-such-user"\n[server]\nworkers = 1\n[limits]\nmax_connections = 9_000_000_000\n'
    )
    output = postroika("check")
    assert output.code == 0
    unknown, too_few = output.err.splitlines()
    assert unknown == (
        "postroika: warning: a start here is refused: postroika.toml: process.user: there is no user 'no-such-user'"
    )
    assert too_few.startswith("postroika: warning: each of 1 workers may have only ")
    assert " files open: limits.max_connections is " in too_few


@pytest.mark.parametrize(
    "wanted", ['role = "submission"', "require_tls = true", 'client_certificates = "require"\nclient_ca = "x"']
)
def test_send_needs_a_listener_that_wants_neither_login_nor_tls(postroika, tmp_path: Path, wanted: str) -> None:
    tls = 'tls = "starttls"\ncertificate = "x"\nkey = "x"\n'
    closed = f'[[listener]]\naddress = "127.0.0.1:1"\n{wanted}\n{tls}'
    (tmp_path / "postroika.toml").write_text(f'{GOOD}[accounts]\nfile = "x"\n{closed}')
    output = postroika("send", "--to", "a@shop.test")
    assert (output.code, output.out, output.err.splitlines()[-1]) == (
        ExitCode.USAGE,
        "",
        "Error: all listeners of the config want a login, or TLS: name another with --server",
    )
    with (tmp_path / "postroika.toml").open("a") as file:
        file.write('[[listener]]\naddress = "127.0.0.1:9"\n')  # discard: nobody is there
    assert "no server listens at 127.0.0.1:9" in postroika("send", "--to", "a@shop.test").err


def test_check_for_programs(postroika, tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text(GOOD)
    config = msgspec.json.decode(postroika("check", "--json").out)
    assert config["server"]["hostname"] == "mx.shop.example"
    assert config["listener"] == [msgspec.json.decode(msgspec.json.encode(Listener(address="127.0.0.1:2525")))]


def test_config_file_from_the_environment(postroika, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text(GOOD)
    monkeypatch.setenv("POSTROIKA_CONFIG", "other.toml")
    assert postroika("check").out.startswith("# The effective config of other.toml\n")


def test_default_config_passes_check(postroika, tmp_path: Path) -> None:
    text = postroika("default-config").out
    (tmp_path / "postroika.toml").write_text(text)
    assert postroika("check").code == 0


def test_default_config_for_a_start_by_root(postroika, tmp_path: Path) -> None:
    text = postroika("default-config", "--user", "postroika").out
    plain = postroika("default-config").out
    assert '\n#user = ""\n' in plain
    assert text == plain.replace('\n#user = ""\n', '\nuser = "postroika"\n')


def test_bad_config_is_one_line_a_problem_and_code_78(postroika, tmp_path: Path) -> None:
    (tmp_path / "postroika.toml").write_text("[sever]\n[dns]\nserver = 1\n")
    output = postroika("check")
    assert output.code == ExitCode.CONFIG == 78
    assert output.out == ""
    assert output.err == (
        "postroika: postroika.toml: sever: unknown key; did you mean 'server'?\n"
        "postroika: postroika.toml: dns.server: unknown key; did you mean 'servers'?\n"
    )


def test_missing_config_says_what_to_do(postroika) -> None:
    output = postroika("check", "--config", "none.toml")
    assert output.code == ExitCode.CONFIG
    assert output.err == "postroika: none.toml: cannot read it: No such file or directory\n"


@pytest.mark.parametrize("args", [("--debug", "check", "-c", "none.toml"), ("check", "--debug", "-c", "none.toml")])
def test_debug_shows_the_traceback(postroika, args: tuple[str, ...]) -> None:
    output = postroika(*args)
    assert output.code == ExitCode.CONFIG
    assert output.err.startswith("Traceback (most recent call last):\n")
    assert output.err.endswith("ConfigError: none.toml: cannot read it: No such file or directory\n")


# -- errors of verbs


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """`failing(error)` makes a command line with one verb, `boom`, that raises `error`; returns nothing."""

    def install(error: BaseException) -> None:
        @click.group(cls=cli.Verbs)
        @click.option("--debug", is_flag=True)
        def group(debug: bool) -> None:
            pass

        @group.command()
        def boom() -> None:
            raise error

        monkeypatch.setattr(cli, "command", group)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PostroikaError("it broke"), 1),
        (ConfigError("it broke"), 78),
        (SpoolLockedError("it broke"), 75),
        (ControlError("it broke"), 69),
    ],
)
def test_error_is_one_line_with_its_code(postroika, failing, error: PostroikaError, code: int) -> None:
    failing(error)
    output = postroika("boom")
    assert (output.code, output.out, output.err) == (code, "", "postroika: it broke\n")


def test_error_out_of_a_nursery_is_told_like_any_other(postroika, failing) -> None:
    failing(ExceptionGroup("", [ExceptionGroup("", [SpoolLockedError("the spool is in use")])]))
    output = postroika("boom")
    assert (output.code, output.err) == (75, "postroika: the spool is in use\n")


def test_group_with_a_bug_in_it_stays_a_traceback(postroika, failing) -> None:
    failing(ExceptionGroup("", [PostroikaError("known"), ValueError("a bug")]))
    with pytest.RaisesGroup(PostroikaError, ValueError):
        postroika("boom")


def test_bug_stays_a_traceback(postroika, failing) -> None:
    failing(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        postroika("boom")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt()])])
def test_interrupt_ends_quietly(postroika, failing, error: BaseException) -> None:
    failing(error)
    output = postroika("boom")
    assert (output.code, output.out, output.err.strip()) == (130, "", "")


def test_nested_verbs_name_the_nearest_too(postroika, failing) -> None:
    failing(PostroikaError(""))
    assert "Did you mean 'boom'?" in postroika("bomm").err


# -- the process


def test_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m postroika default-config | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert result.stderr == ""
    assert result.stdout in {"0\n", "141\n"}  # 0 when all was in the pipe before its reader went


def test_light_verbs_import_nothing_heavy() -> None:
    script = (
        "import sys; from postroika import cli; cli.run(['version']); "
        "print(sorted({'trio', 'rich', 'lmdb', 'msgspec', 'dns', 'ssl', 'asyncio'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == f"postroika {__version__}\n[]\n"
