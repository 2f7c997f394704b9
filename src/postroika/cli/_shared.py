"""What several verbs need: the options --config and --json, and output for people and for programs.

People get rich tables on stdout, programs get JSON; messages about the work itself go to stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from postroika.config import Config, Listener

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """Adds `--config FILE`, given to the function as `config_file: str | None`; see `load_config`."""
    return click.option(
        "--config",
        "-c",
        "config_file",
        metavar="FILE",
        envvar="POSTROIKA_CONFIG",
        show_envvar=True,
        help="The config file; default ./postroika.toml, then /etc/postroika/postroika.toml.",
    )(function)


def json_option(function: F) -> F:
    """Adds `--json`, given to the function as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def load_config(config_file: str | None, *, with_files: bool = False) -> tuple[Path, Config]:
    """The config file that applies, and what it says.

    Args:
        with_files: look at the files that it names, too; for who starts the server, or asks whether it could start.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    from postroika import config

    path = config.find(config_file)
    loaded = config.load(path)
    if with_files:
        _try_files(path, loaded)
    return path, loaded


def _try_files(path: Path, loaded: Config) -> None:
    from postroika import config
    from postroika.errors import ConfigError
    from postroika.supervisor.file_trial import no_files, unusable

    if lines := [f"{path}: {line}" for line in no_files(loaded)]:
        raise ConfigError("\n".join(lines))
    lines = [f"{path}: {line}" for line in unusable(loaded)]
    try:
        config.check_files(path, loaded)
    except ConfigError as error:
        lines = [str(error), *lines]
    if lines:
        raise ConfigError("\n".join(lines))


def warnings(path: Path, loaded: Config) -> Iterator[str]:
    """What is no reason to refuse a start with this config, and ought to be known."""
    from datetime import UTC, datetime

    from postroika.config import exposed_hashes
    from postroika.supervisor.file_trial import doubtful

    yield from (f"{path}: {line}" for line in doubtful(loaded, datetime.now(UTC)))
    if warning := exposed_hashes(path, loaded.account):
        yield warning


def open_listener(config: Config) -> Listener | None:
    """The first listener that takes mail in the clear and without a login."""
    for entry in config.listener:
        wants_tls = entry.tls == "implicit" or entry.require_tls or entry.client_certificates == "require"
        if entry.role == "relay" and not wants_tls:
            return entry
    return None


def print_json(value: object) -> None:
    """Print anything msgspec can encode as one JSON document, indented. Secrets are hidden."""
    import msgspec

    from postroika.config import encode_shown

    click.echo(msgspec.json.format(encode_shown(value), indent=2).decode())


def console() -> Console:
    """A rich console on stdout: colours and terminal width on a terminal, plain text in a pipe."""
    from rich.console import Console

    return Console(highlight=False)
