"""Finds what is wrong with [policy] and [[blocklist]]."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from postroika.config.addresses import canonical_domain, parse_network
from postroika.config.sections import Config
from postroika.config.sections_inbound import Blocklist, Policy

CHECKS = {
    "connect": ("rates", "blocklists", "hooks"),
    "ehlo": ("blocklists", "hooks"),
    "mail": ("rates", "null_sender", "blocklists", "sender_domain", "hooks"),
    "rcpt": ("rates", "null_sender", "blocklists", "hooks"),
    "data": ("hooks",),
    "message": ("hooks",),
}
"""The checks that there are at each stage."""

# The keys without which a check does nothing, and where it has to stand for them to count.
_NEEDS = (
    ("max_connections_per_net", "rates", "connect"),
    ("connections_per_minute", "rates", "connect"),
    ("net_connections_per_minute", "rates", "connect"),
    ("messages_per_minute", "rates", "mail"),
    ("net_messages_per_minute", "rates", "mail"),
    ("recipients_per_minute", "rates", "rcpt"),
    ("net_recipients_per_minute", "rates", "rcpt"),
    ("null_sender_messages_per_minute", "null_sender", "mail"),
    ("null_sender_recipients", "null_sender", "rcpt"),
    ("sender_domain_resolves", "sender_domain", "mail"),
)
_ANSWERS = ipaddress.IPv4Network("127.0.0.0/8")  # RFC 5782 §2.1
_MAX_ZONE_CHARS = 189  # 253, less 32 nibbles with their dots
_MAX_REPLY_CHARS = 300


def policy_problems(config: Config) -> Iterator[tuple[str, str]]:
    """(key, problem) of each value that cannot be meant."""
    policy = config.policy
    for stage, known in CHECKS.items():
        for i, check in enumerate(order := getattr(policy, stage)):
            if check not in known:
                yield f"policy.{stage}[{i}]", f"{check!r} is no check of this stage; there are: {', '.join(known)}"
            elif check in order[:i]:
                yield f"policy.{stage}[{i}]", f"{check!r} is named twice"
    for i, network in enumerate(policy.exempt):
        try:
            parse_network(network)
        except ValueError as error:
            yield f"policy.exempt[{i}]", str(error)
    for key, check, stage in _NEEDS:
        if getattr(policy, key) and check not in getattr(policy, stage):
            yield f"policy.{key}", f'has no effect: "{check}" is not in policy.{stage}'
    if policy.hooks and not _asks(policy, "hooks"):
        yield "policy.hooks", 'has no effect: no stage has "hooks" among its checks'
    if config.blocklist and not _asks(policy, "blocklists"):
        yield "blocklist", 'has no effect: no stage of [policy] has "blocklists" among its checks'
    seen: dict[str, int] = {}
    for i, entry in enumerate(config.blocklist):
        yield from _blocklist(f"blocklist[{i}]", entry)
        if seen.setdefault(entry.zone.lower(), i) != i:
            yield f"blocklist[{i}].zone", f"is that of blocklist[{seen[entry.zone.lower()]}]"


def _asks(policy: Policy, check: str) -> bool:
    return any(check in getattr(policy, stage) for stage in CHECKS)


def _blocklist(key: str, entry: Blocklist) -> Iterator[tuple[str, str]]:
    try:
        zone = canonical_domain(entry.zone)
        if zone[0] in ".[" or len(zone) > _MAX_ZONE_CHARS:
            yield f"{key}.zone", f"{entry.zone!r} cannot be the domain of a list"
    except ValueError as error:
        yield f"{key}.zone", str(error)
    for i, answer in enumerate(entry.answers):
        try:
            network = ipaddress.IPv4Network(answer)
        except ValueError as error:
            yield f"{key}.answers[{i}]", str(error)
            continue
        if not network.subnet_of(_ANSWERS):
            yield f"{key}.answers[{i}]", f"{answer} is not in {_ANSWERS}, where the answers of lists are (RFC 5782)"
    for name in re.findall(r"\{[^}]*\}?", entry.reply):
        if name not in {"{ip}", "{zone}"}:
            yield f"{key}.reply", f"{name} is not filled in; {{ip}} and {{zone}} are"
    if not (entry.reply.isascii() and entry.reply.isprintable()) or len(entry.reply) > _MAX_REPLY_CHARS:
        yield f"{key}.reply", f"has to be one line of ASCII, of at most {_MAX_REPLY_CHARS} characters"
