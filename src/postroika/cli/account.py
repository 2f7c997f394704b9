"""`postroika account`: writes the file of accounts, which a running server reads again by itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from postroika.cli import Verbs
from postroika.cli._shared import config_option, console, json_option, load_config, print_json
from postroika.cli._words import size, styled

if TYPE_CHECKING:
    from pathlib import Path

    from postroika.config import Account, Config

F = TypeVar("F", bound=Callable[..., Any])

MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_CHARS = 1000
_MOST = 2**53  # what the config takes
_ARGUMENTS = {"name": "NAME", "tenant": "--tenant", "senders": "--sender", "from_addresses": "--from"}
_LIMITS = ("max_connections", "max_message_bytes", "recipients_per_minute", "recipients_per_hour", "recipients_per_day")


@click.group("account", cls=Verbs)
def command() -> None:
    """Say who may log in and send.

    The accounts are in the file that accounts.file of the config names. A running server takes changes over within
    some seconds.
    """


def _settings(function: F) -> F:
    """Adds the options for what an account may do."""
    texts = {
        "max_connections": "Its sessions at once; 0: any number.",
        "max_message_bytes": "Of one message; 0: as for all.",
        "recipients_per_minute": "Recipients that it may name; 0: any number.",
        "recipients_per_hour": "The same for an hour.",
        "recipients_per_day": "The same for a day.",
    }
    for key in reversed(_LIMITS):
        option = f"--{key.replace('_', '-')}"
        numbers = click.IntRange(0, _MOST)
        function = click.option(option, key, type=numbers, default=0, metavar="N", help=texts[key])(function)
    function = click.option(
        "--from", "from_addresses", multiple=True, metavar="ADDRESS", help="What may stand in From:; as --sender."
    )(function)
    function = click.option(
        "--sender",
        "senders",
        multiple=True,
        metavar="ADDRESS",
        help="A reverse-path it may use: an address, @DOMAIN, @.DOMAIN or '*'; by default its name.",
    )(function)
    return click.option("--tenant", default="", metavar="NAME", help="Whose mail it is.")(function)


@command.command("add")
@click.argument("name")
@_settings
@config_option
def add(*, name: str, config_file: str | None, **settings: Any) -> None:
    """Add an account. The password is asked for, or is the first line of standard input."""
    from postroika.config import Account, Secret

    path, config = _place(config_file)
    entry = Account(name=name, **settings)
    _refuse_impossible(path, config, entry)  # nobody types a password for nothing
    password, scram = _hashes(_password(name))
    with _changing(path, config) as accounts:
        _refuse_second(accounts, name)  # who has come meanwhile
        accounts.append(entry)
        _replace(accounts, -1, password=Secret(password), scram=Secret(scram))
    _say(path, config, f"account {name} added to {path}")


@command.command("passwd")
@click.argument("name")
@config_option
def passwd(name: str, config_file: str | None) -> None:
    """Give an account another password.

    It is asked for, or is the first line of standard input.
    """
    from postroika.config import Secret
    from postroika.policy import account_file

    path, config = _place(config_file)
    _index(list(account_file.read(path).account), name, path, config)
    password, scram = _hashes(_password(name))

    def change(accounts: list[Account], index: int) -> None:
        _replace(accounts, index, password=Secret(password), scram=Secret(scram))

    _change(config_file, name, change, "has another password")


@command.command("disable")
@click.argument("name")
@config_option
def disable(name: str, config_file: str | None) -> None:
    """Let an account log in no more.

    Its sessions that are open get no further.
    """
    _change(config_file, name, lambda accounts, index: _replace(accounts, index, disabled=True), "is disabled")


@command.command("enable")
@click.argument("name")
@config_option
def enable(name: str, config_file: str | None) -> None:
    """Let an account log in again."""
    _change(config_file, name, lambda accounts, index: _replace(accounts, index, disabled=False), "is enabled")


@command.command("remove")
@click.argument("name")
@config_option
def remove(name: str, config_file: str | None) -> None:
    """Take an account out of the file. Its mail that was accepted is delivered."""
    _change(config_file, name, lambda accounts, index: accounts.pop(index), "is removed")


@command.command("list")
@json_option
@config_option
def list_(as_json: bool, config_file: str | None) -> None:
    """Show all accounts, those of the config among them; no hashes."""
    from pathlib import Path

    import msgspec

    from postroika.policy.account_file import read

    _, config = load_config(config_file)
    in_file = read(Path(config.accounts.file)).account if config.accounts.file else ()
    accounts = sorted((*config.account, *in_file), key=lambda account: account.name.lower())
    if as_json:
        shown = [msgspec.structs.asdict(account) for account in accounts]
        for entry in shown:
            entry["password"], entry["scram"] = bool(entry["password"]), bool(entry["scram"])
        print_json(shown)
        return
    if not accounts:
        click.echo("There are no accounts.", err=True)
        return
    from postroika.cli._tables import Column, print_table

    columns = [Column(name) for name in ("account", "tenant", "may send as", "limits", "state")]
    print_table(console(), columns, [_row(account) for account in accounts])


def _row(account: Account) -> list[Any]:
    limits = [
        f"{account.max_connections} sessions" if account.max_connections else "",
        size(account.max_message_bytes) if account.max_message_bytes else "",
        f"{account.recipients_per_minute}/min" if account.recipients_per_minute else "",
        f"{account.recipients_per_hour}/h" if account.recipients_per_hour else "",
        f"{account.recipients_per_day}/d" if account.recipients_per_day else "",
    ]
    return [
        styled(account.name),
        styled(account.tenant or "-"),
        styled(" ".join(account.senders) or account.name),
        ", ".join(limit for limit in limits if limit) or "-",
        "disabled" if account.disabled else "enabled",
    ]


# ---- the file


def _change(config_file: str | None, name: str, change: Callable[[list[Account], int], object], done: str) -> None:
    """Change the account of that name, and say what was done.

    Args:
        change: gets all accounts, and which one it is.
    """
    path, config = _place(config_file)
    with _changing(path, config) as accounts:
        change(accounts, _index(accounts, name, path, config))
    _say(path, config, f"account {name} {done}")


def _say(path: Path, config: Config, done: str) -> None:
    """Say what was done, and if that does not count yet."""
    import os

    from postroika.process import identity

    click.echo(f"postroika: {done}", err=True)
    user = identity.look_up(config.process)
    if user is None:
        return
    if os.geteuid() == 0:
        with identity.acting_as(user):
            readable = os.access(path, os.R_OK, effective_ids=True)
    else:
        readable = path.stat().st_uid == user.uid
    if not readable:
        click.echo(
            f"postroika: warning: {user.user}, whom the server runs as, may not read {path}: a server that is running "
            "goes on with the accounts that it found at its start; restart it",
            err=True,
        )


@contextlib.contextmanager
def _changing(path: Path, config: Config) -> Iterator[list[Account]]:
    """The accounts as a list, which is written back when all went well; nobody else changes them meanwhile. A new file
    is for the user that the server runs as."""
    import msgspec

    from postroika.config import account_problems
    from postroika.errors import ConfigError
    from postroika.policy import account_file
    from postroika.policy.accounts import accounts_by_name
    from postroika.process import identity

    user = identity.look_up(config.process)
    owner = None if user is None else (user.uid, user.gid)
    with account_file.locked(path, owner):
        content = account_file.read(path)
        accounts = list(content.account)
        yield accounts
        if problems := list(account_problems(accounts)):
            raise ConfigError("\n".join(f"{path}: {key}: {problem}" for key, problem in problems))
        accounts_by_name((*config.account, *accounts))
        account_file.write(path, msgspec.structs.replace(content, account=tuple(accounts)), owner)


def _place(config_file: str | None) -> tuple[Path, Config]:
    """The file of accounts, and the config that names it.

    Raises:
        ConfigError: the config names none.
    """
    from pathlib import Path

    from postroika.errors import ConfigError

    file, config = load_config(config_file)
    if not config.accounts.file:
        raise ConfigError(f'{file}: accounts.file: names no file; write, for instance: accounts.file = "accounts.toml"')
    return Path(config.accounts.file), config


def _find(accounts: list[Account], name: str) -> int | None:
    wanted = name.lower()
    return next((i for i, account in enumerate(accounts) if account.name.lower() == wanted), None)


def _index(accounts: list[Account], name: str, path: Path, config: Config) -> int:
    index = _find(accounts, name)
    if index is not None:
        return index
    if _find(list(config.account), name) is not None:
        raise click.UsageError(f"the account {name} is one of the config, and is changed there")
    raise click.UsageError(f"there is no account {name} in {path}")


def _refuse_second(accounts: list[Account], name: str) -> None:
    if _find(accounts, name) is not None:
        raise click.UsageError(f"there is an account {name} already; see `postroika account passwd`")


def _refuse_impossible(path: Path, config: Config, entry: Account) -> None:
    """Raises UsageError, with the argument that is wrong; ConfigError, if the file is."""
    from postroika.config import account_problems
    from postroika.policy import account_file
    from postroika.policy.accounts import accounts_by_name

    accounts = list(account_file.read(path).account)
    _refuse_second(accounts, entry.name)
    for key, problem in account_problems([entry]):
        argument = key.removeprefix("account[0].").partition("[")[0]
        raise click.UsageError(f"{_ARGUMENTS.get(argument, argument)}: {problem}")
    accounts_by_name((*config.account, *accounts, entry))


def _replace(accounts: list[Account], index: int, **changes: Any) -> None:
    import msgspec

    accounts[index] = msgspec.structs.replace(accounts[index], **changes)


# ---- passwords


def _password(name: str) -> str:
    """From the terminal, twice; or the first line of standard input. Never from the command line, which everybody on
    the machine can read."""
    if sys.stdin.isatty():
        text: str = click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        text = sys.stdin.readline(MAX_PASSWORD_CHARS + 2).rstrip("\r\n")
    if not MIN_PASSWORD_CHARS <= len(text) <= MAX_PASSWORD_CHARS:
        raise click.UsageError(f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
    return text


def _hashes(password: str) -> tuple[str, str]:
    """Its argon2id hash, and its keys for SCRAM."""
    from postroika.policy.passwords import hash_of
    from postroika.smtp.sasl import prepared
    from postroika.smtp.scram import keys_of

    try:
        return hash_of(prepared(password)), keys_of(password).text()
    except ValueError as error:
        raise click.UsageError(f"this cannot be a password: {error}") from None
