"""What the tests of the sink share: a sink on a thread of its own, and a client that says what it is told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import msgspec

from postroika.bench.messages import make_template, render
from postroika.bench.pump import READ, Pump
from postroika.bench.sink import Message, Sink, SinkSettings, listen

HELLO = b"EHLO client.test\r\n"
CONTENT = b"Message-ID: <1@x>\r\nSubject: hi\r\n\r\n..dot\r\nbye\r\n"
_PATIENCE_S = 30.0  # until a test that waits for nothing is given up


def marked(number: int, *, run: int = 0xABCD, sent_ns: int = 1, body: bytes = b"one\r\n.two\r\n") -> bytes:
    """A message of the load generator as it goes through DATA, without its final dot."""
    return render(make_template(run, b"Subject: x\r\n\r\n" + body, stuffed=True), number, sent_ns)


class Client:
    """A client with a socket that blocks."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(_PATIENCE_S)
        self.sock = sock
        self._rest = b""

    def secure(self) -> None:
        """Shake hands, whatever the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock)

    def reply(self) -> str:
        """The next whole reply: its lines without CR LF, joined by |; "" at the end of the connection."""
        lines = []
        while True:
            while b"\r\n" not in self._rest:
                try:
                    chunk = self.sock.recv(65536)
                except ConnectionResetError:
                    chunk = b""
                if not chunk:
                    assert self._rest == b""
                    return ""
                self._rest += chunk
            line, self._rest = self._rest.split(b"\r\n", 1)
            lines.append(line.decode())
            if line[3:4] != b"-":
                return "|".join(lines)

    def say(self, command: bytes) -> str:
        """Send it, and return the reply."""
        self.sock.sendall(command)
        return self.reply()

    def send(self, *recipients: bytes, content: bytes = CONTENT, sender: bytes = b"a@x.test") -> list[str]:
        """One message, a command at a time; the replies to MAIL, each RCPT, DATA and the dot."""
        commands = [b"MAIL FROM:<%b>\r\n" % sender, *(b"RCPT TO:<%b>\r\n" % recipient for recipient in recipients)]
        replies = [self.say(command) for command in (*commands, b"DATA\r\n")]
        return [*replies, self.say(content + b".\r\n")]

    def close(self) -> None:
        self.sock.close()


class Running:
    """A sink that runs; `counts` and the rest may be looked at when it was stopped, or when it is known to be quiet."""

    def __init__(self, sink: Sink, ports: list[int]) -> None:
        self.sink = sink
        self.ports = ports
        self.told: list[Message] = []

    def counts(self, *leave_out: str) -> dict[str, object]:
        """All counts that are not nought, but for times."""
        counts = msgspec.structs.asdict(self.sink.counts)
        return {
            name: value for name, value in counts.items() if value and name not in {"first_at", "last_at", *leave_out}
        }

    @contextlib.contextmanager
    def client(self, *, hello: bool = True, port: int = 0) -> Iterator[Client]:
        """A connection; `hello`: that has been greeted and has said EHLO."""
        client = Client(socket.create_connection(("127.0.0.1", port or self.ports[0]), timeout=_PATIENCE_S))
        try:
            if hello:
                assert client.reply().startswith("220 ")
                assert client.say(HELLO).startswith("250-sink.localhost|")
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def serving(
    settings: SinkSettings | None = None,
    *,
    listeners: int = 1,
    stop_after: int = 0,
    tell: Callable[[Running], Callable[[Message], None]] | None = None,
) -> Iterator[Running]:
    """A sink that takes mail until the end of the block; what it raises is raised here.

    Args:
        tell: makes the `on_message` of the sink.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, Pump() as pump:
        sockets = listen(["127.0.0.1:0"] * listeners)
        sink = Sink(settings or SinkSettings(), pump, stop_after=stop_after)
        running = Running(sink, [listener.getsockname()[1] for listener in sockets])
        if tell is not None:
            sink.on_message = tell(running)
        sink.serve(sockets)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                pump.add(theirs, lambda events: pump.stop(), READ)
                pump.run()
            except BaseException as failure:  # to be raised where it is seen
                failures.append(failure)
            finally:
                sink.stop()

        thread = threading.Thread(target=work, name="sink")
        thread.start()
        try:
            yield running
        finally:
            ours.send(b"x")
            thread.join()
        if failures:
            raise failures[0]
