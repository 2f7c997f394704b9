"""`postroika bench run`, `list` and `report`: scenarios, side by side with other servers, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from postroika.bench.drivers import Driver
    from postroika.bench.interpreters import Interpreter
    from postroika.bench.peers import Peer
    from postroika.bench.progress import Teller
    from postroika.bench.results import Report

_PIPE_WIDTH = 200
_DEFAULT_PEERS = ("postroika", "postfix", "exim", "opensmtpd")


def _names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """NAME,NAME."""
    return tuple(name.strip().lower() for name in value.split(",") if name.strip())


@click.command("run")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option("--quick", is_flag=True, help="The small size of each, under a minute with two servers.")
@click.option("--rounds", type=click.IntRange(1, 1000), metavar="N", help="Turns of each server, in place of its own.")
@click.option(
    "--peers",
    "asked_for",
    default="",
    callback=_names,
    metavar="NAMES",
    help=f"Of {','.join(_DEFAULT_PEERS)}; without it each scenario chooses.",
)
@click.option(
    "--driver",
    type=click.Choice(["own", "postfix", "both"]),
    default="both",
    show_default=True,
    help="Our load and sink, or smtp-source and smtp-sink.",
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/var/tmp"),  # noqa: S108 - on a disk, where /tmp may not be; a directory of its own is made in it
    show_default=True,
    help="Where the queues are kept while it runs; on a disk, or a sync costs nothing.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    metavar="DIR",
    help="Where the report goes: DATE.json, DATE.md and DATE.html.",
)
@click.option(
    "--interpreter",
    "interpreter_words",
    multiple=True,
    metavar="[LABEL=]PYTHON",
    help="Measure Postroika with this interpreter too, of a virtual environment that has it, in relay and accept. "
    "Repeatable.",
)
@click.option("--install", is_flag=True, help="Install servers that are missing (Debian packages).")
def command(
    *,
    scenarios: tuple[str, ...],
    quick: bool,
    rounds: int | None,
    asked_for: tuple[str, ...],
    driver: str,
    directory: Path,
    out: Path,
    interpreter_words: tuple[str, ...],
    install: bool,
) -> int:
    """Measure servers side by side, in turns, and report.

    Without a SCENARIO it runs them all; `postroika bench list` has their names. Ends with 1 if a scenario is void,
    which is what lost, doubled or damaged mail makes of it. A bar that is missed is told, and is no failure. Ctrl-C
    ends it with a report of what was measured until then, and 130.
    """
    import shutil
    import signal
    import sys
    from tempfile import mkdtemp

    from rich.console import Console

    from postroika.bench import interpreters, machine, runner, scenario
    from postroika.bench.bench import Bench
    from postroika.bench.pace import duration_text
    from postroika.bench.progress import Teller
    from postroika.cli import ExitCode

    if not machine.is_disk(directory):
        raise click.UsageError(f"{directory} is in memory, where a sync costs nothing: name a --directory on a disk")
    chosen = scenario.loads(scenarios)
    if interpreter_words and asked_for and scenario.OURS not in asked_for:
        raise click.UsageError(f"--interpreter is about Postroika: name {scenario.OURS} among the --peers")
    # What cannot be is told before anything is measured, or installed.
    runner.check_directory(out)
    others = interpreters.look_at_all(interpreter_words)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    with Teller(Console(stderr=True, highlight=False)) as teller:
        peers, missing = _peers(asked_for, install, teller)
        drivers, driver_names = _drivers(driver, teller)
        try:
            queues = Path(mkdtemp(prefix="postroika-bench-", dir=directory))
        except OSError as error:
            raise click.ClickException(f"no queue can be kept in {directory}: {error.strerror}") from None
        queues.chmod(0o755)
        try:
            bench = Bench(
                queues,
                peers,
                drivers,
                teller,
                quick=quick,
                driver_names=driver_names,
                asked_for=asked_for,
                rounds=rounds,
                interpreters=_interpreted(others),
            )
            estimate_s = sum(one.estimate_s(bench) for one in chosen)
            count = f"{len(chosen)} scenario{'s' if len(chosen) > 1 else ''}"
            teller.say(f"{count} with {', '.join(peers)}: about {duration_text(estimate_s)} in all", style="bold")
            settings = {"command": f"postroika {' '.join(sys.argv[1:])}"}
            told = {label: interpreter for label, (_, interpreter) in others.items()}
            report = runner.run(chosen, bench, queues, missing, settings, told)
        finally:
            shutil.rmtree(queues, ignore_errors=True)
    interrupted = "interrupted" in report.settings
    if interrupted and not report.scenarios:
        click.echo("Nothing was measured: there is no report.", err=True)
        return ExitCode.INTERRUPTED
    _show(report)
    for file in runner.write(report, out).values():
        click.echo(file)
    if interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if report.void else ExitCode.OK


@click.command("list")
def list_command() -> None:
    """Name the scenarios.

    What they measure, and how long that takes with Postfix beside us.
    """
    from postroika.bench import peers, scenario
    from postroika.bench.pace import duration_text
    from postroika.bench.scope import Scope
    from postroika.cli._shared import console
    from postroika.cli._tables import Column, print_table

    two = {name: peers.peer(name) for name in (scenario.OURS, scenario.POSTFIX)}
    drivers = (scenario.OWN_DRIVER, scenario.POSTFIX_DRIVER)
    quick, full = (Scope(two, quick=is_quick, driver_names=drivers) for is_quick in (True, False))
    every = scenario.loads(())
    rows = [
        (one.name, duration_text(one.estimate_s(quick)), duration_text(one.estimate_s(full)), one.about)
        for one in every
    ]
    sums = [duration_text(sum(one.estimate_s(scope) for one in every)) for scope in (quick, full)]
    columns = [Column("scenario"), Column("quick", right=True), Column("full", right=True), Column("", wraps=True)]
    print_table(console(), columns, [*rows, ("all", *sums, "")])


@click.command("report")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--write", "writes", is_flag=True, help="Write FILE.md and FILE.html beside it.")
def report_command(*, file: Path, writes: bool) -> None:
    """Show a report again, or write its pages again.

    From its JSON FILE: on the terminal, or as Markdown and as a page.
    """
    from postroika.bench import runner
    from postroika.bench.report_html import page
    from postroika.bench.report_markdown import markdown

    report = runner.read(file)
    if not writes:
        _show(report)
        return
    contents = {"md": markdown(report).encode(), "html": page(report).encode()}
    for written in runner.write_files(contents, file.with_suffix("")).values():
        click.echo(written)


def _interrupt_once(*_: object) -> None:
    """Ctrl-C, or SIGTERM: the servers are ended, and their queues go. A second one would only leave some of that
    behind; it takes seconds, and SIGKILL is always there."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


def _show(report: Report) -> None:
    """On stdout; in a pipe no row is broken."""
    import sys

    from rich.console import Console

    from postroika.bench.report_terminal import print_report

    print_report(report, Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH))


def _interpreted(others: dict[str, tuple[str, Interpreter]]) -> dict[str, Peer]:
    """Postroika as run by each of them."""
    from postroika.bench.peers.postroika import Postroika

    return {label: Postroika(python, f"Postroika, {label}") for label, (python, _) in others.items()}


def _drivers(wanted: str, teller: Teller) -> tuple[dict[str, Driver], list[str]]:
    """The drivers that can be had, and the names of those that are wanted."""
    from postroika.bench.drivers import drivers

    found: dict[str, Driver] = {}
    for name, driver in drivers().items():
        why = driver.missing()
        if why is None:
            found[name] = driver
        elif wanted == name:
            raise click.ClickException(f"the driver {name} cannot be used: {why}")
        elif wanted == "both":
            teller.say(f"! without the driver {name}: {why}", style="yellow")
    return found, [name for name in found if wanted in {name, "both"}]


def _peers(asked_for: tuple[str, ...], install: bool, teller: Teller) -> tuple[dict[str, Peer], dict[str, str]]:
    """Those that can run here, and why the others cannot."""
    from postroika.bench import peers
    from postroika.errors import PostroikaError

    there: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    # All of them first: an unknown name is told before anything is installed.
    for name, peer in {name: peers.peer(name) for name in asked_for or _DEFAULT_PEERS}.items():
        why = peer.missing()
        if why is not None and install:
            teller.step(f"installing {peer.title}")
            try:
                peer.install()
                why = peer.missing()
            except PostroikaError as error:
                why = str(error)
        if why is None:
            there[name] = peer
        else:
            missing[peer.title] = why
            teller.say(f"! {peer.title} is left out: {why}", style="yellow")
    return there, missing
