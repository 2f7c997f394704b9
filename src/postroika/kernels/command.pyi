"""Command lines of an SMTP session: where they end, which verb, and the grammar of paths and parameters."""

from typing import Final

INCOMPLETE: Final[int]
BARE_LF: Final[int]
BARE_CR: Final[int]
NUL: Final[int]
UNKNOWN: Final[int]
EHLO: Final[int]
HELO: Final[int]
MAIL: Final[int]
RCPT: Final[int]
DATA: Final[int]
BDAT: Final[int]
RSET: Final[int]
NOOP: Final[int]
QUIT: Final[int]
VRFY: Final[int]
EXPN: Final[int]
HELP: Final[int]
STARTTLS: Final[int]
AUTH: Final[int]
XCLIENT: Final[int]
FOREIGN: Final[int]

class Path:
    local: str
    domain: str
    routed: bool
    utf8: bool
    end: int

def scan_command(buffer: bytes, start: int, lf_ends: bool) -> tuple[int, bytes, int]: ...
def find_line_end(buffer: bytes, start: int) -> tuple[int, int]: ...
def parse_path(argument: bytes, keyword: bytes) -> Path | None: ...
def parse_parameters(argument: bytes, start: int) -> list[tuple[str, str | None]]: ...
