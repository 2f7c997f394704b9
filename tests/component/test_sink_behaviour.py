"""What the sink does on request: refuse, defer, wait, hang up, close, hold back; and TLS."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from postroika.bench.pump import Pump
from postroika.bench.sink import Sink, SinkSettings
from postroika.errors import PostroikaError
from postroika.mail.outcome import Stage
from tests.component.sink_world import CONTENT, HELLO, Client, marked, serving

DELAY_S = 0.1
SIZE = len(CONTENT) - 1


def test_recipients_are_refused_and_deferred_by_pattern() -> None:
    settings = SinkSettings(refuse=("bounce@*", "*@gone.test"), defer=("defer@*",))
    with serving(settings) as running, running.client() as client:
        replies = client.send(b"Bounce@y.test", b"b@gone.test", b"defer@y.test", b"bounce2@y.test")
    assert replies[1:5] == [
        "550 5.1.1 <Bounce@y.test>: the sink refuses this recipient",
        "550 5.1.1 <b@gone.test>: the sink refuses this recipient",
        "451 4.7.1 <defer@y.test>: the sink defers this recipient",
        "250 2.1.5 Ok",
    ]
    assert running.counts() == {
        "messages": 1, "recipients": 1, "unmarked": 1, "refused": 2, "deferred": 1, "sessions": 1, "bytes": SIZE,
    }  # fmt: skip


def _fates(settings: SinkSettings) -> str:
    """The first digits of the replies to 200 RCPTs."""
    with serving(settings) as running, running.client() as client:
        client.say(b"MAIL FROM:<>\r\n")
        client.sock.sendall(b"".join(b"RCPT TO:<r%d@y.test>\r\n" % number for number in range(200)))
        return "".join(client.reply()[0] for _ in range(200))


def test_shares_are_kept_and_come_again_with_the_same_seed() -> None:
    both = SinkSettings(refuse_share=0.25, defer_share=0.25, seed=1)
    fates = _fates(both)
    assert _fates(both) == fates
    assert _fates(SinkSettings(refuse_share=0.25, defer_share=0.25, seed=2)) != fates
    refused, deferred, taken = (fates.count(digit) for digit in "542")
    assert (30 <= refused <= 70, 20 <= deferred <= 60, refused + deferred + taken) == (True, True, 200)
    # What is refused does not hang on what is deferred.
    assert _fates(SinkSettings(refuse_share=0.25, seed=1)) == fates.replace("4", "2")
    assert _fates(SinkSettings(defer_share=1.0)) == "4" * 200
    assert _fates(SinkSettings()) == "2" * 200


def test_greylisted_recipient_is_taken_the_second_time() -> None:
    with serving(SinkSettings(greylist=True)) as running, running.client() as client:
        client.say(b"MAIL FROM:<>\r\n")
        replies = [client.say(b"RCPT TO:<%b>\r\n" % to) for to in (b"a@y.test", b"b@y.test", b"A@Y.test", b"a@y.test")]
    grey = "451 4.7.1 <{}>: greylisted, try again later"
    assert replies == [grey.format("a@y.test"), grey.format("b@y.test"), "250 2.1.5 Ok", "250 2.1.5 Ok"]
    assert running.counts() == {"deferred": 2, "sessions": 1}


def test_greylisted_recipient_that_comes_too_soon_has_to_come_again() -> None:
    began = time.monotonic()
    with serving(SinkSettings(greylist=True, greylist_s=DELAY_S)) as running, running.client() as client:
        client.say(b"MAIL FROM:<>\r\n")
        refusals = 0
        while client.say(b"RCPT TO:<a@y.test>\r\n").startswith("451 "):
            refusals += 1
        assert time.monotonic() - began >= DELAY_S
    assert refusals >= 1
    assert running.counts() == {"deferred": refusals, "sessions": 1}


@pytest.mark.parametrize("stage", [Stage.GREETING, Stage.EHLO, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT])
def test_delay_at_each_stage_holds_up_no_other_session(stage: Stage) -> None:
    """The client that waits and the one that does not are served by one sink: only the stage makes them differ."""
    delays_s: Mapping[Stage, float] = {stage: DELAY_S}
    with serving(SinkSettings(delays_s=delays_s)) as running:
        began = time.monotonic()
        with running.client() as client, running.client() as other:
            assert client.send(b"b@y.test")[-1] == "250 2.0.0 Ok"
            assert other.say(b"NOOP\r\n") == "250 2.0.0 Ok"
            assert time.monotonic() - began >= DELAY_S
    assert running.sink.counts.messages == 1


def test_what_was_said_before_a_delay_is_sent_before_it() -> None:
    with serving(SinkSettings(delays_s={Stage.RCPT: 3600.0})) as running, running.client() as client:
        client.sock.sendall(b"MAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\n")
        assert client.reply() == "250 2.1.0 Ok"


@pytest.mark.parametrize("reset", [False, True])
def test_client_that_goes_away_during_a_delay_costs_nothing(reset: bool) -> None:
    settings = SinkSettings(delays_s={Stage.MAIL: 3600.0 if reset else DELAY_S})
    with serving(settings) as running, running.client() as other:
        with running.client() as client:
            client.sock.sendall(b"MAIL FROM:<>\r\n")
            if reset:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        while running.sink.counts.open_sessions > 1:
            assert other.say(b"NOOP\r\n") == "250 2.0.0 Ok"


@pytest.mark.parametrize(
    ("stage", "replies", "messages"),
    [
        (Stage.GREETING, [], 0),
        (Stage.EHLO, ["220"], 0),
        (Stage.MAIL, ["220", "250"], 0),
        (Stage.RCPT, ["220", "250", "250"], 0),
        (Stage.DATA, ["220", "250", "250", "250"], 0),
        (Stage.FINAL_DOT, ["220", "250", "250", "250", "354"], 1),
    ],
)
def test_hang_up_at_each_stage(stage: Stage, replies: list[str], messages: int) -> None:
    script = [b"", HELLO, b"MAIL FROM:<>\r\n", b"RCPT TO:<b@y.test>\r\n", b"DATA\r\n", CONTENT + b".\r\n"]
    got = []
    with serving(SinkSettings(disconnect_at=stage)) as running, running.client(hello=False) as client:
        for command in script:
            if not (reply := client.say(command)):
                break
            got.append(reply[:3])
    assert (got, running.sink.counts.messages, running.sink.counts.disconnects) == (replies, messages, 1)


def test_share_of_hang_ups_comes_again_with_the_same_seed() -> None:
    def fates(seed: int) -> list[bool]:
        settings = SinkSettings(disconnect_at=Stage.EHLO, disconnect_share=0.5, seed=seed)
        ends = []
        with serving(settings) as running:
            for _ in range(40):
                with running.client(hello=False) as client:
                    client.reply()
                    ends.append(client.say(HELLO) == "")
        assert running.counts() == {"sessions": 40, "disconnects": sum(ends)}
        return ends

    assert fates(1) == fates(1) != fates(2)
    assert 10 <= sum(fates(1)) <= 30


@pytest.mark.parametrize("settings", [{}, {"defer": ("nobody@*",)}])
def test_connection_is_closed_after_so_many_messages(settings: dict[str, tuple[str, ...]]) -> None:
    with serving(SinkSettings(messages_per_connection=2, **settings)) as running:  # type: ignore[arg-type]
        with running.client() as client:
            client.send(b"b@y.test")
            client.send(b"b@y.test")
            assert client.say(b"MAIL FROM:<>\r\n") == "421 4.7.0 too many messages on this connection"
            assert client.reply() == ""
        with running.client() as client:
            # In the same write as the message that is the last one.
            message = b"MAIL FROM:<>\r\nRCPT TO:<b@y.test>\r\nBDAT 0 LAST\r\n"
            client.sock.sendall(3 * message + b"QUIT\r\n")
            assert [client.reply()[:3] for _ in range(7)] == ["250"] * 6 + ["421"]
            assert client.reply() == ""
    assert running.counts() == {"messages": 4, "recipients": 4, "unmarked": 4, "sessions": 2, "bytes": 2 * SIZE}


def test_connections_beyond_the_limit_are_turned_away() -> None:
    with serving(SinkSettings(max_connections=2)) as running, running.client() as first:
        with running.client(), running.client(hello=False) as third:
            assert third.reply() == "421 4.7.0 too many connections"
            assert third.reply() == ""
        while running.sink.counts.open_sessions > 1:
            assert first.say(b"NOOP\r\n") == "250 2.0.0 Ok"
        with running.client() as fourth:
            assert fourth.send(b"b@y.test")[-1] == "250 2.0.0 Ok"
    assert running.counts("bytes") == {
        "messages": 1, "recipients": 1, "unmarked": 1, "turned_away": 1, "sessions": 4,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bytes_per_s", "connection_bytes_per_s"])
def test_bytes_come_no_faster_than_the_cap(name: str) -> None:
    rate, body = 200_000.0, b"0123456789\r\n" * 4000
    with serving(SinkSettings(**{name: rate})) as running, running.client() as one, running.client() as other:  # type: ignore[arg-type]
        began = time.monotonic()
        for client, number in ((one, 0), (other, 1)):
            client.sock.sendall(
                b"MAIL FROM:<>\r\nRCPT TO:<r0@y.test>\r\nDATA\r\n" + marked(number, body=body) + b".\r\n"
            )
        for client in (one, other):
            assert [client.reply()[:3] for _ in range(4)] == ["250", "250", "354", "250"]
        took_s = time.monotonic() - began
    together = 2 if name == "bytes_per_s" else 1
    # What was read last is paid for after the reply.
    assert took_s >= (together * len(body) - 2 * rate * 0.05) / rate
    assert running.counts("bytes") == {"messages": 2, "recipients": 2, "unique": 2, "sessions": 2}


def test_extensions_can_be_held_back() -> None:
    settings = SinkSettings(extensions=frozenset({"8BITMIME"}))
    with serving(settings) as running, running.client(hello=False) as client:
        client.reply()
        assert client.say(HELLO) == "250-sink.localhost|250 8BITMIME"
        client.say(b"MAIL FROM:<a@b.test>\r\n")
        client.say(b"RCPT TO:<a@b.test>\r\n")
        assert client.say(b"BDAT 2 LAST\r\n\r\n") == "502 5.5.1 BDAT is not offered"
        assert client.send(b"b@y.test")[-1] == "250 2.0.0 Ok"
        assert client.say(b"MAIL FROM:<a@b.test> SIZE=5\r\n").startswith("555 5.5.4 ")


@pytest.mark.parametrize("settings", [{}, {"defer": ("nobody@*",)}])
@pytest.mark.parametrize("spoken", [b"", b"MAIL FROM:<>\r\n"])
def test_silent_client_is_dropped(settings: dict[str, tuple[str, ...]], spoken: bytes) -> None:
    with serving(SinkSettings(idle_timeout_s=DELAY_S, **settings)) as running:  # type: ignore[arg-type]
        began = time.monotonic()
        with running.client() as client:
            if spoken:
                client.say(spoken)
            assert client.reply() == "421 4.4.2 nothing was heard for too long"
            assert time.monotonic() - began >= DELAY_S
            assert client.reply() == ""


def test_our_own_delay_is_not_silence_of_the_client() -> None:
    settings = SinkSettings(idle_timeout_s=DELAY_S, delays_s={Stage.MAIL: 3 * DELAY_S})
    with serving(settings) as running, running.client() as client:
        assert client.say(b"MAIL FROM:<>\r\n") == "250 2.1.0 Ok"


def _hello(client: Client) -> list[str]:
    return client.say(HELLO).split("|")


def test_starttls_in_the_middle_and_implicit_tls() -> None:
    with serving(SinkSettings(tls="starttls")) as running, running.client(hello=False) as client:
        client.reply()
        offered = _hello(client)
        assert offered[-2:] == ["250-LIMITS RCPTMAX=10000", "250 STARTTLS"]
        assert client.say(b"STARTTLS now\r\n").startswith("502 ")
        client.say(b"MAIL FROM:<>\r\n")
        assert client.say(b"STARTTLS\r\n").startswith("502 ")  # not within a transaction
        client.say(b"RSET\r\n")
        assert client.say(b"STARTTLS\r\n") == "220 2.0.0 ready to start TLS"
        client.secure()
        assert client.say(b"MAIL FROM:<>\r\n") == "503 5.5.1 send HELO or EHLO first"
        assert _hello(client) == [*offered[:-2], "250 LIMITS RCPTMAX=10000"]
        assert client.send(b"r0@y.test", content=marked(1, body=b"x\r\n" * 100_000))[-1] == "250 2.0.0 Ok"
        assert client.say(b"QUIT\r\n").startswith("221 ")
    assert running.counts("bytes") == {"messages": 1, "recipients": 1, "unique": 1, "sessions": 1}

    with serving(SinkSettings(tls="implicit")) as running, running.client(hello=False) as client:
        client.secure()
        assert client.reply() == "220 sink.localhost ESMTP Postroika"
        assert _hello(client)[-1] == "250 LIMITS RCPTMAX=10000"
        message = b"MAIL FROM:<>\r\nRCPT TO:<r0@y.test>\r\nDATA\r\n" + marked(1) + b".\r\n"
        client.sock.sendall(message * 300)  # several records at a time
        assert [client.reply()[:3] for _ in range(1200)] == ["250", "250", "354", "250"] * 300
    assert running.counts("bytes") == {
        "messages": 300, "recipients": 300, "unique": 1, "doubled": 299, "sessions": 1,
    }  # fmt: skip


def test_commands_that_come_in_clear_with_starttls_are_not_run() -> None:
    """RFC 3207 §4.2 and CVE-2011-0411: they could be put there by somebody in between."""
    with serving(SinkSettings(tls="starttls")) as running, running.client() as client:
        client.sock.sendall(b"STARTTLS\r\nNOOP\r\nMAIL FROM:<>\r\n")
        assert client.reply() == "220 2.0.0 ready to start TLS"
        client.secure()
        assert _hello(client)[0] == "250-sink.localhost"


def test_client_that_fails_the_handshake_leaves_nothing() -> None:
    with serving(SinkSettings(tls="implicit")) as running:
        with running.client(hello=False) as client:
            client.sock.sendall(b"EHLO in clear\r\n")
            with contextlib.suppress(OSError):
                assert b"220" not in client.sock.recv(1000)
        with running.client(hello=False) as client:
            client.secure()
            assert client.reply().startswith("220 ")
    assert running.counts() == {"sessions": 2}


def test_given_certificate_is_shown(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch",
         "-subj", "/CN=ours.test", "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True,
    )  # fmt: skip
    settings = SinkSettings(tls="implicit", certificate=str(certificate), key=str(key))
    with serving(settings) as running, running.client(hello=False) as client:
        client.secure()
        assert b"ours.test" in client.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined]
    with (
        Pump() as pump,
        pytest.raises(PostroikaError, match=r"cannot use the certificate .*\.pem with the key "),
    ):
        Sink(SinkSettings(tls="implicit", certificate=str(certificate), key=str(tmp_path / "none")), pump)
