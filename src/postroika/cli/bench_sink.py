"""`postroika bench sink`: the far end of a measurement."""

from __future__ import annotations

from typing import Any

import click

from postroika.cli._sink_options import settings, sink_options


@click.command("sink")
@sink_options
@click.option("--messages", type=click.IntRange(min=0), default=0, metavar="N", help="End when so many were taken.")
@click.option(
    "--until-idle",
    "stop_idle_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="End when the last message was so long ago.",
)
@click.option("--status", "status_file", default="", metavar="FILE", help="Rewrite this JSON each 0.25 s.")
@click.option("--json", "json_file", default="", metavar="FILE", help="Write this JSON at the end; - for stdout.")
def command(
    *,
    listen: tuple[str, ...],
    messages: int,
    stop_idle_s: float,
    status_file: str,
    json_file: str,
    **options: Any,
) -> None:
    """Take mail at full speed and count it.

    By the marks of `postroika bench load` it tells which messages came, which came twice or damaged, and how long they
    were on the way; both have to run on one machine for that. Ends with Ctrl-C, and then tells what it has seen.
    """
    import sys

    import msgspec

    from postroika.bench import sink_run

    to_stdout = json_file == "-"
    telling = sink_run.Telling(
        status_file=status_file,
        json_file="" if to_stdout else json_file,
        live=sys.stderr.isatty(),
        stop_after=messages,
        stop_idle_s=stop_idle_s,
    )
    tally = sink_run.run(
        settings(**options),
        listen or ("127.0.0.1:2526",),
        telling,
        on_listening=lambda address: click.echo(f"sink: listening on {address}", err=True),
    )
    if to_stdout:
        click.echo(msgspec.json.encode(sink_run.status(tally)))
        return
    click.echo(f"sink: {tally.counts.summary()}")
    latency = tally.latency.to_json()
    if latency["p50"] is not None:
        figures = ", ".join(f"{name} {latency[name]:.2f} ms" for name in ("p50", "p95", "p99", "max"))
        click.echo(f"sink: on the way for {figures}")
