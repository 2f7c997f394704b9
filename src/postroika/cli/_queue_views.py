"""How the queue looks to people: lists, one message, figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from postroika.cli._tables import Column, print_table
from postroika.cli._words import count, duration, moment, size, styled, visible

if TYPE_CHECKING:
    from rich.console import Console

    from postroika.control.records import (
        ConsumerLag,
        DoubtfulBatch,
        Down,
        DownDestination,
        MessageDetail,
        QueuedBatch,
        QueuedMessage,
        QueueStats,
        ShardStats,
        WorkerStatus,
    )


def print_messages(console: Console, messages: Sequence[QueuedMessage], now: float) -> None:
    """A list of messages: what, from whom to whom, and why it is still here."""
    message, age = Column("MESSAGE"), Column("AGE", right=True)
    sized, tries, following = Column("SIZE", right=True), Column("TRIES", right=True), Column("NEXT", right=True)
    rows: list[list[Text | str]] = []
    if console.is_terminal:
        for line in messages:
            mail = Text("\n").join([_sender(line.sender), Text("→ ").append(_recipients(line)), *_reason(line)])
            rows.append([line.id, _age(line.received_at, now), size(line.size_bytes), _next(line, now), mail])
        print_table(console, [message, age, sized, following, Column("MAIL", wraps=True)], rows)
        return
    for line in messages:
        rows.append([line.id, _age(line.received_at, now), size(line.size_bytes), str(line.attempts)])
        reason = Text("; ").join(_reason(line))
        rows[-1] += [_next(line, now), _sender(line.sender), _recipients(line), reason]
    wide = [Column("SENDER"), Column("RECIPIENTS"), Column("REASON")]
    print_table(console, [message, age, sized, tries, following, *wide], rows)


def _age(at: float, now: float) -> str:
    return duration(now - at)


def _next(line: QueuedMessage, now: float) -> str:
    return "now" if line.next_attempt_at <= now else duration(line.next_attempt_at - now)


def _sender(address: str) -> Text:
    return styled(address) if address else Text("<>")


def _recipients(line: QueuedMessage) -> Text:
    text = styled(", ".join(line.first_recipients))
    more = line.recipients - len(line.first_recipients)
    return text.append(f" and {more:,} more") if more else text


def _reason(line: QueuedMessage) -> list[Text]:
    """The last reply, and a doubt, each on a line of its own."""
    found = []
    if line.last_reply is not None:
        host = f"{visible(line.last_host)}: " if line.last_host else ""
        found.append(Text().append(host, "dim").append(styled(str(line.last_reply), "yellow")))
    if line.in_doubt:
        found.append(Text("may have been delivered already", style="magenta"))
    return found


# -- one message ------------------------------------------------------------------------------------------------------


def print_detail(
    console: Console, detail: MessageDetail, batches: Sequence[QueuedBatch], now: float, *, live: bool
) -> None:
    """All about a message, and for each destination why it was not delivered.

    Args:
        batches: all of them, where `detail` has only the first.
        live: a server is running.
    """
    console.out(f"Message {detail.id}", style="bold", highlight=False)
    for name, value in _facts(detail, now):
        _line(console, f"  {name:<10}", value)
    for batch in batches:
        console.out()
        recipients = count(len(batch.recipients), "recipient")
        _line(console, Text(visible(batch.destination), style="bold").append(f": {recipients}", style="not bold"))
        for sentence in why(batch, now, live=live):
            _line(console, "  ", sentence)
        for recipient in batch.recipients:
            notify = f"  notify={','.join(recipient.notify)}" if recipient.notify else ""
            orcpt = f"  orcpt={visible(recipient.orcpt)}" if recipient.orcpt else ""
            _line(console, "    ", styled(recipient.address), notify, orcpt)


def _line(console: Console, *parts: Text | str) -> None:
    console.print(Text("").join(Text(part) if isinstance(part, str) else part for part in parts), soft_wrap=True)


def _facts(detail: MessageDetail, now: float) -> Iterator[tuple[str, str]]:
    yield "from", visible(detail.sender) or "<>"
    client = ""
    if detail.client_ip:
        helo = f"{visible(detail.client_helo)} " if detail.client_helo else ""
        client = f" from {helo}[{detail.client_ip}]"
    yield "received", f"{moment(detail.received_at)} ({duration(now - detail.received_at)} ago){client}"
    marks = [mark for mark, is_set in (("8-bit", detail.eight_bit), ("SMTPUTF8", detail.smtputf8)) if is_set]
    yield "size", ", ".join([f"{detail.size_bytes:,} octets", f"body {detail.body_type}", *marks])
    if detail.not_before > now:
        yield "held", f"until {moment(detail.not_before)} (for {duration(detail.not_before - now)})"
    until = f"in {duration(detail.expires_at - now)}" if detail.expires_at > now else "now"
    yield "expires", f"{moment(detail.expires_at)} ({until})"
    if detail.tenant:
        yield "tenant", visible(detail.tenant)
    if detail.campaign:
        yield "campaign", visible(detail.campaign)
    yield "stream", detail.stream
    if detail.envid or detail.ret:
        yield "dsn", " ".join(f"{k}={visible(v)}" for k, v in (("ret", detail.ret), ("envid", detail.envid)) if v)


def why(batch: QueuedBatch, now: float, *, live: bool) -> Iterator[Text]:
    """Sentences that answer "why was this not delivered?"."""
    wait = duration(batch.next_attempt_at - now)
    if batch.state == "due":
        yield Text("Waits for its turn, or is being delivered now." if live else "Is due; no server is running.")
    elif batch.state == "held":
        yield Text("Is held until the time that its sender asked for.")
    elif batch.state == "disabled":
        yield Text("Delivery is switched off in the config (delivery.enabled = false).")
    elif batch.state == "retry":
        yield Text(f"Is due again in {wait}, at {moment(batch.next_attempt_at)}.")
    if batch.down is not None:
        yield _down_sentence(batch.down, now)
    if batch.last_reply is not None:
        by = f"{visible(batch.last_host)} said" if batch.last_host else "we found"
        tried = f"After {count(batch.attempts, 'attempt')}" if batch.attempts else "Without an attempt"
        yield Text(f"{tried}, {by}: ").append(styled(str(batch.last_reply), "yellow"))
    elif batch.attempts:
        yield Text(f"Has had {count(batch.attempts, 'attempt')}.")
    if batch.in_doubt:
        yield Text("May have been delivered already: the reply to its final dot was lost.", style="magenta")
    if batch.delay_noted:
        yield Text("Its sender has been told that it is late.")


def _down_sentence(down: Down, now: float) -> Text:
    probes = count(down.failures, "probe")
    wait = duration(down.next_probe_at - now)
    probe = f"the next is in {wait}" if down.next_probe_at > now else "the next is due"
    host = f"{visible(down.host)}: " if down.host else ""
    text = Text(f"The destination cannot be reached since {moment(down.since)} ({probes} failed, {probe}): {host}")
    return text.append(styled(str(down.reply), "yellow"))


# -- figures ----------------------------------------------------------------------------------------------------------


def print_stats(console: Console, stats: QueueStats, now: float) -> None:
    """Figures of the queue."""
    about = "about " if stats.estimated else ""
    for name, value in (
        ("messages", f"{about}{stats.messages:,}"),
        ("recipients", f"{about}{stats.recipients:,}"),
        ("batches", f"{stats.batches:,}"),
        ("oldest", duration(now - stats.oldest_at) if stats.oldest_at else "-"),
        ("in doubt", f"{stats.in_doubt:,}"),
        ("spool files", size(stats.file_bytes)),
        ("room", size(stats.room_bytes)),
    ):
        console.out(f"{name:<12}{value}", highlight=False)
    if stats.destinations:
        console.out()
        _print_destinations(console, stats)
    if stats.down:
        console.out()
        _print_down(console, stats.down, now, complete=stats.all_down)
    if stats.consumers:
        console.out()
        _print_consumers(console, stats.consumers, now)
    if len(stats.shards) > 1:
        console.out()
        _print_shards(console, stats.shards, now)
    if stats.workers:
        console.out()
        _print_workers(console, stats.workers)


def _print_destinations(console: Console, stats: QueueStats) -> None:
    rows: list[list[Text | str]] = [
        [styled(destination.name), f"{destination.batches:,}{'' if destination.exact else '+'}"]
        for destination in stats.destinations
    ]
    print_table(console, [Column("DESTINATION", wraps=True), Column("BATCHES", right=True)], rows)
    if not stats.all_counted:
        console.out("There are so many destinations that not all were counted.", highlight=False)


def _print_down(console: Console, down: Sequence[DownDestination], now: float, *, complete: bool) -> None:
    rows: list[list[Text | str]] = []
    for one in down:
        probe = "now" if one.down.next_probe_at <= now else duration(one.down.next_probe_at - now)
        reply = styled(str(one.down.reply), "yellow")
        rows.append([styled(one.name), duration(now - one.down.since), probe, reply])
    columns = [Column("CANNOT BE REACHED", wraps=True), Column("SINCE", right=True), Column("PROBE", right=True)]
    print_table(console, [*columns, Column("REASON", wraps=True)], rows)
    if not complete:
        console.out("There are more that cannot be reached.", highlight=False)


def _print_consumers(console: Console, consumers: Sequence[ConsumerLag], now: float) -> None:
    rows: list[list[Text | str]] = [
        [styled(one.name), f"{one.records:,}", duration(now - one.oldest_at) if one.records else "-"]
        for one in consumers
    ]
    print_table(console, [Column("EVENTS FOR"), Column("BEHIND", right=True), Column("OLDEST", right=True)], rows)


def _print_shards(console: Console, shards: Sequence[ShardStats], now: float) -> None:
    rows: list[list[Text | str]] = [
        [
            str(one.shard),
            f"{one.batches:,}",
            duration(now - one.oldest_at) if one.oldest_at else "-",
            size(one.file_bytes),
            size(one.room_bytes),
        ]
        for one in shards
    ]
    headings = ("SHARD", "BATCHES", "OLDEST", "FILE", "ROOM")
    print_table(console, [Column(heading, right=True) for heading in headings], rows)


def _print_workers(console: Console, workers: Sequence[WorkerStatus]) -> None:
    names = list(dict.fromkeys(name for worker in workers for name in worker.gauges))
    for worker in workers:
        told = ", ".join(f"{name.replace('_', ' ')} {worker.gauges[name]:,.0f}" for name in names if worker.gauges)
        _line(console, f"worker {worker.worker}: ", styled(worker.error, "red") if worker.error else told)


def print_doubts(console: Console, batches: Sequence[DoubtfulBatch], now: float) -> None:
    """Who may have got a message twice."""
    rows: list[list[Text | str]] = [
        [
            doubt.id,
            duration(now - doubt.at),
            "queued" if doubt.queued else "settled",
            styled(", ".join(doubt.recipients)),
        ]
        for doubt in batches
    ]
    columns = [Column("MESSAGE"), Column("FOUND", right=True), Column("STATE"), Column("RECIPIENTS", wraps=True)]
    print_table(console, columns, rows)
