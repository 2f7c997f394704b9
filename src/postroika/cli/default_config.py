"""`postroika default-config`: the commented config file that a new installation starts from."""

from __future__ import annotations

import click


@click.command("default-config")
@click.option("--user", metavar="NAME", default="", help="Whom the server is to run as when root starts it.")
def command(user: str) -> None:
    """Print a config file with every key explained.

    Each has its default. Start with: postroika default-config > postroika.toml
    """
    from postroika.config import default_text

    click.echo(default_text(user=user), nl=False)
