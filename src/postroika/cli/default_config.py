"""`postroika default-config`: the commented config file that a new installation starts from."""

from __future__ import annotations

import click


@click.command("default-config")
def command() -> None:
    """Print a commented config file with every key and its default.

    Start with: postroika default-config > postroika.toml
    """
    from postroika.config import default_text

    click.echo(default_text(), nl=False)
