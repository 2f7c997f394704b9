"""Delivery status notifications, read back with the standard library and compared whole."""

from __future__ import annotations

import email
import email.message
import email.policy
import quopri
import re
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.envelope import BodyType, Envelope, Notify, Recipient
from postroika.mail.ids import id_text
from postroika.mail.outcome import Peer, Stage
from postroika.mail.reply import Reply, reply
from postroika.outcome.dsn import (
    MAX_RETURNED_BYTES,
    Kind,
    RecipientReport,
    build,
    returns_full,
    select,
    status_of,
    wants,
)

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 UTC
ENVELOPE = Envelope(7, "news@shop.example", NOW - 3600, 200, 1, envid="QQ+2B314159")
ORIGINAL = (
    b"Received: from app by mx.shop.example\r\n"
    b"From: News <news@shop.example>\r\n"
    b"Message-ID: <17@shop.example>\r\n"
    b"Subject: Spring\r\n"
    b"\r\n"
    b"Dear Alice,\r\n"
    b"--\r\n"
    b"Shop\r\n"
)
HEADER = ORIGINAL[: ORIGINAL.index(b"\r\n\r\n") + 2]
REFUSED = RecipientReport(
    Recipient("alice@example.net", orcpt="rfc822;Alice+2Bx@example.org"),
    Reply(550, "5.1.1", ("<alice@example.net>: no such user",)),
    Stage.RCPT,
    peer=Peer("mx1.example.net", "203.0.113.5", 25),
    attempted_at=NOW - 2,
)


def notice(
    kind: Kind = Kind.FAILED,
    reports: list[RecipientReport] | None = None,
    *,
    envelope: Envelope = ENVELOPE,
    returned: bytes = ORIGINAL,
    full: bool = False,
) -> bytes:
    return build(
        kind,
        envelope,
        [REFUSED] if reports is None else reports,
        hostname="mx.shop.example",
        message_id_text="6gzztzv900g00",
        now=NOW,
        returned=returned,
        returned_is_full=full,
    )


def parts_of(content: bytes) -> tuple[Any, list[Any]]:
    message = email.message_from_bytes(content, policy=email.policy.SMTP)
    assert not message.defects
    assert message.is_multipart()
    return message, cast("list[Any]", message.get_payload())


def raw_parts(content: bytes) -> list[tuple[bytes, bytes]]:
    """Header and decoded body of each part, by the boundary alone: an oracle without a MIME library."""
    match = re.search(rb'boundary="([^"]+)"', content)
    assert match is not None
    pieces = content.split(b"\r\n--" + match.group(1))
    assert pieces.pop() == b"--\r\n"
    found = []
    for piece in pieces[1:]:
        head, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found.append((head, quopri.decodestring(body) if b"quoted-printable" in head else body))
    return found


def test_failed_notice_is_this_message() -> None:
    content = notice()
    boundary = re.search(rb'boundary="(=_[0-9a-f]{32})"', content)
    assert boundary is not None
    assert content.decode().replace(boundary.group(1).decode(), "BOUNDARY") == (
        "Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n"
        "From: Mail Delivery System <MAILER-DAEMON@mx.shop.example>\r\n"
        "To: <news@shop.example>\r\n"
        "Subject: Undelivered mail returned to sender\r\n"
        "Message-ID: <6gzztzv900g00@mx.shop.example>\r\n"
        "References: <17@shop.example>\r\n"
        "Auto-Submitted: auto-replied\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=delivery-status;\r\n"
        ' boundary="BOUNDARY"\r\n'
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "This is a MIME message.\r\n"
        "\r\n"
        "--BOUNDARY\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "Content-Description: Notification\r\n"
        "\r\n"
        "This is the mail server mx.shop.example.\r\n"
        "\r\n"
        "Your message could not be delivered to the recipients below, and will not be\r\n"
        "tried again for them. Others, if there were any, are not affected.\r\n"
        "The message came here on Fri, 15 Jan 2027 07:00:00 +0000.\r\n"
        "\r\n"
        "<alice@example.net>\r\n"
        "  The server mx1.example.net [203.0.113.5] said when told the recipient\r\n"
        "  (RCPT TO):\r\n"
        "      550 5.1.1 <alice@example.net>: no such user\r\n"
        "  Check the part before the @ for typing mistakes; such a mailbox is not\r\n"
        "  known there.\r\n"
        "\r\n"
        "Below are a report for mail programs, and the header of your message.\r\n"
        "\r\n"
        "--BOUNDARY\r\n"
        "Content-Type: message/delivery-status\r\n"
        "Content-Description: Delivery report\r\n"
        "\r\n"
        "Reporting-MTA: dns; mx.shop.example\r\n"
        "X-Postroika-Queue-ID: 0000000000007\r\n"
        "Original-Envelope-Id: QQ+314159\r\n"
        "Arrival-Date: Fri, 15 Jan 2027 07:00:00 +0000\r\n"
        "\r\n"
        "Original-Recipient: rfc822; Alice+x@example.org\r\n"
        "Final-Recipient: rfc822; alice@example.net\r\n"
        "Action: failed\r\n"
        "Status: 5.1.1\r\n"
        "Remote-MTA: dns; mx1.example.net\r\n"
        "Diagnostic-Code: smtp; 550 5.1.1 <alice@example.net>: no such user\r\n"
        "Last-Attempt-Date: Fri, 15 Jan 2027 07:59:58 +0000\r\n"
        "\r\n"
        "--BOUNDARY\r\n"
        "Content-Type: text/rfc822-headers\r\n"
        "Content-Description: Header of the message\r\n"
        "\r\n"
        "Received: from app by mx.shop.example\r\n"
        "From: News <news@shop.example>\r\n"
        "Message-ID: <17@shop.example>\r\n"
        "Subject: Spring\r\n"
        "\r\n"
        "--BOUNDARY--\r\n"
    )


def test_mail_programs_find_three_parts_and_a_block_for_each_recipient() -> None:
    other = RecipientReport(
        Recipient("bob@example.net"), reply(550, "5.4.4", "The domain has no mail server"), Stage.ROUTING, remote=False
    )
    message, parts = parts_of(notice(reports=[REFUSED, other], full=True))
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in parts] == ["text/plain", "message/delivery-status", "message/rfc822"]
    blocks = [list(block.items()) for block in parts[1].get_payload()]
    assert blocks[0] == [
        ("Reporting-MTA", "dns; mx.shop.example"),
        ("X-Postroika-Queue-ID", "0000000000007"),
        ("Original-Envelope-Id", "QQ+314159"),
        ("Arrival-Date", "Fri, 15 Jan 2027 07:00:00 +0000"),
    ]
    assert blocks[1][1] == ("Final-Recipient", "rfc822; alice@example.net")
    assert blocks[2] == [
        ("Final-Recipient", "rfc822; bob@example.net"),
        ("Action", "failed"),
        ("Status", "5.4.4"),
        ("Diagnostic-Code", "x-postroika; 550 5.4.4 The domain has no mail server"),
    ]
    assert len(blocks) == 3
    assert raw_parts(notice(full=True))[2][1] == ORIGINAL


def test_delay_notice_says_until_when_it_is_tried() -> None:
    late = msgspec.structs.replace(REFUSED, reply=Reply(451, "4.3.0", ("later",)), retry_until=NOW + 86400)
    message, parts = parts_of(notice(Kind.DELAYED, [late]))
    assert message["Subject"] == "Delayed mail (still being tried)"
    block = dict(parts[1].get_payload()[1].items())
    assert (block["Action"], block["Status"], block["Will-Retry-Until"]) == (
        "delayed",
        "4.3.0",
        "Sat, 16 Jan 2027 08:00:00 +0000",
    )
    assert "It is tried until Sat, 16 Jan 2027 08:00:00 +0000." in parts[0].get_content()
    assert "ONLY A WARNING" in parts[0].get_content()


@pytest.mark.parametrize(
    ("kind", "action"), [(Kind.RELAYED, "relayed"), (Kind.DELIVERED, "delivered"), (Kind.EXPIRED, "failed")]
)
def test_action_follows_the_kind(kind: Kind, action: str) -> None:
    report = msgspec.structs.replace(REFUSED, reply=Reply(250, "2.0.0", ("Ok",)), stage=Stage.FINAL_DOT)
    _, parts = parts_of(notice(kind, [report]))
    assert parts[1].get_payload()[1]["Action"] == action


@pytest.mark.parametrize(
    ("kind", "code", "enhanced", "status"),
    [
        (Kind.FAILED, 550, "5.7.1", "5.7.1"),
        (Kind.FAILED, 550, "", "5.0.0"),
        (Kind.FAILED, 550, "4.2.1", "5.0.0"),
        (Kind.FAILED, 550, "5.1", "5.0.0"),
        (Kind.FAILED, 550, "5.1.1\r\nX: y", "5.0.0"),
        (Kind.FAILED, 450, "4.7.0", "4.7.0"),
        (Kind.DELAYED, 450, "", "4.0.0"),
        (Kind.DELAYED, 550, "5.1.1", "4.0.0"),
        (Kind.EXPIRED, 452, "4.2.2", "4.2.2"),
        (Kind.EXPIRED, 452, "", "4.4.7"),
        (Kind.RELAYED, 250, "", "2.0.0"),
        (Kind.RELAYED, 250, "2.1.5", "2.1.5"),
    ],
)
def test_status_fits_the_action(kind: Kind, code: int, enhanced: str, status: str) -> None:
    assert status_of(kind, msgspec.structs.replace(REFUSED, reply=Reply(code, enhanced, ("x",)))) == status


def test_who_wants_what() -> None:
    told = {
        flags: [kind.value for kind in (Kind.FAILED, Kind.EXPIRED, Kind.DELAYED, Kind.RELAYED) if wants(kind, flags)]
        for flags in (0, Notify.NEVER, Notify.SUCCESS, Notify.FAILURE, Notify.DELAY, Notify.SUCCESS | Notify.FAILURE)
    }
    assert told == {
        0: ["failed", "expired", "delayed"],
        Notify.NEVER: [],
        Notify.SUCCESS: ["relayed"],
        Notify.FAILURE: ["failed", "expired"],
        Notify.DELAY: ["delayed"],
        Notify.SUCCESS | Notify.FAILURE: ["failed", "expired", "relayed"],
    }


def test_only_those_who_want_it_are_told_of_and_never_the_null_sender() -> None:
    silent = msgspec.structs.replace(REFUSED, recipient=Recipient("b@example.net", notify=Notify.NEVER))
    assert select(Kind.FAILED, ENVELOPE, [REFUSED, silent]) == [REFUSED]
    assert select(Kind.FAILED, msgspec.structs.replace(ENVELOPE, reverse_path=""), [REFUSED]) == []


@pytest.mark.parametrize(("envelope", "reports"), [({"reverse_path": ""}, [REFUSED]), ({}, [])])
def test_a_notice_to_nobody_or_about_nobody_is_a_bug(envelope: dict[str, Any], reports: list[RecipientReport]) -> None:
    with pytest.raises(ValueError, match="a notice needs"):
        notice(envelope=msgspec.structs.replace(ENVELOPE, **envelope), reports=reports)


@pytest.mark.parametrize(
    ("kind", "changes", "full"),
    [
        (Kind.FAILED, {"ret": "FULL"}, True),
        (Kind.EXPIRED, {"ret": "FULL"}, True),
        (Kind.FAILED, {"ret": "HDRS"}, False),
        (Kind.FAILED, {}, False),
        (Kind.DELAYED, {"ret": "FULL"}, False),
        (Kind.RELAYED, {"ret": "FULL"}, False),
        (Kind.FAILED, {"ret": "FULL", "size_bytes": MAX_RETURNED_BYTES + 1}, False),
        (Kind.FAILED, {"ret": "FULL", "body_type": BodyType.BINARY}, False),
        (Kind.FAILED, {"ret": "FULL", "requiretls": True}, False),
    ],
)
def test_the_whole_message_goes_back_only_if_asked_for_and_small(
    kind: Kind, changes: dict[str, Any], full: bool
) -> None:
    assert returns_full(kind, msgspec.structs.replace(ENVELOPE, **changes)) is full


@pytest.mark.parametrize("body", [b"a\0b\r\n", b"bare\nline\r\n", b"bare\rreturn\r\n", b"x" * 999 + b"\r\n"])
def test_a_message_that_cannot_stand_in_a_notice_is_named_by_its_header(body: bytes) -> None:
    _, parts = parts_of(notice(returned=HEADER + b"\r\n" + body, full=True))
    assert parts[2].get_content_type() == "text/rfc822-headers"
    assert "the header of your message." in parts[0].get_content()


def test_eight_bit_message_is_returned_as_it_is() -> None:
    original = HEADER + b"\r\ncaf\xe9\r\n"
    content = notice(returned=original, full=True)
    message, parts = parts_of(content)
    assert message["Content-Transfer-Encoding"] == "8bit"
    assert parts[2]["Content-Transfer-Encoding"] == "8bit"
    assert raw_parts(content)[2][1] == original


@pytest.mark.parametrize("smtputf8", [False, True])
def test_header_in_an_unknown_charset_stays_seven_bit_and_whole(smtputf8: bool) -> None:
    header = b"Subject: caf\xe9 " + b"y" * 1200 + b"\r\nX: a\nb\r\n"
    content = notice(envelope=msgspec.structs.replace(ENVELOPE, smtputf8=smtputf8), returned=header + b"\r\nbody\r\n")
    assert content.isascii()
    head, body = raw_parts(content)[2]
    assert head.startswith(b"Content-Type: text/rfc822-headers\r\n")
    assert body == header


@pytest.mark.parametrize(("full", "subtype"), [(False, b"message/global-headers"), (True, b"message/global")])
def test_utf8_header_goes_back_to_a_utf8_sender_in_its_own_type(full: bool, subtype: bytes) -> None:
    original = "Subject: Grüße\r\nFrom: jürgen@bücher.example\r\n\r\nHallo 😀\r\n".encode()
    content = notice(envelope=msgspec.structs.replace(ENVELOPE, smtputf8=True), returned=original, full=full)
    assert content.isascii()
    head, body = raw_parts(content)[2]
    assert head.startswith(b"Content-Type: " + subtype + b"\r\n")
    assert body == (original if full else original[: original.index(b"\r\n\r\n") + 2])


def test_utf8_addresses_make_a_global_report() -> None:
    envelope = msgspec.structs.replace(ENVELOPE, reverse_path="jürgen@bücher.example", smtputf8=True)
    report = RecipientReport(
        Recipient("δοκιμή@example.gr", orcpt="utf-8;\\x{3B4}\\x{2B}x@example.gr"),
        Reply(550, "5.1.1", ("δεν υπάρχει",)),
        peer=Peer("mx.example.gr"),
    )
    content = notice(reports=[report], envelope=envelope)
    assert b"To: <" + "jürgen@bücher.example".encode() + b">\r\n" in content
    assert content.partition(b"\r\n\r\n")[2].isascii()
    assert b"report-type=global-delivery-status" in content
    words, status, _ = raw_parts(content)
    assert "      550 5.1.1 δεν υπάρχει\r\n" in words[1].decode()
    assert status[0].startswith(b"Content-Type: message/global-delivery-status\r\n")
    assert status[1].decode().partition("\r\n\r\n")[2] == (
        "Original-Recipient: utf-8; δ\\x{2B}x@example.gr\r\n"
        "Final-Recipient: utf-8; δοκιμή@example.gr\r\n"
        "Action: failed\r\n"
        "Status: 5.1.1\r\n"
        "Remote-MTA: dns; mx.example.gr\r\n"
        "Diagnostic-Code: smtp; 550 5.1.1 δεν υπάρχει\r\n"
    )


def test_utf8_reply_about_an_ascii_address_stays_in_an_ascii_report() -> None:
    report = msgspec.structs.replace(REFUSED, reply=Reply(550, "5.1.1", ("невозможно",)))
    content = notice(reports=[report])
    _, parts = parts_of(content)
    assert content.isascii()
    assert parts[1].get_payload()[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 ??????????"
    assert "      550 5.1.1 невозможно" in parts[0].get_content()


def test_utf8_orcpt_for_a_sender_without_smtputf8_is_encoded() -> None:
    report = msgspec.structs.replace(REFUSED, recipient=Recipient("a@example.net", orcpt="utf-8;\\x{3B4}@example.gr"))
    _, parts = parts_of(notice(reports=[report]))
    assert parts[1].get_payload()[1]["Original-Recipient"] == "utf-8; \\x{3B4}@example.gr"


@pytest.mark.parametrize(
    ("peer", "name", "words"),
    [
        (Peer("", "192.0.2.9", 25), "dns; [192.0.2.9]", "The server [192.0.2.9] said"),
        (Peer("192.0.2.9", "192.0.2.9", 25), "dns; [192.0.2.9]", "The server [192.0.2.9] said"),
        (Peer("2001:db8::9", "2001:db8::9", 25), "dns; [IPv6:2001:db8::9]", "The server [2001:db8::9] said"),
        (Peer("mx.example.net"), "dns; mx.example.net", "The server mx.example.net said"),
    ],
)
def test_a_host_without_a_name_is_named_by_its_address(peer: Peer, name: str, words: str) -> None:
    _, parts = parts_of(notice(reports=[msgspec.structs.replace(REFUSED, peer=peer)]))
    assert parts[1].get_payload()[1]["Remote-MTA"] == name
    assert words in parts[0].get_content()


def test_no_message_id_no_references() -> None:
    message, _ = parts_of(notice(returned=b"Subject: x\r\n\r\nMessage-ID: <in@the.body>\r\n"))
    assert message["References"] is None


def test_a_message_without_a_header_has_an_empty_third_part() -> None:
    assert raw_parts(notice(returned=b"\r\nbody\r\n"))[2][1] == b""


def test_a_header_without_end_is_cut_at_a_line() -> None:
    line = b"X-Filler: " + b"z" * 60 + b"\r\n"
    body = raw_parts(notice(returned=line * 2000))[2][1]
    assert body == line * (MAX_RETURNED_BYTES // len(line))


def test_a_reply_with_fields_and_boundaries_in_it_adds_none() -> None:
    first = notice()
    match = re.search(rb'boundary="([^"]+)"', first)
    assert match is not None
    evil = f"x\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822; x@y\r\n--{match.group(1).decode()}--\r\n"
    report = msgspec.structs.replace(
        REFUSED,
        recipient=Recipient("a\r\nBcc: x@y\r\n\r\n@example.net", orcpt="rfc822;a+0D+0AAction:+20delivered"),
        reply=Reply(550, "5.1.1", (evil,)),
        peer=Peer("mx\r\nStatus: 2.0.0", "203.0.113.5", 25),
    )
    envelope = msgspec.structs.replace(ENVELOPE, envid="e+0D+0A+0D+0AX:+20y", reverse_path="a\r\nBcc: x@example.net")
    message, parts = parts_of(notice(reports=[report], envelope=envelope))
    assert message.keys() == [
        "Date", "From", "To", "Subject", "Message-ID", "References", "Auto-Submitted", "MIME-Version", "Content-Type",
        "Content-Transfer-Encoding",
    ]  # fmt: skip
    assert len(parts) == 3
    blocks = parts[1].get_payload()
    assert [block.keys() for block in blocks] == [
        ["Reporting-MTA", "X-Postroika-Queue-ID", "Original-Envelope-Id", "Arrival-Date"],
        ["Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code",
         "Last-Attempt-Date"],
    ]  # fmt: skip
    assert (blocks[1]["Action"], blocks[1]["Status"]) == ("failed", "5.1.1")


anything = st.text(st.characters(exclude_categories=()), max_size=60) | st.text(
    st.sampled_from("\r\n\t -=_:;.<>@\\+x{}1a\0\x7f\x85\u2028\udc80é😀"), max_size=60
)
words = anything | st.builds(lambda text, n: text * n, anything, st.sampled_from([40, 400]))
hosts = st.builds(Peer, anything, anything, st.just(25))
orcpts = st.just("") | anything | anything.map("utf-8;".__add__) | anything.map("rfc822;".__add__)
replies = st.builds(
    Reply, st.sampled_from([250, 421, 452, 550]), anything, st.lists(words, min_size=1, max_size=3).map(tuple)
)
some_reports = st.lists(
    st.builds(
        RecipientReport,
        st.builds(Recipient, anything, st.just(0), orcpts),
        replies,
        st.sampled_from(list(Stage)),
        st.booleans(),
        hosts,
        st.sampled_from([0.0, NOW]),
        st.sampled_from([0.0, NOW]),
    ),
    min_size=1,
    max_size=3,
)
pieces = [
    b"Subject: x\r\n", b"Message-ID: <a@b>\r\n", b"\r\n", b"\n", b"\r", b"\xc3\xa9", b"\xff", b"a" * 400,
    b"--=_", b"= ",
]  # fmt: skip
originals = st.binary(max_size=300) | st.lists(st.sampled_from(pieces)).map(b"".join)


@given(
    kind=st.sampled_from(list(Kind)),
    reverse_path=anything.filter(bool),
    envid=anything,
    smtputf8=st.booleans(),
    reports=some_reports,
    original=originals,
    full=st.booleans(),
)
def test_whatever_is_quoted_the_notice_keeps_its_form(
    kind: Kind,
    reverse_path: str,
    envid: str,
    smtputf8: bool,
    reports: list[RecipientReport],
    original: bytes,
    full: bool,
) -> None:
    envelope = msgspec.structs.replace(ENVELOPE, reverse_path=reverse_path, envid=envid, smtputf8=smtputf8)
    content = notice(kind, reports, envelope=envelope, returned=original, full=full)
    lines = content.split(b"\r\n")
    assert all(len(line) <= 998 and not re.search(rb"[\0\r\n]", line) for line in lines)
    head = content.partition(b"\r\n\r\n")[0]
    assert head.isascii() or not reverse_path.isascii()
    names = [line.partition(":")[0] for line in head.decode().split("\r\n") if not line.startswith(" ")]
    assert names[:5] == ["Date", "From", "To", "Subject", "Message-ID"]
    assert names[-4:] == ["Auto-Submitted", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]
    parts = raw_parts(content)
    assert len(parts) == 3
    assert all(part.isascii() for part in raw_lines_of(content)[:2])
    status = parts[1][1].decode()
    blocks = status.removesuffix("\r\n").split("\r\n\r\n")
    assert len(blocks) == 1 + len(reports)
    known = {
        "Original-Recipient", "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code",
        "Last-Attempt-Date", "Will-Retry-Until",
    }  # fmt: skip
    for block in blocks[1:]:
        fields = [line.partition(":")[0] for line in block.split("\r\n") if not line.startswith(" ")]
        assert len(fields) == len(set(fields))
        assert set(fields) <= known
        assert {"Final-Recipient", "Action", "Status", "Diagnostic-Code"} <= set(fields)
    returned = parts[2][1]
    assert original.startswith(returned) or returned == original


def raw_lines_of(content: bytes) -> list[bytes]:
    match = re.search(rb'boundary="([^"]+)"', content)
    assert match is not None
    return content.split(b"\r\n--" + match.group(1))[1:]


def test_queue_id_is_the_one_that_the_client_was_told() -> None:
    _, parts = parts_of(notice())
    assert parts[1].get_payload()[0]["X-Postroika-Queue-ID"] == id_text(ENVELOPE.message)
