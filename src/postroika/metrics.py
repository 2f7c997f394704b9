"""Every figure that Postroika counts, declared here with its meaning; docs/metrics.md is generated from it.

A metric is a plain object with a `value`, so that counting costs an attribute increment and needs no lock: each worker
counts for itself, in its one thread. `snapshot` takes the figures out of a process, `merge` joins those of several,
`render_prometheus` writes them in the text format 0.0.4 that Prometheus and its kin read.

`python -m postroika.metrics` prints docs/metrics.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

PREFIX: Final = "postroika_"


class Metric:
    """One figure.

    Args:
        key: its name in a snapshot.
        name: in the exposition, without prefix and suffix; metrics that differ only in their label share it.
        kind: a "counter" only grows (until the process ends); a "gauge" goes up and down.
        unit: "" for a plain number, else a suffix of the name: "bytes", "seconds".
        text: what it counts.
        label: ("outcome", "delivered") or None.
        join: how the figures of several workers become one.
    """

    __slots__ = ("join", "key", "kind", "label", "name", "read", "text", "unit", "value")

    def __init__(
        self,
        key: str,
        name: str,
        kind: Literal["counter", "gauge"],
        unit: str,
        text: str,
        label: tuple[str, str] | None = None,
        join: Literal["sum", "max"] = "sum",
    ) -> None:
        self.key = key
        self.name = name
        self.kind = kind
        self.unit = unit
        self.text = text
        self.label = label
        self.join = join
        self.value: float = 0
        self.read: Callable[[], float] | None = None

    @property
    def family(self) -> str:
        """The full name in the exposition."""
        unit = f"_{self.unit}" if self.unit else ""
        return f"{PREFIX}{self.name}{unit}{'_total' if self.kind == 'counter' else ''}"

    def current(self) -> float:
        """The figure now: asked of `read` if that is set, else `value`."""
        return self.value if self.read is None else self.read()


METRICS: Final[dict[str, Metric]] = {}


def _declare(metric: Metric) -> Metric:
    if metric.key in METRICS:
        raise ValueError(f"the metric {metric.key} is declared twice")
    METRICS[metric.key] = metric
    return metric


def _counter(name: str, text: str, unit: str = "", *, label: tuple[str, str] | None = None, key: str = "") -> Metric:
    return _declare(Metric(key or name, name, "counter", unit, text, label))


def _gauge(name: str, text: str, unit: str = "", join: Literal["sum", "max"] = "sum") -> Metric:
    return _declare(Metric(name, name, "gauge", unit, text, None, join))


def _family(name: str, label: str, values: Iterable[str], text: str, key: str) -> dict[str, Metric]:
    return {
        value: _counter(name, text, label=(label, value), key=key.format(value.replace("-", "_"))) for value in values
    }


SESSIONS = _counter("sessions", "SMTP sessions that clients opened with us")
SESSIONS_OPEN = _gauge("sessions_open", "SMTP sessions that are open now")
TLS_SESSIONS = _counter("tls_sessions", "SMTP sessions of clients that came through the TLS handshake")
ACCEPTED_MESSAGES = _counter("accepted_messages", "Messages taken over with 250, after the sync")
ACCEPTED_RECIPIENTS = _counter("accepted_recipients", "Recipients of those messages")
ACCEPTED_BYTES = _counter("accepted", "Size of those messages", "bytes")
PROXIED: Final = _family(
    "proxied_connections",
    "result",
    ("client", "local", "unknown", "dropped"),
    "Connections from proxies that have to send a PROXY header: it told of a client, was a check of the proxy's own, "
    "or could not tell of the client; or there was none that is well formed, in time",
    "proxied_{}",
)
XCLIENTS = _counter("xclients", "XCLIENT commands by which clients became others")
REJECTED: Final = _family(
    "rejections",
    "stage",
    ("connect", "proxy", "tls", "ehlo", "xclient", "mail", "rcpt", "data", "final_dot"),
    "Refusals that we gave to clients, by the stage of the dialogue",
    "rejected_{}",
)

POLICY_REFUSALS: Final = _family(
    "policy_refusals",
    "check",
    ("rates", "null_sender", "sender_domain", "blocklists", "hooks"),
    "Refusals by the checks of [policy], now or for good",
    "policy_refusals_{}",
)
POLICY_TIMEOUTS = _counter(
    "policy_timeouts", "Times that the checks of a stage took longer than limits.policy_timeout_s"
)
HOOK_FAILURES = _counter("hook_failures", "Hooks of the user's own that failed, or returned no verdict")
BLOCKLIST_FAILURES = _counter("blocklist_failures", "Questions to DNS block lists that brought no answer of use")

LOGINS: Final = _family(
    "logins",
    "result",
    ("succeeded", "failed", "malformed", "locked_out", "too_many", "busy"),
    "Tries to log in: failed are wrong names and passwords, too_many are sessions above the limit of the account, and "
    "busy those that met a full queue of passwords to check",
    "logins_{}",
)

COMMITS = _counter("commits", "Transactions that were written to the spool and synced")
COMMIT_CHANGES = _counter("commit_changes", "Change sets in those transactions; over commits it is the group size")
COMMIT_SECONDS = _counter("commit", "Time spent in those transactions, the sync included", "seconds")
SPOOL_REFUSALS = _counter("spool_refusals", "Change sets that were refused for want of room")

ATTEMPTS = _counter("attempts", "Tries at a batch that reached for the network")
COUNTERS: Final = _family(
    "outcomes",
    "outcome",
    ("delivered", "deferred", "bounced", "expired", "cancelled", "suppressed"),
    "What attempts brought, one for each recipient; all but deferred are final",
    "{}",
)
OUTBOUND_CONNECTIONS = _counter("outbound_connections", "Connections opened to next hops")
OUTBOUND_CONNECTION_FAILURES = _counter("outbound_connection_failures", "Connections to next hops that did not open")
OUTBOUND_CONNECTIONS_OPEN = _gauge("outbound_connections_open", "Connections to next hops that are open now")
OUTBOUND_SESSIONS: Final = _family(
    "outbound_sessions",
    "secrecy",
    ("clear", "unverified", "verified"),
    "Sessions with next hops that stood: in clear, over TLS with a certificate that proves nothing, or with a good one",
    "outbound_sessions_{}",
)
HOST_POLICIES: Final = _family(
    "host_policies",
    "policy",
    ("dane", "dane_unusable", "dane_failed", "sts_enforce", "sts_other_host", "sts_testing", "none"),
    "Looks at what the recipients' domains publish of TLS with an MX host, by what was found: dane_unusable are TLSA "
    "records that only say that there has to be TLS, dane_failed are hosts that get no mail while their TLSA records "
    "cannot be looked up, sts_other_host those that the domain's policy does not name",
    "host_policies_{}",
)
STS_FETCHES: Final = _family(
    "sts_fetches",
    "result",
    ("fetched", "sts_policy_fetch_error", "sts_webpki_invalid", "sts_policy_invalid"),
    "Fetches of MTA-STS policies, by what came of them",
    "sts_fetches_{}",
)
SIGNED_MESSAGES = _counter("signed_messages", "Messages that were signed to go out (again, if they are tried for long)")
SIGNATURES = _counter("signatures", "DKIM signatures made for them")
SIGNING_FAILURES = _counter("signing_failures", "Times that a message which must be signed could not be")
NOTICES: Final = _family(
    "notices",
    "kind",
    ("failed", "expired", "delayed", "relayed", "delivered"),
    "Delivery status notifications made",
    "notices_{}",
)

TLS_REPORT_SESSIONS: Final = _family(
    "tls_report_sessions",
    "result",
    ("succeeded", "failed"),
    "Sessions with hosts of domains that were counted for TLS reports",
    "tls_report_sessions_{}",
)
TLS_REPORT_UNCOUNTED = _counter(
    "tls_report_uncounted", "Sessions that found no room among the counts of a day (tlsrpt.max_domains)"
)
TLS_REPORTS: Final = _family(
    "tls_reports", "scheme", ("mailto", "https"), "TLS reports put into the queue, or posted", "tls_reports_{}"
)
TLS_REPORT_FAILURES = _counter("tls_report_failures", "Times that a TLS report could not be sent")

OUTBOX_BYTES = _counter("outbox_written", "Event lines handed to all sinks", "bytes")
OUTBOX_FAILURES = _counter("outbox_failures", "Times that a sink did not take the events it was given")
OUTBOX_LAG = _gauge("outbox_lag", "How long the slowest sink has had events to take", "seconds", "max")

# No worker counts these: they are read from the spool, over all shards, when somebody asks for the metrics.
QUEUE_BATCHES = _gauge("queue_batches", "Batches (recipients of one message at one destination) in the queue")
QUEUE_OLDEST = _gauge("queue_oldest", "Age of the oldest message in the queue", "seconds", "max")
QUEUE_IN_DOUBT = _gauge("queue_in_doubt", "Batches that may have been delivered twice, or may yet be")
DESTINATIONS_DOWN = _gauge("destinations_down", "Destinations that are left alone because no host answers, per shard")
SPOOL_FILES = _gauge("spool_files", "Size of the spool's files", "bytes")
SPOOL_ROOM = _gauge("spool_room", "What the fullest shard can still take", "bytes")
WORKERS = _gauge("workers", "Workers that answer")


def snapshot() -> dict[str, float]:
    """The figures of this process, by key."""
    return {key: metric.current() for key, metric in METRICS.items()}


def merge(snapshots: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """One snapshot of several workers'. Keys that are not declared here are passed over."""
    joined: dict[str, float] = dict.fromkeys(METRICS, 0)
    for figures in snapshots:
        for key, figure in figures.items():
            if (metric := METRICS.get(key)) is not None:
                joined[key] = joined[key] + figure if metric.join == "sum" else max(joined[key], figure)
    return joined


def render_prometheus(figures: Mapping[str, float] | None = None) -> str:
    """The text exposition of `figures` (those of this process, if None); what they lack is 0.

    Source: Prometheus exposition formats, text format 0.0.4; Content-Type `text/plain; version=0.0.4`.
    """
    figures = snapshot() if figures is None else figures
    lines: list[str] = []
    family = ""
    for key, metric in METRICS.items():
        if metric.family != family:
            family = metric.family
            lines += (f"# HELP {family} {metric.text}.", f"# TYPE {family} {metric.kind}")
        label = f'{{{metric.label[0]}="{metric.label[1]}"}}' if metric.label else ""
        figure = figures.get(key, 0)
        lines.append(f"{family}{label} {int(figure) if figure == int(figure) else repr(figure)}")
    return "\n".join(lines) + "\n"


def render_docs() -> str:
    """docs/metrics.md."""
    labels: dict[str, list[Metric]] = {}
    for metric in METRICS.values():
        labels.setdefault(metric.family, []).append(metric)
    lines = [
        "# Metrics",
        "",
        "Generated by `python -m postroika.metrics`; edit `src/postroika/metrics.py`.",
        "",
        "Each worker counts for itself and starts from 0. The figures of all workers are joined: added up, or where",
        'it says "largest", the largest is shown.',
        "",
        "| metric | type | meaning |",
        "|---|---|---|",
    ]
    for family, metrics in labels.items():
        first = metrics[0]
        text = f"{first.text}."
        if first.label:
            text += f" Label `{first.label[0]}`: {', '.join(f'`{m.label[1]}`' for m in metrics if m.label)}."
        kind = first.kind + (", largest" if first.join == "max" else "")
        lines.append(f"| `{family}` | {kind} | {text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_docs())
