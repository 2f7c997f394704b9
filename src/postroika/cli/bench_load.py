"""`postroika bench load`: send messages as fast as asked for, and count what came of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from postroika.cli._shared import print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from postroika.bench.load_settings import LoadResult, LoadStatus


@click.command("load")
@click.argument("target", metavar="HOST:PORT")
@click.option("--sessions", type=int, default=50, show_default=True, help="Connections at once.")
@click.option("--idle-sessions", type=int, default=0, help="Further connections that greet and then say nothing.")
@click.option("--messages", "-m", type=int, default=1000, show_default=True, help="In all; 0: see --duration-s.")
@click.option("--messages-per-connection", type=int, default=0, help="Then QUIT.  [as many as there are]")
@click.option(
    "--size",
    default="4096",
    show_default=True,
    help="Octets of a message; sizes with weights, as 4k:70,100k:25,1m:5; or file:PATH.",
)
@click.option("--recipients", type=int, default=1, show_default=True, help="Of each message.")
@click.option("--domains", type=int, default=1, show_default=True, help="How many domains they are spread over.")
@click.option("--domain", default="d{}.test", show_default=True, help="Their name; {} is the number of the domain.")
@click.option("--sender", default="sender@load.test", show_default=True, help="MAIL FROM; empty is <>.")
@click.option("--helo", default="load.test", show_default=True, help="What EHLO says.")
@click.option("--pipelining/--no-pipelining", default=True, help="Whole groups of commands at once.  [yes]")
@click.option("--across/--no-across", default=True, help="With pipelining, also behind the content.  [yes]")
@click.option("--bdat/--no-bdat", default=False, help="BDAT in place of DATA.  [no]")
@click.option(
    "--tls", type=click.Choice(["none", "starttls", "implicit"]), default="none", help="Not verified.  [none]"
)
@click.option(
    "--rate-per-s",
    type=float,
    default=0.0,
    help="Open loop: messages are due at this rate, and latency counts from then.",
)
@click.option("--duration-s", type=float, default=0.0, help="Begin no message after that.")
@click.option("--deadline-s", type=float, default=0.0, help="Break off after that.")
@click.option("--reply-timeout-s", type=float, default=300.0, show_default=True, help="Longest wait for a reply.")
@click.option("--patience-s", type=float, default=30.0, show_default=True, help="Longest wait for a connection.")
@click.option("--run", default="", metavar="HEX", help="8 hex digits that the messages bear.  [by chance]")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False), metavar="FILE", help="Write the result there; - is stdout."
)
@click.option(
    "--status",
    "status_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Say there four times a second how far it is.",
)
def command(*, json_file: str | None, status_file: str | None, **options: Any) -> int:
    """Send messages to an SMTP server as fast as asked for.

    Each message bears marks by which `postroika bench sink` tells what was lost, doubled or damaged. The exit code is 1
    when a message or a recipient was not accepted.
    """
    from postroika.bench.load import Load, LoadSettings, write_atomically

    load = Load(LoadSettings(**options), _ticker(Path(status_file) if status_file else None))
    result = load.run()
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    if json_file == "-":
        print_json(result)
    else:
        if json_file is not None:
            write_atomically(Path(json_file), result)
        click.echo("\n".join(_told(result)))
    return 0 if result.complete else 1


def _ticker(status_file: Path | None) -> Callable[[LoadStatus], None]:
    from postroika.bench.load import write_atomically

    live = sys.stderr.isatty()

    def tell(status: LoadStatus) -> None:
        if status_file is not None:
            write_atomically(status_file, status)
        if live:
            click.echo(f"\r\x1b[Kload: {status.summary()}", nl=False, err=True)

    return tell


def _told(result: LoadResult) -> list[str]:
    """The result for people."""
    latency = result.latency_ms
    each_s = result.elapsed_s or float("inf")
    cpu_us = f": {result.cpu_s / result.messages * 1e6:.0f} µs a message" if result.messages else ""
    speed = f"{result.messages / each_s:.0f}/s, {result.bytes / each_s / 1e6:.1f} MB/s"
    lines = [
        f"messages    {result.messages} in {result.elapsed_s:.2f} s: {speed}",
        f"recipients  {result.recipients}: {result.recipients / each_s:.0f}/s",
    ]
    if latency["count"]:
        quantiles = (("p50", latency["p50"]), ("p95", latency["p95"]), ("p99", latency["p99"]), ("max", latency["max"]))
        lines.append(f"latency     {', '.join(f'{name} {ms:.2f}' for name, ms in quantiles)} ms")
    lines.append(
        f"sessions    {result.connections} connections, {result.disconnects} broken, "
        f"{result.connect_failures} not made" + (f", {result.idle_sessions} idle" if result.idle_sessions else "")
    )
    lines.append(f"CPU         {result.cpu_s:.2f} s{cpu_us}")
    if not result.complete:
        lines.append(
            f"not done    {result.failed} failed ({result.in_doubt} in doubt), {result.unsent} unsent, "
            f"{result.refused_recipients} recipients refused" + (f"; {result.ended_by}" if result.ended_by else "")
        )
    if result.retried:
        lines.append(f"begun again {result.retried} times")
    lines += [f"{count:>11} {text}" for text, count in sorted(result.errors.items(), key=lambda item: -item[1])]
    return lines
