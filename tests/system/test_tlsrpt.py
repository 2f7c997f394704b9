"""TLS reports, end to end: sessions with Postfix and others are counted, and the reports arrive where DNS says.

Knot and Unbound answer, Postfix and the sink are the hosts, Python's HTTP server takes what goes by HTTPS, and dkimpy
looks at the signatures.
"""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from postroika.bench.maildir import Stored
from postroika.cli import ExitCode
from postroika.signing import verify
from postroika.signing.record import read_zone
from postroika.tlsrpt.days import day_at, day_text
from tests.system.certificates import Authority
from tests.system.dns_server import DnsServer
from tests.system.postfix_peer import start_postfix
from tests.system.process import wait_until
from tests.system.server import Postroika
from tests.system.sink_peer import OurSink, StartOurSink

# Postfix is at 127.0.0.1, a sink without TLS at 127.3.0.2, and one that takes the reports at 127.3.0.3.
_ZONE = """
good            MX 10 mx.good
mx.good         A 127.0.0.1
_smtp._tls.good TXT "v=TLSRPTv1; rua=mailto:tls@reports.test,https://post.good.test:{https}/tls"
clear           MX 10 mx.clear
mx.clear        A 127.3.0.2
_smtp._tls.clear TXT "v=TLSRPTv1; " "rua=mailto:tls@reports.test"
quiet           MX 10 mx.clear
two             MX 10 mx.clear
_smtp._tls.two  TXT "v=TLSRPTv1; rua=mailto:one@reports.test"
_smtp._tls.two  TXT "v=TLSRPTv1; rua=mailto:two@reports.test"
unfetched       MX 10 mx.good
_mta-sts.unfetched TXT "v=STSv1; id=1"
reports         MX 10 mx.reports
mx.reports      A 127.3.0.3
_smtp._tls.reports TXT "v=TLSRPTv1; rua=mailto:tls@reports.test"
post.good       A 127.0.0.1
"""
_CONFIG = """
[dns]
servers = ["{dns}"]
mx_port = {port}
allow_private = ["127.0.0.0/8"]
ipv6 = "never"
[retry]
delays_s = [600]
down_delays_s = [600]
[delivery]
connection_idle_s = 0
tls_ca = "{ca}"
[[dkim]]
domain = "sender.test"
selector = "s1"
key = "key.pem"
[tlsrpt]
contact = "tls-reports@sender.test"
organization = "Sender & Söhne"
"""
MESSAGE = b"Subject: x\r\n\r\nx\r\n"
DOMAINS = ("good", "clear", "quiet", "two", "unfetched")


class Taken:
    """Python's HTTP server with TLS, and what it was posted."""

    def __init__(self, certificate: Path) -> None:
        self.posted: list[tuple[str, str, bytes]] = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                taken.posted.append((self.path, self.headers["content-type"], content))
                self.send_response(201)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class World:
    """The hosts, the name servers, and a Postroika that sends to them."""

    def __init__(self, path: Path, stack: ExitStack, sink: Callable[..., OurSink]) -> None:
        authority = Authority(path)
        self.taken = Taken(authority.issue("post.good.test"))
        stack.callback(self.taken.close)
        hop = start_postfix(
            stack,
            virtual=["good.test", "unfetched.test"],
            settings={
                "smtpd_tls_security_level": "may",
                "smtpd_tls_chain_files": str(_open(authority.issue("other.test"))),
            },
        )
        sink(host="127.3.0.2", port=hop.port)
        self.receiver = sink(host="127.3.0.3", port=hop.port, store=True)
        dns = DnsServer(_ZONE.format(https=self.taken.port), path / "dns")
        stack.callback(dns.stop)
        (path / "server").mkdir()
        keygen = [sys.executable, "-m", "postroika", "dkim", "keygen", str(path / "server" / "key.pem")]
        subprocess.run(keygen, check=True, capture_output=True, timeout=60)
        config = _CONFIG.format(dns=dns.address, port=hop.port, ca=authority.file)
        self.server = stack.enter_context(Postroika(path / "server", config, workers=2))

    def send(self, *domains: str) -> None:
        """A message to each, over a connection of its own, so that both workers get some."""
        before = len(self.server.events_of("delivered"))
        for domain in domains:
            with self.server.dialogue() as client:
                assert client.message("s@sender.test", [f"r@{domain}.test"], MESSAGE).startswith("250")
        self.server.wait_for_events(before + len(domains), "delivered")

    def shown(self, *arguments: str) -> dict[str, Any]:
        shown = json.loads(self.server.run("tlsrpt", "show", "--json", *arguments))
        assert isinstance(shown, dict)
        return shown

    def becomes(self, days_ago: int) -> str:
        """Make what was counted today that of another day, which is returned."""
        self.shown()  # so that it is on disk
        now, then = (day_text(day_at(time.time()) - ago) for ago in (0, days_ago))
        for file in (self.server.spool / "tlsrpt").iterdir():
            file.rename(file.with_name(file.name.replace(now, then)))
        return then

    def sums(self) -> dict[str, list[tuple[str, int, int]]]:
        """What was counted, by domain: policy, good, failed."""
        return {
            domain["domain"]: [(p["type"], p["succeeded"], p["failed"]) for p in domain["policies"]]
            for domain in self.shown()["shown"]
        }


def _open(file: Path) -> Path:
    """For a daemon of another user."""
    file.chmod(0o644)
    for parent in file.parents:
        if parent.name.startswith("pytest"):
            parent.chmod(0o755)
    return file


@pytest.fixture
def world(tmp_path: Path, sink: StartOurSink) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack, sink)


@pytest.fixture(autouse=True)
def same_day() -> None:
    """A test must not see midnight (UTC)."""
    left_s = (day_at(time.time()) + 1) * 86_400 - time.time()
    if left_s < 90:
        time.sleep(left_s + 1)


TODAY_SUMS = {
    "good.test": [("no-policy-found", 1, 0)],
    "clear.test": [("no-policy-found", 0, 1)],
    "quiet.test": [("no-policy-found", 0, 1)],
    "two.test": [("no-policy-found", 0, 1)],
    "unfetched.test": [("sts", 0, 1)],  # it has a policy, which cannot be had
}


def test_reports_arrive_signed_at_all_places_that_dns_names(world: World) -> None:
    world.send(*DOMAINS)
    assert world.sums() == TODAY_SUMS
    today = day_text(day_at(time.time()))
    assert world.server.run("tlsrpt", "send", "--day", "today") == f"{today}: 3 reports sent, of 5 domains.\n"
    mailed = {}
    for stored in world.receiver.wait_for(2):
        mail: Any = message_from_bytes(stored.content)
        mailed[mail["TLS-Report-Domain"]] = mail
        keys = read_zone(world.server.run("dkim", "show-dns"))
        (verdict,) = verify.verify(stored.content, keys.get)
        assert (verdict.selector, verdict.passed) == ("s1", True)
        signature = mail["DKIM-Signature"].replace("\t", "").replace("\r\n", "").lower()
        assert "tls-report-domain:tls-report-submitter" in signature.replace(" ", "")
        assert (stored.reverse_path, stored.recipients) == ("tls-reports@sender.test", ("tls@reports.test",))
    assert sorted(mailed) == ["clear.test", "good.test"]
    mail = mailed["clear.test"]
    assert (mail["From"], mail["To"]) == ("tls-reports@sender.test", "tls@reports.test")
    assert mail.get_param("report-type") == "tlsrpt"
    report = json.loads(gzip.decompress(mail.get_payload()[1].get_payload(decode=True)))
    assert (report["organization-name"], report["contact-info"]) == ("Sender & Söhne", "tls-reports@sender.test")
    assert report["date-range"]["start-datetime"] == f"{today}T00:00:00Z"
    assert report["policies"] == [
        {
            "policy": {"policy-type": "no-policy-found", "policy-domain": "clear.test"},
            "summary": {"total-successful-session-count": 0, "total-failure-session-count": 1},
            "failure-details": [
                {
                    "result-type": "starttls-not-supported",
                    "sending-mta-ip": "127.0.0.1",
                    "receiving-mx-hostname": "mx.clear.test",
                    "receiving-mx-helo": "sink.localhost",
                    "receiving-ip": "127.3.0.2",
                    "failed-session-count": 1,
                }
            ],
        }
    ]
    ((path, content_type, content),) = world.taken.posted
    assert (path, content_type) == ("/tls", "application/tlsrpt+gzip")
    assert content == mailed["good.test"].get_payload()[1].get_payload(decode=True)
    (policy,) = json.loads(gzip.decompress(content))["policies"]
    assert policy["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 0}
    # Nothing was counted of the sessions that brought the reports, so that there is an end to it.
    assert world.sums() == TODAY_SUMS
    figures = world.server.metrics()
    assert figures['postroika_tls_reports_total{scheme="mailto"}'] == 2
    assert figures['postroika_tls_reports_total{scheme="https"}'] == 1
    assert figures['postroika_tls_report_sessions_total{result="failed"}'] == 4


def test_counts_outlive_a_restart_and_what_was_saved_outlives_a_kill(world: World) -> None:
    world.send("good", "clear")
    assert world.server.stop() == 0
    said = world.server.run("tlsrpt", "show")  # without a server
    assert "2 domains, 1 session as they should be, 1 not." in said
    world.server.start()
    world.send("good", "clear")
    expected = {"good.test": [("no-policy-found", 2, 0)], "clear.test": [("no-policy-found", 0, 2)]}
    assert world.sums() == expected
    world.server.kill()
    world.server.start()
    assert world.sums() == expected


def test_report_of_a_past_day_is_sent_once_and_its_counts_go(world: World) -> None:
    world.send("good", "clear")
    yesterday = world.becomes(1)
    assert world.server.run("tlsrpt", "send") == f"{yesterday}: 3 reports sent, of 2 domains.\n"
    assert world.server.run("tlsrpt", "send") == f"{yesterday}: nothing is left to report.\n"
    assert len(world.receiver.wait_for(2)) == 2
    assert len(world.taken.posted) == 1
    assert world.shown()["days"] == []
    ranges = json.loads(gzip.decompress(world.taken.posted[0][2]))["date-range"]
    assert ranges == {"start-datetime": f"{yesterday}T00:00:00Z", "end-datetime": f"{yesterday}T23:59:59Z"}


def test_server_sends_by_itself_what_is_left_of_days_that_are_over(world: World) -> None:
    world.send("good", "clear")
    world.becomes(2)
    world.server.kill()
    world.server.start()
    wait_until(lambda: not any((world.server.spool / "tlsrpt").iterdir()), "the reports to be sent", 30)
    assert sorted(m["TLS-Report-Domain"] for m in map(_parsed, world.receiver.wait_for(2))) == [
        "clear.test",
        "good.test",
    ]
    assert len(world.taken.posted) == 1


def _parsed(stored: Stored) -> Message:
    return message_from_bytes(stored.content)


def test_what_people_see(world: World) -> None:
    world.send("good", "clear")
    lines = [line.split() for line in world.server.run("tlsrpt", "show", "--day", "today").splitlines()]
    assert lines[1:] == [
        ["DOMAIN", "POLICY", "GOOD", "FAILED", "SESSIONS", "OF", "AT"],
        ["clear.test", "no-policy-found", "0", "1", "1", "starttls-not-supported", "mx.clear.test", "[127.3.0.2]"],
        ["good.test", "no-policy-found", "1", "0"],
    ]
    assert world.shown("--domain", "good.test")["domains"] == 1
    assert world.shown("--limit", "1")["shown"][0]["domain"] == "clear.test"
    assert world.shown("--day", "2020-02-02")["domains"] == 0


def test_without_a_contact_nothing_is_counted(tmp_path: Path) -> None:
    with Postroika(tmp_path, workers=1) as server:
        for arguments in (("show",), ("send",), ("send", "--day", "someday")):
            command = [sys.executable, "-m", "postroika", "tlsrpt", *arguments, "--config", str(server.config_file)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode, done.stderr) == (
                ExitCode.FAILED,
                "postroika: TLS reports are off: tlsrpt.contact is not set\n",
            )
        assert not (server.spool / "tlsrpt").exists()
