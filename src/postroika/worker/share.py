"""One worker's part of the limits that hold over all of them."""

from __future__ import annotations

import os

import msgspec

from postroika.config import Config

_SHARED_RATES = (
    "max_connections_per_net", "connections_per_minute", "messages_per_minute", "recipients_per_minute",
    "net_connections_per_minute", "net_messages_per_minute", "net_recipients_per_minute",
    "null_sender_messages_per_minute",
)  # fmt: skip


def workers_of(config: Config) -> int:
    """How many workers take connections."""
    return config.server.workers or len(os.sched_getaffinity(0))


def own_share(config: Config, workers: int) -> Config:
    """The config with one worker's part of the limits that hold over all workers, rounded up. Clients' connections
    are dealt in turn, and what they bring is delivered where it came in, so equal parts fit."""
    names: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("limits", ("max_connections", "max_connections_per_ip")),
        ("accounts", ("failures_per_ip", "failures_per_account")),
        ("policy", _SHARED_RATES),
        ("delivery", ("max_connections", "max_connections_per_site", "initial_connections_per_site")),
    )
    parts = {
        section: msgspec.structs.replace(
            getattr(config, section), **{key: -(-getattr(getattr(config, section), key) // workers) for key in keys}
        )
        for section, keys in names
    }
    return msgspec.structs.replace(config, **parts)
