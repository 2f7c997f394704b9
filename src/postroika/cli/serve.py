"""`postroika serve`: runs the server in the foreground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from postroika.cli._shared import config_option, load_config, open_listener, warnings

if TYPE_CHECKING:
    from pathlib import Path

    from postroika.config import Config


@click.command("serve")
@config_option
def command(config_file: str | None) -> None:
    """Accept mail, keep it safe, deliver it.

    Until SIGTERM or Ctrl-C: then what is under way is finished first; a second signal ends at once (nothing that was
    accepted is lost). SIGHUP opens the log files and loads certificates, keys and hooks anew. Started by root it
    becomes the user that the config names ([process]). Exit code 75: the spool is in use by another instance.
    """
    import logging
    import os

    import trio

    from postroika.errors import ConfigError
    from postroika.lifeline import call_process
    from postroika.process import operations_log
    from postroika.process.service_manager import ServiceManager
    from postroika.supervisor import Supervisor

    path, config = load_config(config_file, with_files=True)
    operations_log.write_to_stderr(config.log.level)
    for warning in warnings(path, config):
        logging.getLogger(__name__).warning("%s", warning)
    call_process("postroika")
    manager = ServiceManager.of_environment(os.environ)

    def announce(addresses: Sequence[str]) -> None:
        for line in _welcome(path, config, addresses):
            click.echo(line)

    try:
        trio.run(Supervisor(config, announce, manager).run)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def _welcome(path: Path, config: Config, addresses: Sequence[str]) -> list[str]:
    """What is printed when mail is accepted; ends with the line "Ready." and what to try next."""
    import shutil
    import sys

    from postroika import __version__

    # As `make run` starts it, the command is not on the PATH.
    name = "postroika" if shutil.which("postroika") else sys.argv[0]
    options = "" if str(path) == "postroika.toml" else f" --config {path}"
    lines = [
        f"Postroika {__version__} as {config.server.hostname}",
        f"  listening on {', '.join(addresses)}",
        f"  spool {config.server.spool}",
        f"  events {config.log.events or 'not logged'}",
    ]
    if config.sink is not None:
        lines.append(f"  sink on {config.sink.address}, for trying things out")
    lines += ["Ready.", "Try, in another terminal:"]
    if config.sink is not None and open_listener(config) is not None:
        lines += [
            f"  {name} send --to you@shop.test --wait{options}",
            f"  {name} send --to bounce@shop.test --wait{options}",
        ]
    lines += [f"  {name} queue list{options}", f"  {name} events tail{options}"]
    return lines
