"""Behind proxies: HAProxy with both versions of PROXY, nginx with XCLIENT, swaks with all; and strangers who try it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.system.haproxy_peer import StartHaProxy
from tests.system.naive_server import Fault, naive_server
from tests.system.nginx_peer import StartNginx
from tests.system.peers import RunSwaks
from tests.system.process import wait_until
from tests.system.proxied_world import DENIED, MESSAGE, NOT_FOR_YOU, PASSWORD, PROXY, Raw, World, version_1, version_2
from tests.system.server import Dialogue


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


# ---- HAProxy

WAYS = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", ["127.0.0.5", "::1"])
def test_haproxy_names_the_client(world: World, haproxy: StartHaProxy, way: str, source: str) -> None:
    proxy = haproxy(world.plain, f"source {PROXY} {way}")
    sender = f"{WAYS.index(way)}.{source.replace(':', 'x')}@haproxy.test"
    host = "::1" if ":" in source else "127.0.0.1"
    with Dialogue(proxy.port, "me.test", host=host, source=source) as client:
        assert client.say(f"MAIL FROM:<{sender}>") == "250 2.1.0 Ok"
        assert client.say("RCPT TO:<you@away.test>") == DENIED
        assert client.say("RSET") == "250 2.0.0 Ok"
        assert client.message(sender, ["you@ours.test"], MESSAGE).startswith("250 ")
    assert world.received(sender)["client"] == {"ip": source, "helo": "me.test"}
    shown = f"IPv6:{source}" if ":" in source else source
    assert world.stamp(sender).startswith(f"from me.test ([{shown}]) by mx.postroika.test ")
    wait_until(lambda: DENIED[10:] in world.rejected("rcpt", source), "the record")


def test_tls_from_the_first_octet_behind_haproxy(world: World, haproxy: StartHaProxy) -> None:
    proxy = haproxy(world.implicit, f"source {PROXY} send-proxy-v2")
    raw = socket.create_connection(("127.0.0.1", proxy.port), timeout=30, source_address=("127.0.0.6", 0))
    with world.context.wrap_socket(raw, server_hostname="localhost") as tls, tls.makefile("rb") as lines:
        assert lines.readline().startswith(b"220 ")
        tls.sendall(b"HELO me.test\r\nMAIL FROM:<>\r\nRCPT TO:<you@away.test>\r\nQUIT\r\n")
        said = lines.read().decode().split("\r\n")
    assert said[2] == DENIED
    wait_until(lambda: world.rejected("rcpt", "127.0.0.6") == [DENIED[10:]], "the record")


def test_starttls_behind_haproxy(world: World, haproxy: StartHaProxy, swaks: RunSwaks) -> None:
    proxy = haproxy(world.plain, f"source {PROXY} send-proxy")
    transcript = swaks(
        f"127.0.0.1:{proxy.port}",
        "--tls",
        "--local-interface",
        "127.0.0.7",
        to="you@ours.test",
        sender="tls@haproxy.test",
    )
    assert transcript.returncode == 0, transcript.text
    event = world.received("tls@haproxy.test")
    assert event["client"]["ip"] == "127.0.0.7"
    assert event["tls"].startswith("TLSv1.3 ")


def test_checks_of_haproxy_are_let_in_and_leave_no_record(world: World, haproxy: StartHaProxy) -> None:
    key = 'postroika_proxied_connections_total{result="local"}'
    before = world.server.metrics()[key]
    records = len(world.rejected("proxy", PROXY))
    # One that speaks: what closes at once may be gone before its header is read.
    checks = "option smtpchk HELO check.test"
    haproxy(world.plain, f"source {PROXY} send-proxy-v2 check check-send-proxy inter 500ms", checks)
    wait_until(lambda: world.server.metrics()[key] > before + 2, "checks", 30)
    assert len(world.rejected("proxy", PROXY)) == records


def test_clients_are_counted_each_for_itself(world: World, haproxy: StartHaProxy) -> None:
    proxy = haproxy(world.plain, f"source {PROXY} send-proxy-v2")
    with ExitStack() as stack:
        greetings = [
            stack.enter_context(Dialogue(proxy.port, source=source)).greeting
            for source in ["127.0.0.8"] * 6 + ["127.0.0.9"] * 5
        ]
    good = "220 mx.postroika.test ESMTP Postroika"
    too_many = "421 4.7.0 mx.postroika.test too many connections from your address"
    assert greetings == [good] * 5 + [too_many] + [good] * 5
    wait_until(lambda: world.rejected("connect", "127.0.0.8"), "the record")


# ---- PROXY, said by hand


@pytest.mark.parametrize("version", ["1", "2"])
def test_swaks_as_proxy(world: World, swaks: RunSwaks, version: str) -> None:
    how = ["--proxy-version", version, "--proxy-family", "TCP4" if version == "1" else "AF_INET"]
    how += ["--proxy-source", "10.1.2.3", "--proxy-source-port", "1", "--proxy-dest", "192.0.2.1"]
    how += ["--proxy-dest-port", "25", "--local-interface", PROXY]
    sender = f"swaks{version}@proxy.test"
    transcript = swaks(f"127.0.0.1:{world.plain}", *how, to="you@away.test", sender=sender)
    assert transcript.returncode == 0, transcript.text
    assert world.received(sender)["client"]["ip"] == "10.1.2.3"


@pytest.mark.parametrize("header", [version_1("192.0.2.7"), version_2("192.0.2.7")])
def test_commands_may_follow_the_header_at_once(world: World, header: bytes) -> None:
    sender = f"{len(header)}@pipelined.test"
    dialogue = f"EHLO me.test\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<you@ours.test>\r\nDATA\r\n".encode()
    with Raw(world.plain, header + dialogue + MESSAGE + b".\r\nQUIT\r\n") as client:
        replies = [client.reply()[:3] for _ in range(7)]
    assert replies == ["220", "250", "250", "250", "354", "250", "221"]
    assert world.received(sender)["client"] == {"ip": "192.0.2.7", "helo": "me.test"}


@pytest.mark.parametrize("lie", [version_1(PROXY), b"EHLO me.test\r\nXCLIENT ADDR=10.1.2.3 NAME=x\r\n"])
def test_naive_server_believes_a_stranger(lie: bytes) -> None:
    """And relays for who says that he is one of its own."""
    with naive_server(Fault.PROXIES, ours=("ours.test",)) as naive:
        for said, code in ((b"", "550"), (lie, "250")):
            with Raw(naive.port, said + b"MAIL FROM:<a@b.test>\r\n", "127.0.0.1") as client:
                while not client.reply().endswith(" ok"):
                    pass
                assert client.say("RCPT TO:<you@away.test>")[:3] == code


@pytest.mark.parametrize("header", [version_1(PROXY), version_2(PROXY), version_2(PROXY, command=0x20)])
@pytest.mark.parametrize("source", ["127.0.0.1", "::1"])
def test_header_of_a_stranger_is_a_bad_command(world: World, header: bytes, source: str) -> None:
    port = world.six if ":" in source else world.plain
    with Raw(port, header + b"\r\n", source) as client:
        assert client.reply() == "220 mx.postroika.test ESMTP Postroika"
        client.send(b"EHLO me.test\r\n")
        said = client.reply()
        while said.startswith("500 "):
            said = client.reply()
        assert said.startswith("250-mx.postroika.test\n")
        assert client.say("MAIL FROM:<a@b.test>") == "250 2.1.0 Ok"
        before = len(world.rejected("rcpt", source))
        assert client.say("RCPT TO:<you@away.test>") == DENIED
    wait_until(lambda: len(world.rejected("rcpt", source)) > before, "the record")


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "no whole PROXY header in time"),
        (b"PROXY TCP4 10.1.2.3 19", "no whole PROXY header in time"),
        (version_2("10.1.2.3")[:-1], "no whole PROXY header in time"),
        (b"EHLO me.test\r\n", "malformed PROXY header: it does not begin with a PROXY header"),
        (b"PROXY TCP4 10.1.2.3 10.1.2.3 1\r\n", "malformed PROXY header: not two addresses and two ports"),
        (version_2("10.1.2.3", command=0x2F), "malformed PROXY header: neither LOCAL nor PROXY of version 2"),
    ],
)
@pytest.mark.parametrize("listener", ["plain", "implicit"])
def test_proxy_without_a_good_header_is_dropped_without_a_word(
    world: World, listener: str, sent: bytes, why: str
) -> None:
    before = world.rejected("proxy", PROXY).count(why)
    dropped = world.server.metrics()['postroika_proxied_connections_total{result="dropped"}']
    with Raw(getattr(world, listener), sent) as client, suppress(ConnectionResetError):
        assert client.sock.recv(1000) == b""
    wait_until(lambda: world.rejected("proxy", PROXY).count(why) == before + 1, "the record")
    assert world.server.metrics()['postroika_proxied_connections_total{result="dropped"}'] == dropped + 1
    assert f"dropped a connection of the proxy at {PROXY}: " in world.server.output()


def test_silent_proxies_keep_nobody_waiting(world: World) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(Raw(world.plain, b"PROXY "))
        with Raw(world.plain, version_1("192.0.2.7")) as client:
            assert client.reply() == "220 mx.postroika.test ESMTP Postroika"
            assert client.say("QUIT").startswith("221 ")


# ---- XCLIENT


def test_swaks_says_who_the_client_is(world: World, swaks: RunSwaks) -> None:
    how = ["--xclient-addr", "192.0.2.7", "--xclient-name", "client.test", "--xclient-helo", "helo.test"]
    how += ["--xclient-port", "99", "--xclient-proto", "ESMTP", "--xclient-destaddr", "192.0.2.25"]
    how += ["--xclient-destport", "25", "--local-interface", PROXY]
    address = f"127.0.0.1:{world.xclient}"
    transcript = swaks(address, *how, to="you@ours.test", sender="one@xclient.test")
    assert transcript.returncode == 0, transcript.text
    assert transcript.replies.count("220 mx.postroika.test ESMTP Postroika") == 2
    assert world.received("one@xclient.test")["client"] == {"ip": "192.0.2.7", "helo": "helo.test"}
    assert world.stamp("one@xclient.test").startswith(
        "from helo.test (client.test [192.0.2.7]) by mx.postroika.test (Postroika) with ESMTP id "
    )
    refused = swaks(address, *how, to="you@away.test", sender="two@xclient.test")
    assert DENIED in refused.replies
    wait_until(lambda: DENIED[10:] in world.rejected("rcpt", "192.0.2.7"), "the record")


def test_several_xclient_commands_of_swaks(world: World, swaks: RunSwaks) -> None:
    how = ["--xclient-addr", "IPV6:2001:db8::7", "--xclient-delim", "--xclient", "PORT=1 HELO=late.test"]
    transcript = swaks(
        f"127.0.0.1:{world.xclient}", *how, "--local-interface", PROXY, to="you@ours.test", sender="more@xclient.test"
    )
    assert transcript.returncode == 0, transcript.text
    assert world.received("more@xclient.test")["client"] == {"ip": "2001:db8::7", "helo": "late.test"}


@pytest.mark.parametrize("order", ["--xclient-before-starttls", "--tls"])
def test_xclient_and_starttls_in_either_order_and_auth_behind_them(world: World, swaks: RunSwaks, order: str) -> None:
    sender = f"{order.strip('-')}@shop.test"
    how = [*dict.fromkeys(["--tls", order]), "--xclient-addr", "192.0.2.9", "--local-interface", PROXY]
    how += ["--auth", "PLAIN", "--auth-user", "ann@shop.test", "--auth-password", PASSWORD]
    how += ["--header", "From: ann@shop.test"]
    transcript = swaks(f"127.0.0.1:{world.xclient}", *how, to="you@away.test", sender=sender)
    assert transcript.returncode == 0, transcript.text
    event = world.received(sender)
    assert (event["client"]["ip"], event["account"], event["tenant"]) == ("192.0.2.9", "ann@shop.test", "shop")
    assert event["tls"].startswith("TLSv1.3 ")


def test_login_of_an_account_that_a_proxy_has_checked(world: World, swaks: RunSwaks) -> None:
    how = ["--xclient-addr", "192.0.2.11", "--local-interface", PROXY, "--header", "From: ann@shop.test"]
    address = f"127.0.0.1:{world.xclient}"
    good = swaks(address, *how, "--xclient-login", "ann@shop.test", to="you@away.test", sender="login@shop.test")
    assert good.returncode == 0, good.text
    assert world.received("login@shop.test")["account"] == "ann@shop.test"
    bad = swaks(address, *how, "--xclient-login", "bob@shop.test", to="you@away.test", sender="login2@shop.test")
    assert "550 5.7.8 LOGIN names no account that may log in" in bad.replies
    wait_until(lambda: "LOGIN names no account that may log in" in world.rejected("xclient", PROXY), "the record")


def test_nginx_logs_clients_in(world: World, nginx: StartNginx, swaks: RunSwaks) -> None:
    port = nginx("127.0.0.1", world.behind_nginx)
    how = ["--auth", "PLAIN", "--auth-user", "ann@shop.test", "--auth-password", "whatever"]
    how += ["--local-interface", "127.0.0.14", "--header", "From: ann@shop.test", "--helo", "me.test"]
    good = swaks(f"127.0.0.1:{port}", *how, to="you@away.test", sender="nginx@shop.test")
    assert good.returncode == 0, good.text
    event = world.received("nginx@shop.test")
    assert (event["client"], event["account"]) == ({"ip": "127.0.0.14", "helo": "me.test"}, "ann@shop.test")
    how[3] = "bob@shop.test"
    bad = swaks(f"127.0.0.1:{port}", *how, to="you@away.test", sender="nginx2@shop.test")
    assert bad.returncode != 0
    none = swaks(f"127.0.0.1:{port}", "--local-interface", "127.0.0.15", to="you@away.test", sender="nginx3@x.test")
    assert DENIED in none.replies
    wait_until(lambda: DENIED[10:] in world.rejected("rcpt", "127.0.0.15"), "the record")


@pytest.mark.parametrize("source", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("told", ["ADDR=10.1.2.3", "LOGIN=ann@shop.test", "ADDR=127.0.0.2 LOGIN=ann@shop.test"])
def test_xclient_of_a_stranger_changes_nothing(world: World, source: str, told: str) -> None:
    port, host = (world.six, "::1") if ":" in source else (world.xclient, "127.0.0.1")
    with Dialogue(port, "me.test", host=host, source=source) as client:
        assert "XCLIENT" not in client.ehlo
        before = len(world.rejected("xclient", source))
        assert client.say(f"XCLIENT {told}") == NOT_FOR_YOU
        assert client.say("MAIL FROM:<ann@shop.test>") == "250 2.1.0 Ok"
        assert client.say(f"XCLIENT {told}") == "503 5.5.1 XCLIENT is not permitted during a mail transaction"
        assert client.say("RCPT TO:<you@away.test>") == DENIED
    wait_until(lambda: len(world.rejected("xclient", source)) == before + 2, "the records")


def test_xclient_is_a_right_of_the_client_and_not_of_the_proxy_before_it(world: World) -> None:
    """127.0.0.2 may use both; those behind it may use XCLIENT only if they may themselves."""
    for who, told, may in (
        (version_1("192.0.2.7"), "192.0.2.7", False),
        (b"PROXY UNKNOWN\r\n", PROXY, False),
        (version_1("10.9.0.1"), "10.9.0.1", True),
        (version_2("192.0.2.7", command=0x20), PROXY, True),
    ):
        with Raw(world.both, who + b"EHLO me.test\r\n") as client:
            assert client.reply().startswith("220 ")
            assert ("XCLIENT" in client.reply()) is may
            before = len(world.rejected("xclient", told))
            said = client.say("XCLIENT ADDR=10.1.2.3")
            assert said == ("220 mx.postroika.test ESMTP Postroika" if may else NOT_FOR_YOU)
        if not may:
            wait_until(lambda: len(world.rejected("xclient", told)) > before, "the record")  # noqa: B023


def test_sessions_are_counted_by_the_address_that_xclient_tells(world: World) -> None:
    with ExitStack() as stack:
        sessions = [stack.enter_context(Dialogue(world.xclient, "p.test", source=PROXY)) for _ in range(2)]
        for session in sessions:
            assert session.say("XCLIENT ADDR=192.0.2.12").startswith("220 ")
        sessions += [stack.enter_context(Dialogue(world.xclient, "p.test", source=PROXY)) for _ in range(4)]
        said = [session.say("XCLIENT ADDR=192.0.2.12") for session in sessions[2:]]
        assert [reply[:9] for reply in said] == ["220 mx.po"] * 3 + ["421 4.7.0"]
        # But for the one that was sent away, none of them is one of the proxy's any more.
        more = [stack.enter_context(Dialogue(world.xclient, source=PROXY)) for _ in range(4)]
        assert [session.greeting[:3] for session in more] == ["220"] * 4


def test_what_a_client_has_said_cannot_write_into_records(world: World) -> None:
    evil = "+0D+0AX-Evil:+20yes+0D+0A+0D+0A+00+1B[2J{}"
    with Dialogue(world.xclient, "p.test", source=PROXY) as client:
        for attribute in ("NAME", "ADDR", "PORT", "PROTO", "LOGIN", "DESTADDR", "DESTPORT"):
            assert client.say(f"XCLIENT {attribute}=1{evil}").startswith("501 5.5.4 ")
        assert client.say(f"XCLIENT ADDR=192.0.2.13 HELO=a{evil}") == "220 mx.postroika.test ESMTP Postroika"
        assert client.say("EHLO p.test").startswith("250-")
        assert client.message("evil@xclient.test", ["you@ours.test"], MESSAGE).startswith("250 ")
    assert world.received("evil@xclient.test")["client"]["helo"] == "a??X-Evil: yes?????" + "?[2J{}"
    assert world.stamp("evil@xclient.test").startswith("from a??X-Evil:?yes??????[2J?? ([192.0.2.13]) by ")
    assert b"X-Evil" not in world.server.log.read_bytes()
