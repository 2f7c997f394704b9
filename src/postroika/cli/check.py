"""`postroika check`: validates the config file and prints what applies, defaults included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from postroika.cli._shared import config_option, json_option, load_config, print_json, warnings

if TYPE_CHECKING:
    from pathlib import Path

    from postroika.config import Config


@click.command("check")
@config_option
@json_option
def command(config_file: str | None, as_json: bool) -> None:
    """Validate the config file and print the effective config.

    The output is TOML (or JSON) with every default filled in and file names made absolute. A file that cannot be used
    gives exit code 78 and one line a problem; so does a certificate, a key, a file of accounts or of hooks that it
    names and that cannot be used. (Hooks are loaded; if root asks, as process.user.) Secrets are hidden. What this
    machine would not allow is told on stderr: too few open files, a user that it does not know, keys and hashes that
    others may read.
    """
    path, config = load_config(config_file, with_files=True)
    for warning in (*_refusals(path, config), *warnings(path, config)):
        click.echo(f"postroika: warning: {warning}", err=True)
    if config.policy.hooks:
        _try_hooks(path, config)
    if as_json:
        print_json(config)
        return
    from postroika.config import to_toml

    click.echo(f"# The effective config of {path}")
    click.echo(to_toml(config), nl=False)


def _try_hooks(path: Path, config: Config) -> None:
    """Raises ConfigError."""
    import os

    from postroika.errors import ConfigError
    from postroika.process import identity
    from postroika.supervisor.hook_trial import try_hooks

    become = identity.look_up(config.process) if os.geteuid() == 0 else None
    try:
        try_hooks(config.policy.hooks, become)
    except ConfigError as error:
        raise ConfigError(f"{path}: policy.hooks: {error}") from None


def _refusals(path: Path, config: Config) -> Iterator[str]:
    """What a start here, as the same user and with the same limits, would be refused for; and too few open files."""
    import os

    from postroika.config import named_files
    from postroika.errors import PostroikaError
    from postroika.process import identity, open_files

    try:
        become = identity.to_assume(config.process)
    except PostroikaError as error:
        yield f"a start here is refused: {path}: {error}"
        become = None
    try:
        if warning := open_files.foreseen(config, config.server.workers or len(os.sched_getaffinity(0))).warning:
            yield warning
    except PostroikaError as error:
        yield str(error)
    for file in named_files.named(config):
        try:
            named_files.read(file, owners=() if become is None else (become.uid,))
        except PostroikaError as error:
            yield f"a start here is refused: {path}: {error}"
