"""DANE for SMTP, row by row of RFC 7672: Knot signs, Unbound validates, aiosmtpd and Postfix are the next hops.

The rows are in `dane_rows`, and on a page of their own, docs/verdicts.md.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.chains import Issued, issue, tlsa
from tests.system.dane_rows import MESSAGE, MIDDLE, OWN, ROOT, ROWS, Row, Shows
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
