"""`postroika tlsrpt`: what has been counted for TLS reports, and sending them now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from postroika.cli import ExitCode, Verbs
from postroika.cli._shared import config_option, console, json_option, load_config, print_json
from postroika.cli._words import count, visible

if TYPE_CHECKING:
    from postroika.config import Config
    from postroika.control.records import TlsCounts


@click.group("tlsrpt", cls=Verbs)
def command() -> None:
    """Look at the counts for TLS reports, and send reports."""


_DAY = click.option("--day", default="", metavar="DAY", help="As 2026-11-21, today or yesterday (UTC).")


@command.command("show")
@_DAY
@click.option("--domain", default="", metavar="DOMAIN", help="Only this one.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Domains shown.")
@json_option
@config_option
def show(day: str, domain: str, limit: int, as_json: bool, config_file: str | None) -> int | None:
    """Show how sessions with the hosts of domains went.

    Most failures first; by default those of today.
    """
    _, config = load_config(config_file)
    counts = _counts(config, day, domain, limit)
    if as_json:
        print_json(counts)
        return None
    click.echo(
        f"{counts.day}: {count(counts.domains, 'domain')}, {count(counts.succeeded, 'session')} as they should be, "
        f"{counts.failed:,} not."
    )
    if others := [other for other in counts.days if other != counts.day]:
        click.echo(f"There are counts of {', '.join(others)}, too.")
    if counts.shown:
        _print(counts)
    return None


def _counts(config: Config, day: str, domain: str, limit: int) -> TlsCounts:
    """The running server's, or what is on disk."""
    from postroika.control.client import Client
    from postroika.control.tls_counts import tls_counts
    from postroika.errors import NoServerError

    with Client(config.server.control) as client:
        try:
            client.connect()
        except NoServerError as error:
            click.echo(f"postroika: {error}; reading the spool {config.server.spool}", err=True)
            return tls_counts(config, day, domain, limit)
        return client.tls_counts(day, domain, limit)


def _print(counts: TlsCounts) -> None:
    from postroika.cli._tables import Column, print_table

    rows = []
    for domain in counts.shown:
        for policy in domain.policies:
            head = [domain.domain, policy.type, f"{policy.succeeded:,}", f"{policy.failed:,}"]
            rows.append([*head, "", "", ""] if not policy.failures else [*head, *_failure(policy.failures[0])])
            rows += [["", "", "", "", *_failure(failure)] for failure in policy.failures[1:]]
    columns = [
        Column("DOMAIN"),
        Column("POLICY"),
        Column("GOOD", right=True),
        Column("FAILED", right=True),
        Column("SESSIONS", right=True),
        Column("OF", wraps=True),
        Column("AT"),
    ]
    print_table(console(), columns, [[visible(cell) for cell in row] for row in rows])


def _failure(failure: object) -> list[str]:
    from postroika.control.records import TlsFailure

    assert isinstance(failure, TlsFailure)
    why = f"{failure.result}: {failure.reason}" if failure.reason else failure.result
    where = f"{failure.mx_host} [{failure.receiving_ip}]" if failure.receiving_ip else failure.mx_host
    return [f"{failure.count:,}", why, where]


@command.command("send")
@_DAY
@json_option
@config_option
def send(day: str, as_json: bool, config_file: str | None) -> int | None:
    """Send the reports about a day now; by default those about yesterday.

    The server does so by itself some hours after each day. Reports about a day that is not over tell of it so far, and
    are sent once more when it is.
    """
    from postroika.control.client import Client
    from postroika.errors import NoServerError

    _, config = load_config(config_file)
    with Client(config.server.control) as client:
        try:
            client.connect()
        except NoServerError as error:
            raise NoServerError(f"{error}; sending needs a running server") from None
        done = client.send_tls_reports(day)
    if as_json:
        print_json(done)
    elif not done.domains:
        click.echo(f"{done.day}: nothing is left to report.")
    else:
        click.echo(f"{done.day}: {count(done.reports, 'report')} sent, of {count(done.domains, 'domain')}.")
    if not as_json:
        for problem in done.problems:
            click.echo(f"postroika: {visible(problem)}", err=True)
    return ExitCode.FAILED if done.failed else None
