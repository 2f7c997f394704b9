"""Events for people: one line each."""

from __future__ import annotations

import pytest

from postroika.cli._event_lines import event_line
from postroika.outcome.event_record import Event, EventClient, EventPeer, EventReply

pytestmark = pytest.mark.usefixtures("utc")

AT = 1_800_000_000.25
PEER = EventPeer("mx.shop.test", "192.0.2.1", 25)


def event(kind: str, **members: object) -> Event:
    facts: dict[str, object] = {"message": "6gzytke8c0001", "sender": "me@news.test", "recipient": "a@shop.test"}
    return Event(id="6gzytke8c0002", type=kind, at=AT, **{**facts, **members})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        (
            event("received", size_bytes=4200, client=EventClient("192.0.2.7", "shop"), queued_at=AT),
            "received     6gzytke8c0001  a@shop.test  from me@news.test  4.1K  shop [192.0.2.7]",
        ),
        (
            event(
                "rejected",
                message="",
                sender="",
                client=EventClient("192.0.2.7"),
                reply=EventReply(550, "5.7.1", "relaying\x1b[2J denied", "rcpt", local=True),
            ),
            "rejected     a@shop.test  from <>  [192.0.2.7]  550 5.7.1 relaying\\u001b[2J denied",
        ),
        (
            event("rejected", message="", sender=None, recipient="", reply=EventReply(500, "5.5.2", "what?", "ehlo")),
            "rejected     -  from -  500 5.5.2 what?",
        ),
        (
            event(
                "auth_failed",
                message="",
                sender=None,
                recipient="",
                account="ann",
                reason="wrong password",
                client=EventClient("192.0.2.7", "shop"),
                reply=EventReply(535, "5.7.8", "no", "auth", local=True),
            ),
            "auth_failed  -  account ann  shop [192.0.2.7]  wrong password  535 5.7.8 no",
        ),
        (
            event("auth_failed", message="", sender=None, recipient="", reason="malformed: not a message of PLAIN"),
            "auth_failed  -  no account  malformed: not a message of PLAIN",
        ),
        (
            event("delivered", queued_at=AT - 0.75, attempt=1, peer=PEER, reply=EventReply(250, "2.0.0", "Ok")),
            "delivered    6gzytke8c0001  a@shop.test  by mx.shop.test[192.0.2.1]  after 0.8s  250 2.0.0 Ok",
        ),
        (
            event(
                "deferred",
                queued_at=AT - 90,
                attempt=2,
                next_attempt_at=AT + 310,
                peer=PEER,
                reply=EventReply(451, "4.7.1", "later"),
            ),
            "deferred     6gzytke8c0001  a@shop.test  mx.shop.test[192.0.2.1]  attempt 2  next in 5m  451 4.7.1 later",
        ),
        (
            event("bounced", queued_at=AT - 90, attempt=1, peer=EventPeer("192.0.2.1", "192.0.2.1", 25)),
            "bounced      6gzytke8c0001  a@shop.test  192.0.2.1  after 1m",
        ),
        (event("of_a_later_age"), "of_a_later_age  6gzytke8c0001  a@shop.test"),
    ],
)
def test_line_of_an_event(shown: Event, line: str) -> None:
    assert event_line(shown).plain == f"Jan 15 08:00:00 {line}"
