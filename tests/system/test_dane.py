"""DANE for SMTP, row by row of RFC 7672: Knot signs, Unbound validates, aiosmtpd and Postfix are the next hops.

Each row is a domain of its own, with what is in the DNS for it, what its host shows, and what has to become of mail.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import pytest

from tests.chains import Issued, issue, tlsa
from tests.system.postfix_peer import Postfix, start_postfix
from tests.system.process import free_port, wait_until
from tests.system.server import Postroika
from tests.system.signed_dns import SignedDns
from tests.system.starttls_hop import Hop, showing

_CONFIG = """
[dns]
servers = ["{dns}"]
validating = true
mx_port = {port}
allow_private = ["127.0.0.1/32", "127.4.0.0/16"]
timeout_s = 2
negative_ttl_s = 1
[retry]
delays_s = [600]
down_delays_s = [600]
jitter = 0
[delivery]
tls_ca = "{ca}"
connection_idle_s = 0
connect_timeout_s = 3
{more}
"""
MESSAGE = b"Subject: by DANE\r\n\r\nx\r\n"
WAIVING = b"TLS-Required: No\r\n" + MESSAGE

ROOT = issue("root", authority=True, key="rsa")
MIDDLE = issue("middle", ROOT, authority=True)


class Shows(NamedTuple):
    """What a host shows. NAME in names is that of the row.

    Args:
        name: in its certificate, "" for one without STARTTLS.
        above: certificates that are sent with it.
    """

    name: str = "mx.NAME.test"
    above: tuple[Issued, ...] = (MIDDLE, ROOT)
    expired: bool = False
    hopeless: bool = False
    tls_1_2: bool = False


CLEAR = Shows("")
OWN = Shows()
ALONE = Shows(above=())


class Row(NamedTuple):
    """One domain.

    Args:
        zone: records of test.; NAME is the row's, IP and BACK addresses of its hosts, TLSA the name of the records of
            mx.NAME, PORT the port; {3 1 1 leaf} is the data of a record for a certificate of the row, root, or other.
        shows: the host at IP.
        comes: the last words of `tls` in the event of the delivery: "dane", "unverified", "clear"; or what the text of
            the reply to a deferred message has to be (a regular expression), after enhanced code and stage.
        backup: the host at BACK, if there is one.
        plain, bogus: records of plain.test. and bogus.test.
        to: the domain of the recipient, if it is not NAME.test.
        called: what the host has to be asked for (SNI).
        message: what is sent.
    """

    zone: str
    shows: Shows
    comes: str
    backup: Shows | None = None
    plain: str = ""
    bogus: str = ""
    to: str = "NAME.test"
    called: str = ""
    message: bytes = MESSAGE


HOST = "NAME MX 10 mx.NAME\nmx.NAME A IP\n"
BOTH = HOST + "NAME MX 20 back.NAME\nback.NAME A BACK\n"
ASKS = "; the TLSA records of mx.NAME.test ask for it"
FAILED = r"4.7.5 tls TLS with mx.NAME.test \[IP\]:PORT failed: "
NOT_OFFERED = r"4.7.4 tls mx.NAME.test \[IP\]:PORT: TLS is required, but was not offered" + ASKS
NO_RECORDS = r"4.7.5 tls mx.NAME.test \[IP\]:PORT: DNS look-up of the TLSA records of mx.NAME.test failed: "
NO_MATCH = FAILED + r"its certificate matches no TLSA record of mx.NAME.test \({}\)" + ASKS

# Thirty that match nothing: more than fits into 1232 octets, and fewer than are looked at.
MANY = "".join(f"TLSA TLSA 3 1 1 {number:064x}\n" for number in range(30))

ROWS: dict[str, Row] = {
    # --- §3.1: which records verify which certificates
    **{
        f"ee-{selector}-{matching}": Row(HOST + f"TLSA TLSA {{3 {selector} {matching} leaf}}", ALONE, "dane")
        for selector in (0, 1)
        for matching in (0, 1, 2)
    },
    **{
        f"ta-{selector}-{matching}": Row(HOST + f"TLSA TLSA {{2 {selector} {matching} root}}", OWN, "dane")
        for selector in (0, 1)
        for matching in (0, 1, 2)
    },
    "ta-middle": Row(HOST + "TLSA TLSA {2 1 1 middle}", Shows(above=(MIDDLE,)), "dane"),
    "ta-in-dns": Row(HOST + "TLSA TLSA {2 0 0 root}", Shows(above=(MIDDLE,)), "dane"),
    "ta-key-in-dns": Row(HOST + "TLSA TLSA {2 1 0 root}", Shows(above=(MIDDLE,)), "dane"),
    "ta-not-sent": Row(HOST + "TLSA TLSA {2 1 1 root}", Shows(above=(MIDDLE,)), NO_MATCH.format("2 1 1")),
    "tls12": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows(tls_1_2=True), "dane"),
    # §3.1.1: for DANE-EE neither name nor date count; §3.1.2, §3.2.2: for DANE-TA both do
    "ee-name": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows("elsewhere.test"), "dane"),
    "ee-expired": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows(expired=True), "dane"),
    "ta-name": Row(
        HOST + "TLSA TLSA {2 1 1 root}",
        Shows("elsewhere.test"),
        FAILED + "certificate verify failed: it is not for mx.NAME.test or NAME.test" + ASKS,
    ),
    "ta-expired": Row(
        HOST + "TLSA TLSA {2 1 1 root}", Shows(expired=True), FAILED + "certificate verify failed: .*valid.*" + ASKS
    ),
    "ta-domain": Row(HOST + "TLSA TLSA {2 1 1 root}", Shows("NAME.test"), "dane"),
    "ta-wildcard": Row(HOST + "TLSA TLSA {2 1 1 root}", Shows("*.NAME.test"), "dane"),
    # --- records that come in other ways: by a wildcard, and too many for a datagram
    "wildcard-records": Row(HOST + "*._tcp.mx.NAME TLSA {3 1 1 leaf}", ALONE, "dane"),
    "many": Row(HOST + MANY + "TLSA TLSA {3 1 1 leaf}", ALONE, "dane"),
    "large": Row(HOST + "TLSA TLSA {3 0 0 other}\nTLSA TLSA {2 0 0 root}\nTLSA TLSA {2 0 0 middle}", OWN, "dane"),
    # --- what does not match
    "ee-root": Row(HOST + "TLSA TLSA {3 1 1 root}", OWN, NO_MATCH.format("3 1 1")),
    "ta-leaf": Row(HOST + "TLSA TLSA {2 1 1 leaf}", OWN, NO_MATCH.format("2 1 1")),
    "ee-other": Row(HOST + "TLSA TLSA {3 1 1 other}", OWN, NO_MATCH.format("3 1 1")),
    "ta-other": Row(HOST + "TLSA TLSA {2 1 1 other}", OWN, NO_MATCH.format("2 1 1")),
    "one-of-two": Row(HOST + "TLSA TLSA {3 1 1 other}\nTLSA TLSA {3 1 1 leaf}", OWN, "dane"),
    # RFC 7671 §9: a weaker digest does not help beside a stronger one
    "agility": Row(HOST + "TLSA TLSA {3 1 2 other}\nTLSA TLSA {3 1 1 leaf}", OWN, NO_MATCH.format("3 1 2")),
    # --- §3.1.3, §2.2: records that cannot be used ask for TLS, and no more
    "pkix-ee": Row(HOST + "TLSA TLSA {1 1 1 other}", OWN, "unverified"),
    "pkix-ta": Row(HOST + "TLSA TLSA {0 0 1 other}", OWN, "unverified"),
    "unknown": Row(HOST + "TLSA TLSA 3 7 1 00\nTLSA TLSA 9 1 1 00\nTLSA TLSA 3 1 7 00", OWN, "unverified"),
    "malformed": Row(HOST + "TLSA TLSA 3 1 1 00", OWN, "unverified"),
    "unusable-clear": Row(
        HOST + "TLSA TLSA {1 1 1 leaf}",
        CLEAR,
        NOT_OFFERED + ", though none of them can be used to check a certificate",
    ),
    "half-usable": Row(HOST + "TLSA TLSA {1 1 1 leaf}\nTLSA TLSA {3 1 1 other}", OWN, NO_MATCH.format("3 1 1")),
    "pkix-match": Row(HOST + "TLSA TLSA {1 1 1 leaf}\nTLSA TLSA {0 1 1 root}", OWN, "unverified"),
    "half-malformed": Row(HOST + "TLSA TLSA 3 1 1 00\nTLSA TLSA {3 1 1 leaf}", OWN, "dane"),
    # --- §2.2: no TLS, no mail
    "stripped": Row(HOST + "TLSA TLSA {3 1 1 leaf}", CLEAR, NOT_OFFERED),
    "no-handshake": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows(hopeless=True), FAILED + ".*" + ASKS),
    # --- §2.1.1, §2.2.1: what is not secure is as if it were not there
    "none": Row(HOST, CLEAR, "clear"),
    "none-tls": Row(HOST, OWN, "unverified"),
    "no-such-type": Row(HOST + '_PORT._tcp.mx.NAME TXT "x"', CLEAR, "clear"),
    "other-port": Row(HOST + "_26._tcp.mx.NAME TLSA {3 1 1 other}", CLEAR, "clear"),
    "other-host": Row(HOST + "_PORT._tcp.NAME TLSA {3 1 1 other}", CLEAR, "clear"),
    "insecure-records": Row(
        HOST + "TLSA CNAME x.NAME.plain", CLEAR, "clear", plain="x.NAME TLSA {3 1 1 other}"
    ),
    "insecure-mx": Row(
        "mx.NAME A IP\nTLSA TLSA {3 1 1 other}", CLEAR, "clear", plain="NAME MX 10 mx.NAME.test.", to="NAME.plain.test"
    ),
    "insecure-alias": Row(
        HOST + "TLSA TLSA {3 1 1 other}", CLEAR, "clear", plain="NAME CNAME NAME.test.", to="NAME.plain.test"
    ),
    "insecure-host": Row(
        "NAME MX 10 mx.NAME.plain",
        CLEAR,
        "clear",
        plain="mx.NAME A IP\n_PORT._tcp.mx.NAME TLSA {3 1 1 other}",
    ),
    "insecure-no-mx": Row(
        "", CLEAR, "clear", plain="NAME A IP\n_PORT._tcp.NAME TLSA {3 1 1 other}", to="NAME.plain.test"
    ),
    "insecure-chain": Row(
        HOST + "TLSA CNAME x.NAME.plain\ny.NAME TLSA {3 1 1 other}", CLEAR, "clear", plain="x.NAME CNAME y.NAME.test."
    ),
    # --- §2.1.2: what cannot be known stops the host
    "bogus-records": Row(
        HOST + "TLSA CNAME x.NAME.bogus", OWN, NO_RECORDS + "SERVFAIL", bogus="x.NAME TLSA {3 1 1 leaf}"
    ),
    "broken-records": Row(HOST + "TLSA CNAME x.NAME.broken", OWN, NO_RECORDS + "SERVFAIL"),
    "silent-records": Row(HOST + "TLSA CNAME x.NAME.silent", OWN, NO_RECORDS + r"no answer within 2 s from 127\.\S+"),
    "bogus-mx": Row(
        "mx.NAME A IP",
        OWN,
        r"4.4.3 routing DNS look-up of MX for NAME.bogus.test failed: SERVFAIL",
        bogus="NAME MX 10 mx.NAME.test.",
        to="NAME.bogus.test",
    ),
    "silent-mx": Row(
        "mx.NAME A IP",
        OWN,
        r"4.4.3 routing DNS look-up of MX for NAME.silent.test failed: no answer within 2 s from 127\.\S+",
        to="NAME.silent.test",
    ),
    "silent-host": Row(
        "NAME MX 10 mx.NAME.silent",
        OWN,
        r"4.4.3 routing DNS look-up of mx.NAME.silent.test failed: no answer .*",
    ),
    "bogus-alias": Row(
        "NAME CNAME x.NAME.bogus\nmx.NAME A IP",
        OWN,
        r"4.4.3 routing DNS look-up of MX for NAME.test failed: SERVFAIL",
        bogus="x.NAME MX 10 mx.NAME.test.",
    ),
    "bogus-host-alias": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME.bogus\nTLSA TLSA {3 1 1 leaf}",
        OWN,
        r"4.4.3 routing DNS look-up of mx.NAME.test failed: SERVFAIL",
        bogus="real.NAME A IP",
    ),
    "bogus-chain": Row(
        HOST + "TLSA CNAME x.NAME\nx.NAME CNAME y.NAME.bogus",
        OWN,
        NO_RECORDS + "SERVFAIL",
        bogus="y.NAME TLSA {3 1 1 leaf}",
    ),
    "bogus-host-backup": Row(
        "NAME MX 10 mx.NAME.bogus\nNAME MX 20 back.NAME\nback.NAME A BACK\n_PORT._tcp.back.NAME TLSA {3 1 1 back}",
        OWN,
        "dane by back.NAME.test",
        backup=Shows("back.NAME.test"),
        bogus="mx.NAME A IP",
    ),
    "bogus-host": Row(
        "NAME MX 10 mx.NAME.bogus",
        OWN,
        r"4.4.3 routing DNS look-up of mx.NAME.bogus.test failed: SERVFAIL",
        bogus="mx.NAME A IP",
    ),
    # --- §2.2.2, §2.2.3, §3.2.2: aliases
    "alias": Row(
        "NAME CNAME real.NAME\nreal.NAME MX 10 mx.NAME\nmx.NAME A IP\nTLSA TLSA {2 1 1 root}",
        Shows("NAME.test"),
        "dane",
    ),
    "alias-end": Row(
        "NAME CNAME real.NAME\nreal.NAME MX 10 mx.NAME\nmx.NAME A IP\nTLSA TLSA {2 1 1 root}",
        Shows("real.NAME.test"),
        "dane",
    ),
    "host-alias": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME\nreal.NAME A IP\n_PORT._tcp.real.NAME TLSA {2 1 1 root}\n"
        "TLSA TLSA {3 1 1 other}",
        Shows("real.NAME.test"),
        "dane",
        called="real.NAME.test",
    ),
    "host-alias-start": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME\nreal.NAME A IP\nTLSA TLSA {2 1 1 root}", OWN, "dane"
    ),
    "host-alias-out": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME.plain\nTLSA TLSA {3 1 1 leaf}", OWN, "dane", plain="real.NAME A IP"
    ),
    "records-alias": Row(
        HOST + "TLSA CNAME ca.NAME\nca.NAME TLSA {2 1 1 root}", OWN, "dane", called="mx.NAME.test"
    ),
    # --- §2.2.2: no MX records
    "no-mx": Row("NAME A IP\n_PORT._tcp.NAME TLSA {2 1 1 root}", Shows("NAME.test"), "dane", called="NAME.test"),
    "no-mx-other": Row(
        "NAME A IP\n_PORT._tcp.NAME TLSA {3 1 1 other}",
        OWN,
        r"4.7.5 tls TLS with NAME.test \[IP\]:PORT failed: its certificate matches no TLSA record of NAME.test "
        r"\(3 1 1\); the TLSA records of NAME.test ask for it",
    ),
    # --- §2.2.1: each host for itself, in the order of the MX records
    "second-host": Row(BOTH + "TLSA TLSA {3 1 1 other}", OWN, "clear by back.NAME.test", backup=CLEAR),
    "second-host-records": Row(
        BOTH + "TLSA CNAME x.NAME.broken\n_PORT._tcp.back.NAME TLSA {2 1 1 root}",
        OWN,
        "dane by back.NAME.test",
        backup=Shows("back.NAME.test"),
    ),
    "better-host": Row(
        BOTH + "_PORT._tcp.back.NAME TLSA {2 1 1 root}", CLEAR, "clear by mx.NAME.test", backup=Shows("back.NAME.test")
    ),
    # --- RFC 8689 §4.1: who says that he does not care gets his mail through
    "waived": Row(HOST + "TLSA TLSA {3 1 1 other}", OWN, "unverified", message=WAIVING),
    "waived-stripped": Row(HOST + "TLSA TLSA {3 1 1 leaf}", CLEAR, "clear", message=WAIVING),
    "waived-unknown": Row(HOST + "TLSA CNAME x.NAME.broken", OWN, "unverified", message=WAIVING),
}  # fmt: skip


class Placed:
    """A row with its addresses and certificates."""

    def __init__(self, number: int, name: str, row: Row, port: int) -> None:
        self.row = row
        self.name = f"{name}-{number}"
        self._number = number
        self._port = port
        self._certificates = {"root": ROOT, "middle": MIDDLE, "other": issue("other", None, self("mx.NAME.test"))}
        self._leaves: dict[Shows, Issued] = {}
        self._certificates["leaf"] = self.leaf(row.shows if row.shows.name else OWN)
        if row.backup is not None:
            self._certificates["back"] = self.leaf(row.backup if row.backup.name else OWN)

    def __call__(self, text: str, escape: Callable[[str], str] = str) -> str:
        """The text with the row's names and numbers."""
        text = text.replace("_PORT._tcp", f"_{self._port}._tcp")
        text = re.sub(r"\bTLSA(?= (?:TLSA|CNAME))", f"_{self._port}._tcp.mx.NAME", text)
        words = {"NAME": self.name, "IP": self.ip(), "BACK": self.ip(2), "PORT": str(self._port)}
        return re.sub(r"\b(NAME|IP|BACK|PORT)\b", lambda match: escape(words[match[1]]), text)

    def ip(self, last: int = 1) -> str:
        return f"127.4.{self._number}.{last}"

    def leaf(self, shows: Shows) -> Issued:
        if shows not in self._leaves:
            self._leaves[shows] = issue("leaf", MIDDLE, self(shows.name), expired=shows.expired)
        return self._leaves[shows]

    def zone(self, text: str) -> str:
        """Records with their data."""

        def record(match: re.Match[str]) -> str:
            usage, selector, matching, whose = match[1].split()
            return str(tlsa(int(usage), int(selector), int(matching), self._certificates[whose]))

        return re.sub(r"\{([^}]+)\}", record, self(text)) + "\n"

    def hop(self, directory: Path, shows: Shows, last: int = 1) -> Hop:
        context = None
        if shows.name:
            file = directory / f"{self.name}-{last}.pem"
            leaf = self.leaf(shows)
            context = showing(file, leaf, *shows.above, tls_1_2=shows.tls_1_2, hopeless=shows.hopeless)
        return Hop(self.ip(last), self._port, context)


class World:
    """A server for all rows, the name servers that it asks, and what is in them of each row."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        port = free_port("127.4.0.1")
        self.path = path
        self.rows = {name: Placed(number, name, row, port) for number, (name, row) in enumerate(ROWS.items())}
        self.port = port

        def all_of(field: str) -> str:
            return "".join(placed.zone(getattr(placed.row, field)) for placed in self.rows.values())

        dns = SignedDns(all_of("zone"), path / "dns", plain=all_of("plain"), bogus=all_of("bogus"))
        stack.callback(dns.close)
        ca = issue("nobody", authority=True).write(path / "ca.pem")
        config = _CONFIG.format(dns=dns.address, port=port, ca=ca, more="")
        self.server = stack.enter_context(Postroika(path, config, workers=1))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("dane"), stack)


def send(server: Postroika, recipient: str, message: bytes = MESSAGE) -> dict[str, Any]:
    """What the first attempt at a message came to."""
    with server.dialogue() as client:
        assert client.message("s@x.test", [recipient], message).startswith("250")

    def events() -> list[dict[str, Any]]:
        return [
            event for event in server.events_of("delivered", "deferred", "bounced") if event["recipient"] == recipient
        ]

    wait_until(events, f"what became of the mail to {recipient}", 30)
    return events()[0]


def said(event: dict[str, Any]) -> str:
    reply = event["reply"]
    return f"{reply['enhanced']} {reply['stage']} {reply['text']}"


@pytest.mark.parametrize("name", ROWS)
def test_every_row(world: World, name: str, tmp_path: Path) -> None:
    placed = world.rows[name]
    row = placed.row
    with ExitStack() as stack:
        hop = placed.hop(tmp_path, row.shows)
        stack.callback(hop.stop)
        backup = None
        if row.backup is not None:
            backup = placed.hop(tmp_path, row.backup, 2)
            stack.callback(backup.stop)
        event = send(world.server, f"r@{placed(row.to)}", row.message)
        how, _, host = row.comes.partition(" by ")
        if how in {"dane", "unverified", "clear"}:
            assert event["type"] == "delivered", said(event)
            tls = event.get("tls", "")
            words = {"dane": " verified dane", "unverified": "", "clear": ""}[how]
            version = "TLSv1.2" if row.shows.tls_1_2 else "TLSv1.3"
            assert bool(tls) is (how != "clear")
            assert not tls or re.fullmatch(rf"{version} [A-Z0-9_-]+{words}", tls)
            assert not host or event["peer"]["host"] == placed(host)
            took = backup if backup is not None and event["peer"]["ip"] == placed.ip(2) else hop
            assert len(took.messages) == 1
            assert len(hop.messages) + (len(backup.messages) if backup is not None else 0) == 1
            assert not row.called or hop.names[-1] == placed(row.called)
        else:
            assert event["type"] == "deferred", event
            assert re.fullmatch(placed(row.comes, re.escape), said(event))
            assert hop.mails == []


# --- Postfix


class Hops:
    """Places a Postfix, the DNS for it, and a server that delivers to it."""

    def __init__(self, path: Path, open_directory: Path, stack: ExitStack) -> None:
        self._path = path
        self._open = open_directory
        self._stack = stack

    def postfix(self, leaf: Issued, *above: Issued, **settings: str) -> Postfix:
        file = leaf.write(self._open / "chain.pem", above)
        tls = {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": str(file),
            "smtpd_tls_received_header": "yes",
        }
        return start_postfix(self._stack, virtual=["shop.test"], settings={**tls, **settings})

    def server(self, hop: Postfix, *records: str, more: str = "") -> Postroika:
        zone = "shop MX 10 mx.shop\nmx.shop A 127.0.0.1\n"
        zone += "".join(f"_{hop.port}._tcp.mx.shop TLSA {record}\n" for record in records)
        dns = SignedDns(zone, self._path / "dns")
        self._stack.callback(dns.close)
        ca = issue("nobody", authority=True).write(self._path / "ca.pem")
        config = _CONFIG.format(dns=dns.address, port=hop.port, ca=ca, more=more)
        return self._stack.enter_context(Postroika(self._path, config, workers=1))


@pytest.fixture
def hops(tmp_path: Path) -> Iterator[Hops]:
    with ExitStack() as stack:
        directory = Path(mkdtemp(prefix="postroika-dane-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        yield Hops(tmp_path, directory, stack)


@pytest.mark.parametrize(
    ("usage", "selector", "matching", "anchor"),
    [(3, 1, 1, "leaf"), (3, 0, 2, "leaf"), (2, 1, 1, "root"), (2, 0, 1, "root")],
)
def test_postfix_that_shows_what_its_records_say_gets_mail(
    hops: Hops, usage: int, selector: int, matching: int, anchor: str
) -> None:
    leaf = issue("leaf", MIDDLE, "mx.shop.test")
    hop = hops.postfix(leaf, MIDDLE, ROOT, smtpd_tls_security_level="encrypt")
    record = tlsa(usage, selector, matching, leaf if anchor == "leaf" else ROOT)
    event = send(hops.server(hop, str(record)), "r@shop.test")
    assert event["type"] == "delivered", said(event)
    assert event["tls"] == "TLSv1.3 TLS_AES_256_GCM_SHA384 verified dane"
    wait_until(hop.mailbox, "the message")
    assert b"using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384" in hop.mailbox()[0]


def test_postfix_with_a_key_that_its_records_do_not_name_gets_nothing_until_they_do(hops: Hops) -> None:
    leaf, old = issue("leaf", MIDDLE, "mx.shop.test"), issue("old", MIDDLE, "mx.shop.test")
    hop = hops.postfix(leaf, MIDDLE)
    server = hops.server(hop, str(tlsa(3, 1, 1, old)))
    event = send(server, "r@shop.test")
    assert said(event) == (
        f"4.7.5 tls TLS with mx.shop.test [127.0.0.1]:{hop.port} failed: its certificate matches no TLSA record of "
        "mx.shop.test (3 1 1); the TLSA records of mx.shop.test ask for it"
    )
    assert "from=<" not in hop.log()
    figures = server.metrics()
    assert figures['postroika_host_policies_total{policy="dane"}'] >= 1


def test_postfix_whose_starttls_was_stripped_gets_nothing(hops: Hops) -> None:
    leaf = issue("leaf", MIDDLE, "mx.shop.test")
    hop = hops.postfix(leaf, smtpd_discard_ehlo_keywords="starttls")
    event = send(hops.server(hop, str(tlsa(3, 1, 1, leaf))), "r@shop.test")
    assert said(event) == (
        f"4.7.4 tls mx.shop.test [127.0.0.1]:{hop.port}: TLS is required, but was not offered; the TLSA records of "
        "mx.shop.test ask for it"
    )
    assert "from=<" not in hop.log()


def test_many_messages_to_postfix_share_connections_and_sessions(hops: Hops) -> None:
    leaf = issue("leaf", MIDDLE, "mx.shop.test")
    hop = hops.postfix(leaf, MIDDLE, ROOT)
    server = hops.server(hop, str(tlsa(2, 1, 1, ROOT)))
    with server.dialogue() as client:
        for number in range(60):
            assert client.message("s@x.test", [f"r{number}@shop.test"], MESSAGE).startswith("250")
    told = {event["tls"] for event in server.wait_for_events(60, "delivered")}
    assert told == {"TLSv1.3 TLS_AES_256_GCM_SHA384 verified dane"}
    wait_until(lambda: len(hop.mailbox()) == 60, "the messages", 30)


def test_resolver_that_does_not_validate_is_no_reason_for_dane(hops: Hops) -> None:
    """`validating` without a name server that does it: nothing is secure, so that mail goes as it did before."""
    leaf, old = issue("leaf", MIDDLE, "mx.shop.test"), issue("old", MIDDLE, "mx.shop.test")
    hop = hops.postfix(leaf, MIDDLE)
    server = hops.server(hop, str(tlsa(3, 1, 1, old)))
    text = server.config_file.read_text()
    server.stop()
    knot = re.search(r"listen: (\S+)@(\d+)", (server.path / "dns" / "knot.conf").read_text())
    assert knot is not None
    server.config_file.write_text(re.sub(r'servers = \["[^"]+"\]', f'servers = ["{knot[1]}:{knot[2]}"]', text))
    server.start()
    event = send(server, "r@shop.test")
    assert (event["type"], event["tls"]) == ("delivered", "TLSv1.3 TLS_AES_256_GCM_SHA384")


def test_start_is_refused_without_a_resolver_to_trust(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"dns\.validating: needs dns\.servers"):
        Postroika(tmp_path, "[dns]\nvalidating = true").__enter__()
