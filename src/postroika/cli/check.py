"""`postroika check`: validates the config file and prints what applies, defaults included."""

from __future__ import annotations

import click

from postroika.cli._shared import config_option, json_option, load_config, print_json


@click.command("check")
@config_option
@json_option
def command(config_file: str | None, as_json: bool) -> None:
    """Validate the config file and print the effective config.

    The output is TOML (or JSON) with every default filled in and file names made absolute. A file that cannot be used
    gives exit code 78 and one line a problem.
    """
    path, config = load_config(config_file)
    if as_json:
        print_json(config)
        return
    from postroika.config import to_toml

    click.echo(f"# The effective config of {path}")
    click.echo(to_toml(config), nl=False)
