"""Reports: JSON, names, and the message that carries them."""

from __future__ import annotations

import gzip
import json
from email import message_from_bytes, policy
from typing import Any

from postroika.tlsrpt import message
from postroika.tlsrpt.days import parse_day
from postroika.tlsrpt.report import Period, Report, Submitter, make
from postroika.tlsrpt.tally import Counts, Failure, Policy

DAY = parse_day("2026-11-21")
PERIOD = Period.of_day(DAY, 2e9)
US = Submitter("Shop & Söhne", "tls-reports@mail.shop.example", "mx1.shop.example")
STS = Policy(
    "sts",
    "peer.example",
    ("version: STSv1", "mode: testing", "mx: *.mx.peer.example", "max_age: 86400"),
    ("*.mx.peer.example",),
)
TLSA = Policy("tlsa", "mx1.peer.example", ("3 1 1 8CE0",))
NONE = Policy("no-policy-found", "peer.example")
EXPIRED = Failure(
    "certificate-expired",
    "192.0.2.1",
    "mx1.mx.peer.example",
    "mx1.peer.example",
    "2001:db8::2",
    "certificate verify failed: certificate has expired",
)
POLICIES = {
    STS: Counts(5326, {Failure("starttls-not-supported", "192.0.2.1", "mx2.mx.peer.example"): 1, EXPIRED: 100}),
    NONE: Counts(3),
    TLSA: Counts(0, {Failure("validation-failure"): 7}),
}


def made() -> Report:
    return make("peer.example", POLICIES, PERIOD, US)


def test_json_is_what_the_rfc_wants() -> None:
    report = made()
    assert json.loads(report.content) == {
        "organization-name": "Shop & Söhne",
        "date-range": {"start-datetime": "2026-11-21T00:00:00Z", "end-datetime": "2026-11-21T23:59:59Z"},
        "contact-info": "tls-reports@mail.shop.example",
        "report-id": report.report_id,
        "policies": [
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "peer.example"},
                "summary": {"total-successful-session-count": 3, "total-failure-session-count": 0},
            },
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": [
                        "version: STSv1",
                        "mode: testing",
                        "mx: *.mx.peer.example",
                        "max_age: 86400",
                    ],
                    "policy-domain": "peer.example",
                    "mx-host": ["*.mx.peer.example"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 101},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "192.0.2.1",
                        "receiving-mx-hostname": "mx1.mx.peer.example",
                        "receiving-mx-helo": "mx1.peer.example",
                        "receiving-ip": "2001:db8::2",
                        "failed-session-count": 100,
                        "failure-reason-code": "certificate verify failed: certificate has expired",
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "192.0.2.1",
                        "receiving-mx-hostname": "mx2.mx.peer.example",
                        "failed-session-count": 1,
                    },
                ],
            },
            {
                "policy": {
                    "policy-type": "tlsa",
                    "policy-string": ["3 1 1 8CE0"],
                    "policy-domain": "mx1.peer.example",
                },
                "summary": {"total-successful-session-count": 0, "total-failure-session-count": 7},
                "failure-details": [{"result-type": "validation-failure", "failed-session-count": 7}],
            },
        ],
    }


def test_names_say_who_about_whom_and_when() -> None:
    report = made()
    left, right = report.report_id.split("@")
    day, unique = left.split(".")
    assert (day, right) == ("2026-11-21", "mail.shop.example")
    assert unique.isalnum()
    assert report.file_name == f"mail.shop.example!peer.example!1795219200!1795305599!{unique}.json.gz"
    assert gzip.decompress(report.compressed()) == report.content


def test_report_that_is_made_again_is_the_same_and_others_have_other_ids() -> None:
    assert made() == made()
    assert made().compressed() == made().compressed()
    so_far = Period.of_day(DAY, DAY * 86_400 + 3600.5)
    assert so_far == Period(DAY * 86_400, DAY * 86_400 + 3600)
    others = [
        make("other.example", POLICIES, PERIOD, US),
        make("peer.example", POLICIES, so_far, US),
        make("peer.example", POLICIES, PERIOD, US._replace(hostname="mx2.shop.example")),
    ]
    assert len({report.report_id for report in [made(), *others]}) == 4


def parsed(content: bytes) -> Any:
    return message_from_bytes(content, policy=policy.SMTP)


def test_message_is_a_report_that_others_can_take_apart() -> None:
    report = made()
    content = message.build(report, "tls@peer.example", US, 1795310000.7)
    assert content.isascii()
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    mail = parsed(content)
    left = report.report_id.partition("@")[0]
    assert mail.defects == []
    assert dict(mail.items()) == {
        "Date": "Sun, 22 Nov 2026 01:13:20 +0000",
        "From": "tls-reports@mail.shop.example",
        "To": "tls@peer.example",
        "Subject": f"Report Domain: peer.example Submitter: mail.shop.example Report-ID: <{report.report_id}>",
        "Message-ID": f"<{left}.{mail['Message-ID'].split('@')[0].rpartition('.')[2]}@mail.shop.example>",
        "TLS-Report-Domain": "peer.example",
        "TLS-Report-Submitter": "mail.shop.example",
        "TLS-Required": "No",
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Type": mail["Content-Type"],
        "Content-Language": "en",
    }
    assert (mail.get_content_type(), mail.get_param("report-type")) == ("multipart/report", "tlsrpt")
    words, attached = mail.get_payload()
    assert (words.get_content_type(), attached.get_content_type()) == ("text/plain", "application/tlsrpt+gzip")
    assert "peer.example" in words.get_content()
    assert (attached.get_content_disposition(), attached.get_filename()) == ("attachment", report.file_name)
    assert attached.get_payload(decode=True) == report.compressed()


def test_each_receiver_has_a_message_of_its_own_and_a_repeated_one_is_the_same() -> None:
    ids = [parsed(message.build(made(), to, US, at))["Message-ID"] for to, at in [("a@x", 1), ("b@x", 1), ("a@x", 9)]]
    assert ids[0] == ids[2] != ids[1]


def test_longest_domains_fit_into_the_message() -> None:
    domain = ".".join(["a" * 61] * 4) + ".test"
    content = message.build(
        make(domain, POLICIES, PERIOD, US._replace(contact=f"t@{domain}")), f"{'l' * 64}@{domain}", US, 0
    )
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert parsed(content)["TLS-Report-Domain"] == domain
