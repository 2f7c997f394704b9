"""smtp.client and STARTTLS, AUTH, REQUIRETLS: against the strict oracle server, its input cut in every way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from postroika.errors import LocalProtocolError, RemoteProtocolError
from postroika.mail.envelope import Envelope, Recipient
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client import Client
from postroika.smtp.client_auth import Credentials
from postroika.smtp.client_base import ClientSettings, StartTls
from postroika.smtp.client_capabilities import Capabilities
from postroika.smtp.client_transaction import (
    Closed,
    Done,
    Event,
    Ready,
    Refused,
    Step,
    TlsWanted,
    Transaction,
    Verdict,
)
from tests.reference.smtp_server import DROP, Decide, LoggedIn, SmtpServer

PLAIN_OFFERS = ("PIPELINING", "8BITMIME", "STARTTLS", "AUTH GSSAPI")
SECURE_OFFERS = ("PIPELINING", "SIZE 1000", "REQUIRETLS", "AUTH LOGIN PLAIN")
ALICE = Credentials("alice", "s3cret")
BODY = b"Subject: x\r\n\r\nx\r\n"
Pieces = Callable[[bytes], list[bytes]]


def whole(octets: bytes) -> list[bytes]:
    return [octets] if octets else []


def single(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


CUTS = (whole, single)


class Talk:
    """A client and the oracle, until nobody has anything to say. Handshakes always succeed."""

    def __init__(self, server: SmtpServer, cut: Pieces = whole, *, implicit: bool = False, **options: object) -> None:
        self.server = server
        self.client = Client(ClientSettings(ehlo_name="me.test", **options))  # type: ignore[arg-type]
        self.cut = cut
        self.events: list[Event] = []
        self.sent = b""
        if implicit:
            server.secured()
            self.client.secured()

    def run(self) -> Talk:
        self.hear(self.server.greet())
        while (output := b"".join(self.client.take_output())) != b"":
            self.sent += output
            self.hear(self.server.receive(output))
        return self

    def hear(self, octets: bytes) -> None:
        for piece in self.cut(octets):
            self.client.receive(piece)
            self.drain()
        if self.server.closed:
            self.client.receive(b"")
            self.drain()

    def drain(self) -> None:
        while (event := self.client.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, TlsWanted):
                self.server.secured()
                self.client.secured()


def deciding(table: dict[str, str]) -> Decide:
    return lambda verb, rest: table.get(f"{verb} {rest}".strip(), table.get(verb))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("starttls", [StartTls.OFFERED, StartTls.REQUIRED])
def test_capabilities_are_forgotten_and_asked_for_again(cut: Pieces, starttls: StartTls) -> None:
    talk = Talk(SmtpServer(PLAIN_OFFERS, secure_offers=SECURE_OFFERS), cut, starttls=starttls).run()
    offered = Capabilities(
        esmtp=True, pipelining=True, size=True, max_size_bytes=1000, requiretls=True, auth=("LOGIN", "PLAIN")
    )
    assert talk.events == [TlsWanted(), Ready(offered)]
    assert talk.client.capabilities == offered
    assert talk.sent == b"EHLO me.test\r\nSTARTTLS\r\nEHLO me.test\r\n"
    assert talk.server.violations == []


def test_nothing_of_the_first_ehlo_is_left_while_hands_are_shaken() -> None:
    client = Client(ClientSettings(ehlo_name="me.test", starttls=StartTls.REQUIRED))
    client.receive(b"220 x\r\n")
    assert client.next_event() is None
    client.take_output()
    client.receive(b"250-x\r\n250-CHUNKING\r\n250 STARTTLS\r\n")
    assert client.next_event() is None
    assert client.waiting is Step.STARTTLS
    assert client.take_output() == [b"STARTTLS\r\n"]
    client.receive(b"220 go\r\n")
    assert client.next_event() == TlsWanted()
    assert client.waiting is Step.HANDSHAKE
    client.secured()
    assert client.capabilities == Capabilities()
    assert client.waiting is Step.EHLO


def test_implicit_tls_needs_no_starttls_though_it_is_offered() -> None:
    server = SmtpServer(PLAIN_OFFERS, secure_offers=("STARTTLS",))
    talk = Talk(server, implicit=True, starttls=StartTls.REQUIRED).run()
    assert talk.events == [Ready(Capabilities(esmtp=True, starttls=True))]
    assert talk.sent == b"EHLO me.test\r\n"


def test_starttls_that_is_offered_again_behind_tls_is_not_asked_for_again() -> None:
    talk = Talk(SmtpServer(PLAIN_OFFERS, secure_offers=("STARTTLS",)), starttls=StartTls.OFFERED).run()
    assert talk.events == [TlsWanted(), Ready(Capabilities(esmtp=True, starttls=True))]


@pytest.mark.parametrize(
    ("starttls", "offers"), [(StartTls.NEVER, ("STARTTLS",)), (StartTls.OFFERED, ()), (StartTls.NEVER, ())]
)
def test_session_stands_in_clear_where_tls_is_not_wanted_or_not_offered(
    starttls: StartTls, offers: tuple[str, ...]
) -> None:
    talk = Talk(SmtpServer(offers), starttls=starttls).run()
    assert talk.events == [Ready(Capabilities(esmtp=True, starttls=bool(offers)))]


# --- stripped, refused


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("ehlo", [None, "502 what?"])
def test_tls_that_is_required_and_not_offered_ends_the_session(cut: Pieces, ehlo: str | None) -> None:
    server = SmtpServer(("PIPELINING",), deciding({"EHLO": ehlo} if ehlo else {}))
    talk = Talk(server, cut, starttls=StartTls.REQUIRED).run()
    said = Reply(451, "4.7.4", ("TLS is required, but was not offered",))
    assert talk.events == [Refused(Stage.TLS, said, remote=False)]
    talk.client.quit()
    talk.run()
    assert talk.events[1:] == [Closed(None)]


@pytest.mark.parametrize("answer", ["454 4.7.0 not now", "502 5.5.1 what?", "554 5.7.3 no"])
def test_refused_starttls_ends_the_session_only_where_tls_is_required(answer: str) -> None:
    code, enhanced, text = answer.split(" ", 2)
    required = Talk(SmtpServer(("STARTTLS",), deciding({"STARTTLS": answer})), starttls=StartTls.REQUIRED).run()
    assert required.events == [Refused(Stage.TLS, Reply(int(code), enhanced, (text,)))]
    wished = Talk(SmtpServer(("STARTTLS",), deciding({"STARTTLS": answer})), starttls=StartTls.OFFERED).run()
    assert wished.events == [Ready(Capabilities(esmtp=True, starttls=True))]


def test_421_to_starttls_is_the_end() -> None:
    talk = Talk(SmtpServer(("STARTTLS",), deciding({"STARTTLS": "421 4.3.2 bye"})), starttls=StartTls.OFFERED).run()
    assert talk.events[0] == Refused(Stage.TLS, Reply(421, "4.3.2", ("bye",)))


def test_server_that_closes_instead_of_answering_starttls() -> None:
    talk = Talk(SmtpServer(("STARTTLS",), deciding({"STARTTLS": DROP})), starttls=StartTls.OFFERED).run()
    assert talk.events == [Closed(None)]


# --- injection


INJECTED = b"250-x\r\n250 AUTH PLAIN\r\n"


def until_starttls() -> Client:
    client = Client(ClientSettings(ehlo_name="me.test", starttls=StartTls.OFFERED))
    for said in (b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n"):
        client.receive(said)
        assert client.next_event() is None
        client.take_output()
    return client


def splits(octets: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((octets[:at], octets[at:]) for at in range(len(octets) + 1))


@pytest.mark.parametrize("behind", [INJECTED, b"2", b"\x16\x03\x03", b"220 go\r\n", b"\r\n"])
def test_whatever_comes_with_the_220_is_a_protocol_error(behind: bytes) -> None:
    client = until_starttls()
    client.receive(b"220 go\r\n" + behind)
    with pytest.raises(RemoteProtocolError, match="before the handshake"):
        client.next_event()
    assert client.closed


def test_injected_replies_never_get_behind_the_handshake_however_they_are_cut() -> None:
    """Either they are seen before it, or they come when the driver gives what it reads to TLS, not to the client."""
    stream = b"220 go\r\n" + INJECTED
    for first, second in splits(stream):
        client = until_starttls()
        seen: list[Event] = []
        refused = False
        for piece in (first, second):
            if not piece or seen:
                continue
            client.receive(piece)
            try:
                event = client.next_event()
            except RemoteProtocolError:
                refused = True
                break
            if event is not None:
                seen.append(event)
        assert refused or (seen == [TlsWanted()] and first == b"220 go\r\n"), (first, second)


def test_220_that_came_before_starttls_was_sent_is_a_protocol_error() -> None:
    """Who can write into the connection would otherwise have the true 220 taken for the beginning of TLS."""
    client = Client(ClientSettings(ehlo_name="me.test", starttls=StartTls.OFFERED))
    client.receive(b"220 x\r\n")
    client.next_event()
    client.take_output()
    client.receive(b"250-x\r\n250 STARTTLS\r\n220 go\r\n")
    with pytest.raises(RemoteProtocolError, match="before it was sent"):
        client.next_event()


def test_reply_that_is_given_to_the_client_in_the_middle_of_the_handshake_is_a_protocol_error() -> None:
    client = until_starttls()
    client.receive(b"220 go\r\n")
    assert client.next_event() == TlsWanted()
    client.receive(b"250 x\r\n")
    with pytest.raises(RemoteProtocolError, match="in the middle of the handshake"):
        client.next_event()


def test_3xx_to_starttls_is_a_protocol_error() -> None:
    client = until_starttls()
    client.receive(b"334 go\r\n")
    with pytest.raises(RemoteProtocolError):
        client.next_event()


def test_secured_is_for_the_handshake_only() -> None:
    client = until_starttls()
    with pytest.raises(LocalProtocolError):
        client.secured()
    client = Client(ClientSettings(ehlo_name="me.test"))
    client.secured()
    with pytest.raises(LocalProtocolError):
        client.secured()


# --- AUTH


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("offered", "mechanism"),
    [("AUTH LOGIN PLAIN", "PLAIN"), ("AUTH PLAIN", "PLAIN"), ("AUTH=LOGIN", "LOGIN"), ("AUTH CRAM-MD5 LOGIN", "LOGIN")],
)
def test_it_logs_in_behind_tls(cut: Pieces, offered: str, mechanism: str) -> None:
    server = SmtpServer(("STARTTLS",), secure_offers=(offered,))
    talk = Talk(server, cut, starttls=StartTls.REQUIRED, credentials=ALICE).run()
    assert [type(event) for event in talk.events] == [TlsWanted, Ready]
    assert server.logins == [LoggedIn(mechanism, "alice", "s3cret", True)]
    assert server.violations == []


@pytest.mark.parametrize("length", [300, 400, 5000])
def test_long_password_waits_for_its_334(length: int) -> None:
    password = "ü" * length
    server = SmtpServer(("AUTH PLAIN",))
    talk = Talk(server, implicit=True, credentials=Credentials("bob", password)).run()
    assert server.logins == [LoggedIn("PLAIN", "bob", password, True)]
    assert max(len(line) for line in server.commands) <= 510
    assert isinstance(talk.events[-1], Ready)


def test_password_is_not_said_in_clear_unless_told_to() -> None:
    refused = Talk(SmtpServer(("AUTH PLAIN",)), credentials=ALICE).run()
    said = Reply(451, "4.7.0", ("logging in needs TLS, which there is none of",))
    assert refused.events == [Refused(Stage.AUTH, said, remote=False)]
    assert refused.sent == b"EHLO me.test\r\n"
    told = SmtpServer(("AUTH PLAIN",))
    Talk(told, credentials=ALICE, auth_without_tls=True).run()
    assert told.logins == [LoggedIn("PLAIN", "alice", "s3cret", False)]


def test_mechanisms_of_the_first_ehlo_do_not_count() -> None:
    server = SmtpServer(("STARTTLS", "AUTH PLAIN"), secure_offers=("AUTH SCRAM-SHA-256",))
    talk = Talk(server, starttls=StartTls.OFFERED, credentials=ALICE).run()
    said = Reply(451, "4.7.0", ("logging in is possible neither with PLAIN nor with LOGIN",))
    assert talk.events == [TlsWanted(), Refused(Stage.AUTH, said, remote=False)]


@pytest.mark.parametrize("answer", ["535 5.7.8 no", "454 4.7.0 later", "421 4.3.2 bye"])
def test_refused_password_is_told_with_the_servers_words(answer: str) -> None:
    code, enhanced, text = answer.split(" ", 2)
    server = SmtpServer(("AUTH PLAIN",), deciding({"AUTH": answer}))
    talk = Talk(server, implicit=True, credentials=ALICE).run()
    assert talk.events[0] == Refused(Stage.AUTH, Reply(int(code), enhanced, (text,)))


@pytest.mark.parametrize(
    ("who", "said"), [(ALICE, "s3cret (AGFsaWNlAHMzY3JldA==)"), (Credentials("u", "AH"), "AH (AHUAQUg=)")]
)
def test_server_that_says_the_password_again_is_not_quoted(who: Credentials, said: str) -> None:
    server = SmtpServer(("AUTH PLAIN",), deciding({"AUTH": f"535 5.7.8 {said} is wrong"}))
    talk = Talk(server, implicit=True, credentials=who).run()
    assert talk.events == [Refused(Stage.AUTH, Reply(535, "5.7.8", ("[…] ([…]) is wrong",)))]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(
    ("password", "said", "told"),
    [
        ("s3cret-words", "s3cret-words czNjcmV0LXdvcmRz AGFsaWNlAHMzY3JldC13b3Jkcw==", "[…] […] […]"),
        ("mail", "no such mailbox: bWFpbA== AGFsaWNlAG1haWw=", "no such mailbox: […] […]"),
    ],
)
def test_server_that_says_the_password_later_is_not_quoted_either(
    mechanism: str, password: str, said: str, told: str
) -> None:
    """But for a word that may stand there anyway: what is hidden would tell it."""
    server = SmtpServer((f"AUTH {mechanism}",), deciding({"RCPT": f"550 5.1.1 {said}"}))
    talk = Talk(server, implicit=True, credentials=Credentials("alice", password)).run()
    transaction = Transaction(Envelope(1, "a@x.test", 0.0, len(BODY), 1), [Recipient("b@y.test")], BODY)
    talk.client.send(transaction)
    while (output := b"".join(talk.client.take_output())) != b"":
        talk.hear(server.receive(output))
    assert [verdict.reply for verdict in transaction.verdicts] == [Reply(550, "5.1.1", (told,))]


def test_peer_that_says_again_whatever_it_hears_is_not_quoted() -> None:
    """What is no reply is told in an error, and so to senders; and cut, perhaps in the middle of what is secret."""
    client = Client(ClientSettings(ehlo_name="me.test", credentials=Credentials("alice", "s3cret" * 20)))
    client.secured()
    client.receive(b"220 x\r\n250-x\r\n250 AUTH PLAIN\r\n")
    assert client.next_event() is None
    client.receive(b"".join(client.take_output()).removeprefix(b"EHLO me.test\r\n"))
    with pytest.raises(RemoteProtocolError, match=r"^not a reply$"):
        client.next_event()


def test_password_is_in_no_repr() -> None:
    assert "s3cret" not in repr(ClientSettings(ehlo_name="me.test", credentials=ALICE))


def test_334_without_end_is_a_protocol_error() -> None:
    client = Client(ClientSettings(ehlo_name="me.test", credentials=ALICE, auth_without_tls=True))
    for said in (b"220 x\r\n", b"250-x\r\n250 AUTH PLAIN\r\n"):
        client.receive(said)
        assert client.next_event() is None
        client.take_output()
    client.receive(b"334 more\r\n")
    with pytest.raises(RemoteProtocolError):
        client.next_event()


@pytest.mark.parametrize("bad", [("", "x"), ("a\0b", "x"), ("a", "x\0")])
def test_credentials_that_cannot_be_said(bad: tuple[str, str]) -> None:
    with pytest.raises(ValueError):
        Credentials(*bad)


# --- REQUIRETLS


def sent_with_requiretls(offers: tuple[str, ...]) -> tuple[SmtpServer, Transaction]:
    server = SmtpServer(offers)
    talk = Talk(server, implicit=True)
    talk.run()
    envelope = Envelope(1, "a@x.test", 0.0, len(BODY), 1, requiretls=True)
    transaction = Transaction(envelope, [Recipient("b@y.test")], BODY)
    talk.client.send(transaction)
    talk.drain()
    while (output := b"".join(talk.client.take_output())) != b"":
        talk.hear(server.receive(output))
    assert isinstance(talk.events[-1], Done)
    return server, transaction


def test_requiretls_is_passed_on_where_it_is_offered() -> None:
    server, transaction = sent_with_requiretls(("PIPELINING", "REQUIRETLS"))
    assert [message.mail for message in server.messages] == ["FROM:<a@x.test> REQUIRETLS"]
    assert transaction.verdicts == [Verdict(Stage.FINAL_DOT, Reply(250, "2.0.0", ("taken",)))]


def test_message_with_requiretls_is_not_sent_where_it_is_not_offered() -> None:
    server, transaction = sent_with_requiretls(("PIPELINING",))
    assert server.messages == []
    said = "The message requires TLS all the way and the next host offers no REQUIRETLS"
    assert transaction.verdicts == [Verdict(Stage.MAIL, Reply(550, "5.7.30", (said,)), remote=False)]
