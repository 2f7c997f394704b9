"""Delivery status notifications on their way: each comes once, to those who want it, with what they asked for."""

from __future__ import annotations

import email
import email.policy
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postroika.bench.maildir import Stored
from tests.system.process import wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import OurSink, StartOurSink

_CONFIG = """
[retry]
delays_s = [0.5]
jitter = 0.0
down_delays_s = [0.5]
{retry}
[[route]]
domains = ["*"]
next_hop = "smtp://{address}"
"""
_ORIGINAL = b"From: shop@shop.test\r\nMessage-ID: <7@shop.test>\r\nSubject: order\r\n\r\n.Thank you\r\n--\r\nShop\r\n"


@contextmanager
def a_pair(tmp_path: Path, sink: StartOurSink, *options: str, retry: str = "") -> Iterator[tuple[Postroika, OurSink]]:
    next_hop = sink("--refuse", "no-*@*", "--defer", "later-*@*", *options, store=True)
    config = _CONFIG.format(retry=retry, address=next_hop.address)
    with Postroika(tmp_path, config, workers=1) as server:
        yield server, next_hop


def submit(server: Postroika, mail: str, *recipients: str) -> str:
    """One message with `_ORIGINAL`; parameters and all. Returns its id."""
    with server.dialogue() as client:
        for command in (f"MAIL FROM:{mail}", *(f"RCPT TO:{recipient}" for recipient in recipients)):
            assert client.say(command).startswith("250")
        assert client.say("DATA").startswith("354")
        client.send(_ORIGINAL.replace(b"\r\n.", b"\r\n.."))
        reply = client.say(".")
    assert reply.startswith("250")
    return reply.rpartition(" ")[2]


def notices(stored: list[Stored]) -> list[Stored]:
    return [message for message in stored if message.reverse_path == ""]


def report_of(notice: Stored) -> tuple[Any, list[dict[str, str]], bytes]:
    """The message, its blocks of fields, and the raw third part."""
    message = email.message_from_bytes(notice.content, policy=email.policy.SMTP)
    parts: list[Any] = list(message.iter_parts())
    blocks = [dict(block.items()) for block in parts[1].get_payload()]
    boundary = re.search(rb'boundary="([^"]+)"', notice.content)
    assert boundary is not None
    third = notice.content.split(b"\r\n--" + boundary.group(1))[3].partition(b"\r\n\r\n")[2]
    return message, blocks, third


def test_failed_recipients_are_returned_with_the_whole_message_if_so_asked(tmp_path: Path, sink: StartOurSink) -> None:
    with a_pair(tmp_path, sink) as (server, next_hop):
        number = submit(
            server,
            "<shop@shop.test> RET=FULL ENVID=order+2B7",
            "<no-alice@a.test> ORCPT=rfc822;Alice+2B1@a.test",
            "<bob@a.test>",
            "<no-never@a.test> NOTIFY=NEVER",
            "<no-success@a.test> NOTIFY=SUCCESS",
        )
        server.wait_for_events(2, "delivered")  # bob, and the notice
        server.wait_until_drained()
        events = server.events()
        stored = next_hop.messages()
    assert sorted(e["recipient"] for e in events if e["type"] == "bounced") == [
        "no-alice@a.test",
        "no-never@a.test",
        "no-success@a.test",
    ]
    (notice,) = notices(stored)
    assert notice.recipients == ("shop@shop.test",)
    message, blocks, third = report_of(notice)
    assert (message["To"], message["References"], message["Auto-Submitted"]) == (
        "shop@shop.test",
        "<7@shop.test>",
        "auto-replied",
    )
    assert (blocks[0]["Original-Envelope-Id"], blocks[0]["X-Postroika-Queue-ID"]) == ("order+7", number)
    assert [(b["Original-Recipient"], b["Final-Recipient"], b["Action"], b["Status"]) for b in blocks[1:]] == [
        ("rfc822; Alice+1@a.test", "rfc822; no-alice@a.test", "failed", "5.1.1")
    ]
    assert third.endswith(_ORIGINAL)
    assert third.startswith(b"Received: ")


def test_mail_from_the_null_sender_is_never_answered(tmp_path: Path, sink: StartOurSink) -> None:
    with a_pair(tmp_path, sink) as (server, next_hop):
        submit(server, "<>", "<no-alice@a.test>", "<bob@a.test> NOTIFY=SUCCESS,FAILURE")
        server.wait_for_events(1, "bounced")
        server.wait_for_events(1, "delivered")
        server.wait_until_drained()
        received = server.events_of("received")
        stored = next_hop.messages()
    assert [event["recipient"] for event in received] == ["no-alice@a.test", "bob@a.test"]
    assert [message.recipients for message in stored] == [("bob@a.test",)]


def test_success_is_told_where_the_next_hop_will_not(tmp_path: Path, sink: StartOurSink) -> None:
    with a_pair(tmp_path, sink, "--without", "DSN") as (server, next_hop):
        submit(server, "<shop@shop.test>", "<bob@a.test> NOTIFY=SUCCESS", "<carol@a.test>")
        server.wait_for_events(3, "delivered")
        server.wait_until_drained()
        stored = next_hop.messages()
    (notice,) = notices(stored)
    _, blocks, third = report_of(notice)
    assert [(b["Final-Recipient"], b["Action"], b["Status"]) for b in blocks[1:]] == [
        ("rfc822; bob@a.test", "relayed", "2.0.0")
    ]
    assert b"Thank you" not in third
    assert b"Subject: order\r\n" in third


def test_success_is_left_to_a_next_hop_that_knows_dsn(tmp_path: Path, sink: StartOurSink) -> None:
    with a_pair(tmp_path, sink) as (server, next_hop):
        submit(server, "<shop@shop.test>", "<bob@a.test> NOTIFY=SUCCESS")
        server.wait_for_events(1, "delivered")
        server.wait_until_drained()
        stored = next_hop.messages()
    assert notices(stored) == []


def test_late_mail_is_told_of_once_and_given_up_in_the_end(tmp_path: Path, sink: StartOurSink) -> None:
    with a_pair(tmp_path, sink, retry="delay_dsn_after_s = 1\nexpire_after_s = 4") as (server, next_hop):
        submit(server, "<shop@shop.test>", "<later-alice@a.test>", "<later-bob@a.test> NOTIFY=FAILURE")
        server.wait_for_events(2, "expired", within_s=30)
        server.wait_until_drained()
        stored = next_hop.messages()
        deferred = server.events_of("deferred")
    late, given_up = notices(stored)
    assert [(b["Final-Recipient"], b["Action"], b["Status"][0]) for b in report_of(late)[1][1:]] == [
        ("rfc822; later-alice@a.test", "delayed", "4")
    ]
    assert "Will-Retry-Until" in report_of(late)[1][1]
    assert [(b["Final-Recipient"], b["Action"], b["Status"][0]) for b in report_of(given_up)[1][1:]] == [
        ("rfc822; later-alice@a.test", "failed", "4"),
        ("rfc822; later-bob@a.test", "failed", "4"),
    ]
    assert all(event["next_attempt_at"] > event["at"] for event in deferred)


def test_event_log_is_begun_anew_on_sighup(tmp_path: Path, sink: StartOurSink) -> None:
    with a_pair(tmp_path, sink) as (server, _):
        submit(server, "<>", "<a@a.test>")
        server.wait_for_events(1, "delivered")
        server.process.signal(signal.SIGHUP)
        wait_until((tmp_path / "events.jsonl.1").exists, "the log to be rotated")
        submit(server, "<>", "<b@a.test>")
        server.wait_for_events(2, "delivered")
    new, old = ((tmp_path / name).read_text() for name in ("events.jsonl", "events.jsonl.1"))
    assert ("a@a.test" in old, "b@a.test" in old, "a@a.test" in new, "b@a.test" in new) == (True, False, False, True)
