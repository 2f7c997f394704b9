"""Speaks as an smtp.client.Client with the reference server: envelopes, transactions, verdicts, replies in any cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from postroika.mail.envelope import Envelope, Recipient
from postroika.mail.outcome import Stage
from postroika.mail.reply import Reply
from postroika.smtp.client import Client
from postroika.smtp.client_base import ClientSettings
from postroika.smtp.client_transaction import BodyWanted, Done, Event, Ready, Step, Transaction, Verdict
from tests.reference.smtp_server import SmtpServer

FULL = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
CHUNKED = (*FULL, "CHUNKING", "BINARYMIME")
BODY = b"Subject: x\r\n\r\n.dot\r\n..\r\nend\r\n"
Cut = Callable[[bytes], Iterable[bytes]]


def whole(octets: bytes) -> Iterator[bytes]:
    yield octets


def single(octets: bytes) -> Iterator[bytes]:
    for i in range(len(octets)):
        yield octets[i : i + 1]


def envelope(sender: str = "a@x.test", **fields: object) -> Envelope:
    values: dict[str, object] = {"message": 1, "received_at": 0.0, "size_bytes": len(BODY), "chunks": 1}
    return Envelope(reverse_path=sender, **{**values, **fields})  # type: ignore[arg-type]


def transaction(*addresses: str, body: bytes | None = BODY, **fields: object) -> Transaction:
    return Transaction(envelope(**fields), [Recipient(a) for a in addresses or ("b@y.test",)], body)


def verdict(stage: Stage, code: int, enhanced: str = "", text: str = "", *, remote: bool = True) -> Verdict:
    return Verdict(stage, Reply(code, enhanced, (text,)), remote)


TAKEN = verdict(Stage.FINAL_DOT, 250, "2.0.0", "taken")


class Dialogue:
    """Client and server mouth to mouth: each write of the client is one write, the replies are cut by `cut`."""

    def __init__(
        self,
        server: SmtpServer,
        transactions: Iterable[Transaction],
        cut: Cut = whole,
        streamed: tuple[bytes, ...] = (),
        **options: object,
    ) -> None:
        self.server = server
        self.client = Client(ClientSettings(ehlo_name="me.test", **options))  # type: ignore[arg-type]
        self.waiting = list(transactions)
        self.cut = cut
        self.streamed = streamed
        self.pieces: dict[Transaction, list[bytes]] = {}
        self.events: list[Event] = []
        self.writes: list[bytes] = []

    def run(self) -> Dialogue:
        self._hear(self.server.greet())
        while not self.client.closed:
            output = b"".join(self.client.take_output())
            if not output:
                if not self.client.busy and not self.client.closed and self.client.waiting is not Step.QUIT:
                    self.client.quit()
                    continue
                break
            self.writes.append(output)
            self._hear(self.server.receive(output))
        return self

    def _hear(self, replies: bytes) -> None:
        for piece in self.cut(replies):
            self.client.receive(piece)
            self._events()
        if self.server.closed:
            self.client.receive(b"")
            self._events()

    def _events(self) -> None:
        while (event := self.client.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, BodyWanted):
                pieces = self.pieces.setdefault(event.transaction, list(self.streamed))
                self.client.body(pieces.pop(0), last=not pieces)
                output = b"".join(self.client.take_output())
                self.writes.append(output)
                if replies := self.server.receive(output):
                    self.client.receive(replies)
        while self.waiting and self.client.ready_for_next:
            self.client.send(self.waiting.pop(0))
            self._events()

    @property
    def done(self) -> list[Transaction]:
        return [event.transaction for event in self.events if isinstance(event, Done)]


def decide_by(table: dict[str, str]) -> Callable[[str, str], str | None]:
    """Replies by verb, or by verb and the start of the rest: {"RCPT TO:<bad": "550 no"}."""

    def decide(verb: str, rest: str) -> str | None:
        for key, answer in table.items():
            if f"{verb} {rest}".strip().startswith(key) and (key or not verb):
                return answer
        return None

    return decide


def ready_client(offers: tuple[str, ...], **options: object) -> Client:
    client = Client(ClientSettings(ehlo_name="me.test", **options))  # type: ignore[arg-type]
    client.receive(b"220 hello\r\n")
    assert client.next_event() is None
    client.take_output()
    client.receive("".join(f"250-{line}\r\n" for line in ("name", *offers)).encode() + b"250 HELP\r\n")
    assert isinstance(client.next_event(), Ready)
    return client
