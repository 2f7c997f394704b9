"""`postroika events`: reads the log of events, the file that [log] events names."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from postroika.cli import Verbs
from postroika.cli._shared import config_option, console, load_config

if TYPE_CHECKING:
    from postroika.config import Config
    from postroika.control.event_log import EventLog
    from postroika.outcome.event_record import Event

TYPES = (
    "received", "rejected", "auth_failed", "delivered", "deferred", "bounced", "expired", "cancelled", "suppressed",
)  # fmt: skip

_POLL_S = 0.1

Wanted = Callable[["Event"], bool]


@click.group("events", cls=Verbs)
def command() -> None:
    """Read what became of every recipient."""


@command.command("tail")
@click.option("-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="Events from the end.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written later, until Ctrl-C.")
@click.option("--type", "types", multiple=True, type=click.Choice(TYPES), help="Only this; may be repeated.")
@click.option("--recipient", default="", metavar="ADDRESS", help="Only to this address; @DOMAIN: to any there.")
@click.option("--sender", default="", metavar="ADDRESS", help="Only from it; @DOMAIN: from any there; '<>': null.")
@click.option("--destination", default="", metavar="DOMAIN", help="Only to this routing domain.")
@click.option("--account", default="", metavar="NAME", help="Only of this account.")
@click.option("--tenant", default="", metavar="NAME", help="Only of this tenant.")
@click.option("--message", default="", metavar="ID", help="Only of this message.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as they stand in the log.")
@config_option
def tail(*, lines: int, follow: bool, as_json: bool, config_file: str | None, **filters: str | tuple[str, ...]) -> None:
    """Show the latest events, one a line. All filters that are given must match.

    The events that match are looked for in the rotated files too, and --follow goes on across rotations.
    """
    _, config = load_config(config_file)
    wanted = _matcher(**filters)  # type: ignore[arg-type]
    with open_log(config) as log:
        if not log.is_there and not follow:
            from postroika.errors import PostroikaError

            raise PostroikaError(f"no events yet: {config.log.events} is not there")
        show = _show_raw if as_json else _shower()
        for line in reversed(_latest(log, lines, wanted)):
            show(line)
        while follow:
            for line in log.read():
                if _is_wanted(line, wanted):
                    show(line)
            sys.stdout.flush()
            time.sleep(_POLL_S)


def open_log(config: Config) -> EventLog:
    """The log of events, at its end.

    Raises:
        PostroikaError: the config names none, or it cannot be read.
    """
    from pathlib import Path

    from postroika.control.event_log import EventLog
    from postroika.errors import PostroikaError

    if not config.log.events:
        raise PostroikaError("events are not logged: the config has an empty [log] events")
    try:
        return EventLog(Path(config.log.events), config.log.keep)
    except OSError as error:
        raise PostroikaError(f"{config.log.events}: {error.strerror}") from error


def _matcher(
    *,
    types: tuple[str, ...],
    recipient: str,
    sender: str,
    destination: str,
    message: str,
    account: str,
    tenant: str,
) -> Wanted | None:
    """A test for events; None if all are wanted."""
    from postroika.control.filters import address_test, destination_name
    from postroika.mail.ids import id_text, parse_id

    tests: list[Wanted] = []
    if message:
        try:
            text = id_text(parse_id(message))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--message") from None
        tests.append(lambda event: event.message == text)
    if types:
        tests.append(lambda event: event.type in types)
    if account:
        tests.append(lambda event: event.account == account)
    if tenant:
        tests.append(lambda event: event.tenant == tenant)
    if destination:
        name = destination_name(destination)
        tests.append(lambda event: event.destination == name)
    if recipient:
        is_recipient = address_test(recipient)
        tests.append(lambda event: is_recipient(event.recipient))
    if sender:
        is_sender = address_test(sender)
        tests.append(lambda event: event.sender is not None and is_sender(event.sender))
    return (lambda event: all(test(event) for test in tests)) if tests else None


def _is_wanted(line: bytes, wanted: Wanted | None) -> bool:
    if wanted is None:
        return True
    event = decoded(line)
    return event is not None and wanted(event)


def decoded(line: bytes) -> Event | None:
    """The event of a line; None if it is none (someone has edited the file)."""
    from msgspec import DecodeError

    from postroika.outcome.event_record import decode

    try:
        return decode(line)
    except DecodeError:
        return None


def _latest(log: EventLog, number: int, wanted: Wanted | None) -> list[bytes]:
    """The last `number` lines that are wanted, latest first."""
    found: list[bytes] = []
    if number:
        for line in log.backwards():
            if _is_wanted(line, wanted):
                found.append(line)
                if len(found) == number:
                    break
    return found


def _show_raw(line: bytes) -> None:
    click.echo(line)


def _shower() -> Callable[[bytes], None]:
    from postroika.cli._event_lines import event_line
    from postroika.cli._words import styled

    out = console()

    def show(line: bytes) -> None:
        event = decoded(line)
        text = styled(line.decode(errors="replace"), "dim") if event is None else event_line(event)
        out.print(text, soft_wrap=True)

    return show


def events_of(lines: list[bytes], message: str) -> Iterator[Event]:
    """The events of one message among some lines."""
    mark = message.encode()
    for line in lines:
        if mark in line:
            event = decoded(line)
            if event is not None and event.message == message:
                yield event
