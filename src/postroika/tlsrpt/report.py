"""The report about one domain: JSON, compressed, with a name and an id of its own. Pure.

Promise: the same counts of the same time give the same report, octet for octet, with the same id, so that one that is
sent twice can be told as such. Source: RFC 8460 §4, §5.1, §5.2.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from postroika.mail.address import routing_domain
from postroika.tlsrpt.days import DAY_S
from postroika.tlsrpt.tally import Counts, Failure, Policy


class Period(NamedTuple):
    """The time that a report is about, in epoch seconds; both are part of it."""

    begin: int
    end: int

    @classmethod
    def of_day(cls, day: int, now: float) -> Period:
        """A UTC day, as far as it has come."""
        return cls(day * DAY_S, min(day * DAY_S + DAY_S - 1, int(now)))


class Submitter(NamedTuple):
    """Who reports.

    Args:
        organization: in words.
        contact: the address to ask; reports come from there.
        hostname: of this server, to tell its reports from those of others with the same contact.
    """

    organization: str
    contact: str
    hostname: str

    @property
    def domain(self) -> str:
        """Of the contact, in A-labels: by it reports are named (RFC 8460 §5.3)."""
        return routing_domain(self.contact)


class Report(NamedTuple):
    """A report, ready to be sent.

    Args:
        domain: which it is about, in A-labels.
        report_id: "left@right".
        file_name: for the compressed form.
        content: JSON.
    """

    domain: str
    report_id: str
    file_name: str
    content: bytes

    def compressed(self) -> bytes:
        """With gzip."""
        return gzip.compress(self.content, mtime=0)


def make(domain: str, policies: Mapping[Policy, Counts], period: Period, submitter: Submitter) -> Report:
    """The report about `domain`."""
    named = f"{submitter.hostname}\0{domain}\0{period.begin}\0{period.end}"
    unique = hashlib.sha256(named.encode()).hexdigest()[:20]
    report_id = f"{_moment(period.begin)[:10]}.{unique}@{submitter.domain}"
    content = {
        "organization-name": submitter.organization,
        "date-range": {"start-datetime": _moment(period.begin), "end-datetime": _moment(period.end)},
        "contact-info": submitter.contact,
        "report-id": report_id,
        "policies": [_policy(policy, policies[policy]) for policy in sorted(policies)],
    }
    file_name = f"{submitter.domain}!{domain}!{period.begin}!{period.end}!{unique}.json.gz"
    return Report(domain, report_id, file_name, msgspec.json.encode(content))


def _policy(policy: Policy, counts: Counts) -> dict[str, Any]:
    said: dict[str, Any] = {"policy-type": policy.kind}
    if policy.lines:
        said["policy-string"] = list(policy.lines)
    said["policy-domain"] = policy.domain
    if policy.mx_hosts:
        said["mx-host"] = list(policy.mx_hosts)
    whole: dict[str, Any] = {
        "policy": said,
        "summary": {
            "total-successful-session-count": counts.successes,
            "total-failure-session-count": counts.failed,
        },
    }
    if counts.failures:
        most_first = sorted(counts.failures.items(), key=lambda item: (-item[1], item[0]))
        whole["failure-details"] = [_failure(failure, count) for failure, count in most_first]
    return whole


def _failure(failure: Failure, count: int) -> dict[str, Any]:
    known = {
        "result-type": failure.result,
        "sending-mta-ip": failure.sending_ip,
        "receiving-mx-hostname": failure.mx_host,
        "receiving-mx-helo": failure.mx_helo,
        "receiving-ip": failure.receiving_ip,
        "failed-session-count": count,
        "failure-reason-code": failure.reason,
    }
    return {name: value for name, value in known.items() if value != ""}


def _moment(at: int) -> str:
    """RFC 3339 §5.6."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
