"""What has been counted for TLS reports, from disk; the same with and without a running server. Blocks."""

from __future__ import annotations

import time

from postroika.config import Config
from postroika.control.records import TlsCounts, TlsDomain, TlsFailure, TlsPolicy
from postroika.errors import RefusedError
from postroika.tlsrpt.days import day_at, day_text, days_of, parse_day
from postroika.tlsrpt.tally import Counts, Policies, Policy


def day_named(text: str, otherwise: int) -> int:
    """The day of a request: "" is `otherwise`; "today" and "yesterday" are in UTC.

    Raises:
        RefusedError: it is no day.
    """
    if not text:
        return otherwise
    if text in {"today", "yesterday"}:
        return day_at(time.time()) - (text == "yesterday")
    try:
        return parse_day(text)
    except ValueError as error:
        raise RefusedError(str(error)) from None


def must_be_on(config: Config) -> None:
    """Raise RefusedError if there are no TLS reports."""
    if not config.tlsrpt.contact:
        raise RefusedError("TLS reports are off: tlsrpt.contact is not set")


def tls_counts(config: Config, day: str = "", domain: str = "", limit: int = 100) -> TlsCounts:
    """The counts of one day.

    Args:
        day: as `day_named` takes it; "" = today.
        domain: only this one; "" = all.
        limit: domains that are shown, those with most failures first.

    Raises:
        RefusedError: there are no TLS reports, or it is no day.
    """
    must_be_on(config)
    number = day_named(day, day_at(time.time()))
    days = days_of(config)
    tally = days.tally(number)
    found = {name: policies for name, policies in tally.domains.items() if domain in {"", name}}
    first = sorted(found.items(), key=lambda item: (-_failed(item[1]), item[0]))[:limit]
    return TlsCounts(
        day=day_text(number),
        days=[day_text(counted) for counted in days.counted()],
        domains=len(found),
        succeeded=sum(counts.successes for policies in found.values() for counts in policies.values()),
        failed=sum(_failed(policies) for policies in found.values()),
        shown=[_domain(name, policies) for name, policies in first],
    )


def _failed(policies: Policies) -> int:
    return sum(counts.failed for counts in policies.values())


def _domain(name: str, policies: Policies) -> TlsDomain:
    return TlsDomain(domain=name, policies=[_policy(policy, policies[policy]) for policy in sorted(policies)])


def _policy(policy: Policy, counts: Counts) -> TlsPolicy:
    return TlsPolicy(
        type=policy.kind,
        domain=policy.domain,
        lines=list(policy.lines),
        mx_hosts=list(policy.mx_hosts),
        succeeded=counts.successes,
        failed=counts.failed,
        failures=[
            TlsFailure(**failure._asdict(), count=count)
            for failure, count in sorted(counts.failures.items(), key=lambda item: (-item[1], item[0]))
        ],
    )
