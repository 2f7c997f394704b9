"""A plain and strict SMTP server, sans-IO: the oracle of the client.

It does what it is told (`decide` may answer any command), keeps what it accepted, and notes in `violations` whatever
a client must not do: pipelining that was not offered, anything behind DATA before 354 or behind STARTTLS, a nested
MAIL, bare newlines.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import NamedTuple

DROP = "drop"  # `decide` may say this instead of a reply: close without a word …
HANG = "hang"  # … or this: never say anything again


class Received(NamedTuple):
    """One message that was answered with 2xx."""

    mail: str
    recipients: tuple[str, ...]
    body: bytes


Decide = Callable[[str, str], str | None]
"""(verb, rest of the command) to a reply without CR LF, or None for what an agreeable server says. The verb is MAIL,
RCPT, DATA, BDAT, RSET, EHLO, HELO, STARTTLS, AUTH, QUIT, "." for the end of a message, "" for the greeting."""


class LoggedIn(NamedTuple):
    """One AUTH that came to its end."""

    mechanism: str
    user: str
    password: str
    secure: bool


class SmtpServer:
    """One session. Feed `receive`, send what it returns; stop when `closed`.

    Args:
        offers: lines of EHLO, for STARTTLS one among them.
        secure_offers: what is offered instead once there is TLS; None: the same without STARTTLS.

    Attributes:
        wants_tls: it waits for a handshake; call `secured` then.
    """

    def __init__(
        self,
        offers: Sequence[str] = (),
        decide: Decide = lambda _verb, _rest: None,
        secure_offers: Sequence[str] | None = None,
    ) -> None:
        self.offers = offers
        self._secure_offers = secure_offers
        self.wants_tls = self.secure = False
        self.logins: list[LoggedIn] = []
        self._auth: tuple[str, list[str]] | None = None
        self.decide = decide
        self.closed = False
        self.hung = False
        self.messages: list[Received] = []
        self.commands: list[str] = []
        self.violations: list[str] = []
        self._input = b""
        self._mail: str | None = None
        self._recipients: list[str] = []
        self._body = b""
        self.in_data = False
        self._chunk_left = 0
        self._chunk_last = False
        self._out: list[str] = []

    def greet(self) -> bytes:
        """What the server says first."""
        self._say("", "", "220 oracle.test ESMTP")
        return self._take()

    def secured(self) -> None:
        """There is TLS now, and nothing that was said before counts."""
        if self._input:
            self.violations.append("something behind STARTTLS")
            self._input = b""
        offers = [offer for offer in self.offers if offer != "STARTTLS"]
        self.offers = offers if self._secure_offers is None else self._secure_offers
        self.wants_tls, self.secure = False, True
        self._reset()

    def receive(self, chunk: bytes) -> bytes:
        """Bytes of the client; the replies to what is complete."""
        self._input += chunk
        while not self.closed and not self.hung and not self.wants_tls and self._step():
            pass
        return self._take()

    def _take(self) -> bytes:
        out, self._out = self._out, []
        return "".join(f"{line}\r\n" for line in out).encode()

    def _say(self, verb: str, rest: str, usual: str) -> bool:
        """Answer; whether the answer is 2xx or 3xx."""
        answer = self.decide(verb, rest) or usual
        if answer in {DROP, HANG}:
            self.hung = answer == HANG
            self.closed = answer == DROP
            return False
        self._out += answer.split("\n")
        if answer.startswith("421"):
            self.closed = True
        return answer[0] in "23"

    def _step(self) -> bool:
        if self.in_data:
            return self._data()
        if self._chunk_left:
            return self._chunk()
        line, newline, rest = self._input.partition(b"\r\n")
        if not newline:
            return False
        self._input = rest
        if self._auth is not None:
            self._auth[1].append(line.decode())
            self._log_in()
            return True
        self._command(line.decode())
        if rest and not self.closed and "PIPELINING" not in self.offers and not self.in_data and not self._chunk_left:
            self.violations.append(f"pipelined behind {line!r}")
        return True

    def _command(self, line: str) -> None:
        self.commands.append(line)
        verb, _, rest = line.partition(" ")
        match verb:
            case "EHLO":
                self._reset()
                lines = ["oracle.test", *self.offers]
                self._say(verb, rest, "\n".join([*(f"250-{x}" for x in lines[:-1]), f"250 {lines[-1]}"]))
            case "HELO" | "RSET":
                self._reset()
                self._say(verb, rest, "250 ok")
            case "MAIL":
                if self._mail is not None:
                    self.violations.append("nested MAIL")
                    self._out.append("503 nested")
                elif self._say(verb, rest, "250 2.1.0 ok"):
                    self._mail = rest
            case "RCPT":
                if self._mail is None:
                    self._out.append("503 5.5.1 no MAIL")
                elif self._say(verb, rest, "250 2.1.5 ok"):
                    self._recipients.append(rest)
            case "DATA":
                usual = "354 go on" if self._recipients else "554 5.5.1 no valid recipients"
                answered = len(self._out)
                if self._say(verb, rest, usual) and self._out[answered].startswith("3"):
                    self.in_data = True
                    if self._input:
                        self.violations.append("something behind DATA")
            case "BDAT":
                size, _, last = rest.partition(" ")
                self._chunk_left, self._chunk_last = int(size), last == "LAST"
                if not self._chunk_left:
                    self._chunk()
            case "STARTTLS" if "STARTTLS" in self.offers:
                answered = len(self._out)
                self.wants_tls = self._say(verb, rest, "220 2.0.0 go on") and self._out[answered].startswith("2")
            case "AUTH":
                mechanism, _, initial = rest.partition(" ")
                self._auth = (mechanism, [initial] if initial else [])
                self._log_in()
            case "QUIT":
                self._say(verb, rest, "221 bye")
                self.closed = True
            case _:
                self.violations.append(f"unknown {line!r}")
                self._out.append("500 what?")

    def _log_in(self) -> None:
        assert self._auth is not None
        mechanism, answers = self._auth
        if len(answers) < (1 if mechanism == "PLAIN" else 2):
            self._out.append(f"334 {'' if mechanism == 'PLAIN' else ('VXNlcm5hbWU6', 'UGFzc3dvcmQ6')[len(answers)]}")
            return
        self._auth = None
        words = [b64decode(answer, validate=True).decode() for answer in answers]
        if mechanism == "PLAIN":
            words = words[0].split("\0")[1:]
        self.logins.append(LoggedIn(mechanism, words[0], words[1], self.secure))
        self._say("AUTH", mechanism, "235 2.7.0 welcome")

    def _data(self) -> bool:
        lone = self._input.startswith(b".\r\n")
        end = 0 if lone else self._input.find(b"\r\n.\r\n")
        if end < 0:
            return False
        body = b"" if lone else self._input[: end + 2]
        self._input = self._input[3 if lone else end + 5 :]
        self.in_data = False
        if body.replace(b"\r\n", b"").strip(b"\r\n") != body.replace(b"\r\n", b"") or any(
            c in body.replace(b"\r\n", b"") for c in b"\r\n"
        ):
            self.violations.append("bare newlines in DATA")
        self._body = b"\r\n".join(line.removeprefix(b".") for line in body.split(b"\r\n"))
        if not self._recipients:
            if body:
                self.violations.append("a body without recipients")
            self._say(".", "", "554 5.5.1 no valid recipients")
        else:
            self._finish()
        self._reset()
        return True

    def _chunk(self) -> bool:
        taken = self._input[: self._chunk_left]
        self._input = self._input[len(taken) :]
        self._body += taken
        self._chunk_left -= len(taken)
        if self._chunk_left:
            return False
        if not self._recipients:
            self._out.append("503 5.5.1 no valid recipients")
        elif self._chunk_last:
            if self._finish():
                self._reset()  # A failure leaves the transaction open (RFC 3030 §2: indeterminate).
        elif not self._say("BDAT", "", "250 2.0.0 chunk"):
            self._recipients = []
        return True

    def _finish(self) -> bool:
        accepted = self._say(".", "", "250 2.0.0 taken")
        if accepted:
            self.messages.append(Received(self._mail or "", tuple(self._recipients), self._body))
        return accepted

    def _reset(self) -> None:
        self._mail, self._recipients, self._body = None, [], b""
