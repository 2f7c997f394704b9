"""Plans for the tests of the load generator's kernel, small ones."""

from __future__ import annotations

from typing import Any

from postroika.bench.histogram import Histogram
from postroika.bench.messages import Template, make_template
from postroika.kernels.bench_load import Plan

RUN = 0xABCD1234
CONTENT = b"Subject: x\r\n\r\nhello\r\n.dot\r\n"


def template(content: bytes = CONTENT, *, stuffed: bool = True) -> Template:
    return make_template(RUN, content, stuffed=stuffed)


def make_plan(histogram: Histogram | None = None, **changes: Any) -> Plan:
    """A plan of one message; `content` and everything else can be changed."""
    histogram = histogram or Histogram()
    bdat = changes.get("bdat", False)
    content = changes.pop("content", CONTENT)
    settings = {
        "templates": [template(content, stuffed=not bdat)],
        "order": [0],
        "mail": b"MAIL FROM:<a@b.test>\r\n",
        "helo": b"me.test",
        "recipients": 1,
        "domains": 1,
        "domain_head": b"d",
        "domain_tail": b".test",
        "domain_numbered": True,
        "pipelining": False,
        "across": False,
        "bdat": False,
        "starttls": False,
        "messages": 1,
        "messages_per_connection": 0,
        "rate_per_s": 0.0,
        "duration_ns": 0,
        "counts": histogram.counts,
        "totals": histogram.totals,
    }
    return Plan(**(settings | changes))


def counts(plan: Plan) -> dict[str, int]:
    """What has become of its messages, without noughts."""
    names = ("acknowledged", "recipients", "refused", "failed", "in_doubt", "retried", "in_flight", "octets")
    return {name: value for name in names if (value := getattr(plan, name))}
