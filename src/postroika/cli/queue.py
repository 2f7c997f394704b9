"""`postroika queue`: looks at the queue, and changes it.

Looking works with the server running (through its control socket) and stopped (read-only, from the spool, and it says
so). Changes are the business of the workers, so they need a running server.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from postroika.cli import ExitCode, Verbs
from postroika.cli._shared import config_option, console, json_option, load_config, print_json
from postroika.cli._words import count, duration, parse_duration, visible

if TYPE_CHECKING:
    from postroika.config import Config
    from postroika.control.client import Client
    from postroika.control.records import (
        Changed,
        Doubts,
        Filter,
        MessageDetail,
        Page,
        QueuedBatch,
        QueuedMessage,
        QueueStats,
    )

F = TypeVar("F", bound=Callable[..., Any])

_PAGE = 1000
_COUNTED = 10_000  # messages counted before a confirmation


class View(Protocol):
    """Where the queue is looked at: `control.client.Client`, or `control.queries.Queries` without a server."""

    def page(self, wanted: Filter, after: int = 0, limit: int = 100) -> Page:
        """See `Queries.page`."""

    def doubts(self, after: str = "", limit: int = 100) -> Doubts:
        """See `Queries.doubts`."""

    def detail(self, message: int, first_batch: int = 0) -> MessageDetail:
        """See `Queries.detail`."""

    def body(self, message: int) -> tuple[int, Iterator[bytes]]:
        """See `Queries.body`."""

    def stats(self, top: int = 10) -> QueueStats:
        """See `Queries.stats`."""

    def close(self) -> None:
        """Let go of files and connections."""


@contextlib.contextmanager
def _view(config: Config) -> Iterator[tuple[View, bool]]:
    """The running server's, or that of the spool itself; and whether a server runs."""
    from postroika.control.client import Client
    from postroika.errors import NoServerError

    view: View
    with Client(config.server.control) as client:
        try:
            client.connect()
        except NoServerError as error:
            click.echo(f"postroika: {error}; reading the spool {config.server.spool}", err=True)
        else:
            yield client, True
            return
    from pathlib import Path

    from postroika.control.queries import Queries
    from postroika.spool.shards import Shards

    view = Queries(Shards(Path(config.server.spool), config.spool.max_bytes), config)
    try:
        yield view, False
    finally:
        view.close()


def _connected(config: Config, what: str) -> Client:
    """A client that is connected to the running server.

    Raises:
        NoServerError: there is none; the text says what that means for `what`.
    """
    from postroika.control.client import Client
    from postroika.errors import NoServerError

    client = Client(config.server.control)
    try:
        client.connect()
    except NoServerError as error:
        raise NoServerError(f"{error}; {what} needs a running server") from None
    return client


def _message_id(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    from postroika.mail.ids import parse_id

    try:
        return tuple(parse_id(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from None


def _filter_options(function: F) -> F:
    """The filters that listing and cancelling share."""
    for name, metavar, text in (
        ("--campaign", "NAME", "Of this campaign."),
        ("--tenant", "NAME", "Of this tenant."),
        ("--recipient", "ADDRESS", "To this address; @DOMAIN: to any address there."),
        ("--sender", "ADDRESS", "From this address; @DOMAIN: from any there; '<>': the null sender."),
        ("--destination", "DOMAIN", "To this routing domain."),
    ):
        function = click.option(name, default="", metavar=metavar, help=text)(function)
    return function


@click.group("queue", cls=Verbs)
def command() -> None:
    """Look at the queue, and change it."""


# -- looking ----------------------------------------------------------------------------------------------------------


@command.command("list")
@_filter_options
@click.option("--older-than", "older_than_s", callback=parse_duration, metavar="AGE", help="As 30m, 2h or 3d.")
@click.option("--in-doubt", is_flag=True, help="What may have been delivered already; see `queue doubts`.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Show at most so many messages.")
@click.option("--after", callback=_message_id, multiple=True, metavar="ID", help="Go on after this message.")
@json_option
@config_option
def list_(*, limit: int, after: tuple[int, ...], as_json: bool, config_file: str | None, **filters: Any) -> None:
    """List queued messages, oldest first. All filters that are given must match."""
    from postroika.control.records import Filter, Page

    _, config = load_config(config_file)
    with _view(config) as (view, _):
        found, more = _some(view, Filter(**filters), limit, max(after, default=0))
    if as_json:
        print_json(Page(messages=found, next=more))
        return
    if not found:
        click.echo("Nothing that is queued matches." if any(filters.values()) else "The queue is empty.")
        return
    from postroika.cli._queue_views import print_messages

    print_messages(console(), found, time.time())
    if more:
        click.echo(f"There may be more: --after {more}", err=True)


def _some(view: View, wanted: Filter, limit: int, after: int = 0) -> tuple[list[QueuedMessage], str]:
    """Up to `limit` messages, and where to go on ("" at the end)."""
    from postroika.mail.ids import parse_id

    found: list[QueuedMessage] = []
    while True:
        page = view.page(wanted, after, min(_PAGE, limit - len(found)))
        found += page.messages
        if not page.next or len(found) >= limit:
            return found, page.next
        after = parse_id(page.next)


@command.command("show")
@click.argument("messages", nargs=-1, required=True, callback=_message_id, metavar="ID...")
@click.option("--headers", is_flag=True, help="Print the header of the message.")
@click.option("--body", is_flag=True, help="Print the message as it is stored, byte for byte.")
@json_option
@config_option
def show_(*, messages: tuple[int, ...], headers: bool, body: bool, as_json: bool, config_file: str | None) -> None:
    """Show all about a message, and why it was not delivered.

    Who gets it, what was tried, and what came of it.
    """
    if headers + body + as_json > 1:
        raise click.UsageError("--headers, --body and --json exclude each other")
    _, config = load_config(config_file)
    with _view(config) as (view, live):
        for position, message in enumerate(messages):
            if headers or body:
                _print_body(view, message, only_header=headers)
                continue
            detail, batches = _whole(view, message)
            if as_json:
                from msgspec.structs import replace

                print_json(replace(detail, batches=batches, next_batch=-1))
                continue
            from postroika.cli._queue_views import print_detail

            if position:
                click.echo()
            print_detail(console(), detail, batches, time.time(), live=live)


def _whole(view: View, message: int) -> tuple[MessageDetail, list[QueuedBatch]]:
    """A message, and all its batches. Those that are settled meanwhile are left out."""
    from postroika.errors import NotQueuedError

    detail = view.detail(message)
    batches, following = list(detail.batches), detail.next_batch
    while following >= 0:
        try:
            part = view.detail(message, following)
        except NotQueuedError:
            break
        batches += part.batches
        following = part.next_batch
    return detail, batches


def _print_body(view: View, message: int, *, only_header: bool) -> None:
    """A message to stdout; its header with line ends of this system, the whole as it is."""
    _, pieces = view.body(message)
    output = sys.stdout.buffer
    if not only_header:
        for piece in pieces:
            output.write(piece)
        output.flush()
        return
    text = b""
    for piece in pieces:
        text += piece
        if b"\r\n\r\n" in text:
            break
    for line in text.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        click.echo(visible(line.decode("utf-8", "backslashreplace").replace("\t", "    ")))


@command.command("stats")
@click.option("--top", type=click.IntRange(0, 1000), default=10, show_default=True, help="How many destinations.")
@json_option
@config_option
def stats_(*, top: int, as_json: bool, config_file: str | None) -> None:
    """Show how much is queued, for whom, and what cannot be reached."""
    _, config = load_config(config_file)
    with _view(config) as (view, _):
        figures = view.stats(top)
    if as_json:
        print_json(figures)
        return
    from postroika.cli._queue_views import print_stats

    print_stats(console(), figures, time.time())


@command.command("doubts")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Show at most so many.")
@json_option
@config_option
def doubts_(*, limit: int, as_json: bool, config_file: str | None) -> None:
    """List who may have got a message twice, or may yet.

    These are recipients whose next hop got the whole message, but whose reply was lost (a crash, a broken connection):
    whether the message was taken cannot be known, so it is tried again. They are listed for 30 days.
    """
    from postroika.control.records import Doubts

    _, config = load_config(config_file)
    with _view(config) as (view, _):
        page = view.doubts("", min(_PAGE, limit))
        found = list(page.batches)
        while page.next and len(found) < limit:
            page = view.doubts(page.next, min(_PAGE, limit - len(found)))
            found += page.batches
    if as_json:
        print_json(Doubts(batches=found, next=page.next))
        return
    if not found:
        click.echo("Nobody is in doubt.")
        return
    from postroika.cli._queue_views import print_doubts

    print_doubts(console(), found, time.time())
    if page.next:
        click.echo("There are more: raise --limit", err=True)


# -- changing ---------------------------------------------------------------------------------------------------------


@command.command("flush")
@click.argument("messages", nargs=-1, callback=_message_id, metavar="[ID]...")
@click.option("--destination", "destinations", multiple=True, metavar="DOMAIN", help="All mail to it; may be repeated.")
@json_option
@config_option
def flush(*, messages: tuple[int, ...], destinations: tuple[str, ...], as_json: bool, config_file: str | None) -> None:
    """Try mail again now.

    These messages, these destinations, or everything. A destination that could not be reached is probed at once.
    """
    from postroika.control.records import FlushRequest
    from postroika.errors import NotQueuedError

    _, config = load_config(config_file)
    with _connected(config, "flush") as client:
        changed = client.flush(FlushRequest(messages=_texts(messages), destinations=list(destinations)))
        if messages and not changed.count and not changed.errors:
            raise NotQueuedError(f"{_these(messages)} in the queue")
    _report(changed, f"{count(changed.count, 'batch', 'batches')} moved up to be tried now.", as_json=as_json)


@command.command("cancel")
@click.argument("messages", nargs=-1, callback=_message_id, metavar="[ID]...")
@_filter_options
@click.option("--yes", is_flag=True, help="Do not ask before what a filter matches is cancelled.")
@json_option
@config_option
def cancel(*, messages: tuple[int, ...], yes: bool, as_json: bool, config_file: str | None, **filters: str) -> None:
    """Take mail back: these messages, or all that match every filter. Their senders are not told.

    What is being delivered right now is cancelled only if that attempt fails. A filter takes whole batches: all open
    recipients of a message at the destination that it matches.
    """
    from msgspec import convert

    from postroika.control.records import CancelRequest, Filter
    from postroika.errors import NotQueuedError

    wanted = {name: value for name, value in filters.items() if value}
    if bool(messages) == bool(wanted):
        raise click.UsageError("Name either the messages to cancel or filters.")
    _, config = load_config(config_file)
    with _connected(config, "cancel") as client:
        if wanted and not yes and not _confirmed(client, convert(wanted, Filter)):
            return
        changed = client.cancel(CancelRequest(messages=_texts(messages), **wanted))
        if messages and not changed.count and not changed.errors:
            raise NotQueuedError(f"{_these(messages)} in the queue, or all of it is being delivered right now")
    _report(changed, f"{count(changed.count, 'recipient')} will get nothing.", as_json=as_json)


def _confirmed(view: View, wanted: Filter) -> bool:
    """Say what matches, and ask."""
    found, more = _some(view, wanted, _COUNTED)
    if not found:
        click.echo("Nothing that is queued matches.", err=True)
        return False
    recipients = count(sum(message.recipients for message in found), "recipient")
    known = "more than " if more else ""
    text = f"This takes back {known}{count(len(found), 'message')} to {known}{recipients}"
    text += f", the oldest {duration(time.time() - found[0].received_at)} old."
    if not sys.stdin.isatty():
        raise click.UsageError(f"{text} Confirm it with --yes.")
    return click.confirm(f"{text} Go on?", err=True)


def _texts(messages: Sequence[int]) -> list[str]:
    from postroika.mail.ids import id_text

    return [id_text(message) for message in messages]


def _these(messages: Sequence[int]) -> str:
    return f"{_texts(messages)[0]} is not" if len(messages) == 1 else "none of these messages is"


def _report(changed: Changed, done: str, *, as_json: bool) -> None:
    """Tell what was done; what was not goes to stderr, and the exit code says so."""
    if as_json:
        print_json(changed)
    else:
        click.echo(done)
    for error in changed.errors:
        click.echo(f"postroika: {error}", err=True)
    if changed.errors:
        raise click.exceptions.Exit(ExitCode.FAILED)
