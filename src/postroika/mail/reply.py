"""An SMTP reply as a value, ours or a peer's."""

from __future__ import annotations

import msgspec


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One reply, possibly of several lines.

    `enhanced` is "" or like "5.1.1"; `lines` carry neither the code nor the enhanced code.
    """

    code: int
    enhanced: str = ""
    lines: tuple[str, ...] = ("",)

    @property
    def text(self) -> str:
        """All lines in one, for logs and DSNs."""
        return " ".join(self.lines)

    @property
    def kind(self) -> int:
        """The first digit: 2 done, 3 go on, 4 try later, 5 never (RFC 5321 §4.2.1)."""
        return self.code // 100

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)

    def wire(self) -> bytes:
        """The bytes to send. Control characters (CR and LF among them) become spaces; lines are cut to 510
        octets so that no caller's text can break the framing (RFC 5321 §4.5.3.1.5)."""
        prefix = f"{self.enhanced} " if self.enhanced else ""
        lines = self.lines
        if len(lines) == 1 and (line := lines[0]).isascii() and line.isprintable() and len(line) <= 480:
            return f"{self.code} {prefix}{line}\r\n".encode()  # nearly always, and this is a hot path
        out = bytearray()
        last = len(lines) - 1
        for i, line in enumerate(lines):
            clean = "".join(c if c >= " " and c != "\x7f" else " " for c in line)
            text = f"{self.code}{' ' if i == last else '-'}{prefix}{clean}".encode("utf-8", "replace")[:510]
            # A cut inside a character would leave half of it.
            out += text.decode("utf-8", "ignore").encode() + b"\r\n"
        return bytes(out)


def reply(code: int, enhanced: str, *lines: str) -> Reply:
    """Shorthand for the replies that we give."""
    return Reply(code, enhanced, lines or ("",))
