"""`postroika sink`: an SMTP server that takes everything and forwards nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from postroika.cli._shared import json_option, print_json
from postroika.cli._sink_options import settings, sink_options

if TYPE_CHECKING:
    from postroika.bench.sink_settings import Message


@click.command("sink")
@sink_options
@click.option("--print", "prints", is_flag=True, help="Print a line for each message.")
@json_option
def command(*, listen: tuple[str, ...], prints: bool, as_json: bool, **options: Any) -> None:
    """Take all mail and forward none, for tests and first steps.

    Runs until it is interrupted; then it prints what it has seen. Globs are matched against the whole address,
    without regard to case: "bounce@*", "*@slow.test". To measure with it, see `postroika bench sink`.
    """
    import sys

    from postroika.bench import sink_run

    tally = sink_run.run(
        settings(**options),
        listen or ("127.0.0.1:2526",),
        sink_run.Telling(live=sys.stderr.isatty() and not prints),
        on_message=_print_message if prints else None,
        on_listening=lambda address: click.echo(f"sink: listening on {address}", err=True),
    )
    if as_json:
        print_json(tally.counts)
    else:
        click.echo(f"sink: {tally.counts.summary()}")


def _print_message(message: Message) -> None:
    click.echo(
        f"from=<{message.reverse_path}> to={','.join(f'<{recipient}>' for recipient in message.recipients)}"
        f" size={message.size_bytes} client={message.client_ip} helo={message.helo}"
    )
