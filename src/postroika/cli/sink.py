"""`postroika sink`: an SMTP server that takes everything and forwards nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from postroika.cli._shared import json_option, print_json

if TYPE_CHECKING:
    from postroika.bench.sink import Message
    from postroika.mail.outcome import Stage

_STAGE_NAMES = ("greeting", "ehlo", "mail", "rcpt", "data", "final_dot")


def _delays(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[Stage, float]:
    """--delay STAGE=SECONDS."""
    from postroika.mail.outcome import Stage

    delays: dict[Stage, float] = {}
    for value in values:
        stage, _, seconds = value.partition("=")
        try:
            delay_s = float(seconds)
        except ValueError:
            delay_s = -1.0
        if stage not in _STAGE_NAMES or not 0 <= delay_s < float("inf"):
            text = f"{value!r} is not STAGE=SECONDS with a stage of {', '.join(_STAGE_NAMES)}"
            raise click.BadParameter(text, ctx=ctx, param=param)
        delays[Stage(stage)] = delay_s
    return delays


@click.command("sink")
@click.option("--listen", multiple=True, metavar="ADDRESS:PORT", help="Where; may be repeated.  [127.0.0.1:2526]")
@click.option("--refuse", multiple=True, metavar="GLOB", help="Recipients that get 550; may be repeated.")
@click.option("--defer", multiple=True, metavar="GLOB", help="Recipients that get 451; may be repeated.")
@click.option("--store", default="", metavar="DIR", help="Keep each message in this Maildir.")
@click.option("--print", "prints", is_flag=True, help="Print a line for each message.")
@click.option("--unique", default="", metavar="FIELD", help="Count doubles by this header field, as Message-ID.")
@click.option(
    "--delay",
    "delays_s",
    multiple=True,
    callback=_delays,
    metavar="STAGE=SECONDS",
    help=f"Wait before the reply; may be repeated. Stages: {', '.join(_STAGE_NAMES)}.",
)
@click.option("--hang-up-at", type=click.Choice(_STAGE_NAMES), help="Close the connection in place of a reply.")
@click.option(
    "--hang-up-share", type=click.FloatRange(0, 1), default=1.0, metavar="SHARE", help="In how many cases, 0 to 1."
)
@click.option("--without", multiple=True, metavar="EXTENSION", help="Do not offer this, as CHUNKING; may be repeated.")
@click.option("--hostname", default="sink.localhost", show_default=True, help="The name in the greeting.")
@json_option
def command(
    *,
    listen: tuple[str, ...],
    refuse: tuple[str, ...],
    defer: tuple[str, ...],
    store: str,
    prints: bool,
    unique: str,
    delays_s: dict[Stage, float],
    hang_up_at: str | None,
    hang_up_share: float,
    without: tuple[str, ...],
    hostname: str,
    as_json: bool,
) -> None:
    """Take all mail and forward none, for tests and first steps.

    Runs until it is interrupted; then it prints what it has seen. Globs are matched against the whole address,
    without regard to case: "bounce@*", "*@slow.test".
    """
    import sys

    import trio

    from postroika.bench import sink
    from postroika.mail.outcome import Stage
    from postroika.smtp.server import EXTENSIONS

    unknown = [name for name in without if name.upper() not in EXTENSIONS]
    if unknown:
        raise click.UsageError(f"--without {unknown[0]}: known are {', '.join(sorted(EXTENSIONS))}")
    settings = sink.SinkSettings(
        hostname=hostname,
        refuse=refuse,
        defer=defer,
        store=store,
        unique=unique,
        delays_s=delays_s,
        disconnect_at=Stage(hang_up_at) if hang_up_at else None,
        disconnect_share=hang_up_share,
        extensions=EXTENSIONS - {name.upper() for name in without},
    )
    the_sink = sink.Sink(settings, _print_message if prints else None)
    listeners = sink.listen(listen or ("127.0.0.1:2526",))
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        click.echo(f"sink: listening on {f'[{host}]' if ':' in host else host}:{port}", err=True)
    trio.run(sink.serve_until_signal, the_sink, listeners, sys.stderr.isatty() and not prints)
    if as_json:
        print_json(the_sink.counts)
    else:
        click.echo(f"sink: {the_sink.counts.summary()}")


def _print_message(message: Message) -> None:
    click.echo(
        f"from=<{message.reverse_path}> to={','.join(f'<{recipient}>' for recipient in message.recipients)}"
        f" size={message.size_bytes} client={message.client_ip} helo={message.helo}"
    )
