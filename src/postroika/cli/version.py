"""`postroika version`: what runs here, in the words a bug report needs."""

from __future__ import annotations

import click

from postroika import __version__
from postroika.cli._shared import json_option, print_json


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Show the version.

    With --json also those of Python and of the libraries that matter.
    """
    if not as_json:
        click.echo(f"postroika {__version__}")
        return
    import platform
    from importlib import metadata

    libraries = ("trio", "lmdb", "msgspec", "dnspython")
    print_json(
        {
            "postroika": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": {name: metadata.version(name) for name in libraries},
        }
    )
