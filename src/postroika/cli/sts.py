"""`postroika sts`: what a domain asks of those who send to it (MTA-STS), and what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from postroika.cli import Verbs
from postroika.cli._shared import config_option, json_option, load_config, print_json

if TYPE_CHECKING:
    from postroika.sts.diagnosis import Diagnosis, Published
    from postroika.sts.policy import StsPolicy


@click.group("sts", cls=Verbs)
def command() -> None:
    """Policies of other domains on TLS (MTA-STS)."""


@command.command("show")
@config_option
@json_option
@click.argument("domain")
def show(config_file: str | None, as_json: bool, domain: str) -> int:
    """Show the policy of a domain, and what it means for its hosts.

    That is, what DOMAIN publishes, what is kept of it, and what that means for each of its MX hosts.

    Asks the DNS and the policy host as the server with this config would, and changes nothing. Exit code 0, or 1 if
    there is something wrong with what the domain publishes, or it could not be found out.
    """
    import time

    import trio

    from postroika.cli import ExitCode
    from postroika.config import canonical_domain
    from postroika.sts.diagnosis import diagnose

    try:
        name = canonical_domain(domain)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if name[0] in ".[":
        raise click.UsageError(f"{domain!r} is not a domain")
    _, config = load_config(config_file)
    found = trio.run(diagnose, config, name, time.time())
    if as_json:
        print_json(_as_objects(found))
    else:
        _print(found)
    return ExitCode.FAILED if found.published.problem or found.hosts_problem else ExitCode.OK


def _as_objects(found: Diagnosis) -> dict[str, Any]:
    """With policies as objects, too."""
    import msgspec

    def plain(policy: StsPolicy | None) -> dict[str, Any] | None:
        return None if policy is None else policy._asdict()

    return {
        **msgspec.structs.asdict(found),
        "published": {**msgspec.structs.asdict(found.published), "policy": plain(found.published.policy)},
        "kept": plain(found.kept),
        "heeded": plain(found.heeded),
    }


def _print(found: Diagnosis) -> None:
    from postroika.cli._shared import console
    from postroika.cli._tables import Column, print_table

    for label, text in (
        ("published", _published(found.published)),
        ("kept", found.kept_problem or (_policy(found.kept) if found.kept else "nothing")),
        ("heeded", _heeded(found)),
    ):
        _print_entry(label, text)
    if found.hosts_problem:
        _print_entry("hosts", found.hosts_problem)
        return
    click.echo()
    named = {None: "-", True: "yes", False: "NO"}
    rows = [(_visible(host.name), named[host.named], host.verdict) for host in found.hosts]
    print_table(console(), [Column("MX host"), Column("named"), Column("what that means", wraps=True)], rows)


def _print_entry(label: str, text: str) -> None:
    first, *more = text.split("\n")
    click.echo(f"{label:<11}{_visible(first)}")
    for line in more:
        click.echo(f"{'':<11}{_visible(line)}")


def _visible(text: str) -> str:
    from postroika.cli._words import visible

    return visible(text)


def _published(published: Published) -> str:
    if published.policy is not None:
        return _policy(published.policy)
    if published.problem:
        return f"{f'id {published.id}; ' if published.id else ''}{published.problem}"
    return "nothing: there is no record"


def _policy(policy: StsPolicy) -> str:
    from postroika.cli._words import moment

    return "\n".join([f"id {policy.id}, until {moment(policy.expires_at)}", *policy.lines()])


def _heeded(found: Diagnosis) -> str:
    if found.passed_over:
        return f"nothing: {found.passed_over}"
    if found.heeded is None:
        return "nothing: mail is encrypted where it works"
    if found.heeded == found.published.policy:
        return "what is published; it is fetched with the first mail"
    return "what is kept, until it is renewed or expires"
