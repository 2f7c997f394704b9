"""As many open files as the configured connections need.

Promise: a shell's or service manager's modest soft limit (1024 as a rule) does not cut off connections that the config
allows; if the hard limit does, that is said at the start, and not found out under load.
"""

from __future__ import annotations

import logging
import resource

from postroika.config import Config

log = logging.getLogger(__name__)

_OTHERS = 1024  # of a worker: questions to DNS (512 at once), spool, logs, and room


def needed(config: Config, workers: int) -> int:
    """How many files one worker may have open."""
    inbound, outbound = config.limits.max_connections, config.delivery.max_connections
    return -(-inbound // workers) + -(-outbound // workers) + _OTHERS


def raise_limit(config: Config, workers: int) -> None:
    """Let this process and its children open as many files as a worker needs, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(config, workers)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "only %d files may be open, and %d connections in and %d out over %d workers need %d in each: raise the "
            "limit (ulimit -n, LimitNOFILE=) or lower limits.max_connections",
            allowed,
            config.limits.max_connections,
            config.delivery.max_connections,
            workers,
            wanted,
        )
