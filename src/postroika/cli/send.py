"""`postroika send`: hands one message to the server over SMTP, and can wait for what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

import click

from postroika.cli import ExitCode
from postroika.cli._shared import config_option, console, json_option, load_config, open_listener, print_json
from postroika.cli._words import duration, parse_duration, visible

if TYPE_CHECKING:
    from postroika.cli._submission import Submitted
    from postroika.config import Config
    from postroika.control.event_log import EventLog
    from postroika.outcome.event_record import Event

_FINAL = frozenset(("delivered", "bounced", "expired", "cancelled", "suppressed"))
_POLL_S = 0.05
_QUEUE_POLL_S = 0.25
_STYLES = {"delivered": "green", "queued": "yellow", "deferred": "yellow", "unknown": "magenta"}


class Result(NamedTuple):
    """What is known of one recipient.

    Args:
        outcome: one of the final ones of the event record; "deferred"; "queued" (nothing is known yet); "refused" (it
            was never queued); "unknown" (it has left the queue, and nobody wrote down how).
    """

    recipient: str
    outcome: str
    reply: str = ""
    host: str = ""
    at: float | None = None


@click.command("send")
@click.option("--to", "recipients", multiple=True, required=True, metavar="ADDRESS", help="May be repeated.")
@click.option("--from", "sender", metavar="ADDRESS", help="The reverse-path; '<>': null.  [From: of the file, or you]")
@click.option("--subject", default="A message from Postroika", show_default=True, help="Without --file.")
@click.option("--body", help="The text, without --file.")
@click.option("--file", "file", type=click.File("rb"), metavar="FILE", help="The whole message; -: standard input.")
@click.option(
    "--server", metavar="HOST:PORT", help="Where to.  [the first listener of the config that wants no TLS and no login]"
)
@click.option("--wait", is_flag=True, help="Wait for the outcome of each recipient.")
@click.option("--timeout", "timeout_s", default="60s", show_default=True, callback=parse_duration, help="To wait.")
@json_option
@config_option
def command(
    *,
    recipients: tuple[str, ...],
    sender: str | None,
    subject: str,
    body: str | None,
    file: IO[bytes] | None,
    server: str | None,
    wait: bool,
    timeout_s: float,
    as_json: bool,
    config_file: str | None,
) -> None:
    """Send one message.

    Exit code 0: every recipient is queued; with --wait: is delivered. 1: otherwise.
    """
    from postroika.cli import _submission

    if file is not None and body is not None:
        raise click.UsageError("--file has the whole message; leave --body out")
    _, config = load_config(config_file)
    host, port = _where(config, server)
    hostname = config.server.hostname
    text = b"" if file is None else _submission.network_form(file.read())
    if sender is None:
        sender = (_submission.sender_of(text) if file is not None else "") or _own_address(hostname)
    sender = "" if sender == "<>" else sender
    if file is None:
        text = _submission.new_message(
            sender, recipients, subject, body or f"Sent by `postroika send` on {hostname}.\n", hostname
        )
    watch = _watch(config) if wait else None
    submitted = _submission.submit(host, port, sender, recipients, text)
    results = [Result(recipient, "queued") for recipient in submitted.accepted]
    results += [Result(recipient, "refused", reply) for recipient, reply in submitted.refused.items()]
    if not as_json:
        click.echo(visible(submitted.reply), err=not submitted.accepted)
    if watch is not None and submitted.accepted:
        results = _waited(watch, submitted, results, timeout_s)
    _report(submitted, results, waited=wait, as_json=as_json)


def _where(config: Config, server: str | None) -> tuple[str, int]:
    """Host and port to send to."""
    from postroika.config import split_host_port

    if server is not None:
        try:
            return split_host_port(server, 25)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--server") from None
    listener = open_listener(config)
    if listener is None:
        raise click.UsageError("all listeners of the config want a login, or TLS: name another with --server")
    host, port = split_host_port(listener.address)
    if port == 0:
        raise click.UsageError("the first listener of the config takes any free port: name the real one with --server")
    # A listener on all addresses is reached by the loopback one.
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104  # compared, not bound


def _own_address(hostname: str) -> str:
    import getpass

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "postmaster"
    return f"{user}@{hostname}"


# -- waiting ----------------------------------------------------------------------------------------------------------

Watch = Callable[["Submitted", float], Iterator[Result]]


def _watch(config: Config) -> Watch:
    """How the message will be followed. Made before it is sent, so that nothing can be missed."""
    if config.log.events:
        from postroika.cli.events import open_log

        log = open_log(config)
        return lambda submitted, until: _from_log(log, submitted.message, until)
    click.echo("postroika: events are not logged; only the queue can be watched, not the outcome", err=True)
    return lambda submitted, until: _from_queue(config, submitted, until)


def _waited(watch: Watch, submitted: Submitted, results: list[Result], timeout_s: float) -> list[Result]:
    """`results` with what has become of the accepted recipients; what is told on the way goes to stderr."""
    from postroika.control.filters import same_address

    if not submitted.message:
        click.echo("postroika: the reply names no queue id, so nothing can be waited for", err=True)
        return results
    known = {same_address(result.recipient): result for result in results}
    for news in watch(submitted, time.monotonic() + timeout_s):
        key = same_address(news.recipient)
        before = known.get(key)
        known[key] = news._replace(recipient=before.recipient) if before else news
        if news.outcome == "deferred":
            click.echo(f"{visible(news.recipient)} deferred: {visible(news.reply)}", err=True)
        if all(result.outcome not in {"queued", "deferred"} for result in known.values()):
            break
    else:
        click.echo(f"postroika: not all is final after {duration(timeout_s)}; the server goes on", err=True)
    return list(known.values())


def _from_log(log: EventLog, message: str, until: float) -> Iterator[Result]:
    """The outcomes in the log of events, as they come."""
    from postroika.cli.events import events_of

    with log:
        while time.monotonic() < until:
            lines = log.read()
            for event in events_of(lines, message):
                if event.type in _FINAL or event.type == "deferred":
                    yield _result(event)
            if not lines:
                time.sleep(_POLL_S)


def _result(event: Event) -> Result:
    from postroika.cli._event_lines import reply_text

    reply = reply_text(event.reply) if event.reply is not None else ""
    host = event.peer.host if event.peer is not None else ""
    if event.next_attempt_at is not None:
        reply += f" (again in {duration(event.next_attempt_at - event.at)})"
    return Result(event.recipient, event.type, reply, host, event.at)


def _from_queue(config: Config, submitted: Submitted, until: float) -> Iterator[Result]:
    """Without a log: who is still queued, and why."""
    from postroika.control.client import Client
    from postroika.control.filters import same_address
    from postroika.errors import NotQueuedError
    from postroika.mail.ids import parse_id

    message = parse_id(submitted.message)
    waiting = {same_address(recipient): recipient for recipient in submitted.accepted}
    told: dict[str, str] = {}
    with Client(config.server.control) as client:
        while time.monotonic() < until:
            queued: dict[str, str] = {}
            try:
                for batch in client.detail(message).batches:
                    reason = str(batch.last_reply or "")
                    queued.update((same_address(recipient.address), reason) for recipient in batch.recipients)
            except NotQueuedError:
                queued = {}
            for key, recipient in list(waiting.items()):
                if key not in queued:
                    del waiting[key]
                    yield Result(recipient, "unknown", "left the queue; delivered or returned, nobody wrote it down")
                elif queued[key] and queued[key] != told.get(key):
                    told[key] = queued[key]
                    yield Result(recipient, "deferred", queued[key])
            time.sleep(_QUEUE_POLL_S)


# -- telling ----------------------------------------------------------------------------------------------------------


def _report(submitted: Submitted, results: list[Result], *, waited: bool, as_json: bool) -> None:
    """Print what is known; exit with FAILED unless all is well."""
    wanted = {"delivered"} if waited else {"queued"}
    well = all(result.outcome in wanted for result in results)
    if as_json:
        recipients = [result._asdict() for result in results]
        print_json({"message": submitted.message, "reply": submitted.reply, "recipients": recipients})
    elif waited or not well:
        from rich.text import Text

        from postroika.cli._tables import Column, print_table
        from postroika.cli._words import styled

        rows = [
            [
                styled(result.recipient),
                Text(result.outcome, style=_STYLES.get(result.outcome, "red")),
                styled(f"{result.host}: {result.reply}" if result.host else result.reply),
            ]
            for result in results
        ]
        columns = [Column("RECIPIENT", wraps=True), Column("OUTCOME"), Column("REPLY", wraps=True)]
        print_table(console(), columns, rows)
    if not well:
        raise click.exceptions.Exit(ExitCode.FAILED)
