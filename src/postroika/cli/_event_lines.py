"""Events for people: one line each, which begins with when, what and whom."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.text import Text

from postroika.cli._words import duration, size, styled, visible

if TYPE_CHECKING:
    from postroika.outcome.event_record import Event, EventReply

STYLES = {
    "received": "cyan",
    "rejected": "magenta",
    "auth_failed": "magenta",
    "delivered": "green",
    "deferred": "yellow",
    "bounced": "red",
    "expired": "red",
    "cancelled": "dim",
    "suppressed": "dim",
}
_WIDTH = max(map(len, STYLES))


def event_line(event: Event) -> Text:
    """One event on one line."""
    line = Text(time.strftime("%b %d %H:%M:%S ", time.localtime(event.at)), style="")
    line.append(f"{visible(event.type):<{_WIDTH}}", STYLES.get(event.type, ""))
    if event.message:
        line.append(f"  {visible(event.message)}", "dim")
    line.append("  ").append(styled(event.recipient or "-", "bold"))
    for part in _parts(event):
        line.append("  ").append(part)
    return line


def _parts(event: Event) -> list[Text | str]:
    if event.type == "auth_failed":
        account = f"account {event.account}" if event.account else "no account"
        parts: list[Text | str] = [styled(account), *_client(event), styled(event.reason)]
    elif event.type in {"received", "rejected"}:
        parts = [Text("from ").append(_sender(event))]
        if event.size_bytes:
            parts.append(size(event.size_bytes))
        if event.account:
            parts.append(styled(f"account {event.account}"))
        parts += _client(event)
    else:
        parts = [styled(f"by {host}" if event.type == "delivered" else host)] if (host := _host(event)) else []
        if event.queued_at is not None and event.type != "deferred":
            parts.append(f"after {_lasted(event.at - event.queued_at)}")
        if event.attempt > 1:
            parts.append(f"attempt {event.attempt}")
        if event.next_attempt_at is not None:
            parts.append(f"next in {duration(event.next_attempt_at - event.at)}")
    if event.reply is not None:
        parts.append(styled(reply_text(event.reply), "" if event.type == "delivered" else STYLES.get(event.type, "")))
    return parts


def _client(event: Event) -> list[Text | str]:
    if event.client is None:
        return []
    return [styled(" ".join(x for x in (event.client.helo, f"[{event.client.ip}]") if x))]


def _sender(event: Event) -> Text:
    if event.sender is None:
        return Text("-")
    return styled(event.sender) if event.sender else Text("<>")


def _host(event: Event) -> str:
    peer = event.peer
    if peer is None:
        return ""
    ip = f"[{peer.ip}]" if peer.ip and peer.ip != peer.host else ""
    return f"{peer.host}{ip}"


def _lasted(seconds: float) -> str:
    return f"{max(0.0, seconds):.1f}s" if seconds < 10 else duration(seconds)


def reply_text(reply: EventReply) -> str:
    """A reply in one line."""
    return " ".join(part for part in (str(reply.code), reply.enhanced, reply.text) if part)
