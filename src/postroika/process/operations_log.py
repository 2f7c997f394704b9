"""The operations log on stderr, in which nobody but us can begin a line.

Promise: whatever a peer, a name server or a client has brought into a message, it is one line, without control
characters that a terminal would obey or that turn the text around. A traceback, which has lines of its own, is
indented.
"""

from __future__ import annotations

import logging
import sys

_INDENT = "    "


class OneLine(logging.Formatter):
    """A formatter whose messages are one line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without what may follow it."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802
        """The traceback, indented."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """The stack, indented."""
        return _indented(super().formatStack(stack_info))


def plain(text: str) -> str:
    """The text with everything escaped that is not to be printed: controls, separators, what is invisible or changes
    the direction of text (Unicode TR 36, "Bidirectional Text Spoofing")."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _indented(text: str) -> str:
    return "\n".join(_INDENT + plain(line) for line in text.split("\n"))


def write_to_stderr(level: str, who: str = "") -> None:
    """Have all messages of at least `level` written to stderr, with the name of the process if it has one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(f"%(asctime)s {who + ' ' if who else ''}%(levelname)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
