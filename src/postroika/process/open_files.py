"""As many connections as there are descriptors for, with those for the spool and for mail going out kept aside.

Promise: clients can never take the descriptors without which accepted mail could not be stored or delivered. A shell's
or service manager's modest soft limit (1024 as a rule) is raised to what the config needs, as far as the hard limit
allows; where that is too low, fewer connections are allowed than configured, and that is said at the start, and not
found out under load.
"""

from __future__ import annotations

import resource
from typing import Final, NamedTuple

from msgspec.structs import replace

from postroika.config import Config, goes_by_mx
from postroika.errors import PostroikaError

_FIXED = 96  # of a worker: its loop, spool, logs, hand-over, threads, files that are read now and then, and room
_MAX_QUESTIONS = 512
_QUESTIONS_SHARE = 8
_POLICY_SHARE = 4
_MAX_FETCHES = 64
_FETCHES_SHARE = 16
POSTS: Final = 8  # TLS reports that are handed over at once, each to a host of its own
_LEAST_ROOM = 16


class Plan(NamedTuple):
    """What the descriptors allow.

    Args:
        open_files: of each worker.
        inbound: connections of clients at once, over all workers.
        outbound: connections to other servers at once, over all workers.
        warning: "", or what of the config this lowers.
    """

    open_files: int
    inbound: int
    outbound: int
    warning: str = ""


def questions(open_files: int) -> int:
    """How many questions may be put to name servers at once, each from a socket of its own."""
    return max(1, min(_MAX_QUESTIONS, open_files // _QUESTIONS_SHARE))


def questions_now() -> int:
    """The same, for the limit of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_QUESTIONS if soft == resource.RLIM_INFINITY else questions(soft)


def policy_questions_now() -> int:
    """How many more may be put at once by each check that asks (block lists, domains of senders), so that a flood of
    clients holds up no delivery, and one of senders no block list."""
    return max(1, questions_now() // _POLICY_SHARE)


def fetches_now() -> int:
    """How many MTA-STS policies may be fetched at once, each over a connection of its own."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_FETCHES if soft == resource.RLIM_INFINITY else _fetches(soft)


def _fetches(open_files: int) -> int:
    return max(1, min(_MAX_FETCHES, open_files // _FETCHES_SHARE))


def _https_connections(config: Config, open_files: int) -> int:
    """For policies and reports of TLS."""
    fetches = _fetches(open_files) if config.sts.enabled and goes_by_mx(config.route) else 0
    return fetches + (POSTS if config.tlsrpt.contact else 0)


def _policy_questions(config: Config, open_files: int) -> int:
    checks = bool(config.blocklist) + config.policy.sender_domain_resolves
    return checks * max(1, questions(open_files) // _POLICY_SHARE)


def needed(config: Config, workers: int) -> int:
    """How many files one worker may have open if it is to serve its share of what the config allows."""
    inbound, outbound = _shares(config, workers)
    plenty = _QUESTIONS_SHARE * _MAX_QUESTIONS
    enough = inbound + outbound + _FIXED + _MAX_QUESTIONS
    return enough + _policy_questions(config, plenty) + _https_connections(config, plenty)


def _shares(config: Config, workers: int) -> tuple[int, int]:
    return -(-config.limits.max_connections // workers), -(-config.delivery.max_connections // workers)


def plan(config: Config, workers: int, open_files: int) -> Plan:
    """Share out `open_files` descriptors of each worker. What goes out is served first, up to half of what there is.

    Raises:
        PostroikaError: there are too few to work at all.
    """
    inbound, outbound = _shares(config, workers)
    room = open_files - _FIXED - questions(open_files) - _policy_questions(config, open_files)
    room -= _https_connections(config, open_files)
    if room < _LEAST_ROOM:
        raise PostroikaError(
            f"only {open_files} files may be open, too few to work: raise the limit (ulimit -n, LimitNOFILE=)"
        )
    if inbound + outbound <= room:
        return Plan(open_files, config.limits.max_connections, config.delivery.max_connections)
    outbound = min(outbound, max(room // 2, room - inbound))
    inbound = min(inbound, room - outbound)
    fits = Plan(
        open_files,
        min(inbound * workers, config.limits.max_connections),
        min(outbound * workers, config.delivery.max_connections),
    )
    lowered = [
        f"{key} is {now} instead of {wanted}"
        for key, now, wanted in (
            ("limits.max_connections", fits.inbound, config.limits.max_connections),
            ("delivery.max_connections", fits.outbound, config.delivery.max_connections),
        )
        if now < wanted
    ]
    return fits._replace(
        warning=f"each of {workers} workers may have only {open_files} files open: {' and '.join(lowered)}. Raise the "
        f"limit to {needed(config, workers)} (ulimit -n, LimitNOFILE=) or lower the keys"
    )


def foreseen(config: Config, workers: int) -> Plan:
    """What a start with the limits of this process would allow; nothing is changed.

    Raises:
        PostroikaError: as for `plan`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return plan(config, workers, _within(needed(config, workers), soft, hard))


def _within(wanted: int, soft: int, hard: int) -> int:
    """The soft limit to have: never lower than it is, never above the hard one."""
    if soft == resource.RLIM_INFINITY:
        return max(wanted, _FIXED)
    return max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))


def fit(config: Config, workers: int) -> tuple[Config, Plan]:
    """Raise the soft limit of this process and its children as far as needed and allowed, and fit the config to it.

    Raises:
        PostroikaError: as for `plan`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = _within(needed(config, workers), soft, hard)
    if soft != resource.RLIM_INFINITY and open_files > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, hard))
    fits = plan(config, workers, open_files)
    fitted = replace(
        config,
        limits=replace(config.limits, max_connections=fits.inbound),
        delivery=replace(config.delivery, max_connections=fits.outbound),
    )
    return fitted, fits
